from __future__ import annotations

import math
from typing import Any

import pytest

from runner.metric import better
from runner.trainer.progress import early_stopping


def stops_after(values: list[float], **options: object) -> int | None:
    """The evaluation after which a run ends."""
    given: dict[str, Any] = {"patience": 2, "min_delta": 0.0, "mode": "min", **options}
    stop = early_stopping(given.pop("patience"), better("val/x", **given))
    for number in range(1, len(values) + 1):
        if stop([{"val/x": value} for value in values[:number]]):
            return number
    return None


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([5, 4, 4.5, 4.2, 1], {}, 4),
        ([5, 4, 4.5, 3.9, 3.95, 4, 1], {}, 6),
        ([5, 4, 3, 2, 1], {}, None),
        ([5, 4.9, 4.8, 4.7], {"min_delta": 0.15}, None),  # 4.8 is better than 5 by more than that
        ([5, 4.9, 4.86, 4.7], {"min_delta": 0.15}, 3),
        ([0.1, 0.2, 0.2, 0.1, 0.9], {"mode": "max"}, 4),
        ([math.nan, math.nan, 1], {}, 2),
        ([math.nan, 3, math.nan, 2], {}, None),
        ([1, 2, 3], {"patience": None}, None),
        ([1, 1], {"patience": 1}, 2),
    ],
)
def test_the_evaluation_after_which_a_run_ends(
    values: list[float], options: dict[str, object], expected: int | None
) -> None:
    assert stops_after(values, **options) == expected
