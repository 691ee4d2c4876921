from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch.nn.functional import one_hot

from runner import metric, report
from runner.metric import Metric, Predicted, measure

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 4, 200)
PROBABILITIES = RNG.dirichlet(np.ones(4), 200)
FLAGS = RNG.integers(0, 2, (200, 4))
CHANCES = RNG.random((200, 4))


def said(task: str, output: Any, target: Any, **options: Any) -> Predicted:
    return Predicted.of(task, torch.as_tensor(output), torch.as_tensor(target), **options)


def test_the_highest_score_is_the_prediction() -> None:
    found = said("classification", [[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], [1, 0, 0, 0])
    metrics = {"accuracy": Metric(partial(sk.accuracy_score)), "f1": Metric(partial(sk.f1_score))}
    # 3 of 4 right; for class 1: precision 1/2, recall 1, F1 = 2/3.
    assert measure(metrics, found) == {"accuracy": 0.75, "f1": 2 / 3}
    assert all(type(value) is float for value in measure(metrics, found).values())


def test_each_task_is_read_in_its_way() -> None:
    several = said("multilabel", [[0.2, 0.7], [0.5, 0.6]], [[0, 1], [1, 1]])
    assert several.predictions.tolist() == [[0, 1], [0, 1]]
    soft = said("soft", [[0.3, 0.7]], [[0.6, 0.4]])
    assert (soft.truth.tolist(), soft.predictions.tolist()) == ([0], [1])
    assert said("regression", [[0.5], [1.5]], [1.0, 2.0]).predictions.tolist() == [0.5, 1.5]
    assert said("classification", [[-3.0, 2.0]], [1], probabilities=False).probabilities is None


@pytest.mark.parametrize(
    ("function", "takes", "expected"),
    [
        (sk.accuracy_score, None, False), (metric.roc_auc, None, True), (sk.roc_auc_score, None, True),
        (sk.log_loss, None, True), (sk.brier_score_loss, None, True), (sk.cohen_kappa_score, None, False),
        (sk.accuracy_score, "probabilities", True), (metric.roc_auc, "predictions", False),
    ],
)  # fmt: skip
def test_what_a_metric_takes_is_in_the_name_of_its_argument(function: Any, takes: str | None, expected: bool) -> None:
    assert Metric(partial(function), takes).wants_probabilities is expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (metric.roc_auc(TRUTH, PROBABILITIES), sk.roc_auc_score(TRUTH, PROBABILITIES, multi_class="ovr")),
        (metric.roc_auc(FLAGS, CHANCES), sk.roc_auc_score(FLAGS, CHANCES)),
        (metric.roc_auc(TRUTH % 2, CHANCES[:, :2]), sk.roc_auc_score(TRUTH % 2, CHANCES[:, 1])),
        (metric.average_precision(TRUTH, PROBABILITIES), sk.average_precision_score(TRUTH, PROBABILITIES)),
        (metric.average_precision(FLAGS, CHANCES), sk.average_precision_score(FLAGS, CHANCES)),
        (metric.average_precision(TRUTH % 2, CHANCES[:, :2]), sk.average_precision_score(TRUTH % 2, CHANCES[:, 1])),
        (metric.log_loss(TRUTH, PROBABILITIES), sk.log_loss(TRUTH, PROBABILITIES)),
        (
            metric.log_loss(FLAGS, CHANCES),
            -np.mean(FLAGS * np.log(CHANCES) + (1 - FLAGS) * np.log(1 - CHANCES)),
        ),
        *(
            (metric.top_k_accuracy(TRUTH, PROBABILITIES, k), sk.top_k_accuracy_score(TRUTH, PROBABILITIES, k=k))
            for k in (1, 2, 3)
        ),
        (metric.brier(TRUTH, PROBABILITIES), np.mean(((PROBABILITIES - np.eye(4)[TRUTH]) ** 2).sum(1))),
        (metric.brier(FLAGS, CHANCES), np.mean((CHANCES - FLAGS) ** 2)),
        (
            metric.brier(TRUTH % 2, np.stack([1 - CHANCES[:, 0], CHANCES[:, 0]], 1)),
            sk.brier_score_loss(TRUTH % 2, CHANCES[:, 0]),
        ),
    ],
)
def test_ours_are_scikit_learns_where_it_has_them(found: float, expected: float) -> None:
    assert found == pytest.approx(expected, rel=1e-9)


def test_calibration_error_worked_by_hand() -> None:
    # Bins of 0.5: three samples at confidence 0.9 of which one is right, one at 0.4 that is right.
    said = np.array([[0.9, 0.05, 0.05], [0.9, 0.05, 0.05], [0.05, 0.05, 0.9], [0.4, 0.3, 0.3]])
    truth = np.array([0, 1, 1, 0])
    # 3/4 · |1/3 − 0.9| + 1/4 · |1 − 0.4| = 0.425 + 0.15
    assert metric.calibration_error(truth, said, bins=2) == pytest.approx(0.575)
    sure = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert metric.calibration_error(np.array([0, 0]), sure) == 0


def test_spearman_is_of_ranks() -> None:
    assert metric.spearman(np.array([1.0, 2, 3, 10]), np.array([0.0, 1, 2, 3])) == pytest.approx(1)
    assert metric.spearman(np.array([1.0, 2, 3]), np.array([3.0, 1, 2])) == pytest.approx(-0.5)  # 1 − 6 · 6 / (3 · 8)
    assert math.isnan(metric.spearman(np.array([1.0, 2, 3]), np.zeros(3)))


def test_a_part_that_lacks_a_class_is_measured_without_it() -> None:
    present = TRUTH != 2
    probabilities, truth = PROBABILITIES[present], TRUTH[present]
    each = [sk.roc_auc_score(truth == c, probabilities[:, c]) for c in (0, 1, 3)]
    assert metric.roc_auc(truth, probabilities) == pytest.approx(np.mean(each))
    assert metric.log_loss(truth, probabilities) == pytest.approx(
        -np.mean(np.log(probabilities[range(len(truth)), truth]))
    )
    assert math.isnan(metric.roc_auc(np.zeros(5, dtype=int), PROBABILITIES[:5]))


@pytest.mark.parametrize("function", [sk.roc_auc_score, sk.average_precision_score, sk.brier_score_loss, sk.log_loss])
def test_scikit_learns_own_metrics_of_two_classes(function: Any) -> None:
    two = np.stack([1 - CHANCES[:, 0], CHANCES[:, 0]], 1)
    found = measure({"m": Metric(partial(function))}, said("classification", two, TRUTH % 2))
    assert found["m"] == pytest.approx(function(TRUTH % 2, CHANCES[:, 0]))


def test_the_baseline_of_classes_is_the_majority_of_train() -> None:
    train, truth = torch.tensor([0, 1, 1, 2]), torch.tensor([1, 0, 1, 2, 2])
    found = metric.baseline("classification", train, truth, 3)
    assert found.predictions.tolist() == [1] * 5
    assert found.probabilities is not None
    assert found.probabilities[0].tolist() == [0.25, 0.5, 0.25]
    assert sk.accuracy_score(found.truth, found.predictions) == 0.4


def test_the_baseline_of_values_is_the_mean_of_train() -> None:
    found = metric.baseline("regression", torch.tensor([1.0, 5.0]), torch.tensor([0.0, 4.0]), 0)
    assert found.predictions.tolist() == [3, 3]
    several = metric.baseline("multilabel", torch.tensor([[1, 0], [1, 0], [0, 0]]), torch.tensor([[0, 1]]), 2)
    assert several.predictions.tolist() == [[1, 0]]


def test_the_table_per_class_is_scikit_learns_report() -> None:
    found = said("classification", PROBABILITIES, TRUTH)
    report = sk.classification_report(TRUTH, found.predictions, output_dict=True)
    table = metric.per_class("val", found, ["0", "1", "2", "3"])
    for name, *row in table.rows:
        expected = report[name.replace("mean", "avg")]
        assert row == pytest.approx([expected[k] for k in ("precision", "recall", "f1-score", "support")])
    matrix = metric.confusion("val", found, ["0", "1", "2", "3"])
    assert [row[1:] for row in matrix.rows] == sk.confusion_matrix(TRUTH, found.predictions).tolist()


def test_a_class_that_is_nowhere_has_a_row_of_its_own() -> None:
    output = one_hot(torch.tensor([0, 1]), 3).double()
    table = metric.per_class("test", Predicted.of("classification", output, torch.tensor([0, 1])), ["a", "b", "c"])
    assert table.rows[2] == ["c", None, None, None, 0]
    assert table.rows[3] == ["macro mean", 1.0, 1.0, 1.0, 2]
    assert [cell.strip() for cell in table.markdown().splitlines()[4].split("|")[2:5]] == ["–"] * 3


def test_the_macro_mean_of_the_table_is_the_metric_where_a_class_is_only_predicted() -> None:
    output, truth = one_hot(torch.tensor([0, 1, 2]), 4).double(), torch.tensor([0, 1, 1])
    found = Predicted.of("classification", output, truth)
    table = metric.per_class("test", found, ["a", "b", "c", "d"])
    assert [row[1:] for row in table.rows[2:4]] == [[None, None, None, 0]] * 2
    assert table.rows[4][3] == pytest.approx(sk.f1_score(truth, found.predictions, average="macro"))
    several = Predicted.of("multilabel", torch.tensor([[0.9, 0.1, 0.1]] * 2), torch.tensor([[1, 0, 0], [1, 0, 0]]))
    macro = metric.per_class("test", several, ["a", "b", "c"]).rows[3]
    expected = sk.f1_score(several.truth, several.predictions, average="macro", zero_division=0.0)
    assert macro[3] == pytest.approx(expected)


def test_outputs_that_are_not_finite_have_no_metrics() -> None:
    """scikit-learn raises at them; what is counted from classes alone has its value."""
    metrics = {"r2": Metric(partial(sk.r2_score)), "spearman": Metric(partial(metric.spearman))}
    for bad in (math.nan, math.inf):
        assert all(map(math.isnan, measure(metrics, said("regression", [1.0, bad, 2.0], [1.0, 2.0, 3.0])).values()))
    broken = said("classification", [[0.1, 0.9], [math.nan, math.nan]], [1, 1])
    found = measure({"auc": Metric(partial(metric.log_loss)), "accuracy": Metric(partial(sk.accuracy_score))}, broken)
    assert math.isnan(found["auc"])
    assert found["accuracy"] == 0.5


def test_where_nothing_is_wrong_there_is_no_table_of_it() -> None:
    truth = np.arange(40)
    right = Predicted(truth, truth, index=truth)
    wrong = Predicted(truth, np.roll(truth, 1), index=truth)
    names = [f"c{n}" for n in truth]
    assert report.mistakes_table("classification", names, "val", right) == {}
    assert len(report.mistakes_table("classification", names, "val", wrong)["val/mistakes"].rows) == 20
    assert set(report.part_tables("classification", names, {"val": right})) == {"val/per_class"}
    assert set(report.part_tables("classification", names, {"val": wrong})) == {"val/per_class", "val/confusion"}
    few = Predicted(truth[:3], truth[:3])
    assert set(report.part_tables("classification", names[:3], {"val": few})) == {"val/per_class", "val/confusion"}
