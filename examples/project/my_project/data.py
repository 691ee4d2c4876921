from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.data import Dataset


class TwoMoons(Dataset[tuple[Tensor, Tensor]]):
    """Points on two interleaved half circles, one for each class.

    Args:
        size: number of points.
        noise: standard deviation of what is added to each coordinate; the radius is 1.
        seed: decides the points.
    """

    classes = ("upper", "lower")

    def __init__(self, size: int = 1000, noise: float = 0.15, seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.targets = torch.arange(size) % 2  # read by runner, which need not go through all samples for them
        angle = math.pi * torch.rand(size, generator=draw)
        upper = torch.stack([angle.cos(), angle.sin()], 1)
        lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)
        exact = torch.where(self.targets[:, None] == 0, upper, lower)
        self.points = exact + noise * torch.randn(size, 2, generator=draw)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.points[index], self.targets[index]
