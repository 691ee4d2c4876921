"""What is made before Hydra calls the task, by `runner.preflight`, and taken up when it does."""

from __future__ import annotations

import logging
import sys
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TYPE_CHECKING

from runner.terminal import LogFile, log_to

if TYPE_CHECKING:
    from runner.data import Sources
    from runner.train import Prepared


class Handover:
    """Of one start of the program."""

    def __init__(self) -> None:
        self.prepared: Prepared | None = None
        self.sources: Sources = {}
        self._lines = MemoryHandler(sys.maxsize, flushLevel=sys.maxsize)
        logging.getLogger().addHandler(self._lines)  # there is no file for them yet

    def take(self) -> Prepared | None:
        """The run that was prepared, once."""
        prepared, self.prepared = self.prepared, None
        return prepared

    def begin_log(self, path: Path | None = None) -> None:
        """Write what was logged before there was a file, of which Hydra makes that of a run, and no other."""
        root = logging.getLogger()
        if path is not None:
            log_to(path)
        root.removeHandler(self._lines)
        for handler in root.handlers:
            if isinstance(handler, LogFile):
                self._lines.setTarget(handler)
                self._lines.flush()


_current: Handover | None = None


def begin() -> Handover:
    """A new one."""
    global _current
    _current = Handover()
    return _current


def current() -> Handover:
    """That of this start."""
    return _current or begin()
