"""The way cells are written in a table's file: for the data of a run, and for what is read like them later;
and the reading of such rows."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from runner.dataset.tensors import LARGEST
from runner.errors import ConfigError, Problem

SEPARATORS = ",;\t|"

BLANKS = r"\s+"
"""In place of a separator: as many blanks and tabs as there are."""

WORDS = {r"\t": "\t", "tab": "\t", " ": BLANKS, "blanks": BLANKS}
"""Words that may be typed for a separator that is hard to type."""

YEAR = re.compile(r"(1[89]|2[01])\d\d")


@dataclass(frozen=True)
class Dialect:
    """The way the cells of a file are written.

    Args:
        header, separator, encoding, decimal, thousands, missing, units: see `runner.dataset.table`.
        earlier: whether files are read as by versions that did not look at what the texts of a column are.
    """

    header: bool | str = "auto"
    separator: str | None = None
    encoding: str | None = None
    decimal: str = "."
    thousands: str | None = None
    missing: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    earlier: bool = False

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Dialect:
        """Return the dialect that the arguments of `runner.dataset.table` describe.

        Raises:
            ConfigError: one of them is not allowed.
        """
        given = {name: value for name in KEYS if (value := data.get(name)) is not None}
        given |= {name: tuple(map(str, given[name])) for name in ("missing", "units") if name in given}
        if "separator" in given:
            given["separator"] = WORDS.get(given["separator"], given["separator"])
        found = cls(**given, earlier=data.get("categories", ()) is None)
        found.check()
        return found

    def check(self) -> None:
        """Check that the characters can be told apart.

        Raises:
            ConfigError: they are not.
        """
        for key, given in (("decimal", self.decimal), ("thousands", self.thousands)):
            if given is not None and (len(given) != 1 or given.isalnum()):
                problem = Problem(f"dataset.{key}", f"{given!r} is not allowed", "one character, such as , or .")
                raise ConfigError(problem)
        if self.decimal == self.thousands:
            what = f"{self.decimal!r} is the decimal separator, too"
            remedy = 'dataset.decimal="."' if self.decimal == "," else 'dataset.decimal=","'
            raise ConfigError(Problem("dataset.thousands", what, "another character", f"'{remedy}'"))
        if self.separator is not None and self.separator != BLANKS and len(self.separator) != 1:
            allowed = r"null (, ; tab | or blanks, as in the first line), one character, \t, or \s+ for blanks"
            raise ConfigError(Problem("dataset.separator", f"{self.separator!r} is not allowed", allowed))

    def number(self, text: str) -> float | None:
        """The number that a text is, if it is one."""
        text = text.strip()
        sign = text[:1] if self.units and text[:1] in "+-" else ""
        text = text.removeprefix(sign)
        for unit in self.units:
            text = text.removeprefix(unit).removesuffix(unit).strip()
        if self.thousands is not None and self.thousands in text:
            if not re.match(rf"[+-]?\d{{1,3}}({re.escape(self.thousands)}\d{{3}})+(?!\d)", text):
                return None
            text = text.replace(self.thousands, "")
        if self.decimal != ".":
            text = "no number" if "." in text else text.replace(self.decimal, ".")
        # Python reads numbers with an underscore, and pandas does not.
        return float(sign + text) if "_" not in text and is_number(sign + text) else None

    def is_gap(self, text: str, is_numeric: bool = False) -> bool:
        """Return whether `missing` names a cell; in a column of numbers also if it is written otherwise."""
        if text in self.missing:
            return True
        return is_numeric and bool(self._numbers) and self.number(text) in self._numbers

    @cached_property
    def _numbers(self) -> set[float]:
        return {number for number in map(self.number, self.missing) if number is not None}

    def first_lines(self, lines: Sequence[str]) -> tuple[str, bool]:
        """Return what separates the cells of a file, and whether its first line names the columns.

        Args:
            lines: its first one, and the next one if there is one.

        Raises:
            StopIteration: the first line is empty.
        """
        separator = self.separator or separator_of(lines[0], self.earlier)
        cells = [next(self.rows([line], separator)) for line in lines if line.strip()]
        if separator == BLANKS != self.separator and len({len(row) for row in cells}) > 1:  # words, and no columns
            separator = max(SEPARATORS, key=lines[-1].count)
            cells = [next(self.rows([line], separator)) for line in lines if line.strip()]
        if not cells:
            raise StopIteration
        if isinstance(self.header, bool):
            return separator, self.header
        numbers = [at for at, cell in enumerate(cells[0]) if self.number(cell) is not None or is_number(cell)]
        return separator, not numbers or (not self.earlier and _are_years(cells, numbers))

    @staticmethod
    def rows(lines: Iterable[str], separator: str) -> Any:
        """A `csv.reader` of lines."""
        if separator == BLANKS:
            lines, separator = (line.expandtabs(1).strip() + "\n" for line in lines), " "
        return csv.reader(lines, delimiter=separator, skipinitialspace=True)


KEYS = ("header", "separator", "encoding", "decimal", "thousands", "missing", "units")


def separator_of(line: str, earlier: bool = False) -> str:
    """Return what separates the cells of a file's first line."""
    if earlier:
        return max(",;\t", key=line.count)
    found = max(SEPARATORS, key=line.count)
    if found not in line:
        return BLANKS if len(line.split()) > 1 else found
    # A tab may stand before the last of columns that blanks separate.
    parts = [cell.split() for cell in line.split(found)] if found == "\t" else []
    return BLANKS if any(len(part) > 2 and all(map(is_number, part)) for part in parts) else found


def _are_years(cells: Sequence[Sequence[str]], at: Sequence[int]) -> bool:
    """Return whether the numbers in the first of two rows are years in sequence, and those in the second none."""
    if len(cells) < 2 or len(at) < 2:
        return False
    first = [cells[0][i].strip() for i in at]
    second = [cells[1][i].strip() for i in at if i < len(cells[1])]
    if not all(map(YEAR.fullmatch, first)) or all(map(YEAR.fullmatch, second)):
        return False
    steps = {int(b) - int(a) for a, b in pairwise(first)}
    return len(steps) == 1 and 1 <= abs(next(iter(steps))) <= 10


def is_number(text: str) -> bool:
    """Return whether Python reads a text as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


GAPS = frozenset([
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
])  # fmt: skip
"""Texts that pandas takes for a gap."""

PLAIN = Dialect()


class Codes:
    """Reads rows of other tables as those of one table were read: numbers as they are, categories as their codes there.

    Args:
        features, categories: see `ArrayDataset`.
        dialect: how its cells were written, and those of the rows are.

    Attributes:
        unknown: by column, how many cells held a category that the table did not have; each is a gap.
    """

    def __init__(
        self, features: Sequence[str], categories: Sequence[Sequence[str] | None], dialect: Dialect | None = None
    ) -> None:
        self.features = list(features)
        self.dialect = Dialect() if dialect is None else dialect
        self.codes = [None if names is None else {name: i for i, name in enumerate(names)} for names in categories]
        self.unknown: Counter[str] = Counter()

    def read(self, rows: Sequence[Sequence[Any]]) -> tuple[torch.Tensor, dict[int, str]]:
        """Rows with a cell for each feature, as texts or values.

        Returns:
            (N, F) float64 inputs, NaN where there is a gap; and what is wrong with a row, by its position.
        """
        inputs = np.full((len(rows), len(self.features)), np.nan)
        wrong: dict[int, str] = {}
        for number, row in enumerate(rows):
            try:
                inputs[number] = [
                    self._code(name, codes, cell)
                    for name, codes, cell in zip(self.features, self.codes, row, strict=True)
                ]
            except ValueError as error:
                wrong[number] = str(error)
        return torch.from_numpy(inputs), wrong

    def _code(self, feature: str, codes: dict[str, int] | None, cell: Any) -> float:
        text = str(cell)
        if text in GAPS or self.dialect.is_gap(text, codes is None):
            return np.nan
        if codes is None:
            value = (self.dialect if isinstance(cell, str) else PLAIN).number(text)
            if value is None or abs(value) > LARGEST:
                what = "too large a number" if value is not None else "not a number"
                raise ValueError(f"column {feature!r} holds {text!r}, which is {what}")
            return value
        if codes.keys() <= {"True", "False"}:
            text = text.capitalize()  # as pandas reads true and TRUE
        elif text not in codes and isinstance(cell, float) and cell.is_integer():
            text = str(int(cell))  # where there are gaps, whole numbers are read as floats
        if text not in codes:
            self.unknown[feature] += 1
        return codes.get(text, np.nan)
