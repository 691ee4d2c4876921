from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

from runner.draws import generator
from runner.errors import ConfigError
from runner.model import initialise


def network(extra: bool = False) -> nn.Sequential:
    layers: list[tuple[str, nn.Module]] = [("first", nn.Linear(200, 300)), ("norm", nn.BatchNorm1d(300))]
    layers += [("more", nn.Linear(300, 300))] if extra else []
    return nn.Sequential(OrderedDict([*layers, ("last", nn.Linear(300, 100))]))


def weight(model: nn.Module, name: str) -> torch.Tensor:
    return model.get_parameter(f"{name}.weight").detach()


@pytest.mark.parametrize(
    ("rule", "std"),
    [
        ("kaiming", math.sqrt(2 / 200)),
        ({"method": "kaiming", "mode": "fan_out"}, math.sqrt(2 / 300)),
        ("xavier", math.sqrt(2 / 500)),
        ({"method": "xavier", "gain": 3.0}, 3 * math.sqrt(2 / 500)),
        ({"method": "normal", "std": 0.3}, 0.3),
        ({"method": "xavier_uniform"}, math.sqrt(2 / 500)),
        ("zeros", 0.0),
    ],
)
def test_the_spread_of_each_method_is_its_formulas(rule: Any, std: float) -> None:
    model = network()
    initialise(model, rule, seed=0)
    assert weight(model, "first").std().item() == pytest.approx(std, rel=0.02)
    assert model.get_parameter("first.bias").abs().sum() == 0
    assert weight(model, "norm").tolist() == [1] * 300  # no layer that a rule without layers is for


def test_orthogonal_weights_are() -> None:
    model = network()
    initialise(model, "orthogonal", seed=0)
    w = weight(model, "last")
    torch.testing.assert_close(w @ w.T, torch.eye(100), atol=1e-5, rtol=0)


def test_another_layer_moves_no_weight_of_the_others() -> None:
    small, large = network(), network(extra=True)
    for model in (small, large):
        initialise(model, "kaiming", seed=3)
    for name in ("first", "last"):
        assert torch.equal(weight(small, name), weight(large, name))
    expected = nn.init.kaiming_normal_(torch.empty(100, 300), generator=generator(3, "init", "last.weight"))
    assert torch.equal(weight(small, "last"), expected)
    again = network()
    initialise(again, "kaiming", seed=4)
    assert not torch.equal(weight(again, "last"), weight(small, "last"))


def test_the_last_rule_that_fits_decides() -> None:
    model = network()
    rules = [
        {"method": "kaiming", "nonlinearity": "relu"},
        {"method": "normal", "names": "last", "std": 0.5, "bias": -2.0},
        {"method": "constant", "val": 0.7, "layers": ["BatchNorm1d"], "bias": None},
    ]
    initialise(model, rules, seed=0)
    assert weight(model, "first").std().item() == pytest.approx(0.1, rel=0.02)
    assert weight(model, "last").std().item() == pytest.approx(0.5, rel=0.02)
    assert model.get_parameter("last.bias").tolist() == [-2] * 100
    assert weight(model, "norm").tolist() == pytest.approx([0.7] * 300)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("kaimin", r"model.init: 'kaimin' is not an initialisation method(.|\n)*try: model.init=kaiming"),
        ({"gain": 2}, "has no method"),
        (
            [{"method": "zeros"}, {"method": "xavier", "gian": 2}],
            r"model.init.1.gian: is not an argument of xavier(.|\n)*gain",
        ),
        ({"method": "zeros", "layers": "Linaer"}, r"\['Linaer'\] matches no layer of the model(.|\n)*try: Linear"),
        ({"method": "zeros", "names": "lst"}, r"model.init.names: \['lst'\] matches no layer(.|\n)*try: last"),
    ],
)
def test_rules_that_cannot_be_meant(rules: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        initialise(network(), rules, seed=0)
