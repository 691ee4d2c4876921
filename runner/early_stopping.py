"""When a run is not getting better any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

History = Sequence[Mapping[str, Any]]


def early_stopping(patience: int | None, min_delta: float, monitor: str, mode: str) -> Callable[[History], bool]:
    """A function of all evaluations so far: whether the last `patience` of them brought nothing better.

    Args:
        min_delta: by how much a figure has to be better than the best before it, to count as such.
        monitor: the figure, ``<part>/<metric>``. A NaN is never better.
        mode: ``min`` or ``max``.
    """
    sign = 1.0 if mode == "max" else -1.0

    def stop(history: History) -> bool:
        best, waited = -float("inf"), 0
        for record in history:
            value = sign * record[monitor]
            better = value > best + min_delta if best > -float("inf") else value == value
            best, waited = (value, 0) if better else (best, waited + 1)
        return patience is not None and waited >= patience

    return stop
