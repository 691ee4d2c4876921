"""Optimizer and schedule as a configuration describes them, and as a run applies them."""

from __future__ import annotations

import math
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import BOARD, QUICK, Run, composed, goes_on, only_run, records_of, same_tensors
from omegaconf import DictConfig, OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from runner import config, trainer
from runner.errors import ConfigError
from runner.scheduler import Schedule
from runner.trainer import Limits, Precision
from runner.updates import limits_of, make_optimizer, make_schedule, make_trainer, rate_scale

GROUPS = r"optimizer.param_groups=[{match: '^1\.', lr_scale: 10}, {match: bias$, lr: 0.5, weight_decay: 0}]"
"""Of the quick MLP: the hidden layer, the bias of the last one, the rest."""


def described(*overrides: str) -> DictConfig:
    cfg = composed(*overrides)
    config.fill(cfg, {"steps_per_epoch": 10, "total_steps": 300, "epoch_samples": 1079})
    return cfg


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def applied(run: Run, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> list[list[float]]:
    """Every step's learning rates in a run, as the optimizer had them when it was called."""
    seen: list[list[float]] = []
    step = trainer.Trainer.step

    def look(self: trainer.Trainer, batches: list[object]) -> None:
        seen.append([group["lr"] for group in self.optimizer.param_groups])
        step(self, batches)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer.Trainer, "step", look)
    assert run(*overrides) == 0
    monkeypatch.setattr(trainer.Trainer, "step", step)
    return seen


def test_the_rules_of_a_configuration(run: Run) -> None:
    assert run(*BOARD, GROUPS, "optimizer.decay_norms_and_biases=false") == 0
    saved = yaml.safe_load((only_run() / "config.yaml").read_text())
    assert saved["facts"]["param_groups"] == [
        {"group": r"^1\.", "rule": 0, "tensors": 1, "parameters": 1024, "lr": 0.01, "weight decay": 0.01},
        {"group": r"^1\., no decay", "rule": 0, "tensors": 1, "parameters": 16, "lr": 0.01, "weight decay": 0.0},
        {"group": "bias$", "rule": 1, "tensors": 1, "parameters": 10, "lr": 0.5, "weight decay": 0},
        {"group": "rest", "rule": None, "tensors": 1, "parameters": 160, "lr": 0.001, "weight decay": 0.01},
    ]
    events = EventAccumulator(str(only_run() / "tensorboard")).Reload()
    assert (
        "| bias$ | 1 | 1 | 10 | 0.5 | 0 |"
        in events.Tensors("optimizer/groups/text_summary")[0].tensor_proto.string_val[0].decode()
    )
    assert [event.step for event in events.Scalars("learning_rate/rest")] == [17, 34]


PLANS = {
    # Each rule has a schedule of its own, of steps and of epochs, with a warm-up and without.
    "rules": (
        "scheduler=cosine",
        "scheduler.warmup=10%",
        r"optimizer.param_groups=[{match: '^1\.', lr_scale: 10, scheduler: {_target_: torch.optim.lr_scheduler.StepLR, "
        "interval: epoch, step_size: 1}}, {match: bias$, lr: 0.5, weight_decay: 0, scheduler: "
        "{_target_: torch.optim.lr_scheduler.LinearLR, interval: epoch, warmup: 20%, start_factor: 1.0, "
        "end_factor: 0.0, total_iters: null}}]",
        "trainer.accumulate=3",
    ),
    "one_cycle": ("scheduler=one_cycle", GROUPS),
}


def previewed(name: str, epochs: int = 2) -> list[list[float]]:
    """The rates of every step of a run with one of `PLANS`."""
    cfg = described("model=mlp", *PLANS[name])
    steps = math.ceil(17 / cfg.trainer.accumulate)
    config.fill(cfg, {"steps_per_epoch": steps, "total_steps": epochs * steps})
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 10))
    rates = make_schedule(cfg, make_optimizer(cfg, model, nn.Identity())).preview()
    return list(map(list, zip(*rates.values(), strict=True)))


@pytest.mark.parametrize(("name", "steps", "stop"), [("rules", 12, 8), ("one_cycle", 34, 20)])
def test_a_run_applies_what_was_previewed_and_one_that_is_stopped_goes_on_with_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, steps: int, stop: int
) -> None:
    overrides = (*QUICK, *PLANS[name])
    whole = applied(run, monkeypatch, *overrides, "hydra.run.dir=whole")
    assert len(whole) == steps
    assert whole == previewed(name)
    seen: list[list[float]] = []
    step = trainer.Trainer.step

    def stopping(self: trainer.Trainer, batches: list[object]) -> None:
        seen.append([group["lr"] for group in self.optimizer.param_groups])
        step(self, batches)  # type: ignore[arg-type]
        if len(seen) == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(trainer.Trainer, "step", stopping)
    assert run(*overrides, "hydra.run.dir=part") == 143
    monkeypatch.setattr(trainer.Trainer, "step", step)
    seen += applied(run, monkeypatch, "resume=part")
    assert seen == whole
    assert Path("part/metrics.jsonl").read_bytes() == Path("whole/metrics.jsonl").read_bytes()
    # A longer run gets the longer schedule.
    if name == "rules":
        assert applied(run, monkeypatch, "resume=part", "trainer.max_epochs=4") == previewed(name, 4)[steps:]


@pytest.mark.parametrize(
    "options",
    [
        ("optimizer=lbfgs", "optimizer.max_iter=3", "trainer.step={_target_:runner.trainer.step.noisy}"),
        ("optimizer=muon", "trainer.step={_target_:runner.trainer.step.cutmix}"),
        ("optimizer=adagrad", "trainer.step={_target_:runner.trainer.step.mixup}", "trainer.ema=0.9"),
    ],
)
def test_every_kind_of_optimizer_and_step_goes_on_to_the_same_bytes(run: Run, options: tuple[str, ...]) -> None:
    whole, part = goes_on(run, *QUICK, *options, "model.dropout=0.5", "trainer.max_steps=12")
    assert same_tensors(part["model"], whole["model"])
    if "trainer.ema=0.9" in options:
        assert same_tensors(part["ema"], whole["ema"])
        assert part["ema_updates"] == whole["ema_updates"] == 12


def test_lbfgs_solves_a_linear_problem_that_has_one_solution(run: Run) -> None:
    """Ridge regression without the ridge: least squares of the diabetes data, against the normal equations."""
    from sklearn.datasets import load_diabetes

    assert run(
        "dataset=diabetes", "model=linear", "loss=mse", "loss.standardize=false", "metric=regression", "transform=none",
        "optimizer=lbfgs", "optimizer.max_iter=50", "optimizer.tolerance_grad=1e-12",
        "optimizer.tolerance_change=1e-14", "scheduler=constant", "loader.batch_size=1000", "trainer.max_epochs=12",
        "trainer.evaluate_every=12 epochs", "trainer.threads=1", "tensorboard.enabled=false",
    ) == 0  # fmt: skip
    x, y = load_diabetes(return_X_y=True)
    rows = np.load(only_run() / "split.npz")["train"]
    design = np.c_[x[rows], np.ones(len(rows))]
    residual = y[rows] - design @ np.linalg.lstsq(design, y[rows], rcond=None)[0]
    last = records_of(only_run())[-1]
    assert last["train/loss"] == pytest.approx(np.square(residual).mean(), rel=1e-3)


def test_rates_scale_with_the_samples_of_a_step(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ("loader.batch_size=32", "trainer.accumulate=4", "optimizer.scale_lr=64", GROUPS)
    assert rate_scale(described(*overrides)) == 2.0
    assert rate_scale(described("loader.batch_size=32")) == 1.0
    assert run(*QUICK, *overrides, "trainer.max_steps=1") == 0
    assert "learning rates × 2, because a step has 128 samples instead of 64" in capsys.readouterr().out
    saved = yaml.safe_load((only_run() / "config.yaml").read_text())
    assert [group["lr"] for group in saved["facts"]["param_groups"]] == [0.02, 1.0, 0.002]
    assert saved["optimizer"]["lr"] == 0.001


def test_a_rule_may_have_a_schedule_of_its_own_or_none() -> None:
    cfg = described(
        "scheduler=cosine",
        "optimizer.param_groups=[{match: '^1', scheduler: {_target_: torch.optim.lr_scheduler.StepLR, interval: epoch, "
        "step_size: 33%, warmup: 10}}, {type: BatchNorm1d, scheduler: null}]",
    )
    assert config.check(cfg) == []
    rates = make_schedule(cfg, make_optimizer(cfg, network(), nn.Identity())).preview()
    assert rates["^1"][[0, 10, 109, 110, 120]] == pytest.approx([1e-5, 1e-3, 1e-3, 1e-4, 1e-4], rel=1e-9)
    assert set(rates["BatchNorm1d"]) == {0.001}
    assert rates["rest"] == pytest.approx([0.0005 * (1 + math.cos(math.pi * t / 300)) for t in range(300)])


@pytest.mark.parametrize(("monitor", "mode"), [("val/loss", "min"), ("val/accuracy", "max")])
def test_plateau_knows_which_way_is_better(monitor: str, mode: str) -> None:
    cfg = described("scheduler=plateau", f"scheduler.monitor={monitor}")
    schedule = make_schedule(cfg, make_optimizer(cfg, network(), nn.Identity()))
    assert schedule.curves[0].scheduler.mode == mode


def test_plateau_in_a_run(run: Run) -> None:
    """The rate falls after each evaluation that is no better by 10, which none is."""
    options = ("scheduler=plateau", "scheduler.patience=0", "scheduler.threshold=10", "scheduler.threshold_mode=abs")
    assert run(*BOARD, "trainer.max_epochs=4", *options) == 0
    events = EventAccumulator(str(only_run() / "tensorboard")).Reload()
    rates = [event.value for event in events.Scalars("learning_rate/all")]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])  # the first evaluation is better than none


BAD = [
    ("optimizer.param_groups=[{match: layer}]", "optimizer.param_groups.0: (match: layer) matches no trainable"),
    (
        "optimizer.param_groups=[{match: '^1', lrr: 3}]",
        "optimizer.param_groups.0.lrr: torch.optim.AdamW has no argument",
    ),
    (
        "optimizer.param_groups=[{match: '*.bias'}]",
        "optimizer.param_groups.0.match: '*.bias' is not a valid regular expression",
    ),
    ("optimizer.param_groups=[{lr: 3}]", "optimizer.param_groups.0: {'lr': 3} has neither match nor type"),
    ("optimizer.param_groups=[{type: Linear, lr: -3}]", "optimizer.param_groups.0.lr: -3 is not allowed"),
    ("optimizer.param_groups=[5]", "optimizer.param_groups.0: 5 has neither match nor type"),
    ("optimizer.param_groups=[{type: Linear, scheduler: step}]", "optimizer.param_groups.0.scheduler: 'step' is not"),
    (
        "optimizer.param_groups=[{match: w, scheduler: {_target_: torch.optim.lr_scheduler.StepLR, interval: step}}]",
        "optimizer.param_groups.0.scheduler.step_size: is missing",
    ),
    (
        "optimizer.param_groups=[{type: Linear, scheduler: {_target_: os.system, interval: epoch, command: ls}}]",
        "optimizer.param_groups.0.scheduler._target_: 'os.system' is blocked for safety",
    ),
    ("optimizer=adam +optimizer.differentiable=true", "optimizer.differentiable: true is not supported"),
    (
        "optimizer.param_groups=[{match: 'a{99999999999}'}]",
        "optimizer.param_groups.0.match: 'a{99999999999}' is not a valid regular",
    ),
    (
        "optimizer.param_groups=[{match: weight, betas: 0.9}]",
        "optimizer.param_groups.0: {'betas': 0.9} is not allowed: ",
    ),
    ("optimizer.layer_decay=2", "optimizer.layer_decay: 2 is not allowed"),
    ("optimizer.scale_lr=0", "optimizer.scale_lr: 0 is not allowed"),
    ("optimizer=lbfgs optimizer.layer_decay=0.5", "optimizer.layer_decay: is 0.5, but LBFGS supports only a single"),
    ("scheduler.warmup=0.05", "scheduler.warmup: 0.05 is not allowed"),
    ("scheduler.warmup=100%", "scheduler.warmup: '100%' is 510 steps, but the run has only 510"),
    ("scheduler.T_max=10", "scheduler.T_max: 10 is 10 steps, but the schedule runs for 510: the learning rate would"),
    ("scheduler=one_cycle scheduler.total_steps=9", "scheduler.total_steps: 9 is 9 steps"),
    ("scheduler=step scheduler.step_size=1.5", "scheduler.step_size: 1.5 is not a length"),
    ("scheduler=step scheduler.step_size=null", "scheduler.step_size: is null"),
    ("scheduler=exponential scheduler.gamma=-1", "scheduler: the learning rate is -0.001 at step 17"),
    ("scheduler=linear scheduler.total_iters=10", "scheduler: the learning rate is 0 for the last 500 of 510 steps"),
    ("scheduler=lambda", "scheduler.lr_lambda._target_: is not given"),
    ("scheduler=one_cycle optimizer=adagrad", "scheduler: cannot be built: optimizer must support momentum"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[line for line, _ in BAD])
def test_a_mistake_is_found(line: str, message: str) -> None:
    typed = re.split(r" (?=[+a-zA-Z_.]+=)", line)
    cfg = described("model=mlp", *(override for override in typed if "." not in override.partition("=")[0]))
    config.fill(cfg, {"steps_per_epoch": 17, "total_steps": 510})
    for key, _, value in (override.partition("=") for override in typed):
        if "." in key:  # composing anew takes longer than all that is checked
            OmegaConf.update(cfg, key.lstrip("+"), yaml.safe_load(value), force_add=key.startswith("+"))
    found = config.check(cfg)
    if not found:  # before there is a model
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2))
        with pytest.raises(ConfigError) as raised:
            make_schedule(cfg, make_optimizer(cfg, model, nn.Identity()))
        found = list(raised.value.problems)
    assert len(found) == 1
    assert f"{found[0].key}: {found[0].what}".startswith(message)


ON_THE_LINE = [
    *BAD[:2],
    ("scheduler=plateau scheduler.monitor=null", "scheduler.monitor: is not given"),
    ("+scheduler.monitor=val/loss", "scheduler.monitor: 'val/loss' has no effect"),
]


@pytest.mark.parametrize(("line", "message"), ON_THE_LINE, ids=[line for line, _ in ON_THE_LINE])
def test_a_mistake_is_found_before_training(
    run: Run, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    assert run("model=mlp", "trainer.threads=1", *re.split(r" (?=[+a-zA-Z_.]+=)", line)) == 2
    said = capsys.readouterr()
    text = said.err + said.out
    assert f"error: {message}" in text
    assert "Traceback" not in text
    assert not Path("outputs").exists()


def test_a_projects_own_optimizer_and_schedule(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text(
        "import numpy as np, torch\n"
        "from torch.optim.lr_scheduler import LRScheduler\n"
        "class Signs(torch.optim.Optimizer):\n"
        "    def __init__(self, params, size=0.01):\n"
        "        super().__init__(params, {'size': size})\n"
        "    @torch.no_grad()\n"
        "    def step(self):\n"
        "        for g in self.param_groups:\n"
        "            for p in g['params']:\n"
        "                p -= g['size'] * p.grad.sign()\n"
        "class Table(LRScheduler):\n"
        "    def __init__(self, optimizer, steps):\n"
        "        self.rates = np.linspace(1, 0.1, steps)\n"
        "        super().__init__(optimizer)\n"
        "    def get_lr(self):\n"
        "        return [b * float(self.rates[min(self.last_epoch, len(self.rates) - 1)]) for b in self.base_lrs]\n"
    )
    for group, text in (
        ("optimizer/signs", "_target_: mine.Signs\nsize: 0.01\n"),
        ("scheduler/table", "_target_: mine.Table\ninterval: step\nsteps: ${facts.total_steps}\n"),
    ):
        Path(f"my_conf/{group}.yaml").parent.mkdir(parents=True, exist_ok=True)
        Path(f"my_conf/{group}.yaml").write_text(text)
    options = (*QUICK, "--config-dir", "my_conf", "allow_targets=[mine.*]")
    assert run(*options, "optimizer=signs", "scheduler=constant", "trainer.max_epochs=1") == 0
    assert run(*options, "optimizer=signs", "hydra.run.dir=a") == 2
    assert "mine.Signs has no learning rate for a schedule to change" in "".join(capsys.readouterr())
    # An array cannot be read back from a checkpoint: said before training, and not when the run is to go on.
    assert run(*options, "scheduler=table", "hydra.run.dir=b") == 2
    assert "scheduler: its state_dict holds objects that a checkpoint cannot store" in "".join(capsys.readouterr())


def test_a_step_has_no_more_samples_than_the_train_part() -> None:
    cfg = described("loader.batch_size=4096", "optimizer.scale_lr=64")
    config.fill(cfg, {"epoch_samples": 640})
    assert rate_scale(cfg) == 10.0


def test_a_search_does_not_go_with_a_scaled_loss() -> None:
    """That of fp16, which the command line leaves to devices that are fast with it."""
    cfg = OmegaConf.create({"trainer": {"on_nonfinite": "stop"}, "checkpoint": {}})
    held: Any = SimpleNamespace(precision=Precision(torch.device("cpu"), "fp16"))
    searching: Any = torch.optim.LBFGS([torch.zeros(1)])
    with pytest.raises(ConfigError, match=r"trainer\.precision: 'fp16' is not possible with LBFGS"):
        make_trainer(cfg, held, searching, Schedule(searching, None, 1.0), Limits())


def test_the_samples_of_an_epoch_are_those_that_are_visited(run: Run, digits: Path) -> None:
    options = ("loader.batch_size=96", "loader.subset=100", "loader.drop_last=true", "trainer.max_epochs=1")
    assert run(*QUICK, *options, "hydra.run.dir=fewer") == 0
    for folder, count in ((digits, 1079), (Path("fewer"), 96)):
        saved = yaml.safe_load((folder / "config.yaml").read_text())
        assert saved["facts"]["epoch_samples"] == count


@pytest.mark.parametrize(("mode", "stops"), [("auto", False), ("min", True)])
def test_early_stopping_follows_the_metric_and_the_mode_of_the_checkpoint(mode: str, stops: bool) -> None:
    over = ("checkpoint.monitor=val/accuracy", f"checkpoint.mode={mode}", "trainer.early_stopping.patience=2")
    history = [{"val/accuracy": value} for value in (0.1, 0.2, 0.3)]
    assert limits_of(described(*over)).stop(history) is stops
