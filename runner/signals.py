"""Signals as a flag, so that a run stops between two steps and not inside one; and a watch, so that it does stop."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar

from runner import debugger
from runner.errors import ConfigError, DataError, Interrupted, Problem
from runner.visible import say

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


GRACE = 5.0
"""Seconds for which a process that was told to stop may do nothing at all."""

PATIENCE = 300.0
"""The same while it is writing what would be lost."""

LONGEST = 600.0
"""Seconds for which it may go on computing: a step that is longer is taken for one without end."""


class StopFlag:
    """While entered, notes the first signal that asks to stop. A second Ctrl-C stops at once."""

    current: ClassVar[StopFlag | None] = None

    def __init__(self) -> None:
        self.signum: int | None = None
        self.gap = Gap(self)
        self.is_open = False
        """A flag: whether the main thread is in a `Gap`."""
        self.is_busy: Callable[[], bool] = lambda: True
        """A test of whether the process is left to end by itself, for something is being written, or others are."""
        self.abandon: Callable[[str], str] = lambda why: why
        """Called with the reason, in another thread, if it does not end by itself: saves what can be saved, and returns
        what to say."""
        self.ending = threading.Lock()
        """Held by the thread that saves the state at the end: the other one has nothing more to do."""
        self._before: dict[signal.Signals, Any] = {}

    def check(self) -> None:
        """To be called wherever it is safe to stop.

        Raises:
            Interrupted: a signal asked to.
        """
        if self.signum is not None:
            raise Interrupted(self.signum)

    @contextmanager
    def first(self) -> Iterator[None]:
        """A signal to the process group may take a worker along that has just begun, and does not ignore it yet: what
        is wrong then is not the data.

        Raises:
            Interrupted: instead of what went wrong, if a signal came.
        """
        try:
            yield
        except DataError:
            self.check()
            raise

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        is_first, self.signum = self.signum is None, self.signum or signum
        if is_first and self.is_open:
            raise Interrupted(signum)

    def __enter__(self) -> StopFlag:
        StopFlag.current = self
        self._before = {signum: signal.signal(signum, self._note) for signum in STOPPING}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        StopFlag.current = None


class Gap:
    """While entered, nothing is half done, and the wait may be long: a signal stops the run on the spot."""

    def __init__(self, stop: StopFlag) -> None:
        self.stop = stop

    def __enter__(self) -> None:
        self.stop.is_open = True
        if self.stop.signum is not None:  # one that came before
            self.stop.is_open = False
            self.stop.check()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.stop.is_open = False
        if self.stop.signum is not None and not isinstance(error, (Interrupted, KeyboardInterrupt)):
            raise Interrupted(self.stop.signum) from error  # whatever code of the user's has made of it


class Watch:
    """While entered, ends this process if it was told to stop and does not: Python calls handlers in the main thread
    alone, and not before that returns from what it waits for, such as a file system that is gone.

    What computes is not taken for what waits, however long a step is.
    """

    current: ClassVar[Watch | None] = None
    poll = 0.2

    def __init__(self) -> None:
        self.signum: int | None = None
        self._idle = self._since = self._used = 0.0

    def __enter__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        Watch.current = self
        self.resume()

    def __exit__(self, *_: object) -> None:
        self.pause()
        Watch.current = None
        signal.set_wakeup_fd(self._before)
        self.forget()

    def resume(self) -> None:
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Until `resume`: a fork needs a process without other threads."""
        if threading.current_thread() is not self._thread:
            os.write(self._write, b"\0")
            self._thread.join()

    def forget(self) -> None:
        os.close(self._read)
        os.close(self._write)

    def _watch(self) -> None:
        while True:
            ready, _, _ = select.select([self._read], [], [], None if self.signum is None else self.poll)
            came = os.read(self._read, 512) if ready else b""
            if 0 in came:
                return
            stopping = [each for each in came if each in STOPPING]  # others have handlers, too
            if self.signum is None and stopping:
                self.signum, self._since, self._used = stopping[0], time.monotonic(), time.process_time()
            elif self.signum is not None and not ready and self._stalled():
                self._leave(self.signum)

    def _stalled(self) -> bool:
        used, self._used = time.process_time() - self._used, time.process_time()
        self._idle = self._idle + self.poll if used < 0.1 * self.poll else 0.0
        stop = StopFlag.current
        if stop is not None and stop.is_busy():
            return self._idle > PATIENCE
        return self._idle > GRACE or time.monotonic() - self._since > LONGEST

    def _leave(self, signum: int) -> None:
        import logging
        import multiprocessing

        stop, status = StopFlag.current, Interrupted(signum).exit_status
        said = str(Interrupted(signum))
        _exit_after(PATIENCE, status)  # what it writes to may be what the main thread waits for
        try:
            if stop is not None and stop.ending.acquire(blocking=False):
                said = stop.abandon(said)
        except Exception as error:
            said, status = f"error: {error}", 1
        for child in multiprocessing.active_children():
            if child.daemon:  # a worker; runs end by themselves, and save their state
                child.kill()
        _exit_after(1.0, status)
        if stop is None:
            say(said)
        else:
            logging.getLogger("runner").info("%s", said)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def stay_alone() -> None:
    """Have no thread beside this one, as a debugger wants it that a file asks for: on a command line it is seen before
    (`runner.debugger.is_typed`)."""
    debugger.begin(True)
    if Watch.current is not None:
        Watch.current.pause()


def _exit_after(seconds: float, status: int) -> None:
    timer = threading.Timer(seconds, os._exit, [status])
    timer.daemon = True
    timer.start()


def _before_fork() -> None:
    if Watch.current is not None:
        Watch.current.pause()


def _in_parent() -> None:
    if Watch.current is not None:
        Watch.current.resume()


def _in_child() -> None:
    """Forget what watches the parent: what came to a child would count as having come to its parent."""
    if Watch.current is not None:
        signal.set_wakeup_fd(-1)
        Watch.current.forget()
    if StopFlag.current is not None:
        StopFlag.current.is_open = False
    Watch.current = StopFlag.current = None


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)


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
        with contextlib.nullcontext() if Watch.current or debugger.on else Watch():
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
