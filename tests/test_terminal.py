from __future__ import annotations

import logging
from io import StringIO

import pytest
from rich.console import Console

from runner import terminal
from runner.table import Table
from runner.terminal import Bar, ConsoleHandler, show


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """What a person sees on a terminal 100 columns wide."""
    seen = StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=seen, force_terminal=True, width=100, color_system=None))
    monkeypatch.setattr(terminal, "SECONDS_BETWEEN_DRAWS", 0.0)
    return seen


def test_the_bar_shows_epoch_loss_speed_and_share(screen: StringIO) -> None:
    with Bar(total=200, done=0) as bar:
        bar.update(50, "2/8", 0.12345, 9876.5)
    for text in ("epoch 2/8", " 25 %", "loss 0.1235", "9,876 samples/s"):
        assert text in screen.getvalue()


def test_a_resumed_bar_starts_where_the_run_stood(screen: StringIO) -> None:
    with Bar(total=200, done=150):
        pass
    assert " 75 %" in screen.getvalue()


def test_there_is_no_bar_where_the_output_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar(total=200, done=0) as bar:
        bar.update(50, "2/8", 0.1, 1.0)
    assert capsys.readouterr().out == ""


def test_errors_go_to_the_error_stream_and_lines_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    log, handler = logging.Logger("x"), ConsoleHandler()
    log.addHandler(handler)
    log.info("[red]%s[/red] %s", "é", "x" * 300)
    log.error("no")
    assert tuple(capsys.readouterr()) == ("[red]é[/red] " + "x" * 300 + "\n", "no\n")


def test_a_table_is_shown_under_its_title(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        show(Table("A title that is longer than the table", ["n"], [[1], [23]]))
    assert caplog.messages == ["\nA title that is longer than the table\n  n\n ──\n  1\n 23"]
