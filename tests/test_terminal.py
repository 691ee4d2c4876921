from __future__ import annotations

import logging
import os
import warnings
from io import StringIO
from pathlib import Path

import pytest
from conftest import QUICK, Forked, Run, result_of
from rich.console import Console

from runner import terminal
from runner.table import Table
from runner.terminal import Bar, ConsoleHandler, show
from runner.visible import prepared


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """What a person sees on a terminal 100 columns wide."""
    seen = StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=seen, force_terminal=True, width=100, color_system=None))
    monkeypatch.setattr(terminal, "SECONDS_BETWEEN_DRAWS", 0.0)
    return seen


def test_the_bar_shows_epoch_loss_speed_and_share(screen: StringIO) -> None:
    with Bar(total=200, done=0) as bar:
        bar.evaluated("val/accuracy", 0.98765)
        bar.update(50, "2/8", 0.12345, 9876.5)
    for text in ("epoch 2/8", " 25 %", "loss 0.1235", "val/accuracy 0.9877", "9,876 samples/s"):
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
    log.warning("\nmind %s", "this")
    assert tuple(capsys.readouterr()) == ("[red]é[/red] " + "x" * 300 + "\n\nwarning: mind this\n", "no\n")


def test_a_table_is_shown_under_its_title(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        show(Table("A title that is longer than the table", ["n"], [[1], [23]]))
    assert caplog.messages == ["\nA title that is longer than the table\n  n\n ──\n  1\n 23"]


def test_a_terminal_that_goes_away_ends_no_run() -> None:
    """As with ``| head -n 1``."""
    seen, written = os.pipe()
    process = Forked(*QUICK, stdout=written, stderr=written)
    os.close(written)
    with open(seen) as pipe:
        assert pipe.readline().startswith("runner ")
    assert process.wait() == 0
    (folder,) = Path("outputs").glob("*/*")
    assert result_of(folder)["state"] == "completed"
    assert "tensorboard --logdir" in (folder / "runner.log").read_text()


def test_a_terminal_with_few_characters_gets_what_it_can_show() -> None:
    assert Forked(*QUICK, "trainer.max_steps=5", encoding="ascii").wait() == 0
    said = Path("output.txt").read_text(encoding="ascii")
    assert "|accuracy " in said
    (folder,) = Path("outputs").glob("*/*")
    assert "×" in (folder / "runner.log").read_text(encoding="utf-8")


def test_a_warning_of_a_library_is_one_line_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with prepared(), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning("too  much\nof it", UserWarning, "lib.py", 3)
        warnings.showwarning("too  much\nof it", UserWarning, "lib.py", 3)
    assert caplog.messages == ["UserWarning: too much of it (lib.py, line 3)"]


def test_v_says_where_an_error_came_from(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("model.dropout=3") == 2
    assert "torch/nn/modules/dropout.py" not in capsys.readouterr().out
    assert run("-v", "model.dropout=3") == 2
    assert "torch/nn/modules/dropout.py" in capsys.readouterr().out


def test_in_a_notebook_tables_are_text_like_everything_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Rich would draw them in the notebook, and nothing of them would be in the log file."""

    class ZMQInteractiveShell:
        pass

    monkeypatch.setattr("builtins.get_ipython", ZMQInteractiveShell, raising=False)
    assert Console().is_jupyter  # which it takes for a notebook
    monkeypatch.setattr(terminal, "console", terminal.Screen())
    monkeypatch.setattr(logging.getLogger("runner"), "handlers", [ConsoleHandler()])
    with caplog.at_level(logging.INFO, "runner"):
        show(Table("Samples", ["class", "train"], [["cat", 123]]))
    for said in (capsys.readouterr().out, caplog.text):
        assert "Samples" in said
        assert " cat       123" in said
