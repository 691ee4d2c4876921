"""Which weights of a run are meant, and whether they are what they are said to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from runner import checkpoint, folder, model, program
from runner.checkpoint import BEST, LAST
from runner.errors import ConfigError, DataError, Problem, RunFolderError, nearest
from runner.files import typed

NAMED = ("best", "last", "ema")
"""What ``weights=`` may be beside a file."""


@dataclass(frozen=True)
class Weights:
    """What of a checkpoint a trained model is made of.

    Args:
        path: of the file.
        model, transform, loss: state dicts.
        epoch, step: in or after which they were saved; None for a file of others.
    """

    path: Path
    model: Mapping[str, Tensor]
    transform: Mapping[str, Tensor]
    loss: Mapping[str, Tensor]
    epoch: int | None = None
    step: int | None = None


def read_weights(run_dir: Path, name: str, net: nn.Module) -> Weights:
    """The weights of a run that `name` means: see `load_run`.

    Args:
        net: the model, in which a file of others is tried.

    Raises:
        InputError: there are none, or they are damaged, or not those that the record is of.
    """
    if name == "best":
        return _of(_recorded(run_dir))
    if name in NAMED:
        return _last(run_dir, name == "ema")
    path = _file(run_dir, name)
    try:
        return _of(path)
    except RunFolderError:  # of somebody else's, or damaged; `load` says which
        try:
            model.load(net, str(path))
        except DataError as error:
            raise DataError(*(Problem("weights", p.what, p.allowed) for p in error.problems)) from error
    own = run_dir / "checkpoints"
    ours = _of(own / (BEST if (own / BEST).is_file() else LAST))
    return Weights(path, net.state_dict(), ours.transform, ours.loss)


def check_trained(run_dir: Path) -> None:
    """That a run has checkpoints of its own."""
    if folder.has_checkpoint(run_dir):
        return
    if folds := folder.folds(run_dir):
        what = f"{run_dir} is a cross-validation"
        raise RunFolderError(Problem("run", what, "the folder of one of its folds", f"run={folds[0][1]}"))
    state = folder.state(run_dir) or "not started"
    remedy = f"{program.line(f'resume={run_dir}')}, to train it"
    raise RunFolderError(Problem("run", f"{run_dir} has no checkpoint (state: {state})", remedy=remedy))


def _recorded(run_dir: Path) -> Path:
    """The best checkpoint, which is the one that the figures of the run are of."""
    path = run_dir / "checkpoints" / BEST
    recorded = folder.result(run_dir).get("checkpoint", {}).get("sha256")
    if recorded is None or not path.is_file() or checkpoint.sha256(path) == recorded:
        return path
    what = "is not the checkpoint that the metrics in result.json were computed with"
    what += f" (its SHA-256 should begin with {recorded[:12]})"
    raise RunFolderError(Problem(str(path), what, remedy=f"weights={path}, to use it anyway"))


def _last(run_dir: Path, average: bool) -> Weights:
    path = run_dir / "checkpoints" / LAST
    state = checkpoint.read(path)
    if average and state["ema"] is None:
        raise ConfigError(Problem("weights", f"{run_dir} has no averaged weights (EMA)", "best, last, FILE"))
    return _taken(path, state, "ema" if average else "model")


def _of(path: Path) -> Weights:
    """Those of a checkpoint of ours that were evaluated: their average, if there is one."""
    state = checkpoint.read(path)
    return _taken(path, state, "model" if state["ema"] is None else "ema")


def _taken(path: Path, state: Mapping[str, Any], which: str) -> Weights:
    progress = state["progress"]
    epoch = progress["epoch"] + (progress["batch"] > 0)  # as its evaluation has it, inside an epoch, too
    return Weights(path, state[which], state["transform"], state["loss"], epoch, progress["step"])


def _file(run_dir: Path, name: str) -> Path:
    places = [typed(name), run_dir / "checkpoints" / name]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        kept = [path.name for path in sorted((run_dir / "checkpoints").glob("*.pt"))]
        what = f"there is no file {name!r}, neither here nor in {run_dir / 'checkpoints'}"
        remedy = nearest(name, [*NAMED, *kept], "weights=")
        raise ConfigError(Problem("weights", what, ", ".join([*NAMED, *kept]), remedy))
    return found
