from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from runner.errors import ConfigError, DataError
from runner.loss import class_weights, positive_weights

COUNTS = {"a": 5, "b": 3, "c": 2}


def test_balanced_weights_are_scikit_learns() -> None:
    assert class_weights("balanced", COUNTS) == pytest.approx([10 / 15, 10 / 9, 10 / 6])
    y = np.repeat([0, 1, 2], list(COUNTS.values()))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=y)
    assert class_weights("balanced", COUNTS) == pytest.approx(expected)


def test_the_effective_number_of_samples() -> None:
    # β = 0.5: E = (1 − 0.5^n) / 0.5 = 1.9375, 1.75, 1.5; inverses 0.51613, 0.57143, 0.66667, scaled to a sum of 3.
    inverse = np.array([1 / 1.9375, 1 / 1.75, 1 / 1.5])
    assert class_weights("effective_number", COUNTS, 0.5) == pytest.approx(3 * inverse / inverse.sum())
    assert class_weights("effective_number", COUNTS, 0.0) == [1, 1, 1]  # every class as one sample
    nearly = class_weights("effective_number", COUNTS, 1 - 1e-9)  # and as β goes to 1, balanced
    balanced = np.array([1 / 5, 1 / 3, 1 / 2])
    assert nearly == pytest.approx(3 * balanced / balanced.sum(), rel=1e-6)


def test_numbers_in_order_or_by_name() -> None:
    assert class_weights([1, 0, 2.5], COUNTS) == [1.0, 0.0, 2.5]
    assert class_weights({"c": 3, "a": 1, "b": 2}, COUNTS) == [1.0, 2.0, 3.0]
    assert class_weights({1: 3, 0: 2}, {"0": 4, "1": 4}) == [2.0, 3.0]  # type: ignore[dict-item]  # YAML's numbers
    assert class_weights(None, COUNTS) is None


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ([1, 2], r"\[1, 2\] does not give a weight for each class"),
        ([1, 2, 3, 4], "3 numbers >= 0"),
        ([1, -1, 2], "does not give"),
        ([1, float("nan"), 2], "does not give"),
        ([1, float("inf"), 2], "does not give"),
        ([0, 0, 0], "not all 0"),
        ("blanced", r"'blanced' is not allowed(.|\n)*try: loss.weight=balanced"),
        ({"a": 1, "b": 1}, "does not give a weight for each class"),
        ({"a": 1, "b": 1, "d": 1}, r"there is no class 'd'\n  allowed: a, b, c"),
    ],
)
def test_wrong_weights_are_refused(rule: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        class_weights(rule, COUNTS)


@pytest.mark.parametrize("rule", ["balanced", "effective_number"])
def test_a_class_without_train_samples_has_no_weight(rule: str) -> None:
    with pytest.raises(DataError, match="without a train sample: b, d"):
        class_weights(rule, {"a": 1, "b": 0, "c": 2, "d": 0})


def test_weights_of_positive_samples() -> None:
    assert positive_weights("balanced", {"a": 2, "b": 5}, [10, 10]) == [4.0, 1.0]  # 8 / 2 and 5 / 5
    assert positive_weights("balanced", {"a": 2, "b": 5}, [8, 10]) == [3.0, 1.0]  # of 8 it is known
    assert positive_weights({"b": 2, "a": 1}, {"a": 2, "b": 5}, [10, 10]) == [1.0, 2.0]
    assert positive_weights(None, COUNTS, [10, 10, 10]) is None
    with pytest.raises(ConfigError, match=r"loss\.pos_weight: 'effective_number' is not allowed"):
        positive_weights("effective_number", COUNTS, [10, 10, 10])
    with pytest.raises(DataError, match="without a train sample: a"):
        positive_weights("balanced", {"a": 0}, [10])
