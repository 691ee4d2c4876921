"""When a run is not getting better any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]


def early_stopping(
    patience: int | None, better: Callable[[Record, Record | None], bool]
) -> Callable[[Sequence[Record]], bool]:
    """A function of all evaluations so far: whether the last `patience` of them brought nothing better.

    Args:
        better: whether the first record beats the second, or none.
    """

    def stop(history: Sequence[Record]) -> bool:
        best: Record | None = None
        waited = 0
        for record in history:
            best, waited = (record, 0) if better(record, best) else (best, waited + 1)
        return patience is not None and waited >= patience

    return stop
