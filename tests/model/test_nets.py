from __future__ import annotations

import pytest
import torch
from torch import nn

from runner.model import CNN, MLP, LeNet, Networks, WideResNet


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


def test_the_parameters_of_lenet_are_the_papers() -> None:
    # For 32×32: 156 + 2,416 + 48,120 + 10,164 + 850, the convolutions 5×5 and the rest fully connected.
    assert sum(p.numel() for p in LeNet((1, 32, 32), 10).parameters()) == 156 + 2416 + 48120 + 10164 + 850
    assert LeNet((1, 28, 28), 10)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert LeNet((3, 12, 17), 4)(torch.zeros(2, 3, 12, 17)).shape == (2, 4)
    with pytest.raises(ValueError, match="8×8 are too small"):
        LeNet((1, 8, 8), 10)


@pytest.mark.parametrize(("depth", "width", "millions"), [(16, 4, 2.75), (28, 10, 36.5), (40, 1, 0.56)])
def test_the_parameters_of_wide_resnets_are_the_papers(depth: int, width: int, millions: float) -> None:
    # Zagoruyko and Komodakis, tables 2 and 3.
    count = sum(p.numel() for p in WideResNet((3, 32, 32), 10, depth, width).parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.02)


def test_a_wide_resnet_takes_small_pictures_of_any_size() -> None:
    for shape in ((1, 8, 8), (1, 28, 28), (3, 32, 40)):
        assert WideResNet(shape, 7, 10, 1)(torch.zeros(2, *shape)).shape == (2, 7)
    with pytest.raises(ValueError, match="depth is 18"):
        WideResNet((3, 32, 32), 10, 18)


def test_several_networks_are_one_model() -> None:
    model = Networks({"encoder": nn.Linear(4, 3), "head": nn.Linear(3, 2)})
    x = torch.rand(5, 4)
    assert torch.equal(model(x), model["head"](model["encoder"](x)))
    assert [name for name, _ in model.named_parameters()] == [
        "encoder.weight", "encoder.bias", "head.weight", "head.bias",
    ]  # fmt: skip
