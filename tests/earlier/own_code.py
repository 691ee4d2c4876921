"""Code of a user's own that some of the runs were trained with: a model, a metric and a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from runner.dataset import Parts


class Net(nn.Module):
    """Two layers with a dropout between them."""

    def __init__(self, input_shape: list[int], num_outputs: int, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(input_shape[0], width), nn.Tanh(), nn.Dropout(0.2))
        self.head = nn.Linear(width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.body(x))
        return result


def share_of_first(target: Any, prediction: Any) -> float:
    """Return the share of the samples that are said to be of the first class."""
    return float((prediction == 0).mean())


class Waves(IterableDataset[tuple[Tensor, int]]):
    """Pieces of two kinds of waves, always the same."""

    classes = ("saw", "square")

    def __init__(self, length: int, first: int = 0) -> None:
        self.numbers = range(first, first + length)

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        steps = torch.arange(12) % 4
        for number in self.numbers:
            kind = number % 2
            wave = (steps >= 2).float() if kind else steps / 4
            yield wave.roll(number % 4) + number * 7 % 13 / 13, kind


def waves(length: int = 96) -> Parts:
    """Return a stream to train on, and other pieces for val and test."""
    return Parts(train=Waves(length), val=Waves(32, 1001), test=Waves(32, 2002))
