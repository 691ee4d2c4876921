"""What a person sees while a run goes on: lines, tables and a progress bar."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import time
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn, Self

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from runner import program
from runner.errors import ConfigError, NotWritten, Problem
from runner.files import append
from runner.table import Table
from runner.visible import log, said, visible


class Parser(argparse.ArgumentParser):
    """Reads the flags and paths of a command that has nothing of Hydra's, and raises `ConfigError` for a mistake."""

    def __init__(self, command: str, said: str) -> None:
        prog, form = program.line(command), argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=said, formatter_class=form, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        command = self.prog.rpartition(" ")[2]
        flag = re.match(r"argument (\S+): ", message)
        key, what = (flag[1], message[flag.end() :]) if flag else (command, message)
        raise ConfigError(Problem(key, what, remedy=program.line(command, "--help")))


class Screen(Console):
    """A terminal that may go away, as with ``| head``: the run goes on, and its lines are in the log file."""

    def __init__(self, stderr: bool = False) -> None:
        # In Jupyter rich would show each line as a picture of its own, and not write it to the stream.
        super().__init__(highlight=False, soft_wrap=True, emoji=False, stderr=stderr, force_jupyter=False)

    def print(self, *objects: Any, **options: Any) -> None:
        objects = tuple(said(each) if isinstance(each, str) else each for each in objects)
        try:
            super().print(*objects, **{"markup": False} | options)
        except BrokenPipeError:  # older versions of rich raise it here and do not call on_broken_pipe()
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        self.quiet = True
        # Or Python would complain when it flushes the stream at its end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


console: Console = Screen()
error_console = Screen(stderr=True)

SECONDS_BETWEEN_DRAWS = 0.5


class ConsoleHandler(logging.Handler):
    """Prints log lines above the progress bar, and errors on the error stream. Used by `conf/entry.yaml`.

    Args:
        stderr: whether all lines go to the error stream: stdout is for what is predicted.
    """

    def __init__(self, stderr: bool = False) -> None:
        super().__init__()
        self._stderr = stderr

    def emit(self, record: logging.LogRecord) -> None:
        screen = error_console if self._stderr or record.levelno >= logging.ERROR else console
        text, style = self.format(record), None
        if record.levelno == logging.WARNING:
            gap = text[: len(text) - len(text.lstrip("\n"))]
            text, style = f"{gap}warning: {text.lstrip()}", "yellow"
        screen.print(text, style=style)


class LogFile(logging.FileHandler):
    """Writes log lines to a file. On a full disk, or where no such file can be, they are only on the terminal, and no
    traceback is there with each."""

    def __init__(self, filename: str | Path) -> None:
        super().__init__(filename, encoding="utf-8")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))

    def format(self, record: logging.LogRecord) -> str:
        return said(super().format(record))

    def _open(self) -> TextIOWrapper:
        try:
            file: TextIOWrapper = append(Path(self.baseFilename), "a", encoding="utf-8")
            return file
        except NotWritten as error:
            error_console.print(f"warning: {error}", markup=False, style="yellow")
            return open(os.devnull, "w", encoding="utf-8")

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


def log_to(path: Path) -> None:
    """Write what is logged to a file, too, as Hydra has it for a run (`conf/entry.yaml`)."""
    logging.getLogger().addHandler(LogFile(path))


def show(table: Table) -> None:
    """A table on the terminal and in the log file."""
    log.info("\n%s\n%s", table.title, drawn(table))


def width() -> int | None:
    """The columns that there are; None where the output is no terminal: a file has room."""
    return console.width if console.is_terminal else None


def drawn(table: Table) -> str:
    """A table as text that fits the terminal, without its title."""
    buffer = StringIO()
    screen = Console(file=buffer, width=width() or 1000, highlight=False, force_jupyter=False)
    screen.print(table.rich(console.encoding.startswith("utf")))
    lines = [line.rstrip() for line in buffer.getvalue().splitlines()]
    return "\n".join(line for line in lines if line)


def wide(table: Table) -> int:
    """The columns that a table takes where nothing is folded."""
    return console.measure(table.rich(), options=console.options.update(width=10**6)).maximum


def write(text: str) -> None:
    """`text` as it is, for a file or another program; what would steer a terminal is spelt out on one."""
    try:
        sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()
    except BrokenPipeError:
        console.on_broken_pipe()


class Drawn:
    """What is drawn below what is logged while it is entered; nothing at all where the output is no terminal.

    Drawn when it is told to, and by no thread: the process may be forked, and a thread takes the interpreter from
    training.
    """

    def __init__(self, screen: Console, made: Live | Progress) -> None:
        self._screen, self._made, self._drawn = screen, made, 0.0

    def is_due(self) -> bool:
        """Whether it is time to show something new."""
        return self._screen.is_terminal and time.monotonic() - self._drawn > SECONDS_BETWEEN_DRAWS

    def __enter__(self) -> Self:
        if self._screen.is_terminal:
            self._made.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._screen.is_terminal:
            self._made.stop()


class Status(Drawn):
    """One line that says what goes on."""

    def __init__(self, screen: Console = console) -> None:
        self._live = Live(
            console=screen, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        super().__init__(screen, self._live)

    def say(self, text: str) -> None:
        """Show something, if there is somewhere to show it."""
        if self._screen.is_terminal:
            self.show(text)

    def show(self, text: str) -> None:
        self._drawn = time.monotonic()
        self._live.update(Text(said(text), no_wrap=True, overflow="ellipsis"), refresh=True)


class Bar(Drawn):
    """A progress bar over the steps of a run.

    Args:
        total: steps of the whole run.
        done: steps that were done before, in a run that is resumed.
    """

    def __init__(self, total: int, done: int) -> None:
        columns = [
            TextColumn("epoch {task.fields[epoch]}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f} %  loss {task.fields[loss]}{task.fields[found]}", markup=False),
            TextColumn("{task.fields[speed]} samples/s"),
            TimeRemainingColumn(compact=True),
        ]
        self._progress = Progress(*columns, console=console, transient=True, auto_refresh=False)
        super().__init__(console, self._progress)
        self._task = self._progress.add_task("", total=total, completed=done, epoch="–", loss="–", speed="–", found="")

    def evaluated(self, name: str, value: float) -> None:
        """Show a figure of the last evaluation from here on."""
        self._progress.update(self._task, found=said(f"  {name} {value:.4f}"))

    def update(self, step: int, epoch: str, loss: float, samples_per_second: float) -> None:
        speed = f"{samples_per_second:,.0f}"
        self._progress.update(self._task, completed=step, epoch=epoch, loss=f"{loss:.4f}", speed=speed)
        if self.is_due():
            self._drawn = time.monotonic()
            self._progress.refresh()
