"""Transforms: what happens to a batch of inputs between storage and model.

Each is a module that takes a whole batch. What it learns, it learns from the train part alone, in `fit`, and keeps in
buffers, so that it moves to the device and into the checkpoint like any other weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Batches = Callable[[], Iterable[Tensor]]
"""Gives the inputs of the train part, batch by batch, from the start each time it is called."""


@runtime_checkable
class Fitted(Protocol):
    """A transform that learns something from the train part before it is used."""

    def fit(self, batches: Batches) -> None: ...


class Pipeline(nn.Sequential):
    """Transforms one after the other. Each is fitted on what those before it make of the train part."""

    def fit(self, batches: Batches) -> Pipeline:
        for position, transform in enumerate(self):
            before = self[:position]
            if isinstance(transform, Fitted):
                transform.fit(lambda before=before: (before(batch) for batch in batches()))  # type: ignore[misc]
        return self


class Normalize(nn.Module):
    """Subtract the mean and divide by the standard deviation, channel by channel (or column by column).

    Args:
        mean, std: one number per channel, in the units of the stored data; left out, they are those of the train part.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> None:
        super().__init__()
        self.given = mean, std
        self.register_buffer("mean", torch.zeros(0))
        self.register_buffer("std", torch.zeros(0))

    def fit(self, batches: Batches) -> None:
        mean, std = _moments(batches())
        given_mean, given_std = self.given
        mean = mean if given_mean is None else torch.tensor(given_mean, dtype=torch.float64)
        std = std if given_std is None else torch.tensor(given_std, dtype=torch.float64)
        self.mean = mean.float()
        self.std = torch.where(std > 0, std, 1.0).float()  # a constant channel stays what it is: 0 after the mean

    def forward(self, x: Tensor) -> Tensor:  # (B, C, ...) of any dtype -> the same shape, float32
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return (x.float() - self.mean.view(shape)) / self.std.view(shape)


def _moments(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and (population) standard deviation of each channel, summed in float64."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        values = batch.double().flatten(2).transpose(0, 1).flatten(1) if batch.dim() > 2 else batch.double().T  # (C, n)
        count += values.shape[1]
        total = total + values.sum(1)
        squares = squares + values.square().sum(1)
    mean = total / count
    return mean, (squares / count - mean.square()).clamp(min=0).sqrt()
