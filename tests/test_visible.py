"""What a text may hold that reaches a terminal, a log, or a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import unicodedata
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import QUICK, Run
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from runner import errors, terminal, visible
from runner.errors import ConfigError, Problem
from runner.table import Table, no_formula
from runner.visible import SHORTEST, Spelt

STEERING = [
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\r",
    "\b",
    "\x9b31m",
    "\x7f",
    "\u202e",
    "\u2066",
    "\u2028",
    "\ud800",
    "\x00",
]
HARMLESS = [
    "[red]",
    "[/]",
    ":smile:",
    "日本語",
    "e\u0301",
    "👩\u200d🔬",
    "עברית",
    "\t",
    "\n",
    "a",
    " ",
    "${x}",
    "\\x1b",
]
TEXTS = st.lists(st.sampled_from(STEERING + HARMLESS) | st.characters(), max_size=12).map("".join)


def steers(text: str) -> bool:
    """Whether anything in a text is a control character, by Unicode's account, or turns the order of what follows."""
    return any(
        (unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in "\n\t")
        or unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
        for c in text
    )


@given(TEXTS)
def test_nothing_that_is_printed_steers_a_terminal(text: str) -> None:
    shown = visible.visible(text)
    assert not steers(shown)
    assert visible.visible(shown) == shown
    if not steers(text):
        assert shown == text


def test_what_is_left_out_is_spelt() -> None:
    assert visible.visible("a\x1b[31mb\r\x9b\u202ec\r\nd") == "a\\x1b[31mb\\x0d\\x9b\\u202ec\nd"


@given(TEXTS)
@settings(deadline=None)
def test_every_way_to_the_terminal_and_to_the_log_spells_it(text: str) -> None:
    out, log = io.StringIO(), io.StringIO()
    screen = terminal.Screen()
    screen.file = out
    before = terminal.console
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s", (text,), None)
    file = terminal.LogFile(os.devnull)
    try:
        terminal.console = screen
        terminal.ConsoleHandler().emit(record)
        screen.print(text)
        visible.say(text, out)
        visible.say(f"error: {ConfigError(Problem(text, repr(text), text, text))}", out)
        Spelt(out).write(text)
        log.write(file.format(record))
        out.write(terminal.drawn(Table("", [text, "n"], [[text, 1], ["b", 2]])))
    finally:
        terminal.console = before
        file.close()
    assert not steers(out.getvalue())
    assert not steers(log.getvalue())
    for each in ("[red]", "日本語", "👩\u200d🔬", "e\u0301", ":smile:"):
        assert each not in text or out.getvalue().count(each) >= 4
        assert each not in text or each in log.getvalue()


@given(st.lists(TEXTS.map(lambda text: text.replace("\n", "")), min_size=1, max_size=4))
@settings(deadline=None)
def test_columns_stay_where_they_are(names: list[str]) -> None:
    lines = terminal.drawn(Table("", ["name", "n"], [[name, 1] for name in names])).splitlines()
    assert len(lines) == len(names) + 2
    assert len({cell_len(line) for line in lines}) == 1


def test_colours_of_ours_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    screen = terminal.Screen()
    screen.file, screen._force_terminal, screen._color_system = out, True, cast(Any, 1)
    screen.print("a\x1b[31m", style="yellow")
    assert out.getvalue().startswith("\x1b[33m")
    assert "a\\x1b[31m" in out.getvalue()


def cells(path: str | Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_a_class_with_such_a_name_is_shown_and_predicted(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    names = ["=1+1", "\x1b[31m[red]\x07\u202e"]
    with open("t.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [["x", "kind", "-id"], *([i, names[i % 2], f"@{i}" if i % 3 else -i] for i in range(60))]
        )
    table = ("dataset=table", "dataset.path=t.csv", "dataset.target=kind", "dataset.drop=['-id']", "transform=table")
    assert run(*QUICK, *table, "hydra.run.dir=r") == 0
    assert run("evaluate", "run=r", "figures=false") == 0
    assert run("predict", "run=r", "input=t.csv", "output=p.csv", "keep=['-id']", "top_k=2") == 0
    assert run("predict", "run=r", "input=t.csv", "output=q.csv", "keep=['-id']", "top_k=2", "formulas=true") == 0
    assert run("predict", "run=r", "input=t.csv", "output=q.jsonl", "keep=['-id']", "top_k=2") == 0
    assert run("diff", "r", "r") == run("compare", "r") == 0
    printed = "".join(capfd.readouterr())
    assert not steers(printed)
    assert "\\x1b[31m[red]\\x07\\u202e" in printed
    assert not steers(Path("r/runner.log").read_text())

    safe, raw = cells("p.csv"), cells("q.csv")
    assert not [cell for row in safe for cell in row if cell[:1] in ("=", "+", "@", "\t", "\r") and cell]
    assert [row[1] for row in safe[:4]] == ["'-id", "0", "'@1", "'@2"]
    assert [row[1] for row in safe[4:5]] == ["-3"]  # a number
    assert {row[column] for row in safe[1:] for column in (2, 4)} == {"'=1+1", names[1]}
    assert [[cell.removeprefix("'") for cell in row] for row in safe] == raw
    assert [json.loads(line)["prediction"] for line in Path("q.jsonl").read_text().splitlines()] == [
        r[2] for r in raw[1:]
    ]
    (found,) = Path("r/evaluate").glob("*/predictions.csv")
    assert {row[1] for row in cells(found)} == {"target", "'=1+1", names[1]}


@pytest.mark.parametrize("cell", ["=A1", "+x", "-x", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "-1+cmd", "--1"])
def test_a_text_that_a_spreadsheet_would_compute_is_quoted(cell: str) -> None:
    assert no_formula(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["-1.5", "+3", "-1e-7", "-inf", -1.5, -2, None, "", "a", "a=b", "'=x", "–"])
def test_numbers_and_other_texts_are_as_they_are(cell: Any) -> None:
    assert no_formula(cell) is cell


def test_a_short_value_of_the_environment_stays_in_texts_and_what_was_typed_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["runner", "dataset.root=/typed/by/hand"])
    visible.hide("x" * (SHORTEST - 1), "${oc.env:A}")
    visible.hide("/typed/by", "${oc.env:B}")
    visible.hide("/scratch/me", "${oc.env:C}")
    assert visible.redacted("xxxxx /typed/by/hand /scratch/me/x") == "xxxxx /typed/by/hand ${oc.env:C}/x"
    visible.show("/scratch/me/runs/1")  # the folder of the run is named where one goes on from it
    assert visible.redacted("/scratch/me/runs/1") == "/scratch/me/runs/1"


@pytest.mark.parametrize("value", ['it\'s "quoted"', "back\\slash", "a b/c&d", "ünïcödé", "line\nline", "~/there/is"])
def test_a_value_is_found_in_the_forms_in_which_libraries_say_it(value: str) -> None:
    visible.hide(value, "${oc.env:A}")
    for said in (value, repr(value), json.dumps(value), errors.shown(value), os.path.expanduser(value)):
        assert "${oc.env:A}" in visible.redacted(f"no such file: {said}")
