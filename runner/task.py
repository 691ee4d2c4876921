"""One run, or one cross-validation, in a folder that is there: what Hydra calls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from runner import anew as anew
from runner import config, folder, handover
from runner.errors import InputError
from runner.result import end
from runner.signals import staying

if TYPE_CHECKING:
    from runner.train import Prepared


def main(cfg: DictConfig) -> None:
    """What Hydra calls with the configuration of a run."""
    from runner import overfit, train
    from runner.sweep import folds

    run_dir, given = config.run_dir(), handover.current()
    given.begin_log()
    if config.has_folds(cfg):
        folds.main(config.with_hydra(cfg), given.sources, run_dir)
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
        whole = config.with_hydra(cfg)
        before_data.check(whole)
        with staying():
            return train.prepare(config.task(whole), run_dir)
    except InputError:
        folder.disclaim(run_dir)
        raise
    except Exception as error:
        end(run_dir, folder.result(run_dir), error)
        raise
