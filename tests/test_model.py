from __future__ import annotations

import pytest
import torch
from torch import nn

from runner.model import CNN, MLP


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_mlp_has_the_layers_that_its_widths_say() -> None:
    model = MLP((1, 8, 8), 10, hidden=(32, 16))
    assert parameters(model) == (64 * 32 + 32) + (32 * 16 + 16) + (16 * 10 + 10)
    assert model(torch.zeros(5, 1, 8, 8)).shape == (5, 10)


def test_mlp_without_hidden_layers_is_linear() -> None:
    model = MLP((4,), 3, hidden=())
    x = torch.randn(5, 4)
    assert torch.equal(model(x), x @ model[-1].weight.T + model[-1].bias)


def test_cnn_has_the_layers_that_its_channels_say() -> None:
    model = CNN((3, 8, 8), 10, channels=(4, 6))
    convolutions = 3 * 4 * 9 + 4 * 4 * 9 + 4 * 6 * 9 + 6 * 6 * 9
    norms = 2 * (4 + 4 + 6 + 6)
    assert parameters(model) == convolutions + norms + 6 * 10 + 10


@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 5, 9)])
def test_cnn_takes_pictures_of_any_size(shape: tuple[int, int, int]) -> None:
    assert CNN(shape, 7)(torch.zeros(4, *shape)).shape == (4, 7)


@pytest.mark.parametrize("model", [MLP((1, 8, 8), 10, dropout=0.5), CNN((1, 8, 8), 10, dropout=0.5)])
def test_dropout_is_for_training_only(model: nn.Module) -> None:
    x = torch.randn(3, 1, 8, 8)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
