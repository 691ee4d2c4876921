"""The columns of a table, as they are named on the command line and in files."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runner.errors import ConfigError, Problem, for_shell, nearest

__all__ = ["Name", "columns_of", "listed", "override", "pd"]

if TYPE_CHECKING:
    import pandas as pd
else:

    class _Pandas:
        """Stands for pandas, and imports it where it is used: most data are no tables."""

        def __getattr__(self, name: str) -> Any:
            import pandas

            return getattr(pandas, name)

    pd = _Pandas()

Name = str | int


def listed(names: Name | Sequence[Name]) -> Sequence[Name]:
    """One column, or several, as several."""
    return [names] if isinstance(names, (str, int)) else names


def columns_of(frame: pd.DataFrame, given: Name | Sequence[Name], key: str) -> list[Any]:
    """The labels of the columns that are meant by name or by number.

    Args:
        key: the configuration's, for a message.

    Raises:
        ConfigError: there is no such column.
    """
    found = {name: _column(frame, name) for name in listed(given)}
    missing = [name for name, label in found.items() if label is None]
    if missing:
        raise ConfigError(_missing(frame, missing[0], given, key))
    return list(found.values())


def _column(frame: pd.DataFrame, name: Name) -> Any:
    if name in frame.columns:
        return name
    if isinstance(name, int) and -len(frame.columns) <= name < len(frame.columns):
        return frame.columns[name]
    return None


def _missing(frame: pd.DataFrame, name: Name, given: Name | Sequence[Name], key: str) -> Problem:
    names = [str(column) for column in frame.columns]
    if names == [str(number) for number in range(len(names))]:  # of a file without names
        allowed = f"0 … {len(names) - 1}"
        if isinstance(name, int):
            return Problem(key, f"the table has no column {name}", allowed)
        what = f"the first line was not read as column names, so {name!r} is unknown"
        is_there = len(frame) > 0 and name in [str(cell) for cell in frame.iloc[0]]
        remedy = "dataset.header=true" if is_there else "a column number, or dataset.header=true"
        return Problem(key, what, allowed, remedy)
    close = {each: each if _column(frame, each) is not None else nearest(str(each), names) for each in listed(given)}
    remedy = ""
    if all(str(each) for each in close.values()):
        right: list[Name] = list(dict.fromkeys(close.values()))
        remedy = override(key, right[0] if isinstance(given, (str, int)) else right)
    return Problem(key, f"the table has no column {name!r}", ", ".join(names), remedy)


def override(key: str, names: Name | Sequence[Name]) -> str:
    """Columns as they are typed."""
    text = f"[{','.join(map(_typed, names))}]" if not isinstance(names, (str, int)) else _typed(names)
    typed = f"{key}={text}"
    return shlex.quote(typed) if "'" in typed else for_shell(typed)


def _typed(name: Name) -> str:
    """A column's name as Hydra reads it: in quotes if it would be taken for something else."""
    if isinstance(name, int):
        return str(name)
    plain = re.fullmatch(r"(?!(true|false|null|nan|inf)$)[a-z_][a-z0-9_-]*|\?", name, re.ASCII | re.IGNORECASE)
    return name if plain else '"' + name.replace('"', r"\"") + '"'
