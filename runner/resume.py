"""What a run goes on from: its own state, on the data and the split that it began with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from runner import config
from runner.checkpoint import restore_best
from runner.errors import ConfigError, DataError, Problem, RunFolderError
from runner.experiment import Experiment
from runner.loader import Streaming
from runner.trainer import Trainer


def load(cfg: DictConfig, run_dir: Path, experiment: Experiment, trainer: Trainer, state: dict[str, Any]) -> None:
    """Go on from a checkpoint. To be called when everything is built: building a scheduler writes to the optimizer.

    Raises:
        ConfigError, DataError: other data, another split, or another share of a stream.
        RunFolderError: the state is of other code, or the best weights are lost.
    """
    _check_same_data(cfg, experiment, run_dir)
    restore_best(run_dir / "checkpoints", state)
    try:
        trainer.load_state_dict(state)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        what = f"does not fit what is built here: {str(error).strip()}"
        remedy = f"the code that it was written with, or a run of its own with model.weights={run_dir}"
        raise RunFolderError(Problem(str(run_dir / "checkpoints"), what, remedy=remedy)) from error


def _check_same_data(cfg: DictConfig, experiment: Experiment, run_dir: Path) -> None:
    """That a run that is resumed has the samples and the split that it began with."""
    saved = json.loads((run_dir / "split.json").read_text())
    workers = config.load(run_dir / "config.yaml")["loader"].get("num_workers", 0)
    if isinstance(experiment.data.loaders["train"], Streaming) and workers != cfg.loader.num_workers:
        what = f"{cfg.loader.num_workers}: {run_dir} began with {workers}, each of which has a share of the stream"
        raise ConfigError(Problem("loader.num_workers", what, str(workers)))
    here = {"data": experiment.data.samples["train"].fingerprint, "hash": experiment.data.split.hash}
    for name, what in (("data", "the data are"), ("hash", "the split is")):
        if saved[name] != here[name]:
            problem = Problem(
                "resume", f"{what} not what {run_dir} began with ({saved[name][:12]}, now {here[name][:12]})"
            )
            raise DataError(problem)


def check_space(cfg: DictConfig, run_dir: Path, trainer: Trainer) -> None:
    """That there is room for the checkpoints of a run.

    Raises:
        RunFolderError: there is not.
    """
    weights = sum(value.nbytes for value in trainer.model.state_dict().values() if isinstance(value, Tensor))
    # With an average, two moments of the optimizer; the last, the best ones, and the one that is being written.
    needed = weights * (3 + (trainer.average is not None)) * (2 + cfg.checkpoint.keep)
    free = shutil.disk_usage(run_dir).free
    if free < needed:
        what = f"{run_dir}: checkpoints will take {needed / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free there"
        raise RunFolderError(Problem("hydra.run.dir", what, remedy="hydra.run.dir=FOLDER, on another disk"))
