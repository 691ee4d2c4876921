"""What a person sees of runs in processes of their own: a line when one has ended, and what is running now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from omegaconf import DictConfig

from runner import folder
from runner.files import read
from runner.keys import parse_json
from runner.result import ENDED_WELL, from_json
from runner.signals import StopFlag
from runner.sweep.processes import Work, run_all
from runner.terminal import Status
from runner.updates import seconds_of
from runner.visible import log


class Progress:
    """Counts runs.

    Args:
        total: how many there will be.
        monitor: the metric that is shown of each.
    """

    def __init__(self, total: int, monitor: str) -> None:
        self.total, self.monitor = total, monitor
        self.count = self._failed = 0
        self._status, self._since = Status(), time.monotonic()

    def drive(
        self, works: Iterator[Work], cfg: DictConfig, n_jobs: int, settle: Callable[[Work], object]
    ) -> int | None:
        """Do all of `works`, several at a time, and return the signal that stopped it, if one did.

        Args:
            cfg: of the sweep, or of the cross-validation.
            settle: called with each that has ended, before it is shown.
        """

        def ended(work: Work) -> bool:
            try:
                settle(work)
            except OSError as error:  # a full disk may have room again when the next one ends
                log.warning("what has been reached could not be written: %s", error)
            return self.ended(work) or bool(cfg.sweep.on_error == "continue")

        with StopFlag() as stop, self._status:
            run_all(works, ended, stop, n_jobs, seconds_of(cfg.sweep.timeout), self.running)
        return stop.signum

    def ended(self, work: Work) -> bool:
        """Say how a run has ended, and return whether it ended well."""
        self.count += 1
        result, total = folder.result(work.folder), str(self.total)
        is_well = result.get("state") in ENDED_WELL
        self._failed += not is_well
        line = _line(work.name, result, self.monitor)
        log.info("%*d/%s  %s", len(total), self.count, total, line)
        if not is_well:
            log.info("%s  %s", " " * (2 * len(total) + 1), work.folder / "runner.log")
        return is_well

    def running(self, works: Sequence[Work]) -> None:
        """Show what is running; called several times a second."""
        if not self._status.is_due():
            return
        names = [f"{work.name}{_epoch(work)}" for work in works]
        failed = f", {self._failed} failed" if self._failed else ""
        spent = timedelta(seconds=int(time.monotonic() - self._since))
        self._status.show(f"{spent}  {self.count} of {self.total} ended{failed}; running: {', '.join(names)}")


def _line(name: str, result: Mapping[str, Any], monitor: str) -> str:
    """One run that has ended."""
    state, metrics = str(result.get("state", "failed")), result.get("metrics", {})
    spent = f"{result.get('seconds') or 0:.1f} s"
    if state not in ENDED_WELL:
        reason = str(result.get("error", "no reason was recorded")).partition("\n")[0]
        return f"{name}: {state}: {reason}  {spent}"
    tags = dict.fromkeys([monitor, *(tag for tag in metrics if tag.startswith("test/"))])
    figures = "  ".join(f"{tag} {from_json(metrics.get(tag)):.4f}" for tag in list(tags)[:3])
    return f"{name}: {'pruned: ' if state == 'pruned' else ''}{figures}  {spent}"


def _epoch(work: Work) -> str:
    """How far a run is, from what it has written."""
    try:
        last = parse_json(read(work.folder / "metrics.jsonl").splitlines()[-1])
        return f" (epoch {last['epoch']})"
    except (OSError, ValueError, LookupError):
        return ""
