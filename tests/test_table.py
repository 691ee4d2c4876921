from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from runner.table import Table, cell

TABLE = Table("Samples", ["class", "train", "weight"], [["a|b", 1234, 0.5], ["<i>x</i>\n&", 5, None]])


def test_markdown_shows_names_as_they_are_and_numbers_to_the_right() -> None:
    assert TABLE.markdown().splitlines() == [
        "| class | train | weight |",
        "| :--- | ---: | ---: |",
        "| a&#124;b | 1,234 | 0.5000 |",
        "| &#60;i&#62;x&#60;/i&#62;<br>&#38; | 5 | – |",
    ]


def test_markdown_renders_as_a_table() -> None:
    from markdown import markdown

    html = markdown(TABLE.markdown(), extensions=["markdown.extensions.tables"])
    assert html.count("<tr>") == 3
    assert '<td style="text-align: right;">1,234</td>' in html
    assert '<td style="text-align: left;">a&#124;b</td>' in html
    assert "<i>" not in html


def test_terminal_columns_are_aligned_and_markup_is_not_read() -> None:
    table = Table("x", ["name", "n"], [["[bold]a[/bold]", 1], ["b", 12345]])
    buffer = StringIO()
    Console(file=buffer, width=80).print(table.rich())
    lines = [line.rstrip() for line in buffer.getvalue().splitlines() if line.strip()]
    assert [line for line in lines if "[bold]a[/bold]" in line]
    assert len({len(line) for line in lines if line[-1].isdigit()}) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0, "0"), (1234567, "1,234,567"), (0.0, "0.0000"), (0.12345, "0.1235"), (1e-7, "1e-07"),
        (123456.0, "123,456.0"), (-86483.0234, "-86,483.0"),
        (2e9, "2e+09"), (float("nan"), "NaN"), (True, "True"), ("text", "text"),
    ],
)  # fmt: skip
def test_cells(value: object, text: str) -> None:
    assert cell(value) == text
