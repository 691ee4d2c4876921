"""The predictions of the folds of a cross-validation, and what they come to together."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from runner import metric
from runner.errors import Problem, RunFolderError, reason_of
from runner.experiment import metrics_of
from runner.files import readable, write
from runner.metric import Metric, Predicted
from runner.runs import read_config
from runner.trained.writing import Layout, Writer

NAME = "predictions.npz"
"""In the folder of a fold: its predictions for val and test."""

TOGETHER = "out_of_fold.csv"
"""In the folder of a cross-validation: the prediction of every sample by the fold that held it out."""

FIELDS = ("truth", "predictions", "probabilities", "index")


def keep(path: Path, held_out: str, predicted: Mapping[str, Predicted]) -> None:
    """Write the predictions of a fold for each part.

    Args:
        held_out: the part that is the fold.
    """
    arrays = {f"{part}_{name}": getattr(each, name) for part, each in predicted.items() for name in FIELDS}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, held_out=np.array(held_out), **{k: v for k, v in arrays.items() if v is not None})
    write(path, buffer.getvalue())


def together(cfg: DictConfig, places: Sequence[Path], run_dir: Path) -> dict[str, float]:
    """Every metric over all samples, each predicted by the fold that held it out; and on an official test part those of
    the mean prediction of all folds."""
    held, official = [], []
    for place in places:
        parts, of_fold = _read(place / NAME)
        held.append(parts[of_fold])
        if of_fold == "val":
            official.append(parts["test"])
    metrics = metrics_of(cfg)
    whole = Predicted(*(_joined([getattr(predicted, name) for predicted in held]) for name in FIELDS))
    numbers = np.concatenate([np.full(len(predicted.truth), number) for number, predicted in enumerate(held)])
    facts = read_config(places[0])["facts"]
    classes = [str(name) for name in facts["class_names"] or []]
    _write_csv(run_dir / TOGETHER, whole, numbers, str(facts["task"]), classes)
    found = {f"out_of_fold/{name}": value for name, value in _measure(metrics, whole).items()}
    if official and (predicted := _mean(official)) is not None:
        found |= {f"ensemble/{name}": value for name, value in _measure(metrics, predicted).items()}
    return found


def _read(path: Path) -> tuple[dict[str, Predicted], str]:
    """The predictions of a fold for each part, and which of them is the fold."""
    try:
        with readable(path) as file, np.load(file, allow_pickle=False) as arrays:
            return {part: _of_part(arrays, part) for part in ("val", "test")}, str(arrays["held_out"])
    except Exception as error:  # whatever a damaged file makes of numpy and zipfile
        what = f"cannot be read ({reason_of(error)})"
        raise RunFolderError(Problem(str(path), what, remedy=f"rm {path}, then the same command again")) from error


def _of_part(arrays: Mapping[str, NDArray[Any]], part: str) -> Predicted:
    truth, predictions, probabilities, index = (arrays.get(f"{part}_{name}") for name in FIELDS)
    assert truth is not None
    assert predictions is not None
    return Predicted(truth, predictions, probabilities, index)


def _joined(pieces: Sequence[NDArray[Any] | None]) -> Any:
    return None if any(piece is None for piece in pieces) else np.concatenate([p for p in pieces if p is not None])


def _mean(predicted: Sequence[Predicted]) -> Predicted | None:
    """What several models say of the same samples together: the mean of their probabilities, or of their values."""
    first = predicted[0]
    if first.probabilities is not None:
        chances = np.mean([each.probabilities for each in predicted if each.probabilities is not None], axis=0)
        task = "multilabel" if first.truth.ndim > 1 else "classification"
        return Predicted(first.truth, metric.chosen(task, chances), chances, first.index)
    if np.issubdtype(first.predictions.dtype, np.floating):
        return Predicted(first.truth, np.mean([each.predictions for each in predicted], axis=0), None, first.index)
    return None  # classes without probabilities


def _measure(metrics: Mapping[str, Metric], predicted: Predicted) -> dict[str, float]:
    can = {n: m for n, m in metrics.items() if predicted.probabilities is not None or not m.wants_probabilities}
    return metric.measure(can, predicted)


def _write_csv(path: Path, predicted: Predicted, numbers: NDArray[Any], task: str, classes: Sequence[str]) -> None:
    """A line for each sample, in the order of the data set."""
    assert predicted.index is not None
    order = np.argsort(predicted.index, kind="stable")
    keys = {"index": predicted.index[order].tolist(), "fold": numbers[order].tolist()}
    chances = None if predicted.probabilities is None else predicted.probabilities[order]
    width = 1 if predicted.truth.ndim == 1 else predicted.truth.shape[1]
    layout = Layout(
        task, classes, tuple(keys), width, target=True, top_k=int(chances is not None), probabilities=True,
        exact=predicted.predictions.dtype == np.float64,
    )  # fmt: skip
    with Writer(str(path), layout, replace=True) as writer:
        writer.write(keys, predicted.predictions[order], chances, predicted.truth[order])
