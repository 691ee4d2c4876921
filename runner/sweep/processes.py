"""Runs in processes of their own, forked from this one: torch is imported once, and no death of one touches another.

This process computes with one thread and never initialises CUDA: a fork would break either.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import folder, signals
from runner.device import cards, cores
from runner.errors import NotWritten
from runner.files import append, writing
from runner.result import end
from runner.signals import StopFlag
from runner.visible import say_traceback

GRACE = 30.0
"""Seconds that a process has to write its state when it is told to end, before it is killed."""


@dataclass(frozen=True)
class Work:
    """One run, that is to be done in a process of its own.

    Args:
        name: by which people know it.
        job: of a sweep, whose run or fold it is.
        folder: the run's.
        call: does it, and returns the exit status.
        on_card: whether it takes a CUDA card, any of those that are there.
    """

    name: str
    job: str
    folder: Path
    call: Callable[[], int]
    on_card: bool = False


@dataclass
class _Running:
    work: Work
    process: Any
    since: float
    told: float | None = None
    """When it was told to end."""
    is_late: bool = False
    """Whether that was because its time was over."""


def run_all(
    works: Iterator[Work], ended: Callable[[Work], bool], stop: StopFlag, n_jobs: int = 1,
    timeout: float | None = None, watch: Callable[[Sequence[Work]], None] = lambda works: None,
) -> None:  # fmt: skip
    """Do all of `works`, `n_jobs` at a time, and return when none is running any more.

    Args:
        ended: called with each that has ended, whose ``result.json`` then says how; returns whether to begin others.
        stop: a signal is handed on to what is running, which saves its state; nothing else is begun.
        timeout: seconds after which one is told to end, as by a signal, and then killed.
        watch: called several times a second, with what is running.
    """
    slots: list[_Running | None] = [None] * n_jobs
    more, told = True, False
    try:
        while True:
            for number, slot in enumerate(slots):
                if slot is None and more and stop.signum is None:
                    work = next(works, None)
                    more = work is not None
                    if work is not None:
                        slots[number] = _start(work, number, n_jobs)
            running = [slot for slot in slots if slot is not None]
            if not running:
                return
            if stop.signum is not None and not told:
                told = True
                _tell(running, stop.signum)
            _end_overdue(running, timeout)
            watch([slot.work for slot in running])
            multiprocessing.connection.wait([slot.process.sentinel for slot in running], timeout=0.2)
            for number, slot in enumerate(slots):
                if slot is not None and not slot.process.is_alive():
                    slots[number] = None
                    slot.process.join()
                    _settle(slot, timeout)
                    more = ended(slot.work) and more
    except BaseException:  # a second Ctrl-C: what runs ends at once
        for slot in slots:
            if slot is not None:
                _kill(slot.process.pid)
                slot.process.join()
        raise


def at_a_time(n_jobs: int, on_card: bool) -> int:
    """How many runs to do at once: on cards no more than there are."""
    return min(n_jobs, len(cards()) or n_jobs) if on_card else n_jobs


def _tell(running: Iterable[_Running], signum: int) -> None:
    """Hand a signal on."""
    for slot in running:
        slot.told = slot.told or time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(slot.process.pid, signum)


def _end_overdue(running: list[_Running], timeout: float | None) -> None:
    now = time.monotonic()
    for slot in running:
        if slot.told is None and timeout is not None and now - slot.since > timeout:
            slot.told, slot.is_late = now, True
            slot.process.terminate()
        elif slot.told is not None and now - slot.told > GRACE:
            _kill(slot.process.pid)


def _kill(process: int) -> None:
    """A process and its workers, which are in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


def _start(work: Work, slot: int, slots: int) -> _Running:
    sys.stdout.flush()  # or the child would print once more what is still in the buffer
    sys.stderr.flush()
    process = multiprocessing.get_context("fork").Process(target=_child, args=(work, slot, slots, os.getpid()))
    process.start()
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.setpgid(process.pid, process.pid)  # by both, so that it is done before either goes on
    return _Running(work, process, time.monotonic())


def _child(work: Work, slot: int, slots: int, parent: int) -> None:
    status = 1
    try:
        with signals.exiting():
            with contextlib.suppress(PermissionError):
                os.setpgid(0, 0)  # a Ctrl-C reaches the parent alone, which hands it on
            threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
            _take_share(work, slot, slots)
            with writing(work.folder):
                work.folder.mkdir(parents=True, exist_ok=True)
            # All that is printed, also by libraries in C, is in the log, in its order.
            with append(work.folder / "runner.log", buffering=0) as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
            status = work.call()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except NotWritten as error:
        print(f"error: {error}", file=sys.stderr)
    except BaseException:
        say_traceback()
    folder.unlock(work.folder)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # code of the user's may have left threads that would be waited for


def _die_with(parent: int) -> None:
    """When the parent dies, however it does, have this process save its state and end."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)


def _take_share(work: Work, slot: int, slots: int) -> None:
    """Of the cores and cards of this machine."""
    mine = cores()[slot::slots] if slots <= len(cores()) else [cores()[slot % len(cores())]]
    if slots > 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, mine)
    if work.on_card and (there := cards()):
        os.environ["CUDA_VISIBLE_DEVICES"] = there[slot % len(there)]


def _settle(slot: _Running, timeout: float | None) -> None:
    """See to it that ``result.json`` says how a run ended that could not say it itself."""
    status, content = slot.process.exitcode, folder.result(slot.work.folder)
    _kill(slot.process.pid)  # workers that it may have left behind
    state = "failed"
    if slot.is_late and content.get("state") != "completed":
        error = f"took longer than sweep.timeout ({timeout:g} seconds)"
    elif content.get("state", "running") != "running" or folder.holder(slot.work.folder):  # it goes on elsewhere
        return
    elif status in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        state, error = "interrupted", "stopped by a signal before it started"
    elif status < 0:
        name = signal.Signals(-status).name
        error = f"killed by {name}" + (", possibly out of memory" if name == "SIGKILL" else "")
    else:
        error = f"the process ended with exit status {status} before the run was complete"
    end(slot.work.folder, content, error, state, seconds=round(time.monotonic() - slot.since, 3))
