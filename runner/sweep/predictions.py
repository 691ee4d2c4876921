"""What the folds of a cross-validation said of every sample, and what they say together."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from runner import metric
from runner.errors import Problem, RunFolderError, reason_of
from runner.experiment import metrics_of
from runner.files import write
from runner.metric import Metric, Said
from runner.trained.writing import Layout, Writer

NAME = "predictions.npz"
"""In the folder of a fold: what was said about val and test."""

SAID = ("truth", "predictions", "probabilities", "index")


def keep(path: Path, held_out: str, said: Mapping[str, Said]) -> None:
    """Write what a fold said about each part.

    Args:
        held_out: the part that is the fold.
    """
    arrays = {f"{part}_{name}": getattr(each, name) for part, each in said.items() for name in SAID}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, held_out=np.array(held_out), **{k: v for k, v in arrays.items() if v is not None})
    write(path, buffer.getvalue())


def together(cfg: DictConfig, places: Sequence[Path], run_dir: Path) -> dict[str, float]:
    """Every metric over all samples, each said by the fold that held it out; and on an official test part those of the
    mean of what all folds say."""
    held, official = [], []
    for place in places:
        parts, of_fold = _read(place / NAME)
        held.append(parts[of_fold])
        if of_fold == "val":
            official.append(parts["test"])
    metrics = metrics_of(cfg)
    whole = Said(*(_joined([getattr(said, name) for said in held]) for name in SAID))
    numbers = np.concatenate([np.full(len(said.truth), number) for number, said in enumerate(held)])
    _write_csv(run_dir / "out_of_fold.csv", whole, numbers, *_task(places[0]))
    found = {f"out_of_fold/{name}": value for name, value in _measure(metrics, whole).items()}
    if official and (said := _mean(official)) is not None:
        found |= {f"ensemble/{name}": value for name, value in _measure(metrics, said).items()}
    return found


def _read(path: Path) -> tuple[dict[str, Said], str]:
    """What a fold said about each part, and which of them is the fold."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {part: _said(arrays, part) for part in ("val", "test")}, str(arrays["held_out"])
    except Exception as error:  # whatever a damaged file makes of numpy and zipfile
        what = f"cannot be read ({reason_of(error)})"
        raise RunFolderError(Problem(str(path), what, remedy=f"rm {path}, then the same command again")) from error


def _said(arrays: Mapping[str, NDArray[Any]], part: str) -> Said:
    truth, predictions, probabilities, index = (arrays.get(f"{part}_{name}") for name in SAID)
    assert truth is not None
    assert predictions is not None
    return Said(truth, predictions, probabilities, index)


def _joined(pieces: Sequence[NDArray[Any] | None]) -> Any:
    return None if any(piece is None for piece in pieces) else np.concatenate([p for p in pieces if p is not None])


def _mean(said: Sequence[Said]) -> Said | None:
    """What several models say of the same samples together: the mean of their probabilities, or of their values."""
    first = said[0]
    if first.probabilities is not None:
        chances = np.mean([each.probabilities for each in said if each.probabilities is not None], axis=0)
        task = "multilabel" if first.truth.ndim > 1 else "classification"
        return Said(first.truth, metric.chosen(task, chances), chances, first.index)
    if np.issubdtype(first.predictions.dtype, np.floating):
        return Said(first.truth, np.mean([each.predictions for each in said], axis=0), None, first.index)
    return None  # classes without probabilities


def _measure(metrics: Mapping[str, Metric], said: Said) -> dict[str, float]:
    can = {n: m for n, m in metrics.items() if said.probabilities is not None or not m.wants_probabilities}
    return metric.measure(can, said)


def _task(place: Path) -> tuple[str, list[str]]:
    """What a fold predicted, and the names of its classes."""
    facts = OmegaConf.select(OmegaConf.load(place / "config.yaml"), "facts")
    return str(facts.task), [str(name) for name in facts.class_names or []]


def _write_csv(path: Path, said: Said, numbers: NDArray[Any], task: str, classes: Sequence[str]) -> None:
    """A line for each sample, in the order of the data set."""
    assert said.index is not None
    order = np.argsort(said.index, kind="stable")
    keys = {"index": said.index[order].tolist(), "fold": numbers[order].tolist()}
    chances = None if said.probabilities is None else said.probabilities[order]
    width = 1 if said.truth.ndim == 1 else said.truth.shape[1]
    layout = Layout(task, classes, tuple(keys), width, target=True, top_k=int(chances is not None), probabilities=True)
    with Writer(str(path), layout, replace=True) as writer:
        writer.write(keys, said.predictions[order], chances, said.truth[order])
