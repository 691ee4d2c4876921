from __future__ import annotations

import pytest
import torch
from torch import nn

from runner.errors import ConfigError
from runner.experiment import _try_model


def test_grey_pictures_for_a_model_of_three_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    message = r"model: cannot take inputs of 1×8×8: .*to have 3 channels.*\n  try: .*v2.RGB"
    with pytest.raises(ConfigError, match=message):
        _try_model(model, torch.zeros(2, 1, 8, 8))
    _try_model(model, torch.ones(2, 3, 8, 8))
    assert model.training
    assert model[1].running_mean.tolist() == [0] * 4  # the example is not learnt from
