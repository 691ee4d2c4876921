"""Jobs that a launcher of Hydra's starts: as processes of their own on this machine, on a cluster."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from omegaconf import DictConfig, read_write

from runner import anew as anew
from runner import config, folder, hydra_internals, project, signals
from runner.checks import offers
from runner.errors import Interrupted, reason_of
from runner.grammar import quote
from runner.result import end, guarded
from runner.signals import STOPPING
from runner.sweep import child, folds
from runner.sweep.processes import GRACE, Work
from runner.sweep.record import Entry
from runner.visible import log


def wanted(cfg: DictConfig) -> bool:
    """Whether a launcher was chosen, and the jobs are not processes forked from this one."""
    return not str(cfg.hydra.launcher._target_).endswith(".BasicLauncher")


def work(cfg: DictConfig, job: DictConfig, entry: Entry, run_dir: Path, left: Callable[[], bool]) -> Work:
    """A job that is handed to the launcher, by a process that waits for it.

    One by one: of several jobs a launcher says that it lost one while others are still running, and never says when
    those are over.

    Args:
        cfg: of the sweep.
        job: the configuration of the job.
        run_dir: of the job.
        left: whether there is something to do. A job that another sweep has started, and that goes on, is waited for.
    """

    def call() -> int:
        was_running = False
        while folder.holder(run_dir):
            was_running = True
            time.sleep(1.0)
        if was_running and not left():
            return 0
        folder.part_from_others(run_dir)
        resume = [f"resume={quote(str(run_dir))}"] if (run_dir / "config.yaml").is_file() else []
        for signum in STOPPING:
            signal.signal(signum, _HandOn())
        try:
            numbers = [] if config.is_exact(cfg) else [f"facts.numbers={config.EARLIER}"]
            allowed = [f"allow_targets=[{','.join(job.allow_targets)}]"] if job.allow_targets else []
            overrides = [*entry.overrides, *numbers, *allowed, f"hydra.sweep.subdir={quote(entry.name)}", *resume]
            hydra_internals.launcher(cfg, launched).launch([overrides], initial_job_idx=0)
        except Exception as error:  # whatever a launcher raises when it lost a job
            said = f"{type(error).__name__}: {reason_of(error)}"
            log.error("%s", said)
            if folder.state(run_dir) in (None, "running"):
                end(run_dir, folder.result(run_dir), said)
            return 1
        return 0

    return Work(entry.name, entry.name, run_dir, call)


def launched(cfg: DictConfig) -> int:
    """Do a run that a launcher of Hydra's has started somewhere, and return the exit status.

    A launcher may start it again in the same folder: after a signal, or after the machine was lost.
    """
    project.find_own_code()
    whole, run_dir = config.with_hydra(cfg), config.run_dir()
    offers.offer(whole)
    if whole.resume is None and (run_dir / "config.yaml").is_file():
        with read_write(whole):
            whole.resume = str(run_dir.absolute())

    def do() -> None:
        if config.has_folds(whole):
            child.lock(run_dir)
            folds.main(whole, {}, run_dir)
        else:
            child.train_in(whole, run_dir, {})

    try:
        return guarded(do)
    except SystemExit as stop:
        if isinstance(stop.__cause__, Interrupted):
            signals.hand_back(stop.__cause__.signum)
        raise


class _HandOn:
    """On a signal, tells what runs on this machine for the job to save its state, and waits for it.

    It is told again and again, for it may be at a moment at which it does not listen. On another machine a job does not
    hear of it, and goes on by itself.
    """

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        for each in STOPPING:
            signal.signal(each, signal.SIG_IGN)
        self.until = time.monotonic() + GRACE
        signal.signal(signal.SIGALRM, self.tell)
        signal.setitimer(signal.ITIMER_REAL, 0.01, 1.0)

    def tell(self, signum: int, frame: FrameType | None) -> None:
        if time.monotonic() > self.until:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise SystemExit(128 + signal.SIGTERM)
        os.killpg(0, signal.SIGTERM)
