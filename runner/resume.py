"""What a run goes on from: its own state, on the data and the split that it began with."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from runner import debugger
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
    except debugger.foreign(KeyError, RuntimeError, TypeError, ValueError) as error:
        what = f"does not match the model or optimizer that the code builds now: {str(error).strip()}"
        remedy = f"the code it was written with, or a new run with model.weights={run_dir}"
        raise RunFolderError(Problem(str(run_dir / "checkpoints"), what, remedy=remedy)) from error


def traces_of(cfg: DictConfig) -> dict[str, str]:
    """Hashes of what has to be the same again, also where it came from the environment and is not written."""
    values = {"seed": cfg.seed, "workers": cfg.loader.get("num_workers", 0)}
    return {name: hashlib.sha256(f"{name} {value}".encode()).hexdigest() for name, value in values.items()}


def _check_same(cfg: DictConfig, experiment: Experiment, run_dir: Path, state: dict[str, Any]) -> None:
    """That a run that is resumed has the samples, the split and the seed that its checkpoint has."""
    workers, seed = state["config"]["loader"].get("num_workers", 0), state["config"]["seed"]
    traces, now = state.get("traces", {}), traces_of(cfg)
    if isinstance(workers, str):  # a reference to the environment
        workers = cfg.loader.num_workers if traces.get("workers") == now["workers"] else workers
    if isinstance(seed, str):
        seed = cfg.seed if traces.get("seed") == now["seed"] else seed
    if isinstance(experiment.data.loaders["train"], Streaming) and workers != cfg.loader.num_workers:
        what = f"{cfg.loader.num_workers}: {run_dir} began with {workers}, each with its own share of the stream"
        raise ConfigError(Problem("loader.num_workers", what, str(workers)))
    data = experiment.data
    compared = {
        "the data have": (state["data"][:12], data.samples["train"].fingerprint[:12]),
        "the split has": (state["split"][:12], data.split.hash[:12]),
        "the seed has": (seed, cfg.seed),
    }
    differing = {what: pair for what, pair in compared.items() if pair[0] != pair[1]}
    if differing:
        problems = [f"{what} changed since {run_dir} began ({a}, now {b})" for what, (a, b) in differing.items()]
        raise DataError(*(Problem("resume", problem) for problem in problems))
