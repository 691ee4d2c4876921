"""A sweep: its jobs one after the other, or several at a time, and the table of what they reached.

Whatever happens to a job is a row of the table; whatever happens to the sweep, what its jobs have done stays done, and
the sweep typed again does what is missing.
"""

from __future__ import annotations

import itertools
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from omegaconf import DictConfig

from runner import config, consent, folder, program
from runner.errors import Interrupted, counted
from runner.references import must_be_typed
from runner.sweep import folds, launcher, results
from runner.sweep.jobs import Jobs
from runner.sweep.processes import Work, at_a_time
from runner.sweep.progress import Progress
from runner.sweep.record import Entry, Record, digest
from runner.visible import log


class Sweep:
    """The jobs that were typed, in their folder.

    Args:
        cfg: of the sweep, with Hydra's part.
        jobs: checked.
        record: of the sweep that is gone on with, or a new one, which gets its folder before `run`.
    """

    def __init__(self, cfg: DictConfig, jobs: Jobs, record: Record) -> None:
        self.cfg, self.jobs, self.record, self._is_new = cfg, jobs, record, not record.entries
        self.configs: dict[str, DictConfig] = {}
        self._works: dict[str, list[Work]] = {}
        self._entries: dict[str, Entry] = {}

    def plan(self) -> None:
        """Write the jobs in the record."""
        hashes = [digest(config.install(self.jobs.configs[number])) for number in range(len(self.jobs.jobs))]
        self.entries = self.record.add(list(zip(self.jobs.jobs, hashes, strict=True)))
        self._numbers = {digest: number for number, digest in reversed(list(enumerate(hashes)))}
        self.configs = {entry.name: self.jobs.configs[self._numbers[entry.hash]] for entry in self.entries}
        if same := len(hashes) - len(self.entries):
            log.info("%s left out: the same configuration as another job", counted(same, "duplicate job"))

    def left(self) -> list[int]:
        """The numbers of the jobs that are not completed."""
        return [self._numbers[entry.hash] for entry in self.entries if self._is_new or self._works_of(entry)]

    def begin(self) -> None:
        """Say what is going to be done, and make what has to be there before."""
        for entry in self.entries:
            self.open(entry, self._works_of(entry))
        jobs, runs, done = len(self.entries), self._total(), sum(not works for works in self._works.values())
        left = f"{jobs - done} to run" if jobs > done else "nothing left to run"
        words = [counted(jobs, "job"), *([f"{done} of them done", left] if done else [])]
        words += [f"{counted(runs, 'fold')} to train"] if any(map(config.has_folds, self.configs.values())) else []
        words += [f"{self._n_jobs} at a time"] if self._n_jobs > 1 else []
        log.info("%s\n%s", self.record.folder, ", ".join(words))
        for work in self.works() if launcher.wanted(self.cfg) else ():
            if (who := folder.holder(work.folder)) is not None:
                log.info("%s is still running (%s); it is waited for, and not started again", work.name, who)

    def works(self) -> Iterator[Work]:
        """What is left to do."""
        return itertools.chain.from_iterable(self._works.values())

    def settled(self, entry: Entry) -> None:
        """Called when a run of a job has ended, with what it left on the disk."""

    def run(self, typed: Sequence[str], flags: Sequence[str]) -> int:
        """Do what is missing, and return the exit status: 1 if a job failed.

        Args:
            typed: the overrides of the sweep.
            flags: with which it would be gone on with.

        Raises:
            Interrupted: a signal stopped it.
        """
        begun = time.monotonic()
        self.record.typed = list(typed)
        self.record.write()
        self.begin()
        self.progress = Progress(self._total(), self.cfg.checkpoint.monitor)
        signum = self.progress.drive(self.works(), self.cfg, self._n_jobs, self._settle)
        command = self._command(typed, flags)
        if signum is not None:
            results.write_files(self.record, self.cfg)
            log.info("stopped; to resume: %s", command)
            raise Interrupted(signum)
        not_begun = self.progress.total - self.progress.count
        if not_begun > 0 and self.cfg.sweep.on_error == "stop":
            words = "%d of %d not started, because a job failed and sweep.on_error=stop"
            log.info(words, not_begun, self.progress.total)
        failed = results.report(self.record, self.cfg, flags, time.monotonic() - begun)
        if failed:
            log.info("  retry failed jobs      %s", command)
        return int(failed > 0)

    def _command(self, typed: Sequence[str], flags: Sequence[str]) -> str:
        """What to type to go on; with what names code or where it runs, which is never taken from the folder."""
        chosen = [override for override in self.cfg.hydra.overrides.hydra if override.startswith("hydra/launcher=")]
        foreign = consent.secret() is None  # else the folder is marked, and says all of that
        allowed = [override for override in typed if override.startswith("allow_targets=") and foreign]
        again = [override for override in typed if must_be_typed(override) and foreign]
        words = [*flags, "-m", f"resume={self.record.folder}", *chosen, *allowed, *again]
        return shlex.join([*program.start("runner"), *words])

    @property
    def _n_jobs(self) -> int:
        here = not launcher.wanted(self.cfg)
        return at_a_time(self.cfg.sweep.n_jobs, here and str(self.cfg.device) in ("auto", "cuda"))

    def open(self, entry: Entry, works: list[Work]) -> None:
        """Begin a job, of which `works` are left."""
        self._works[entry.name], self._entries[entry.name] = works, entry
        cfg, place = self.configs[entry.name], self.record.folder / entry.name
        if works and config.has_folds(cfg):
            folds.begin(config.install(cfg), place)
        elif config.has_folds(cfg) and not folds.is_whole(cfg, place):
            folds.summarise(config.install(cfg), place)

    def _works_of(self, entry: Entry) -> list[Work]:
        cfg, place = self.configs[entry.name], self.record.folder / entry.name

        def left() -> list[Work]:
            return folds.works(entry.name, cfg, place, self.jobs.sources)

        works = left()
        if not works or not launcher.wanted(self.cfg):
            return works
        # A launcher has a whole job, with the folds that are missing, and the overrides typed now, not the folder's.
        typed = replace(entry, overrides=self.jobs.jobs[self._numbers[entry.hash]].overrides)
        return [launcher.work(self.cfg, cfg, typed, place, lambda: bool(left()))]

    def _total(self) -> int:
        return sum(map(len, self._works.values()))

    def _settle(self, work: Work) -> None:
        """Bring everything up to date when a run has ended."""
        cfg = self.configs[work.job]
        try:
            if config.has_folds(cfg):
                folds.summarise(config.install(cfg), self.record.folder / work.job)
            self.settled(self._entries[work.job])
            results.write_files(self.record, self.cfg)
        finally:
            self.progress.total = self._total()
