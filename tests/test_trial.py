from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from conftest import QUICK, Run
from torch import nn

from runner.errors import ConfigError
from runner.trial import try_model


def test_grey_pictures_for_a_model_of_three_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    message = r"cannot take inputs of 1×8×8, at layer 0 \(Conv2d\), which gets .*to have 3 channels.*\n  try: .*v2.RGB"
    with pytest.raises(ConfigError, match=message):
        try_model(model, torch.zeros(2, 1, 8, 8))
    try_model(model, torch.ones(2, 3, 8, 8))
    assert model.training
    assert model[1].running_mean.tolist() == [0] * 4  # the example is not learnt from


def test_the_layer_where_a_picture_becomes_too_small_is_named() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 5), nn.MaxPool2d(2), nn.Conv2d(4, 8, 5))
    model = nn.Sequential(OrderedDict(body=body, head=nn.Flatten()))
    message = r"cannot take inputs of 3×8×8, at layer body.2 \(Conv2d\), which gets 4×2×2: .*\n  try: larger pictures"
    with pytest.raises(ConfigError, match=message):
        try_model(model, torch.zeros(2, 3, 8, 8))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ConfigError, match=r"cannot take inputs of 7, .*\n  try: model=mlp"):
        try_model(model, torch.zeros(2, 7))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["dataset=cifar10", "model=torchvision", "model.name=alexnet"],
            "error: model: cannot take inputs of 3×32×32, at layer features.12 (MaxPool2d), which gets 256×1×1: ",
        ),
        (["dataset=usps", "model=lenet", "transform=crop_flip"], "error: dataset.root: "),
        (["model=lenet"], "error: model: cannot be built: pictures of 8×8 are too small"),
        (["dataset=iris"], "error: model: cannot take inputs of 4, at layer 0.0 (Conv2d), which gets 4: "),
    ],
)
def test_a_picture_that_is_too_small_is_found_without_data(
    run: Run, capsys: pytest.CaptureFixture[str], overrides: list[str], message: str
) -> None:
    """The files of CIFAR10 and USPS are not there: only the second command gets so far as to look for them."""
    assert run(*overrides) == 2
    assert capsys.readouterr().err.startswith(message)
    assert not Path("outputs").exists()


def test_the_declared_shape_is_that_of_the_samples(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("dataset.shape=[1,9,9]") == 2
    assert (
        capsys.readouterr().err
        == "error: dataset.shape: is [1, 9, 9], and a sample is [1, 8, 8]\n  allowed: [1, 8, 8]\n"
    )
    assert run(*QUICK, "dataset.shape=null") == 0


def test_what_the_meta_device_cannot_do_is_tried_on_the_cpu(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that looks at values in its forward pass cannot run on the meta device, and is no mistake."""
    Path("looking.py").write_text(
        "from torch import nn\n"
        "class Looking(nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x * (2.0 if x.sum().item() > 0 else 1.0))\n"
        "def make(num_outputs): return Looking(nn.Flatten(), nn.Linear(64, num_outputs))\n"
    )
    Path("my_conf/model").mkdir(parents=True)
    Path("my_conf/model/looking.yaml").write_text("_target_: looking.make\nnum_outputs: ${facts.num_outputs}\n")
    options = ("--config-dir", "my_conf", "allow_targets=[looking.*]")
    assert run("model=looking", "trainer.max_epochs=1", *options) == 0
