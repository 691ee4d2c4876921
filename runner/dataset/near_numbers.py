"""Columns of texts that are numbers but for how they are written, or but for a few cells."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from runner.dataset.columns import override, pd
from runner.dataset.dialect import Dialect
from runner.dataset.goals import whole
from runner.dataset.table_file import is_unnamed
from runner.errors import DataError, Problem, counted, few

GAPS = frozenset([
    "#div/0!", "#n/a", "#name?", "#num!", "#ref!", "#value!", "empty", "false", "missing", "n.a", "n.a.", "n.d.", "n/a",
    "na", "nd", "nil", "no data", "nodata", "none", "not available", "not known", "not reported", "null", "undefined",
    "unk", "unknown", "unspecified",
])  # fmt: skip
"""Texts that stand for a gap among numbers, as those do that have neither a letter nor a digit."""

MARKS = 10
"""Different texts among numbers that may be marks, though they are many cells."""

TYPOS = 0.05
"""Share of the cells: texts among numbers that are mistakes, however many different ones there are."""

WRITTEN = (
    (".", ",", "a thousands separator"), (",", None, "a decimal comma"), (",", ".", "a decimal comma"),
    (".", "'", "a thousands separator"), (".", "\u2019", "a thousands separator"), (".", " ", "a thousands separator"),
    (",", " ", "a decimal comma"), (".", "\u00a0", "a thousands separator"), (",", "\u00a0", "a decimal comma"),
    (",", "\u202f", "a decimal comma"),
)  # fmt: skip
"""Ways numbers are written elsewhere: the decimal and the thousands separator, and what is said of it."""


@dataclass
class Found:
    """The fault of a column.

    Args:
        form: how its numbers are written; empty if that is as it should be.
        example: one of them.
        settings: arguments of `runner.dataset.table` with which it is right.
        marks: cells that are no numbers, and how many there are.
    """

    form: str = ""
    example: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    marks: list[str] = field(default_factory=list)
    cells: int = 0


Lines = Callable[[Collection[int]], Mapping[int, int]]


def numbers_of(
    frame: pd.DataFrame, names: Iterable[Any], goals: Sequence[Any], texts: Sequence[Any], dialect: Dialect,
    lines: Lines,
) -> None:  # fmt: skip
    """Make columns of texts that are all numbers columns of numbers.

    Args:
        frame: changed in place.
        names: of columns that are read as numbers if they can be.
        goals: which of them are targets.
        texts: columns that are categories, as was typed.
        lines: in which lines of the file rows are.

    Raises:
        DataError: some are numbers but for how they are written, or but for a few cells.
    """
    found: dict[Any, Found] = {}
    for name in names:
        if name in texts or (counts := _counts(frame[name])) is None:
            continue
        numbers = {text: dialect.number(text) for text in counts}
        if None in numbers.values():
            if (wrong := look(counts, dialect)) is not None:
                found[name] = wrong
        elif not any(map(has_zeros, counts)):
            read = {cell: numbers[str(cell)] for cell in frame[name].dropna().unique()}
            frame[name] = whole(frame[name].map(read).astype("float64"))  # as if they had been written as such
    if found:
        raise DataError(*_problems(frame, found, goals, texts, dialect, lines))


def has_zeros(text: str) -> bool:
    """Return whether a text is a code that begins with a zero, as no number does."""
    return re.fullmatch(r"0\d+", text.strip()) is not None


def _counts(column: pd.Series[Any]) -> dict[str, int] | None:
    """Count how many cells each text of a column has; None if it is one of other values."""
    if isinstance(column.dtype, pd.CategoricalDtype) or not (
        pd.api.types.is_string_dtype(column) or pd.api.types.is_object_dtype(column)
    ):
        return None
    counts = column.value_counts(sort=False)
    if not all(isinstance(cell, (str, int, float)) and not isinstance(cell, bool) for cell in counts.index):
        return None
    said: dict[str, int] = {}
    for cell, count in zip(counts.index, counts.tolist(), strict=True):
        said[str(cell)] = said.get(str(cell), 0) + int(count)
    return said or None


def look(counts: Mapping[str, int], dialect: Dialect) -> Found | None:
    """Find what is wrong with texts of which some are no numbers; None if they are categories.

    Args:
        counts: how many cells each has.
    """
    found = _form(list(counts), dialect)
    as_it_is = replace(dialect, **found.settings)
    bad = {text: count for text, count in counts.items() if as_it_is.number(text) is None}
    known = {text for text in bad if _is_gap(text)}
    rows, cells = sum(counts.values()), sum(bad.values())
    others = sum(count for text, count in bad.items() if text not in known)
    may_be = len(bad) < len(counts) and others * 2 < rows - (cells - others)
    if not may_be or not (len(bad) - len(known) <= MARKS or others <= TYPOS * rows):
        return None
    found.marks, found.cells = list(bad), cells
    return found


def _is_gap(text: str) -> bool:
    return text.strip().lower() in GAPS or not any(map(str.isalnum, text))


def _form(texts: Sequence[str], dialect: Dialect) -> Found:
    """Find how most of the texts are written that are no numbers, if it is one way."""
    left = [text for text in texts if dialect.number(text) is None and not _is_gap(text)]
    found = Found()
    units = list(dict.fromkeys(unit for text in left for unit in _units(text)))
    with_units = replace(dialect, units=(*dialect.units, *units))
    others = WRITTEN if dialect.separator == "," else (*WRITTEN[1:], WRITTEN[0])
    now = dialect.decimal, dialect.thousands, "a unit"
    ways = [now, *sorted(others, key=lambda way: dialect.decimal not in (".", way[0])), (".", None, "a decimal point")]
    plain = [text for text in texts if not _is_gap(text)]
    best = sum(dialect.number(text) is not None for text in plain)
    for decimal, thousands, form in ways:
        trial = replace(with_units, decimal=decimal, thousands=thousands)
        right = sum(trial.number(text) is not None for text in plain)
        if right > best:
            best = right
            example = next(text for text in left if trial.number(text) is not None)
            settings = {"decimal": decimal, "thousands": thousands, "units": trial.units if units else dialect.units}
            found = Found(form, example, settings)
    return found


def _units(text: str) -> list[str]:
    """Signs of a currency, of per cent or of degrees before or after the digits of a text."""
    text = text.strip().lstrip("+-")
    return [
        sign
        for sign in dict.fromkeys((text[:1], text[-1:]))
        if sign and (sign in "%‰°" or unicodedata.category(sign) == "Sc")
    ]


def _problems(
    frame: pd.DataFrame, found: Mapping[Any, Found], goals: Sequence[Any], texts: Sequence[Any], dialect: Dialect,
    lines: Lines,
) -> list[Problem]:  # fmt: skip
    """A problem for each way in which numbers are written, and one for cells that are none."""
    marks = list(dict.fromkeys(mark for each in found.values() for mark in each.marks))
    # What makes all of them right: a list that is typed twice would be the last one.
    remedies = [
        override(f"dataset.{key}", value if isinstance(value, str) else list(value)) if value else f"dataset.{key}=null"
        for key, value in _merged(each.settings for each in found.values()).items()
        if value != getattr(dialect, key)
    ]
    remedies += [override("dataset.missing", [*dialect.missing, *marks])] if marks else []
    remedies += ["dataset.missing_target=drop"] if any(found[name].marks for name in goals if name in found) else []
    problems = []
    for form in dict.fromkeys(each.form for each in found.values()):
        names = [name for name, each in found.items() if each.form == form]
        first, remedy = found[names[0]], " ".join(filter(None, remedies))
        if form:
            what = f"column {names[0]!r} holds {first.example!r}, a number with {form}"
        else:
            what = f"column {names[0]!r} is numbers but for {_cells(frame[names[0]], first, lines)}"
        if names[1:]:
            verb = ("is" if names[2:] == [] else "are") if not form else ("does" if names[2:] == [] else "do")
            what += f"; so {verb} {few(map(repr, names[1:]), 10)}"
        first_row = {name: str(frame[name].iloc[0]) for name in names}
        # The first row was not read as names, though its cells are no numbers in any of the columns.
        if not form and is_unnamed(frame) and all(c in found[n].marks and not _is_gap(c) for n, c in first_row.items()):
            remedy = "dataset.header=true"
        allowed = f"numbers{' with a decimal point' if form else ' and empty cells'}"
        if not {*names} & {*goals}:
            named = [name if isinstance(name, str) else int(name) for name in (*texts, *names)]
            allowed += f"; for categories {override('dataset.categories', named)}"
        problems.append(Problem("dataset.path", what, allowed, remedy))
    return problems


def _merged(settings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One setting of all: the first that is none of the usual ones; of units, all."""
    merged: dict[str, Any] = {}
    for each in settings:
        for key, value in each.items():
            if key == "units":
                merged[key] = tuple(dict.fromkeys((*merged.get(key, ()), *value)))
            elif merged.get(key) in (None, "."):
                merged[key] = value
    return merged


def _cells(column: pd.Series[Any], found: Found, lines: Lines) -> str:
    """``20 cells: '?' (line 2, 22, …)``."""
    rows = [int(row) for row in column[column.astype("string").isin(found.marks)].index]
    known = lines(rows[:3])
    where = [known[row] for row in rows[:3] if row in known]
    said = f"{counted(found.cells, 'cell')}: {few(map(repr, found.marks), 5)}"
    if where:
        more = ", …" if len(rows) > len(where) else ""
        said += f" (line {', '.join(map(str, where))}{more})"
    return said
