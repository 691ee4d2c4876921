"""Signals as a flag, so that a run stops between two steps and not inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from runner.errors import ConfigError, Interrupted, Problem
from runner.visible import say

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class StopFlag:
    """While entered, notes the first signal that asks to stop. A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def check(self) -> None:
        """To be called wherever it is safe to stop.

        Raises:
            Interrupted: a signal asked to.
        """
        if self.signum is not None:
            raise Interrupted(self.signum)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = self.signum or signum

    def __enter__(self) -> StopFlag:
        self._before = {signum: signal.signal(signum, self._note) for signum in STOPPING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)


def hand_back(signum: int) -> None:
    """Let whoever had a handler for a signal before this program hear of it, now that the state is saved: submitit's
    asks for the job to be queued again."""
    if signal.getsignal(signum) not in (None, signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler):
        signal.raise_signal(signum)


class Exit(SystemExit):
    """This program ends the process. Any other `SystemExit` comes from code that was called."""

    where = ""
    """What is said behind the name of the signal, if one was the reason."""


@contextmanager
def staying() -> Iterator[None]:
    """While entered, code that leaves the process (``sys.exit``) is a mistake in the configuration that names it."""
    try:
        yield
    except Exit:
        raise
    except SystemExit as error:
        what = f"code named by a _target_ called sys.exit({error.code!r})"
        raise ConfigError(Problem("configuration", what, remedy="raise an exception there instead")) from error


@contextmanager
def exiting() -> Iterator[None]:
    """While entered, signals that would end the process on the spot end it by `Exit`, which cleans up.

    They come at any moment, also while a library is cleaning up, which then may raise an error of its own instead: so
    what counts in the end is that a signal came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    came: list[Interrupted] = []

    def leave(signum: int, frame: FrameType | None) -> None:
        came.append(Interrupted(signum))
        raise Exit(came[0].exit_status)

    before, where = {signum: signal.signal(signum, leave) for signum in STOPPING}, ""
    try:
        yield
    except Exit as stop:
        where = stop.where
        raise
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        if came:
            say(f"{came[0]}{where}")
            raise Exit(came[0].exit_status)
