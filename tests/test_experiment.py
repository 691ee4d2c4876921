from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from runner.errors import ConfigError
from runner.experiment import _try_model


def test_grey_pictures_for_a_model_of_three_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    message = r"cannot take inputs of 1×8×8, at layer 0 \(Conv2d\), which gets .*to have 3 channels.*\n  try: .*v2.RGB"
    with pytest.raises(ConfigError, match=message):
        _try_model(model, torch.zeros(2, 1, 8, 8))
    _try_model(model, torch.ones(2, 3, 8, 8))
    assert model.training
    assert model[1].running_mean.tolist() == [0] * 4  # the example is not learnt from


def test_the_layer_where_a_picture_becomes_too_small_is_named() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 5), nn.MaxPool2d(2), nn.Conv2d(4, 8, 5))
    model = nn.Sequential(OrderedDict(body=body, head=nn.Flatten()))
    message = r"cannot take inputs of 3×8×8, at layer body.2 \(Conv2d\), which gets 4×2×2: .*\n  try: larger pictures"
    with pytest.raises(ConfigError, match=message):
        _try_model(model, torch.zeros(2, 3, 8, 8))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ConfigError, match=r"cannot take inputs of 7, .*\n  try: model=mlp"):
        _try_model(model, torch.zeros(2, 7))
