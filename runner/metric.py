"""Metrics: functions of all predictions for a part, called once per evaluation.

Most are scikit-learn's. Those here complete it: they take the probabilities of all classes, and do not fail where a
part happens to lack one. A metric gets ``(y_true, y_pred)``, or ``(y_true, y_prob)`` if its second argument is named
so (or ``y_score``, ``y_proba``).
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, cmp_to_key, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk
from torch import Tensor

from runner.direction import direction
from runner.table import Table

Array = NDArray[Any]


Record = Mapping[str, Any]


def better(monitor: str, mode: str, min_delta: float = 0.0) -> Callable[[Record, Record | None], bool]:
    """Whether the first record of an evaluation beats the second, or none. A NaN never does, and is beaten by any
    number.

    Args:
        monitor: the figure that is compared, ``<part>/<metric>``.
        mode: ``min``, ``max`` or ``auto``.
        min_delta: by how much a figure has to be better.
    """
    sign = 1.0 if direction(monitor, mode) == "max" else -1.0

    def beats(new: Record, old: Record | None) -> bool:
        a, b = sign * new[monitor], math.nan if old is None else sign * old[monitor]
        return a > b + min_delta or (math.isnan(b) and not math.isnan(a))

    return beats


def ranked(history: Sequence[Record], beats: Callable[[Record, Record | None], bool]) -> list[Record]:
    """The records of a history, the best one first; of equal ones the first."""
    key: Callable[[Record], Any] = cmp_to_key(lambda a, b: beats(b, a) - beats(a, b))
    return sorted(history, key=key)


@dataclass(frozen=True)
class Metric:
    """A function of targets and predictions.

    Args:
        function: with all other arguments bound.
        takes: ``predictions`` or ``probabilities``; None for what the name of its second argument says.
    """

    function: partial[Any]
    takes: str | None = None

    @cached_property
    def wants_probabilities(self) -> bool:
        if self.takes is not None:
            return self.takes == "probabilities"
        # scikit-learn's log_loss calls them y_pred.
        names = list(inspect.signature(self.function.func).parameters)
        return self.function.func is sk.log_loss or names[1:2] in (["y_prob"], ["y_score"], ["y_proba"])

    @property
    def is_of_the_user(self) -> bool:
        """Whether it is neither scikit-learn's nor one of ours."""
        return not str(getattr(self.function.func, "__module__", "")).startswith(("sklearn.", "runner."))


@dataclass(frozen=True)
class Predicted:
    """Predictions for a part. N is its number of samples, C of classes.

    Args:
        truth: (N,) class indices; (N, C) of 0 and 1 where a sample has several classes; or the values.
        predictions: the same of the model.
        probabilities: (N, C) or None.
        index: (N,) of each sample in its data set, or None.
    """

    truth: Array
    predictions: Array
    probabilities: Array | None = None
    index: Array | None = None

    @classmethod
    def of(cls, task: str, output: Tensor, target: Tensor, probabilities: bool = True) -> Predicted:
        """From what a model made and what is right.

        Args:
            task: see `runner.dataset.Samples.task`.
            output: (N, C) probabilities, or other scores of which the highest counts; or the values.
            target: (N, ...) of the form of the task.
        """
        scores, truth = output.detach().cpu().numpy(), target.cpu().numpy()
        if task == "regression":
            return cls(truth, scores.reshape(truth.shape))
        if task == "soft":
            truth = truth.argmax(1)
        return cls(truth, chosen(task, scores), scores if probabilities or task == "multilabel" else None)


def chosen(task: str, scores: Array) -> Array:
    """The class indices that (N, C) scores say; or 0 and 1 for each class, where a sample may have several."""
    found: Array = (scores > 0.5).astype(np.int64) if task == "multilabel" else scores.argmax(1)
    return found


UNDEFINED_IF_CONSTANT = (sk.r2_score, sk.explained_variance_score)
"""Metrics that divide by the variance of the targets: scikit-learn makes 0 or 1 of 0 / 0."""


class NoNumber(TypeError):
    """A metric returned something else than one number."""


def _number(found: Any) -> float:
    try:
        return float(found)
    except (TypeError, ValueError, RuntimeError) as error:  # the last is torch's
        kind = "an array" if isinstance(found, np.ndarray) else f"a {type(found).__name__}"
        size = f" of {len(found)}" if isinstance(found, (list, tuple, dict)) else ""
        size = f" of shape {tuple(found.shape)}" if hasattr(found, "shape") else size
        raise NoNumber(f"returns {'None' if found is None else kind + size}, not one number") from error


def measure(metrics: Mapping[str, Metric], predicted: Predicted) -> dict[str, float]:
    """Every metric's value; NaN where it is not defined for these samples."""
    with warnings.catch_warnings(), np.errstate(over="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", UserWarning)  # of classes that a part lacks, or that were never predicted
        return {name: _value(metric, predicted) for name, metric in metrics.items()}


def _value(metric: Metric, predicted: Predicted) -> float:
    if metric.function.func in UNDEFINED_IF_CONSTANT and (predicted.truth == predicted.truth[:1]).all(0).any():
        return math.nan
    given = predicted.probabilities if metric.wants_probabilities else predicted.predictions
    if given is not None and not np.isfinite(given).all():
        return math.nan  # scikit-learn would raise
    theirs = metric.wants_probabilities and metric.function.func.__module__.startswith("sklearn.")
    if theirs and given is not None and predicted.truth.ndim == 1 and given.shape[1] == 2:
        given = given[:, 1]  # of two classes scikit-learn wants that of the second alone
    return _number(metric.function(predicted.truth, given))


def baseline(task: str, train: Tensor, truth: Tensor, num_classes: int) -> Predicted:
    """What one would say without looking at the inputs: the majority class, or the mean, of the train part.

    Args:
        train: (n, ...) targets of the train part.
        truth: (N, ...) targets of the part that they are for.
    """
    if task == "classification":
        prior = train.bincount(minlength=num_classes).double() / len(train)
    else:
        prior = train.double().mean(0)
    return Predicted.of(task, prior.expand(len(truth), *prior.shape), truth)


def top_k_accuracy(y_true: Array, y_prob: Array, k: int = 5) -> float:
    """Share of samples whose class is among the `k` likeliest. Of equally likely ones, the last count as likelier."""
    best = np.argsort(y_prob, axis=1, kind="stable")[:, -k:]
    return float((best == y_true[:, None]).any(1).mean())


def roc_auc(y_true: Array, y_prob: Array) -> float:
    """Area under the ROC curve, one class against the rest; the mean over the classes that have both."""
    return _over_classes(sk.roc_auc_score, y_true, y_prob)


def average_precision(y_true: Array, y_prob: Array) -> float:
    """Average precision, one class against the rest; the mean over the classes that have both. Of two classes, that of
    the second."""
    return _over_classes(sk.average_precision_score, y_true, y_prob)


def log_loss(y_true: Array, y_prob: Array) -> float:
    """Mean of −log of the probability of what is right; for several classes per sample, over all of them."""
    if y_true.ndim > 1:
        return float(np.mean([sk.log_loss(y_true[:, c], y_prob[:, c], labels=[0, 1]) for c in range(y_true.shape[1])]))
    return float(sk.log_loss(y_true, y_prob, labels=np.arange(y_prob.shape[1])))


def brier(y_true: Array, y_prob: Array) -> float:
    """Brier score: the mean over samples of the squared error of the probabilities, summed over the classes (Brier,
    "Verification of Forecasts Expressed in Terms of Probability", 1950, eq. 2). Of two classes half of that, which is
    the error of one; for several classes per sample the mean over them."""
    squared = (y_prob - one_hot(y_true, y_prob)) ** 2
    return float(squared.sum(1).mean() if y_true.ndim == 1 and y_prob.shape[1] > 2 else squared.mean())


def calibration_error(y_true: Array, y_prob: Array, bins: int = 15) -> float:
    """Expected calibration error: how far confidence is from accuracy, over bins of equal width weighted by their
    samples (Guo et al., "On Calibration of Modern Neural Networks", 2017, eq. 5)."""
    confidence, right = y_prob.max(1), y_prob.argmax(1) == y_true
    gaps = np.bincount(bin_of(confidence, bins), right - confidence, bins)
    return float(np.abs(gaps).sum() / len(y_true))


def bin_of(confidence: Array, bins: int) -> Array:
    """Which of the bins of equal width each number from 0 to 1 is in; one on an edge is in the lower."""
    where: Array = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return where


def is_of_values(function: Callable[..., Any]) -> bool:
    """Whether a metric is one of regression. scikit-learn's compute on class indices what they would on values."""
    return function is spearman or getattr(function, "__module__", "") == "sklearn.metrics._regression"


def spearman(y_true: Array, y_pred: Array) -> float:
    """Spearman's rank correlation; of several values per sample, the mean. NaN where one side is constant."""
    from scipy.stats import ConstantInputWarning, spearmanr

    columns = zip(y_true.reshape(len(y_true), -1).T, y_pred.reshape(len(y_pred), -1).T, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        return float(np.mean([spearmanr(truth, predicted).statistic for truth, predicted in columns]))


def per_class(part: str, predicted: Predicted, classes: Sequence[str]) -> Table:
    """Precision, recall, F1 and support of each class of a part, and their means.

    Of a class that the part does not have there is nothing to say. The macro mean is that of scikit-learn's metrics:
    such a class is left out of it unless it was predicted, which counts as 0.
    """
    labels = np.arange(len(classes))
    columns = ("class", "precision", "recall", "F1", "support")
    found = sk.precision_recall_fscore_support(predicted.truth, predicted.predictions, labels=labels, zero_division=0.0)
    rows: list[list[Any]] = [
        [name, *(float(value) if row[-1] else None for value in row[:-1]), int(row[-1])]
        for name, *row in zip(classes, *found, strict=True)
    ]
    there = np.isin(labels, [predicted.truth, predicted.predictions]) if predicted.truth.ndim == 1 else labels >= 0
    for average, weights in (("macro", there if there.any() else None),
                             ("weighted", found[3] if found[3].any() else None)):  # fmt: skip
        means = [float(np.average(values, weights=weights)) for values in found[:3]]
        rows.append([f"{average} mean", *means, int(found[3].sum())])
    return Table(f"Per class, {part}", columns, rows)


def most_confident_mistakes(predicted: Predicted, count: int) -> list[int]:
    """The rows of the wrong predictions that were surest, the surest first."""
    wrong = np.flatnonzero(predicted.truth != predicted.predictions)
    sure = np.zeros(len(wrong)) if predicted.probabilities is None else predicted.probabilities[wrong].max(1)
    return [int(row) for row in wrong[np.argsort(-sure, kind="stable")][:count]]


def mistakes(
    part: str, predicted: Predicted, classes: Sequence[str], count: int = 20, paths: Array | None = None
) -> Table:
    """The wrong predictions that were surest.

    Args:
        paths: each sample's file, by its index; None where the samples are none of files.
    """
    rows: list[list[Any]] = []
    for row in most_confident_mistakes(predicted, count):
        index = None if predicted.index is None else int(predicted.index[row])
        sure = None if predicted.probabilities is None else float(predicted.probabilities[row].max())
        rows.append([index, classes[predicted.truth[row]], classes[predicted.predictions[row]], sure])
        if paths is not None:
            rows[-1].append(None if index is None else str(paths[index]))
    columns = ["sample", "true class", "predicted", "probability", *(["file"] if paths is not None else [])]
    return Table(f"Most confident mistakes, {part}", columns, rows)


def class_distances(points: Array, truth: Array, classes: Sequence[str]) -> dict[str, Table]:
    """How far the means of classes are from one another, as Euclidean distances d, and how alike: 1 / (1 + d). Of many
    classes, the nearest pairs alone.

    Args:
        points: (N, D)
        truth: (N,) class indices.
    """
    from scipy.spatial.distance import cdist

    there = [c for c in range(len(classes)) if (truth == c).any()]
    means = np.stack([points[truth == c].mean(0) for c in there])
    distances = cdist(means, means)
    names = [classes[c] for c in there]
    if len(there) > MOST_COLUMNS:
        first, second = np.triu_indices(len(there), 1)
        order = np.argsort(distances[first, second], kind="stable")[:MOST_COLUMNS]
        pairs = [(int(first[n]), int(second[n])) for n in order]
        rows = [[names[a], names[b], float(distances[a, b]), float(1 / (1 + distances[a, b]))] for a, b in pairs]
        return {"distances": Table("Nearest classes", ["class", "other class", "distance", "similarity"], rows)}
    tables = {}
    for tag, values in (("distances", distances), ("similarities", 1 / (1 + distances))):
        rows = [[name, *map(float, row)] for name, row in zip(names, values, strict=True)]
        tables[tag] = Table(f"Class means: {tag}", ["class", *names], rows)
    return tables


MOST_COLUMNS = 30
"""Classes up to which a confusion is a table with a column for each."""


def confusion(part: str, predicted: Predicted, classes: Sequence[str]) -> Table:
    """How many samples of each class of a part (rows) were predicted as each (columns); of many classes, the most
    frequent confusions."""
    matrix = confusion_matrix(predicted, len(classes))
    if len(classes) > MOST_COLUMNS:
        np.fill_diagonal(matrix, 0)
        order = np.argsort(-matrix, axis=None, kind="stable")[:MOST_COLUMNS]
        pairs = [(int(n) // len(classes), int(n) % len(classes)) for n in order if matrix.flat[n]]
        columns = ["true class", "predicted", "samples"]
        mistaken = [[classes[truth], classes[taken], int(matrix[truth, taken])] for truth, taken in pairs]
        return Table(f"Most frequent confusions, {part}", columns, mistaken)
    rows = [[name, *map(int, row)] for name, row in zip(classes, matrix, strict=True)]
    return Table(f"Confusion, {part}: rows are true classes, columns predicted", ["true class", *classes], rows)


def confusion_matrix(predicted: Predicted, classes: int) -> Array:
    """(C, C) samples, by true and by predicted class."""
    matrix: Array = sk.confusion_matrix(predicted.truth, predicted.predictions, labels=np.arange(classes))
    return matrix


def one_hot(y_true: Array, y_prob: Array) -> Array:
    """(N, C) of 0 and 1, of class indices or of what is so already."""
    return y_true if y_true.ndim > 1 else np.eye(y_prob.shape[1], dtype=np.int64)[y_true]


def with_both(flags: Array) -> list[int]:
    """Of (N, C) flags, the classes that some samples are of and others are not."""
    return [c for c in range(flags.shape[1]) if 0 < flags[:, c].sum() < len(flags)]


def _over_classes(function: Callable[[Array, Array], float], y_true: Array, y_prob: Array) -> float:
    truth = one_hot(y_true, y_prob)
    both = with_both(truth)
    if y_true.ndim == 1 and y_prob.shape[1] == 2:
        both = both[1:]
    return float(np.mean([function(truth[:, c], y_prob[:, c]) for c in both])) if both else float("nan")
