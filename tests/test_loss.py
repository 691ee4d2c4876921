from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from runner import loss
from runner.batch import Batch
from runner.errors import ConfigError, DataError

LOGITS = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
WEIGHTS = [0.2, 0.4, 1.0]


def batch(target: Tensor) -> Batch:
    return Batch(torch.empty(len(target)), target, torch.arange(len(target)))


def mean(criterion: loss.Loss, output: Tensor, target: Tensor) -> float:
    total, weight = criterion(output, batch(target))
    return float(total / weight)


@pytest.mark.parametrize(("target", "expected"), [([0, 1, 2], 0.9076), ([0, 0, 1], 1.9076)])
def test_weighted_means_worked_by_hand(target: list[int], expected: float) -> None:
    # -log softmax of these rows is 2.4076, 1.4076, 0.4076; with targets 0, 1, 2 and these weights:
    # (0.2 · 2.4076 + 0.4 · 1.4076 + 1 · 0.4076) / 1.6 = 0.9076.
    # With targets 0, 0, 1: (0.2 · 2.4076 · 2 + 0.4 · 1.4076) / 0.8 = 1.9076.
    criterion = loss.build(nn.CrossEntropyLoss, WEIGHTS)
    assert mean(criterion, LOGITS, torch.tensor(target)) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("weight", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ignore", [-100, 1])
def test_the_quotient_is_torchs_mean(weight: list[float] | None, smoothing: float, ignore: int) -> None:
    output, target = torch.randn(50, 3), torch.randint(3, (50,))
    tensor = None if weight is None else torch.tensor(weight)
    expected = nn.CrossEntropyLoss(tensor, ignore_index=ignore, label_smoothing=smoothing)(output, target)
    criterion = loss.build(partial(nn.CrossEntropyLoss, ignore_index=ignore, label_smoothing=smoothing), weight)
    assert mean(criterion, output, target) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("weight", [None, WEIGHTS])
def test_sums_and_weights_of_batches_add_up_to_those_of_all_samples(weight: list[float] | None) -> None:
    output, target = torch.randn(50, 3), torch.randint(3, (50,))
    criterion = loss.build(nn.CrossEntropyLoss, weight)
    parts = [criterion(output[rows], batch(target[rows])) for rows in torch.arange(50).split(7)]
    total, weights = (sum(float(part[k]) for part in parts) for k in (0, 1))
    assert total / weights == pytest.approx(mean(criterion, output, target), rel=1e-6)


def test_ignored_targets_weigh_nothing() -> None:
    criterion = loss.build(nn.CrossEntropyLoss, None)
    total, weight = criterion(LOGITS, batch(torch.full((3,), -100)))
    assert (float(total), float(weight)) == (0.0, 0.0)


def test_balanced_weights_are_n_over_c_times_count() -> None:
    targets = np.array([0] * 5 + [1] * 3 + [2] * 2)
    assert loss.class_weights("balanced", targets, ["a", "b", "c"]) == pytest.approx([10 / 15, 10 / 9, 10 / 6])


def test_numbers_are_taken_as_they_are() -> None:
    assert loss.class_weights([1, 0, 2.5], np.array([0]), ["a", "b", "c"]) == [1.0, 0.0, 2.5]
    assert loss.class_weights(None, np.array([0]), ["a"]) is None


@pytest.mark.parametrize(
    "rule", [[1, 2], [1, 2, 3, 4], [1, -1, 2], [1, float("nan"), 2], [1, float("inf"), 2], "blanced"]
)
def test_wrong_weights_are_refused(rule: list[float] | str) -> None:
    with pytest.raises(ConfigError, match=r"loss\.weight"):
        loss.class_weights(rule, np.array([0, 1, 2]), ["a", "b", "c"])


def test_a_class_without_train_samples_cannot_be_balanced() -> None:
    with pytest.raises(DataError, match="without a train sample: b, d"):
        loss.class_weights("balanced", np.array([0, 2, 2]), ["a", "b", "c", "d"])


def test_class_weights_move_with_the_module_and_are_saved() -> None:
    criterion = loss.build(nn.CrossEntropyLoss, WEIGHTS)
    assert list(criterion.state_dict()) == ["criterion.weight"]
    assert criterion.double().class_weights.dtype == torch.float64
