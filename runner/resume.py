"""What a run goes on from: its own state, on the data and the split that it began with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

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
    _check_same(cfg, experiment, run_dir, state)
    restore_best(run_dir / "checkpoints", state)
    try:
        trainer.load_state_dict(state)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        what = f"does not fit what is built here: {str(error).strip()}"
        remedy = f"the code that it was written with, or a run of its own with model.weights={run_dir}"
        raise RunFolderError(Problem(str(run_dir / "checkpoints"), what, remedy=remedy)) from error


def _check_same(cfg: DictConfig, experiment: Experiment, run_dir: Path, state: dict[str, Any]) -> None:
    """That a run that is resumed has the samples, the split and the seed that its checkpoint has."""
    workers = state["config"]["loader"].get("num_workers", 0)
    if isinstance(experiment.data.loaders["train"], Streaming) and workers != cfg.loader.num_workers:
        what = f"{cfg.loader.num_workers}: {run_dir} began with {workers}, each of which has a share of the stream"
        raise ConfigError(Problem("loader.num_workers", what, str(workers)))
    data = experiment.data
    compared = {
        "the data are": (state["data"][:12], data.samples["train"].fingerprint[:12]),
        "the split is": (state["split"][:12], data.split.hash[:12]),
        "the seed is": (state["config"]["seed"], cfg.seed),
    }
    differing = {what: pair for what, pair in compared.items() if pair[0] != pair[1]}
    if differing:
        problems = [f"{what} not what {run_dir} began with ({a}, now {b})" for what, (a, b) in differing.items()]
        raise DataError(*(Problem("resume", problem) for problem in problems))


def check_space(cfg: DictConfig, run_dir: Path, trainer: Trainer) -> None:
    """That there is room for the checkpoints of a run.

    Raises:
        RunFolderError: there is not.
    """
    weights = sum(value.nbytes for value in trainer.model.state_dict().values() if isinstance(value, Tensor))
    # With an average, two moments of the optimizer; the last, the best ones, and the one that is being written.
    needed = weights * (3 + (trainer.average is not None)) * (2 + cfg.checkpoint.keep)
    there = next(path for path in (run_dir.absolute(), *run_dir.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        what = f"{run_dir}: checkpoints will take {needed / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free there"
        raise RunFolderError(Problem("hydra.run.dir", what, remedy="hydra.run.dir=FOLDER, on another disk"))
