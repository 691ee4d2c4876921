"""Tables: made once, shown on the terminal, in TensorBoard and in files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from runner.visible import said


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns; a column of numbers is aligned to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    exact: Sequence[str] = ()
    """Columns of numbers that were chosen and not measured: learning rates. They are not rounded to four decimals."""

    def rich(self, lines: bool = True) -> RichTable:
        """For a terminal, without its title, which rich would wrap at the table's width.

        Args:
            lines: whether it has characters to draw lines with.
        """
        table = RichTable(box=box.SIMPLE_HEAD if lines else box.ASCII_DOUBLE_HEAD, pad_edge=False)
        for number, name in enumerate(self.columns):
            numeric = self._numeric(number)  # a number that is cut off is a wrong one
            justify: Literal["left", "right"] = "right" if numeric else "left"
            table.add_column(Text(_one_line(name)), justify=justify, no_wrap=numeric, overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(_one_line(text)) for text in self._cells(row)))
        return table

    def markdown(self) -> str:
        """For TensorBoard's text tab."""
        rule = ["---:" if self._numeric(number) else ":---" for number in range(len(self.columns))]
        rows = [
            [_escape(name) for name in self.columns],
            rule,
            *(list(map(_escape, self._cells(row))) for row in self.rows),
        ]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def first(self, number: int) -> Table:
        """Its first rows, and in its title that there are more."""
        if len(self.rows) <= number:
            return self
        return replace(self, title=f"{self.title}, the first {number}", rows=self.rows[:number])

    def without(self, *names: str) -> Table:
        """It, without some of its columns."""
        kept = [number for number, name in enumerate(self.columns) if name not in names]
        rows = [[row[number] for number in kept] for row in self.rows]
        return replace(self, columns=[self.columns[number] for number in kept], rows=rows)

    def records(self) -> list[dict[str, Any]]:
        """For files: a mapping from column to value for each row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def _cells(self, row: Sequence[Any]) -> list[str]:
        return [
            f"{value:.6g}" if name in self.exact and isinstance(value, float) else cell(value)
            for name, value in zip(self.columns, row, strict=True)
        ]

    def _numeric(self, column: int) -> bool:
        cells = [row[column] for row in self.rows if row[column] is not None]
        return bool(cells) and all(isinstance(value, (int, float)) for value in cells)


def no_formula(value: Any) -> Any:
    """A cell of a CSV file. A text that a spreadsheet would take for a formula gets a ' in front, which makes it a text
    there; numbers, and texts that are numbers, stay as they are."""
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def cell(value: Any) -> str:
    """A value as people read it: thousands separated, four decimals, one of large numbers, – for what is not there."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return "NaN"
    if 1e3 <= abs(value) < 1e9:
        return f"{value:,.1f}"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e3 or value == 0 else f"{value:.3g}"


def _one_line(text: str) -> str:
    """A cell as it is drawn, whose width is counted: lines end where they should, and a tab has no width of its own."""
    return said(text).replace("\t", r"\x09")


SPECIAL = str.maketrans({character: f"&#{ord(character)};" for character in r"&<>|*_`[]~\\"} | {"\n": "<br>"})
"""What Markdown or HTML would take for its own; line breaks stay."""


def _escape(text: str) -> str:
    return said(text).translate(SPECIAL)
