from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torchvision
from conftest import Run
from omegaconf import OmegaConf
from torch import nn

from runner.batch import Batch
from runner.evaluation import norm_gap
from runner.experiment import Experiment
from runner.loss import Loss, Term
from runner.report import norm_gap as report_gap
from runner.summary import layers, memory
from runner.trainer import Precision


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def row(table: Any, name: str) -> dict[str, Any]:
    return next(record for record in table.records() if record["layer"] == name)


def test_each_layer_worked_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 5))
    model[3].weight.requires_grad_(False)
    table = layers(model, torch.zeros(4, 1, 8, 8))
    # 2 pictures of 6×6 out, 9 multiplications and 9 additions for each pixel.
    assert row(table, "0") == {
        "layer": "0", "type": "Conv2d", "output": "2×6×6", "parameters": 18, "trainable": 18, "buffers": 0,
        "MFLOPs": 2 * 36 * 18 / 1e6, "MMACs": 36 * 18 / 1e6,
    }  # fmt: skip
    assert (row(table, "1")["parameters"], row(table, "1")["buffers"]) == (4, 5)
    assert row(table, "3")["parameters"] == 72 * 5 + 5
    assert row(table, "3")["trainable"] == 5
    assert row(table, "all")["MFLOPs"] == pytest.approx((2 * 36 * 18 + 2 * 72 * 5) / 1e6)


def test_looking_changes_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2).eval())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers(model, torch.randn(4, 1, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert hooks(model) == 0
    assert [module.training for module in model.modules()] == [True, True, False]


def test_resnet18_takes_the_published_multiplications() -> None:
    with torch.device("meta"):
        everything = row(layers(torchvision.models.resnet18(), torch.zeros(2, 3, 224, 224)), "all")
    assert everything["MMACs"] == pytest.approx(1814, rel=0.01)  # torchvision's own documentation: 1.81 GFLOPS
    assert everything["MFLOPs"] == 2 * everything["MMACs"]
    assert everything["parameters"] == 11_689_512


def experiment(model: nn.Module, batch: Batch, criterion: Loss) -> Experiment:
    data, cpu = SimpleNamespace(example=batch), torch.device("cpu")
    held = SimpleNamespace(model=model, loss=criterion, data=data, device=cpu, precision=Precision(cpu))
    return cast(Experiment, held)


def test_the_memory_of_a_step_worked_by_hand() -> None:
    model = nn.Sequential(nn.Linear(100, 200, bias=False), nn.ReLU(), nn.Linear(200, 10, bias=False))
    batch = Batch(torch.randn(8, 100), torch.zeros(8).long(), torch.arange(8))
    cfg = OmegaConf.create({"optimizer": {"_target_": "torch.optim.Adam", "lr": 0.1}})
    before = [p.clone() for p in model.parameters()]
    criterion = Loss([Term(nn.CrossEntropyLoss())], "classification", 10)
    found = {name: value * 2**20 for name, value in memory(cfg, experiment(model, batch, criterion)).rows}
    parameters = 4 * (100 * 200 + 200 * 10)
    assert found["parameters and buffers"] == found["gradients"] == parameters
    assert found["state of Adam"] == 2 * parameters + 2 * 4  # two moments of each, and a step count of each tensor
    # Kept for the backward pass: the input, ReLU's output (once, though the next layer needs it too), the
    # log-probabilities, the targets (int64), and what a mean over the batch divides by.
    kept = 4 * (8 * 100 + 8 * 200 + 8 * 10) + 8 * 8
    assert kept <= found["activations, batch of 8"] <= kept + 64
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_statistics_that_lag_are_seen(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.9), nn.Linear(4, 2))
    batch = Batch(100 + torch.randn(64, 3), torch.randint(2, (64,)), torch.arange(64))  # far from mean 0
    criterion = Loss([Term(nn.CrossEntropyLoss())], "classification", 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gap = norm_gap(model, criterion, batch)
    assert gap is not None
    normal = nn.functional.batch_norm(model[0](batch.input), None, None, model[1].weight, model[1].bias, training=True)
    expected = nn.functional.cross_entropy(model[3](normal), batch.target)
    assert gap["batch_statistics"] == pytest.approx(expected.item(), rel=1e-5)
    assert gap["eval_mode"] > 1.2 * gap["batch_statistics"] + 0.05
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    report_gap(gap)
    assert "BatchNorm lag behind the weights" in caplog.text
    torch.optim.swa_utils.update_bn([batch.input], model)
    close = norm_gap(model, criterion, batch)
    assert close is not None
    caplog.clear()
    report_gap(close)
    report_gap(norm_gap(nn.Linear(3, 2), criterion, batch))  # None
    assert caplog.text == ""


def test_the_command_shows_both_tables_and_leaves_nothing(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", "model=cnn", "loader.batch_size=16") == 0
    shown = capsys.readouterr().out
    assert "all     CNN" in shown
    assert "activations, batch of 16" in shown
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("modle=cnn",), "modle: there is no such key"),
        (("model=cnnn",), "model: there is no option 'cnnn'"),
        (("optimizer.lr=-1",), "optimizer.lr: -1 is not allowed"),
        (("-m", "model=cnn,mlp"), "-m: inspect has no such flag"),
        (("model=lenet",), "model: cannot be built: images of 8×8"),
    ],
)
def test_mistakes(run: Run, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", *arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_the_memory_of_a_step_is_that_of_its_precision() -> None:
    """What ReLU and the last layer keep has half the bytes in bf16; the input and the loss have those that they had."""
    model = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 10))
    batch = Batch(torch.randn(64, 16), torch.zeros(64).long(), torch.arange(64))
    cfg = OmegaConf.create({"optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1}})
    held = experiment(model, batch, Loss([Term(nn.CrossEntropyLoss())], "classification", 10))
    found = []
    for name in ("fp32", "bf16"):
        vars(held)["precision"] = Precision(torch.device("cpu"), name)
        found.append(dict(memory(cfg, held).rows)["activations, batch of 64"] * 2**20)
    assert found[0] > 4 * 64 * 256
    assert found[0] - found[1] > 64 * 256
