"""A sweep: its jobs one after the other, or several at a time, and the table of what they reached.

Whatever happens to a job is a row of the table; whatever happens to the sweep, what its jobs have done stays done, and
the sweep typed again does what is missing.
"""

from __future__ import annotations

import itertools
import logging
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from runner import config, folder
from runner.errors import Interrupted
from runner.signals import StopFlag
from runner.sweep import folds, results
from runner.sweep.jobs import Jobs
from runner.sweep.processes import Work, run_all
from runner.sweep.record import Entry, Record, digest

log = logging.getLogger("runner")


class Sweep:
    """The jobs that were typed, in their folder.

    Args:
        cfg: of the sweep, with Hydra's part.
        jobs: checked.
        record: of the sweep that is gone on with, or a new one, which gets its folder before `run`.
    """

    def __init__(self, cfg: DictConfig, jobs: Jobs, record: Record) -> None:
        self.cfg, self.jobs, self.record, self._is_new = cfg, jobs, record, not record.entries
        hashes = [digest(config.enter(jobs.configs[number])) for number in range(len(jobs.jobs))]
        self.entries = self.record.enter(list(zip(jobs.jobs, hashes, strict=True)))
        self._numbers = {digest: number for number, digest in reversed(list(enumerate(hashes)))}
        self.configs = {entry.name: jobs.configs[self._numbers[entry.hash]] for entry in self.entries}
        same = len(hashes) - len(self.entries)
        if same:
            log.info("%d job%s the same run as another, and done once", same, "s are" if same > 1 else " is")

    def left(self) -> list[int]:
        """The numbers of the jobs that are not completed."""
        return [self._numbers[entry.hash] for entry in self.entries if self._is_new or self._works(entry)]

    @property
    def folder(self) -> Path:
        return self.record.folder

    def _works(self, entry: Entry) -> list[Work]:
        return folds.works(entry.name, self.configs[entry.name], self.folder / entry.name, self.jobs.sources)

    def run(self, typed: Sequence[str], flags: Sequence[str]) -> int:
        """Do what is missing, and return the exit status: 1 if a job failed.

        Args:
            typed: the overrides of the sweep.
            flags: with which it would be gone on with.

        Raises:
            Interrupted: a signal stopped it.
        """
        begun, options = time.monotonic(), self.cfg.sweep
        self.record.typed = list(typed)
        self.record.write()
        works = {entry.name: self._works(entry) for entry in self.entries}
        left = list(itertools.chain.from_iterable(works.values()))
        for entry in self.entries:
            if folds.wanted(self.configs[entry.name]) and works[entry.name]:
                folds.begin(config.enter(self.configs[entry.name]), self.folder / entry.name)
        self._announce(works)
        counted = itertools.count(1)

        def ended(work: Work) -> bool:
            self._settle(work, works)
            result = folder.read_result(work.folder) or {}
            line = folds.said_of(work.name, result, self.cfg.checkpoint.monitor)
            log.info("%*d/%d  %s", len(str(len(left))), next(counted), len(left), line)
            if result.get("state") != "completed":
                log.info("%s  %s", " " * (2 * len(str(len(left))) + 1), work.folder / "runner.log")
            return options.on_error == "continue" or result.get("state") == "completed"

        with StopFlag() as stop:
            run_all(iter(left), ended, stop, options.n_jobs, folds.seconds(options.timeout))
        allowed = [override for override in typed if override.startswith("allow_targets=")]
        command = shlex.join(["python", "-m", "runner", *flags, "-m", f"resume={self.folder}", *allowed])
        if stop.signum is not None:
            results.write_files(self.record, self.cfg)
            log.info("stopped; to go on: %s", command)
            raise Interrupted(stop.signum)
        failed = results.tell(self.record, self.cfg, flags, time.monotonic() - begun)
        if failed:
            log.info("  try what failed again  %s", command)
        return int(failed > 0)

    def _settle(self, work: Work, works: dict[str, list[Work]]) -> None:
        """Bring the files up to date that speak of a run that has ended."""
        name = next(name for name, mine in works.items() if work in mine)
        if folds.wanted(self.configs[name]):
            folds.summarise(config.enter(self.configs[name]), self.folder / name)
        results.write_files(self.record, self.cfg)

    def _announce(self, works: dict[str, list[Work]]) -> None:
        runs, jobs = sum(map(len, works.values())), len(self.entries)
        done = sum(not mine for mine in works.values())
        cross_validated = any(folds.wanted(cfg) for cfg in self.configs.values())
        at_a_time = f", {self.cfg.sweep.n_jobs} at a time" if self.cfg.sweep.n_jobs > 1 else ""
        what = f"{jobs} job{'s' if jobs != 1 else ''}"
        what += f", {done} of them done" if done else ""
        what += f", {runs} folds to train" if cross_validated else ""
        log.info("%s\n%s%s", self.folder, what, at_a_time)
