from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import QUICK, Run, composed, own_model
from torch import nn

from runner import config
from runner.errors import ConfigError
from runner.trial import try_declared, try_model


def test_grey_pictures_for_a_model_of_three_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    message = (
        r"cannot take inputs of shape 1×8×8; layer 0 \(Conv2d\) gets shape .*to have 3 channels.*\n  try: .*v2.RGB"
    )
    with pytest.raises(ConfigError, match=message):
        try_model(model, torch.zeros(2, 1, 8, 8))
    try_model(model, torch.ones(2, 3, 8, 8))
    assert model.training
    assert model[1].running_mean.tolist() == [0] * 4  # the example is not learnt from


def test_the_layer_where_a_picture_becomes_too_small_is_named() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 5), nn.MaxPool2d(2), nn.Conv2d(4, 8, 5))
    model = nn.Sequential(OrderedDict(body=body, head=nn.Flatten()))
    message = r"cannot take inputs of shape 3×8×8; layer body.2 \(Conv2d\) gets shape 4×2×2: .*\n  try: larger images"
    with pytest.raises(ConfigError, match=message):
        try_model(model, torch.zeros(2, 3, 8, 8))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ConfigError, match=r"cannot take inputs of shape 7; .*\n  try: model=mlp"):
        try_model(model, torch.zeros(2, 7))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["dataset=cifar10", "model=torchvision", "model.name=alexnet"],
            "error: model: cannot take inputs of shape 3×32×32; layer features.12 (MaxPool2d) gets shape 256×1×1: ",
        ),
        (["dataset=usps", "model=lenet", "transform=crop_flip"], "error: dataset.root: "),
        (["model=lenet"], "error: model: cannot be built: images of 8×8 are too small"),
        (["dataset=iris"], "error: model: cannot take inputs of shape 4; layer 0.0 (Conv2d) gets shape 4: "),
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
        == "error: dataset.shape: [1, 9, 9], but a sample has shape [1, 8, 8]\n  allowed: [1, 8, 8]\n"
    )
    assert run(*QUICK, "dataset.shape=null", "check=only") == 0


def test_the_facts_of_a_trial_without_data_are_not_kept() -> None:
    cfg = composed("model=mlp")
    before = config.written(cfg)
    assert try_declared(cfg) == []
    assert config.written(cfg) == before


def test_what_the_meta_device_cannot_do_is_tried_on_the_cpu(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that looks at values in its forward pass cannot run on the meta device, and is no mistake."""
    options = own_model(
        "from torch import nn\n"
        "class Looking(nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x * (2.0 if x.sum().item() > 0 else 1.0))\n"
        "def Net(num_outputs): return Looking(nn.Flatten(), nn.Linear(64, num_outputs))\n"
    )
    assert run(*options, "trainer.max_steps=1", "tensorboard.enabled=false") == 0


def net(body: str, layers: str = "nn.Flatten(), nn.Linear(64, num_outputs)") -> tuple[str, ...]:
    """Overrides of a model whose forward pass is `body`, with x for its input."""
    code = (
        "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n\n\n"
        "class Net(nn.Module):\n    def __init__(self, num_outputs):\n        super().__init__()\n"
        f"        self.layers = nn.Sequential({layers})\n\n"
        f"    def forward(self, x):\n        {body}\n"
    )
    return (*own_model(code), "trainer.max_epochs=1", "tensorboard.enabled=false")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return F.dropout(self.layers(x))", "model: gives two different outputs for the same input in eval mode"),
        (
            "x = self.layers(x).sigmoid(); x += 1; return x",
            "model: cannot be trained on a batch of 64: one of the variables needed for gradient computation",
        ),
        ("return self.layers(x).detach()", "model: cannot be trained on a batch of 64: element 0 of tensors does not"),
    ],
)
def test_what_breaks_only_in_training_is_found_before_it(
    run: Run, capsys: pytest.CaptureFixture[str], body: str, said: str
) -> None:
    assert run(*net(body)) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"error: {said}")
    assert "Traceback" not in text
    assert not Path("outputs").exists()


def test_a_model_may_say_that_it_draws_in_eval_mode(run: Run) -> None:
    assert run(*net("return F.dropout(self.layers(x))"), "model.stochastic=true") == 0


def test_one_sample_alone_in_the_last_batch(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    options = net("return self.layers(x)", "nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, num_outputs)")
    assert run(*options, "loader.batch_size=49") == 2  # 1,079 = 22 · 49 + 1
    said = capsys.readouterr().err
    assert "loader.drop_last: false, but the model cannot be trained on a batch of 1: Expected more than" in said
    assert "try: loader.drop_last=true" in said
    assert run(*options, "loader.batch_size=49", "loader.drop_last=true", "check=only") == 0


def test_the_trial_changes_nothing_in_the_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("model.channels=[4]", "trainer.max_epochs=1", "trainer.threads=1", "model.dropout=0.5",
               "tensorboard.enabled=false", "trainer.max_steps=2")  # fmt: skip
    assert run(*options, "hydra.run.dir=with") == 0
    monkeypatch.setattr("runner.train.try_step", lambda *arguments: None)
    assert run(*options, "hydra.run.dir=without") == 0
    first, second = (torch.load(f"{n}/checkpoints/last.pt", weights_only=True)["model"] for n in ("with", "without"))
    assert all(torch.equal(a, b) for a, b in zip(first.values(), second.values(), strict=True))


class TestCheckOnly:
    def test_all_is_built_and_nothing_is_left(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("check=only", "model=mlp") == 0
        output = capsys.readouterr()
        assert output.err == ""
        assert "check passed; nothing was written" in output.out
        assert list(Path().iterdir()) == []

    def test_data_that_are_not_there(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("check=only", "dataset=cifar10", "dataset.download=true", "dataset.root=here") == 2
        assert capsys.readouterr().err.startswith("error: dataset")
        assert not any(Path().rglob("*.gz"))
        assert not Path("outputs").exists()

    def test_a_run_that_could_go_on(self, run: Run) -> None:
        assert run(*QUICK, "trainer.max_steps=5", "hydra.run.dir=here") == 0
        before = {path: path.read_bytes() for path in Path("here").rglob("*") if path.is_file()}
        assert run("resume=here", "trainer.max_steps=9", "check=only") == 0
        after = {path: path.read_bytes() for path in Path("here").rglob("*") if path.is_file()}
        assert {path for path in after if after[path] != before.get(path)} <= {Path("here/runner.log")}


SMALL = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_outputs, sigmoid=False):
        super().__init__()
        self.layer, self.sigmoid = nn.Linear(2, num_outputs), sigmoid
        nn.init.constant_(self.layer.bias, 0.5)
        nn.init.uniform_(self.layer.weight, -0.01, 0.01)

    def forward(self, x):
        x = self.layer(x)
        return x.sigmoid() if self.sigmoid else x
"""


@pytest.mark.parametrize("sigmoid", [False, True])
def test_logits_that_lie_between_0_and_1_by_chance_are_no_probabilities(
    run: Run, capsys: pytest.CaptureFixture[str], sigmoid: bool
) -> None:
    rng = np.random.default_rng(0)
    flags = {"p": rng.integers(0, 2, 90), "q": rng.integers(0, 2, 90)}
    pd.DataFrame({"a": rng.normal(size=90), "b": rng.normal(size=90), **flags}).to_csv("m.csv", index=False)
    table = ("dataset=table", "dataset.path=m.csv", "dataset.target=[p,q]", "transform=table", "split=random")
    options = (*own_model(SMALL), *table, "loss=bce", "metric=multilabel", "check=only")
    assert run(*options, f"+model.sigmoid={sigmoid}") == (2 if sigmoid else 0)
    assert ("its outputs are already probabilities" in capsys.readouterr().err) == sigmoid


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_of_width_0_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUICK, "model.hidden=[0]", "check=only") == 2
    said = "error: model: its parameter 1.weight has shape (0, 64), so nothing of it is trained\n"
    assert said in capsys.readouterr().err


def test_a_reduction_that_the_loss_cannot_have_is_refused_also_in_a_sum(run: Run, capsys: Any) -> None:
    terms = "[{_target_: torch.nn.CrossEntropyLoss}, {_target_: torch.nn.CrossEntropyLoss, reduction: sum}]"
    assert run(*QUICK, "loss=sum", f"loss.terms={terms}", "check=only") == 2
    assert "error: loss.terms.1.reduction: 'sum' has no effect" in capsys.readouterr().err
    assert run(*QUICK, "+loss.reduction=none", "check=only") == 0
