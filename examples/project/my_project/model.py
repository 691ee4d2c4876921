from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """A multilayer perceptron.

    Args:
        num_inputs: numbers in an input.
        num_outputs: logits.
        width: units of each hidden layer.
        depth: number of hidden layers.
    """

    def __init__(self, num_inputs: int, num_outputs: int, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        sizes = [num_inputs, *[width] * depth]
        hidden = [nn.Sequential(nn.Linear(i, o), nn.ReLU()) for i, o in pairwise(sizes)]
        self.layers = nn.Sequential(*hidden, nn.Linear(sizes[-1], num_outputs))

    def forward(self, x: Tensor) -> Tensor:  # (B, num_inputs) to (B, num_outputs)
        logits: Tensor = self.layers(x)
        return logits
