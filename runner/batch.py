"""The batch: what one forward sees."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
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
    extra: dict[str, Tensor] = field(default_factory=dict)
    """What else the samples held, by name: (B, ...) tensors such as ``mask`` or ``weight``."""

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, rows: slice) -> Batch:
        """Some of the samples."""
        return self._map(lambda tensor: tensor[rows])

    def cut(self, size: int) -> list[Batch]:
        """In parts of `size` samples; the last may have fewer."""
        return [self.rows(slice(start, start + size)) for start in range(0, len(self), size)]

    def pin_memory(self) -> Batch:
        """In page-locked memory, from which a copy to a CUDA device does not block. Called by torch's DataLoader."""
        return self._map(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> Batch:
        """On `device`, but for the indices."""
        moved = self._map(lambda tensor: tensor.to(device, non_blocking=True))
        return replace(moved, index=self.index)

    def _map(self, function: Any) -> Batch:
        extra = {name: function(tensor) for name, tensor in self.extra.items()}
        return Batch(function(self.input), function(self.target), function(self.index), extra)
