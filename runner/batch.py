"""The batch: what one forward sees."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(slots=True)
class Batch:
    """Samples that go through the model together. B is their number."""

    input: Tensor
    """(B, ...), as the transform left it."""
    target: Tensor
    """(B,) int64 class indices, or (B, ...) float values."""
    index: Tensor
    """(B,) int64 on the CPU: each sample's index in its own data set, so that a prediction can be traced back to it."""

    def __len__(self) -> int:
        return len(self.index)
