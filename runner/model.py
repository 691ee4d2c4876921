"""Models that torchvision has no equal of: small networks for small inputs.

Any `torch.nn.Module` can be named by ``_target_``; the input's shape and the number of outputs come from `facts`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn


class MLP(nn.Sequential):
    """Multilayer perceptron: Linear, ReLU, Dropout for each hidden width, then a Linear layer of logits.

    Args:
        input_shape: shape of one sample, flattened first.
        num_outputs: width of the last layer: classes, or values.
        hidden: widths of the hidden layers.
        dropout: probability of zeroing a hidden unit in training.
    """

    def __init__(
        self, input_shape: Sequence[int], num_outputs: int, hidden: Sequence[int] = (256, 128), dropout: float = 0.0
    ) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        width = math.prod(input_shape)
        for units in hidden:
            layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(dropout)]
            width = units
        super().__init__(*layers, nn.Linear(width, num_outputs))


class CNN(nn.Sequential):
    """Small convolutional network: blocks of two 3×3 convolutions, the picture halved between blocks, then logits.

    Every convolution is followed by BatchNorm and ReLU. The picture is averaged before the last layer, so that any
    height and width of at least ``2 ** (len(channels) - 1)`` will do.

    Args:
        input_shape: (C, H, W) of one sample.
        num_outputs: width of the last layer: classes, or values.
        channels: output channels of each block.
        dropout: probability of zeroing a feature before the last layer in training.
    """

    def __init__(
        self, input_shape: Sequence[int], num_outputs: int, channels: Sequence[int] = (32, 64), dropout: float = 0.0
    ) -> None:
        layers: list[nn.Module] = []
        width = input_shape[0]
        for number, out in enumerate(channels):
            if number > 0:
                layers.append(nn.MaxPool2d(2))
            layers += [_conv(width, out), _conv(out, out)]
            width = out
        super().__init__(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(width, num_outputs)
        )


def _conv(channels: int, out: int) -> nn.Sequential:
    # BatchNorm has a bias of its own.
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU())
