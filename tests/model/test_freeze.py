from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

from runner.errors import ConfigError
from runner.model import Frozen


def network() -> nn.Sequential:
    body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4, affine=False))
    return nn.Sequential(OrderedDict(body=body, head=nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))))


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("pattern", ["body", "body.*", "b*"])
def test_what_a_pattern_fits_is_not_trained(pattern: str) -> None:
    model = network()
    Frozen(model, [pattern])
    assert trained(model) == {"head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias"}


def test_a_frozen_batch_norm_keeps_its_statistics() -> None:
    model = network()
    frozen = Frozen(model, ["body"])
    model.train()
    frozen.set_epoch(0)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(torch.randn(8, 4))
    moved = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    assert {name.split(".")[0] for name in moved} == {"head"}


def test_a_batch_norm_that_is_frozen_in_part_goes_on() -> None:
    model = network()
    frozen = Frozen(model, ["*.bias"])
    model.train()
    frozen.set_epoch(0)
    assert all(module.training for module in model.modules())


def test_the_epoch_from_which_all_is_trained_is_counted_as_it_is_shown() -> None:
    model = network()
    frozen = Frozen(model, ["body"], until=3)
    everything = trained(model)  # an optimizer has to know of all
    seen = []
    for epoch in range(4):
        model.train()
        frozen.set_epoch(epoch)
        seen.append((trained(model) == everything, model.get_submodule("body.1").training))
    assert seen == [(False, False), (False, False), (True, True), (True, True)]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            ["bdy"],
            r"'bdy' matches no parameter of the model\n"
            r"  allowed: names such as body.0.weight, patterns such as body.\*, or a module: body, head\n"
            r"  try: 'model.freeze=\[\"body\"\]'",
        ),
        (["body", "*.weigth"], r"'\*.weigth' matches no parameter"),
        (["*"], "leaves nothing to train"),
    ],
)
def test_patterns_that_cannot_be_meant(patterns: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Frozen(network(), patterns)
