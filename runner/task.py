"""One run, or one cross-validation, in a folder that is there: what Hydra calls."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, open_dict, read_write

from runner import anew as anew
from runner import config, folder, handover, signals
from runner.errors import InputError, Interrupted, guarded
from runner.result import end
from runner.signals import staying

if TYPE_CHECKING:
    from runner.train import Prepared


def main(cfg: DictConfig) -> None:
    """What Hydra calls with the configuration of a run."""
    from runner import overfit, train
    from runner.sweep import folds

    run_dir, given = place(), handover.current()
    given.begin_log()
    if config.has_folds(cfg):
        folds.main(with_hydra(cfg), given.sources, run_dir)
        return
    prepared = given.take() or _prepare(cfg, run_dir)
    if cfg.debug == "overfit":
        overfit.main(prepared.cfg, prepared.experiment)
    else:
        train.main(prepared, run_dir)


def _prepare(cfg: DictConfig, run_dir: Path) -> Prepared:
    """Check and prepare a job of another sweeper, or of who gets here by a way without `runner.preflight`."""
    from runner import train
    from runner.checks import before_data

    try:
        whole = with_hydra(cfg)
        before_data.check(whole)
        with staying():
            return train.prepare(config.task(whole), run_dir)
    except InputError:
        folder.disclaim(run_dir)
        raise
    except Exception as error:
        end(run_dir, folder.result(run_dir), error)
        raise


def place() -> Path:
    """The folder that Hydra has made for the task that it has called."""
    from hydra.core.hydra_config import HydraConfig

    return Path(os.path.relpath(HydraConfig.get().runtime.output_dir))


def launched(cfg: DictConfig) -> int:
    """Do a run that a launcher of Hydra's has started somewhere, and return the exit status.

    A launcher may start it again in the same folder: after a signal, or after the machine was lost.
    """
    from runner import hydra_app
    from runner.checks import offers
    from runner.sweep import child, folds

    hydra_app.find_own_code()
    whole, run_dir = with_hydra(cfg), place()
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


def with_hydra(cfg: DictConfig) -> DictConfig:
    """The configuration that Hydra hands to a task, with Hydra's own part again."""
    from hydra.core.hydra_config import HydraConfig

    made = config.copied(cfg)
    with read_write(made), open_dict(made):
        made.hydra = HydraConfig.get()
    return made
