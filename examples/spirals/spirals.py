"""Parts of one's own: a data set, a model, a loss and a metric. Each is an ordinary class or function of torch's or
NumPy's, and knows nothing of runner; the files in `conf/` name it.

    cd examples/spirals
    runner --config-dir conf experiment=spirals
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import recall_score
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset


class Spirals(Dataset[dict[str, Tensor]]):
    """Points on the arms of a spiral, some of which are said to be on another arm.

    Args:
        size: number of points.
        arms: number of classes.
        turns: of each arm around the centre.
        mislabelled: share of the points with a random class.
    """

    def __init__(self, size: int = 3000, arms: int = 3, turns: float = 1.25, mislabelled: float = 0.2) -> None:
        draw = torch.Generator().manual_seed(0)
        arm, radius = torch.arange(size) % arms, torch.rand(size, generator=draw).sqrt()
        angle = 2 * math.pi * (turns * radius + arm / arms) + 0.1 * torch.randn(size, generator=draw)
        self.points = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
        wrong = torch.rand(size, generator=draw) < mislabelled
        self.targets = torch.where(wrong, torch.randint(arms, (size,), generator=draw), arm)
        self.classes = [f"arm {number}" for number in range(1, arms + 1)]

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"xy": self.points[index], "arm": self.targets[index]}


class FourierNet(nn.Module):
    """An MLP over random Fourier features (Tancik et al., "Fourier Features Let Networks Learn High Frequency
    Functions", 2020, eq. 5).

    Args:
        num_inputs: numbers in an input.
        num_outputs: logits.
        scale: standard deviation of the frequencies.
    """

    frequencies: Tensor

    def __init__(
        self, num_inputs: int, num_outputs: int, features: int = 32, width: int = 64, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.register_buffer("frequencies", scale * torch.randn(num_inputs, features))
        self.layers = nn.Sequential(nn.Linear(2 * features, width), nn.ReLU(), nn.Linear(width, num_outputs))

    def forward(self, x: Tensor) -> Tensor:  # (B, num_inputs) to (B, num_outputs)
        waves = 2 * math.pi * x @ self.frequencies
        logits: Tensor = self.layers(torch.cat([waves.cos(), waves.sin()], 1))
        return logits


class GeneralizedCrossEntropy(nn.Module):
    """A loss that wrong labels pull at less (Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep
    Neural Networks with Noisy Labels", 2018, eq. 6).

    Args:
        q: from above 0, where it is cross-entropy, to 1, the mean absolute error.
    """

    def __init__(self, q: float = 0.7) -> None:
        super().__init__()
        self.q = q

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:  # (B, C) and (B,) to (B,): one value per sample
        log_likelihood = functional.log_softmax(logits, 1).gather(1, target[:, None])[:, 0]
        return -torch.expm1(self.q * log_likelihood) / self.q  # a power of 0 would have no slope


def worst_recall(target: NDArray[np.int64], prediction: NDArray[np.int64]) -> float:
    """The recall of the class that is recognised worst, from 0 to 1."""
    return float(recall_score(target, prediction, average=None, zero_division=0).min())
