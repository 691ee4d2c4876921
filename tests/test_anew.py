"""A target that is typed: its group starts anew, and facts are offered to its arguments."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import LIGHT, QUICK, Run, only_run, result_of, rows, states, weights_of
from omegaconf import open_dict

from runner import compose, config, options, project
from runner.checks import offers

NET = """\
from dataclasses import dataclass
from functools import partial
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes: int = 1000, width: int = 8):
        super().__init__(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_classes))

class Wide(Net):
    def __init__(self, num_classes, width=16):
        super().__init__(num_classes, width)

class Deep(nn.Sequential):
    def __init__(self, depth, num_outputs):
        inside = (nn.Linear(9, 9) for _ in range(depth))
        super().__init__(nn.Flatten(), nn.Linear(64, 9), *inside, nn.Linear(9, num_outputs))

class Head(nn.Linear):
    def __init__(self, num_classes):
        super().__init__(10, num_classes)

small = partial(Net, width=4)

@dataclass
class Config:
    width: int
    num_classes: int = 10

class Configured(Net):
    def __init__(self, config: Config):
        super().__init__(config.num_classes, config.width)

def blobs(count):
    import torch
    drawn = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.utils.data.TensorDataset(drawn, torch.arange(count) % 10)

def quarter(y_true, y_pred):
    return 0.25

def count(y_true, y_pred, num_classes):
    return float(num_classes)
"""

SHORT, BRIEF = QUICK[2:], LIGHT[2:]
"""Without the model that they choose."""

TYPED = ("model._target_=own.Net",)


@pytest.fixture(autouse=True)
def _own() -> None:
    Path("own.py").write_text(NET)


def of_run(folder: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((Path(folder) / "config.yaml").read_text())
    return found


def arguments(group: dict[str, Any], name: str = "model") -> dict[str, Any]:
    """What is in a group beside what every option of it has."""
    return {key: value for key, value in group.items() if key not in options.of(name)["custom"].keys() - {"_target_"}}


def composed(*overrides: str) -> Any:
    return compose.composed("config", [], overrides)


def test_a_target_takes_none_of_the_options_arguments_and_keeps_keys_of_every_option(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*SHORT, *TYPED, "model.width=5", "model.freeze=[1]", "hydra.run.dir=r") == 0
    held = of_run("r")
    assert arguments(held["model"]) == {"_target_": "own.Net", "num_classes": 10, "width": 5}
    assert held["model"]["freeze"] == [1]
    assert held["interpolations"]["model.num_classes"] == "${facts.num_classes}"
    assert held["facts"]["options"]["model"] == "custom"
    assert {tuple(t.shape) for t in weights_of("r").values()} == {(5, 64), (5,), (10, 5), (10,)}
    said = {row["key"]: (row["value"], row["default"]) for row in result_of("r")["tables"]["config/difference"]}
    assert said["model"] == ("custom", "cnn")
    assert said["model._target_"] == ("own.Net", None)
    assert said["model.num_classes"] == ("10 (from the data)", None)
    assert said["model.width"] == ("5", None)
    assert "model.channels" not in said
    capsys.readouterr()
    assert run("resume=r", "trainer.max_epochs=2") == 0
    assert arguments(of_run("r")["model"]) == {"_target_": "own.Net", "num_classes": 10, "width": 5}
    assert run("resume=r", "model._target_=own.Wide", "model.width=3") == 2
    said_now = capsys.readouterr().err
    assert "model._target_=own.Wide: cannot be changed when resuming r" in said_now
    assert "model.width=3: cannot be changed when resuming r" in said_now


@pytest.mark.parametrize("typed", [
    ("model._target_=own.Net", "model.width=3"), ("++model._target_=own.Net", "++model.width=3"),
    ("+model.width=3", "model._target_=own.Net"), ("model={_target_: own.Net, width: 3}",),
    ("model=mlp", "model._target_=own.Net", "model.width=3"),
    ("model=custom", "model._target_=own.Net", "model.width=3"),
    ("model.width=3", "model._target_=own.Net", "~model.channels"),
])  # fmt: skip
def test_however_it_is_typed(typed: tuple[str, ...]) -> None:
    cfg = composed(*typed)
    assert arguments(config.written(cfg.model)) == {"_target_": "own.Net", "width": 3}
    assert cfg.hydra.runtime.choices.model == "custom"
    assert list(cfg.hydra.overrides.task) == list(typed)
    assert cfg.hydra.job.override_dirname == ",".join(sorted(typed))


def test_the_target_of_the_option_changes_nothing() -> None:
    assert composed("model._target_=runner.model.CNN", "model.dropout=0.5").model == composed("model.dropout=0.5").model
    assert composed("model._target_=runner.model.CNN").hydra.runtime.choices.model == "cnn"
    loss = "loss.label_smoothing=0.1"
    assert composed("loss={_target_: torch.nn.CrossEntropyLoss}", loss).loss == composed(loss).loss


@pytest.mark.parametrize(("group", "typed", "expected"), [
    ("dataset", ("dataset._target_=own.blobs", "dataset.count=60"), {"count": 60}),
    ("split", ("split._target_=runner.split.random", "split.val=0.3"), {"val": 0.3}),
    ("loader", ("loader._target_=runner.loader.Workers", "loader.batch_size=32"), {"num_workers": 0}),
    ("loss", ("loss._target_=torch.nn.MultiMarginLoss", "loss.margin=2"), {"margin": 2}),
    ("optimizer", ("optimizer._target_=torch.optim.SGD", "optimizer.lr=0.1"), {"lr": 0.1}),
    ("scheduler", ("scheduler._target_=torch.optim.lr_scheduler.StepLR", "scheduler.step_size=4"), {"step_size": 4}),
])  # fmt: skip
def test_each_group_starts_anew(run: Run, group: str, typed: tuple[str, ...], expected: dict[str, Any]) -> None:
    assert run(*SHORT, "trainer.max_epochs=1", *typed, "hydra.run.dir=r") == 0
    assert of_run("r")[group]["_target_"] == typed[0].partition("=")[2]
    beside = options.of(group)["custom"].keys() - expected.keys()
    held = config.written(composed(*typed)[group])
    assert {key: value for key, value in held.items() if key not in beside} == expected


def test_what_is_inside_a_group_starts_anew_too() -> None:
    cfg = composed("metric.macro_f1._target_=own.quarter", "metric.new={_target_: own.count}")
    assert config.written(cfg.metric.macro_f1) == {"_target_": "own.quarter"}  # f1_score's average is gone
    assert config.written(cfg.metric.new) == {"_target_": "own.count"}
    cfg = composed("trainer.step._target_=runner.trainer.step.mixup", "trainer.step.alpha=0.3")
    assert config.written(cfg.trainer.step) == {"_target_": "runner.trainer.step.mixup", "alpha": 0.3}
    cfg = composed("loader.sampler._target_=own.Sampler", "loader.sampler.size=3")
    assert config.written(cfg.loader.sampler) == {"_target_": "own.Sampler", "size": 3}
    cfg = composed("transform.train.0._target_=own.quarter")
    assert config.written(cfg.transform.train[0]) == {"_target_": "own.quarter"}
    rules = "optimizer.param_groups=[{match: a, scheduler: {_target_: own.quarter}}]"
    assert config.written(composed(rules).optimizer.param_groups[0].scheduler) == {"_target_": "own.quarter"}


def test_a_recipe_is_started_anew_from_what_is_typed(tmp_path: Path) -> None:
    Path("mine/experiment").mkdir(parents=True)
    text = "# @package _global_\nmodel: {_target_: own.Wide, width: 3, freeze: [a]}\n"
    Path("mine/experiment/mine.yaml").write_text(text)
    cfg = compose.composed("config", [Path("mine")], ["experiment=mine", "model._target_=own.Deep", "model.depth=1"])
    assert arguments(config.written(cfg.model)) == {"_target_": "own.Deep", "depth": 1}
    assert cfg.model.freeze == ["a"]


RECIPE = "# @package _global_\n{defaults}model:\n  _target_: own.Wide\n  width: 4\n"
PRIMARY = "defaults: [config, {defaults}_self_]\nmodel: {{_target_: own.Wide, width: 4}}\n"


@pytest.mark.parametrize(("name", "text", "remedied", "typed"), [
    ("experiment/mine", RECIPE, "defaults: [override /model: custom]\n", ("experiment=mine",)),
    ("prime", PRIMARY, "override /model: custom, ", ("--config-name", "prime")),
])  # fmt: skip
def test_a_file_over_the_default_option_is_told_the_line_that_works(
    run: Run, capsys: pytest.CaptureFixture[str], name: str, text: str, remedied: str, typed: tuple[str, ...]
) -> None:
    path = Path(f"mine/{name}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.format(defaults=""))
    start = *BRIEF, "--config-dir", "mine", *typed, "check=only"
    assert run(*start) == 2
    said = capsys.readouterr().err
    assert f"{path}, line " in said
    assert "own.Wide gets arguments of model=cnn, over which it was set: input_shape, num_outputs, channels" in said
    assert said.count("try:") == 1
    assert "try: override /model: custom in the defaults list of that file" in said
    path.write_text(text.format(defaults=remedied))
    assert run(*start) == 0


def test_custom_alone_says_what_to_type(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("model=custom", "check=only") == 2
    assert "model._target_: is not given" in (said := capsys.readouterr().err)
    assert "try: model._target_=MODULE.NAME" in said


def test_facts_are_offered_to_what_a_file_names_too(run: Run) -> None:
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/own.yaml").write_text("_target_: own.Deep\ndepth: 1\n")
    Path("mine/model/wide.yaml").write_text("_target_: own.Net\n")
    assert run(*SHORT, "--config-dir", "mine", "model=own", "metric.n={_target_: own.count}") == 0
    held = of_run(only_run())
    assert held["model"]["num_outputs"] == 10
    assert result_of(only_run())["metrics"]["test/n"] == 10
    cfg = compose.composed("config", [Path("mine")], ["model=wide"])
    config.grant(cfg)
    offers.offer(cfg)
    assert "num_classes" not in cfg.model  # it has a default, and the file says nothing else


def test_what_may_not_be_called_is_not_imported_for_its_arguments() -> None:
    Path("evil.py").write_text("import os\nos.mkdir('called')\nclass Net:\n    def __init__(self, num_classes): ...\n")
    cfg = composed("model._target_=evil.Net")
    offers.offer(cfg)
    assert not Path("called").exists()
    config.grant(cfg)
    project.find_own_code()
    offers.offer(cfg)
    assert Path("called").exists()
    assert config.written(cfg.model)["num_classes"] == "${facts.num_classes}"


def test_classes_of_a_regression_are_a_message(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    values = *BRIEF, "dataset=diabetes", "loss=mse", "metric=regression", "model._target_=own.Head", "check=only"
    assert run(*values) == 2
    said = capsys.readouterr().err
    assert "model.num_classes: is null, because the targets are values, and own.Head fails with it" in said
    assert "try: model.num_classes='${facts.num_outputs}'" in said
    assert run(*values, "model.num_classes=${facts.num_outputs}") == 0


def test_what_no_fact_is_for_is_typed_as_printed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    deep = *BRIEF, "model._target_=own.Deep", "check=only"
    assert run(*deep) == 2
    assert capsys.readouterr().err == "error: model.depth: is missing: own.Deep needs it\n  try: model.depth=VALUE\n"
    assert run(*deep, "model.depth=1") == 0
    capsys.readouterr()
    assert run(*deep, "model.dpeth=1") == 2
    assert "model.dpeth: own.Deep has no argument 'dpeth' (value 1)" in (said := capsys.readouterr().err)
    assert "try: model.depth=1" in said


def test_other_mistakes_beside_a_target_are_said_too(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*TYPED, "model.width=3", "optimizer.lrr=1", "modle=3") == 2
    said = capsys.readouterr().err
    assert "optimizer.lrr: there is no such key" in said
    assert "modle: there is no such key" in said
    assert "model.width" not in said
    assert run("mdoel._target_=own.Net", "trainer.stpe={_target_: own.Net}") == 2
    said = capsys.readouterr().err
    assert "try: model._target_=own.Net" in said
    assert "trainer.stpe: there is no such key" in said


def test_a_dataclass_for_the_arguments_and_a_partial(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    configured = *BRIEF, "model._target_=own.Configured", "check=only"
    assert run(*configured) == 2
    assert 'try: "model.config={_target_:own.Config,width:VALUE}"' in capsys.readouterr().err
    assert run(*configured, "model.config={_target_:own.Config,width:8}") == 0
    capsys.readouterr()
    assert run(*configured, "model.config={width: 8}") == 2
    said = capsys.readouterr().err
    assert "model.config: {'width': 8} is a mapping, and model._target_ takes a own.Config" in said
    assert "try: model.config._target_=own.Config" in said
    assert run(*configured, "model.config={width: 8}", "model.config._target_=own.Config") == 0
    assert run(*SHORT, "model._target_=own.small", "hydra.run.dir=r") == 0
    assert {tuple(t.shape) for t in weights_of("r").values()} == {(4, 64), (4,), (10, 4), (10,)}


TIMM = """\
from torch import nn
def create_model(model_name, pretrained=False, **kwargs):
    return Net(**kwargs)
class Net(nn.Sequential):
    def __init__(self, num_classes=1000, in_chans=3):
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
        super().__init__(nn.Conv2d(in_chans, 4, 3), *head)
"""


def test_builders_that_hand_on_their_arguments(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = "dataset=synthetic", "dataset.size=40", "dataset.image_size=[3,32,32]", "dataset.num_classes=3"
    assert run(*SHORT, *pictures, "model._target_=torchvision.models.resnet18", "hydra.run.dir=r") == 0
    assert weights_of("r")["fc.bias"].shape == (3,)
    if find_spec("timm") is None:  # else the real one
        Path("timm").mkdir()
        Path("timm/__init__.py").write_text(TIMM)
    assert run(*SHORT, "model._target_=timm.create_model", "model.model_name=resnet18", "hydra.run.dir=t") == 0
    assert arguments(of_run("t")["model"]) == {
        "_target_": "timm.create_model", "model_name": "resnet18", "num_classes": 10, "in_chans": 1,
    }  # fmt: skip


def test_a_schedule_is_offered_the_length_of_the_run(run: Run) -> None:
    cycle = "scheduler._target_=torch.optim.lr_scheduler.OneCycleLR", "scheduler.max_lr=0.1", "scheduler.warmup=3"
    assert run(*SHORT, *cycle, "hydra.run.dir=r") == 0
    held = of_run("r")["scheduler"]
    assert held["total_steps"] is None  # and so what the warm-up leaves
    assert held["interval"] == "step"


def test_in_a_sweep(run: Run) -> None:
    assert run("-m", *SHORT, "model._target_=own.Net,own.Wide,runner.model.Linear", "model.freeze=[]",
               "hydra.sweep.dir=a") == 0  # fmt: skip
    names = [f"model._target_={name}" for name in ("own.Net", "own.Wide", "runner.model.Linear")]
    assert states("a") == dict.fromkeys(names, "completed")
    assert [of_run(f"a/{name}")["model"].get("num_classes") for name in names] == [10, 10, None]
    assert run("-m", *SHORT, *TYPED, "model.width=3,4", "hydra.sweep.dir=b") == 0
    assert [of_run(f"b/model.width={width}")["model"]["width"] for width in (3, 4)] == [3, 4]
    record = json.loads(Path("b/sweep.json").read_text())
    assert record["typed"][-2:] == [*TYPED, "model.width=3,4"]
    assert run("-m", "resume=b", "model.width=3,4,5") == 0
    again = json.loads(Path("b/sweep.json").read_text())
    assert again["jobs"][:2] == record["jobs"]
    assert list(states("b")) == ["model.width=3", "model.width=4", "model.width=5"]
    assert len({row["test/loss"] for row in rows("b")}) == 3


def test_named_jobs(run: Run) -> None:
    Path("jobs.yaml").write_text(
        "a: {model: {_target_: own.Wide, width: 3}}\nb: [model=mlp]\nc: ['model._target_=own.Net']\n"
    )
    assert run("-m", *SHORT, "sweep.jobs=jobs.yaml", "hydra.sweep.dir=s") == 0
    assert states("s") == dict.fromkeys("abc", "completed")
    assert arguments(of_run("s/a")["model"]) == {"_target_": "own.Wide", "width": 3, "num_classes": 10}
    assert of_run("s/b")["model"]["_target_"] == "runner.model.MLP"
    assert arguments(of_run("s/c")["model"]) == {"_target_": "own.Net", "num_classes": 10}


def test_a_job_that_a_launcher_started_has_the_same_configuration(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.core.hydra_config import HydraConfig

    from runner import hydra_internals
    from runner.sweep import launcher

    typed = *SHORT, *TYPED, "model.width=3"
    assert run("-m", *typed, "hydra.sweep.dir=s") == 0
    path = hydra_internals.search_path(str(options.home()), [])
    master = hydra_internals.loader(path).load_configuration("config", [], run_mode=compose.RunMode.MULTIRUN)
    job = hydra_internals.loader(path).load_sweep_config(
        master, [*typed, "allow_targets=[own.Net]"]
    )  # as one composes it where the job is
    Path("job").mkdir()
    with open_dict(job):
        job.hydra.runtime.output_dir, job.hydra.job.num, job.hydra.job.id = "job", 0, "0"
    HydraConfig.instance().set_config(job)
    assert launcher.launched(config.job(job)) == 0
    (of_sweep,) = (of_run(place) for place in Path("s").iterdir() if (place / "config.yaml").is_file())
    assert of_run("job") == of_sweep


def test_evaluate_with_other_data_and_metrics(run: Run, digits: Path) -> None:
    other = "figures=false", "output=other"
    assert run("evaluate", f"run={digits}", "dataset._target_=own.blobs", "dataset.count=40", *other) == 0
    found = json.loads(Path("other/result.json").read_text())
    assert found["dataset"] == {"_target_": "own.blobs", "count": 40}
    assert (found["own_data"], found["samples"]) == (False, 40)
    whole = "dataset={_target_: own.blobs, count: 40}", "metric.accuracy._target_=own.quarter"
    assert run("evaluate", f"run={digits}", *whole, "metric.n={_target_: own.count, num_classes: 7}",
               "figures=false", "output=again") == 0  # fmt: skip
    again = json.loads(Path("again/result.json").read_text())
    assert again["metrics"] == {"test/loss": found["metrics"]["test/loss"], "test/accuracy": 0.25, "test/n": 7.0}


def test_commands_that_look(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("inspect", "lr_find"):
        assert run(command, *TYPED, "model.width=3") == 0
    assert run(*TYPED, "model.width=3", "--cfg", "job") == 0
    shown = yaml.safe_load("model:" + capsys.readouterr().out.rpartition("\nmodel:")[2])
    assert arguments(shown["model"]) == {"_target_": "own.Net", "width": 3}
