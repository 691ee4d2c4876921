"""The columns of a table, as they are named on the command line and in files; and messages about a table that may have
been read as it was not meant."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from runner.dataset.dialect import is_number
from runner.errors import ConfigError, Problem, for_shell, nearest
from runner.visible import log

__all__ = ["Name", "columns_of", "listed", "override", "pd", "say_class", "say_codes", "say_header", "say_index"]

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


FEW_ROWS = 20
"""Rows below which a column that counts them may do so by chance."""

INDEX = re.compile(r"unnamed: \d+|index|level_0|#|(.*[ _])?id|row ?(id|names?|number)?|(s\.?|serial )?(no|nr)\.?", re.I)
"""Names of columns that count the rows, or name them."""


def say_header(frame: pd.DataFrame) -> None:
    """Say so if the first row of a table, taken as data since it holds a number, looks like the names of columns."""
    if len(frame) < 3:
        return
    first, rest = frame.iloc[0], frame.iloc[1:]
    cells = ["" if cell != cell else str(cell) for cell in first]
    numbers = [cell for cell in cells if is_number(cell)]
    counts = len(numbers) > 2 and [float(cell) for cell in numbers] == list(range(len(numbers)))
    if counts or _are_odd_numbers(cells, rest) or _is_odd_text(cells, rest):
        said = ", ".join(cells[:5]) + (", …" if len(cells) > 5 else "")
        what = "the first row (%s) was read as data, because it holds a number, but looks like the names of columns"
        log.warning(f"{what}\n  try: dataset.header=true, or dataset.header=false if it is data", said)


def _are_odd_numbers(cells: Sequence[str], rest: pd.DataFrame) -> bool:
    """Return whether all numbers are whole ones, each another one, where most below are fractions."""
    places = [at for at, cell in enumerate(cells) if is_number(cell)]
    numbers = [float(cells[at]) for at in places]
    if not numbers or len(set(numbers)) < len(numbers) or any(number % 1 for number in numbers):
        return False
    below = [rest.iloc[:, at] for at in places]
    return all(pd.api.types.is_float_dtype(each) and float((each.dropna() % 1 != 0).mean()) > 0.5 for each in below)


def _is_odd_text(cells: Sequence[str], rest: pd.DataFrame) -> bool:
    """Return whether there are texts that stand nowhere below, where few others do again and again."""
    places = [at for at, cell in enumerate(cells) if cell and not is_number(cell)]
    return any(
        (below := rest.iloc[:, at]).nunique() * 2 <= len(rest) and not below.astype("string").eq(cells[at]).any()
        for at in places
    )


def say_index(frame: pd.DataFrame, names: Collection[Any], drop: Sequence[Name]) -> None:
    """Say which of the columns that are inputs count the rows, and tell the class of a file that is sorted by it.

    Args:
        drop: what is left out already.
    """
    found = []
    for name in names if len(frame) > FEW_ROWS else ():
        column = frame[name]
        is_called = INDEX.fullmatch(str(name)) is not None
        # Of numbers that float64 does not tell apart something else is said.
        is_whole = pd.api.types.is_integer_dtype(column) and not column.hasnans and column.max() <= 2**53
        if is_whole and (is_called or name == frame.columns[0]):
            counts = column.iloc[0] in (0, 1) and bool((column.diff().iloc[1:] == 1).all())
            if counts or (is_called and column.is_unique):
                found.append(name)
    if found:
        said = ", ".join(repr(name) for name in found)
        verb, remedy = "counts" if len(found) == 1 else "count", override("dataset.drop", [*drop, *found])
        what = "column %s %s or names the rows; in a file that is sorted, it tells the target"
        log.warning(f"{what}\n  try: %s", said, verb, remedy)


def say_class(column: pd.Series[Any], missing: Sequence[str]) -> None:
    """Say which class of a column has a name that is but a mark, as those have that stand for a gap.

    Args:
        missing: what ``dataset.missing`` is.
    """
    classes = [str(name) for name in column.dropna().unique()]
    marks = [name for name in classes if not any(map(str.isalnum, name))]
    if len(marks) == 1 < len(classes):
        remedy = override("dataset.missing", [*missing, *marks]) + " dataset.missing_target=drop"
        log.warning("%r is read as a class of column %r\n  if it is a gap: %s", marks[0], column.name, remedy)


def say_codes(examples: dict[Any, str], given: Sequence[Name]) -> None:
    """Say which inputs are categories because of leading zeros.

    Args:
        examples: by column, one of its cells.
        given: what ``dataset.numbers`` is.
    """
    if examples:
        said = ", ".join(f"column {name!r} ({cell!r})" for name, cell in examples.items())
        remedy = override("dataset.numbers", [*given, *examples])
        log.warning("read as categories, because of leading zeros: %s\n  if these are numbers: %s", said, remedy)
