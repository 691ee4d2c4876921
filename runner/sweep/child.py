"""One run in a process that is there for it alone."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from runner import config, folder, train
from runner.data import Sources
from runner.errors import RunFolderError
from runner.files import write
from runner.result import end, guarded
from runner.signals import staying
from runner.terminal import log_to
from runner.train import Watch

PATIENCE = 40.0
"""Seconds to wait for a folder that another process has: it may be about to end, after a sweep that was killed."""


def in_process(cfg: DictConfig, run_dir: Path, sources: Sources, watch: Watch | None = None) -> int:
    """Do a run in a process that was forked for it, and return the exit status.

    Args:
        cfg: with Hydra's part.
        run_dir: of the run; the log is there.
        sources: data sets that were read already.
        watch: see `runner.train.main`.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):  # nothing goes to the terminal of the sweep
        root.removeHandler(handler)
    log_to(run_dir / "runner.log")
    config.install(cfg)
    os.environ.update({str(name): str(value) for name, value in cfg.hydra.job.env_set.items()})
    return guarded(lambda: train_in(cfg, run_dir, sources, watch))


def train_in(cfg: DictConfig, run_dir: Path, sources: Sources, watch: Watch | None = None) -> None:
    """Prepare a run and train it. Arguments: see `in_process`."""
    lock(run_dir)
    write(run_dir / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(cfg.hydra.overrides.task).encode())
    try:
        with staying():
            prepared = train.prepare(config.task(cfg), run_dir, sources)
    except Exception as error:
        # `train.main` writes how a run ended, and it has not begun.
        end(run_dir, folder.result(run_dir), error)
        raise
    train.main(prepared, run_dir, watch)


def lock(run_dir: Path) -> None:
    """Have a run folder, as soon as whoever has it now is done with it."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return folder.lock(run_dir, "hydra.sweep.dir")
        except RunFolderError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
