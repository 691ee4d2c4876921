"""Things that a machine may have too little of for workers: shared memory, and open files."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from runner.errors import ConfigError, DataError, Problem

SHARED = Path("/dev/shm")
"""Through which batches come from workers."""

MORE_SHARED = "loader.num_workers=0, a smaller loader.batch_size, or in a container: docker run --shm-size=2g …"
MORE_FILES = "loader.num_workers=0, or before it in the same shell: ulimit -n 4096"

WORDS = {errno.ENOSPC: ("No space left", "Bus error"), errno.EMFILE: ("Too many open files", "ancdata")}
"""Errors that a worker which has too little of something exits with, and how each is said."""

FILES, SPARE_FILES = 3, 28
"""Files that this process opens for each worker, and for the batches that come from them and what else a run writes."""


def lacking(batches: Iterator[Any], error: Exception) -> tuple[str, str] | None:
    """Return what the workers have too little of, and what to do; None if they died of something else."""
    workers = getattr(batches, "_workers", ())
    if isinstance(error, (OSError, EOFError)):  # one may just be dying, while it hands something over
        for worker in workers:
            worker.join(0.2)
    codes = {worker.exitcode for worker in workers} | {getattr(error, "errno", None)}
    codes |= {code for code, words in WORDS.items() if any(word in str(error) for word in words)}
    if errno.EMFILE in codes:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"too many open files, of which a process may have {limit:,} (ulimit -n)", MORE_FILES
    if {errno.ENOSPC, -signal.SIGBUS} & codes:
        return f"{SHARED} is full, which holds {_mib(shutil.disk_usage(SHARED).total)}", MORE_SHARED
    return None


@contextmanager
def starting(num_workers: int) -> Iterator[None]:
    """To be entered for starting workers.

    Raises:
        DataError: this process may not have so many, or not open so many files.
    """
    try:
        yield
    except OSError as error:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if isinstance(half := frame.f_locals.get("self"), _MultiProcessingDataLoaderIter):
                half._shutdown = True  # or it would try to shut down what it has not got yet, with a traceback
        for child in multiprocessing.active_children():
            if child.daemon:
                child.kill()
                child.join()
        reason, remedy = lacking(iter(()), error) or (str(error.strerror), "a smaller loader.num_workers")
        what = f"{num_workers}: they cannot be started: {reason}"
        raise DataError(Problem("loader.num_workers", what, remedy=remedy)) from error


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"


def check(batch: int, num_workers: int, ready: int) -> None:
    """Check that batches can come from workers.

    Args:
        batch: bytes of one.
        ready: how many the workers read ahead: what they are not asked for yet waits in shared memory.

    Raises:
        ConfigError: there is too little shared memory for these, or this process may not open enough files.
    """
    if num_workers == 0 or not SHARED.is_dir():
        return
    free, limit = shutil.disk_usage(SHARED).free, resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if batch * ready > free:
        what = f"{num_workers}: they hold {ready} batches of {_mib(batch)} ready in {SHARED}"
        what += f", which has {_mib(free)} free"
        raise ConfigError(Problem("loader.num_workers", what, remedy=MORE_SHARED))
    needed = len(os.listdir("/proc/self/fd")) + FILES * num_workers + SPARE_FILES
    if 0 <= limit < needed:
        what = f"{num_workers}: they take about {needed} open files, and a process may have {limit:,} here (ulimit -n)"
        raise ConfigError(Problem("loader.num_workers", what, remedy=MORE_FILES))


PR_SET_PDEATHSIG = 1
"""Linux's number for setting the signal that a process gets when its parent dies."""


def end_with_the_run() -> None:
    """To be called in a worker: it ends when a batch cannot be sent, which its queue would only drop, so that the run
    would wait for it without end; and when the run was killed, which a worker that hangs does not see."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    Queue._on_queue_feeder_error = staticmethod(_end)  # type: ignore[attr-defined]
    sys.excepthook = lambda kind, error, trace: _end(error)  # called by the thread that hands out open files


def _end(error: BaseException, item: object = None) -> None:
    code = getattr(error, "errno", None)
    if code not in WORDS:  # torch's own errors say it in their text alone
        code = next((code for code, words in WORDS.items() if any(word in str(error) for word in words)), 1)
    if code == 1:
        traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(code)
