"""Networks for small inputs, that torchvision has no equal of."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn


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
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(width, num_outputs)]
        super().__init__(*layers)


def _conv(channels: int, out: int) -> nn.Sequential:
    # BatchNorm has a bias of its own.
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class Linear(nn.Sequential):
    """One linear layer: logistic regression, or linear regression.

    Args:
        input_shape: shape of one sample, flattened first.
        num_outputs: classes, or values.
    """

    def __init__(self, input_shape: Sequence[int], num_outputs: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(math.prod(input_shape), num_outputs))


class LeNet(nn.Sequential):
    """LeNet-5 with ReLU and max pooling (after LeCun et al., "Gradient-Based Learning Applied to Document Recognition",
    1998, fig. 2), for pictures from 12×12 on.

    Args:
        input_shape: (C, H, W) of one sample. Below 32×32 the first convolution is padded by 2, as is usual for 28×28.
        num_outputs: width of the last layer.
    """

    def __init__(self, input_shape: Sequence[int], num_outputs: int) -> None:
        channels, height, width = input_shape
        padding = 2 if min(height, width) < 32 else 0
        sides = [((side + 2 * padding - 4) // 2 - 4) // 2 for side in (height, width)]
        if min(sides) < 1:
            raise ValueError(f"images of {height}×{width} are too small for two 5×5 convolutions: at least 12×12")
        super().__init__(
            nn.Conv2d(channels, 6, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(16 * math.prod(sides), 120), nn.ReLU(),
            nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, num_outputs),
        )  # fmt: skip


class WideResNet(nn.Sequential):
    """Wide residual network WRN-depth-width for small pictures (Zagoruyko and Komodakis, 2016, table 1): BatchNorm and
    ReLU before each convolution, three groups of blocks, the picture halved before the second and the third.

    Args:
        input_shape: (C, H, W) of one sample.
        num_outputs: width of the last layer.
        depth: 6 n + 4 for n blocks in each group.
        width: the groups have 16, 32 and 64 channels times this.
        dropout: probability of zeroing a feature between a block's convolutions.
    """

    def __init__(
        self, input_shape: Sequence[int], num_outputs: int, depth: int = 16, width: int = 4, dropout: float = 0.0
    ) -> None:
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth is {depth}, but must be 6 n + 4: 10, 16, 22, 28, 34, 40")
        channels, blocks = 16, nn.ModuleList([nn.Conv2d(input_shape[0], 16, 3, padding=1, bias=False)])
        for group, base in enumerate((16, 32, 64)):
            for number in range((depth - 4) // 6):
                stride = 2 if group > 0 and number == 0 else 1
                blocks.append(_WideBlock(channels, base * width, stride, dropout))
                channels = base * width
        super().__init__(
            *blocks, nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(channels, num_outputs),
        )  # fmt: skip


class _WideBlock(nn.Module):
    def __init__(self, channels: int, out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
            nn.Dropout(dropout), nn.Conv2d(out, out, 3, padding=1, bias=False),
        )  # fmt: skip
        same = channels == out and stride == 1
        self.shortcut = None if same else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, channels, H, W) -> (B, out, H / stride, W / stride)
        ready = self.before(x)
        # Where the shape changes, the shortcut takes what was normalised, as in the authors' code.
        made: Tensor = self.body(ready) + (x if self.shortcut is None else self.shortcut(ready))
        return made


class Networks(nn.ModuleDict):
    """Several networks as one model: each gets what the one before it makes. Trained by one optimizer, in whose groups
    they are told apart by their names."""

    def forward(self, x: Tensor) -> Tensor:
        for network in self.values():
            x = network(x)
        return x
