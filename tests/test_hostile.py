"""Code of the user that leaves, raises or says something unusual: a message, exit status 2, and nothing left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from conftest import Run

CODE = """\
import sys
import threading
import numpy as np
import torch
from torch import nn


class Data(torch.utils.data.Dataset):
    def __init__(self, how="ok"):
        self.how = how
        if how == "exit":
            sys.exit(0)
        if how == "names":
            self.classes = ["evil.f", "b"]

    def __len__(self):
        if self.how == "len":
            raise ValueError("no length")
        return 160

    def __getitem__(self, i):
        if self.how == "raise":
            raise ValueError("one\\ntwo\\nthree")
        if self.how == "leave":
            sys.exit(0)
        x = {"text": "x", "scalar": 3.0}.get(self.how, torch.randn(4))
        return x, {"none": None, "word": "cat", "id": 10**9 * (i % 2)}.get(self.how, i % 2)


class Net(nn.Module):
    def __init__(self, num_outputs, how="ok", tag=None, part=None, width: int = None):
        super().__init__()
        self.layer, self.how, self.lock = nn.Linear(4, num_outputs), how, None
        if how == "init":
            sys.exit(3)
        if how == "lock":
            self.lock = threading.Lock()
        if how == "parametrised":
            self.layer = torch.nn.utils.parametrizations.weight_norm(self.layer)

    def forward(self, x):
        if self.how == "forward":
            sys.exit(0)
        return self.layer(x)


def share(said, right):
    return float((said == right).mean())


class Shares(nn.Module):
    def forward(self, output, target):
        return torch.softmax(output, 1)


class Failing(nn.Module):
    def forward(self, output, target):
        raise RuntimeError("no luck")


def per_class(said, right):
    return np.ones(3)


def nothing(said, right):
    return None


def both(said, right):
    return 1.0, 2.0


def shares(said, right):
    return torch.ones(2)


def no_share(said, right):
    return 1 / 0
"""
BASE = (
    "--config-dir", "mine", "allow_targets=[hostile.*]", "dataset=own", "transform=none", "model=own",
    "trainer.max_epochs=1", "trainer.threads=1", "tensorboard.enabled=false", "hydra.output_subdir=null",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("hostile.py").write_text(CODE)
    Path("evil.py").write_text("def f():\n    open('EVIL', 'w').close()\n")
    for group, text in {
        "dataset": "_target_: hostile.Data\nhow: ok\n",
        "model": "_target_: hostile.Net\nnum_outputs: ${facts.num_outputs}\nhow: ok\ntag: null\nwidth: null\n",
    }.items():
        Path("mine", group).mkdir(parents=True)
        Path("mine", group, "own.yaml").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("dataset.how=exit", "configuration: code named by a _target_ called sys.exit(0)"),
        ("dataset.how=leave", "configuration: code named by a _target_ called sys.exit(0)"),
        ("model.how=init", "configuration: code named by a _target_ called sys.exit(3)"),
        ("model.how=forward", "configuration: code named by a _target_ called sys.exit(0)"),
        ("dataset.how=len", "dataset: cannot be built: no length"),
        ("dataset.how=raise", "dataset: sample 0 cannot be read: ValueError: one"),
        ("dataset.how=none", "dataset: sample 0 cannot be read"),
        ("dataset.how=word", "dataset: sample 0 cannot be read"),
        ("dataset.how=text", "dataset: sample 0 cannot be read"),
        ("dataset.how=scalar", "model: cannot take inputs of shape "),
        ("dataset.how=id", "dataset: has integer targets up to 1,000,000,000 in 160 samples: these look like"),
        ("model.tag=${hydra:runtime.output_dir}", "model.tag: ${hydra:runtime.output_dir} has no value yet"),
        ("hydra.run.dir=${nowhere}", "hydra.run.dir: is not a path: Interpolation key 'nowhere' not found"),
        ("hydra.run.dir=" + "x" * 300, "hydra.run.dir: is not a path: "),
        ("+hydra.callbacks.x._target_=evil.f", "hydra.callbacks.x._target_: cannot be set: runner checks"),
    ],
)
def test_it_is_said(run: Run, capsys: pytest.CaptureFixture[str], override: str, said: str) -> None:
    assert run(*BASE, override) == 2
    output = capsys.readouterr().err
    assert output.startswith(f"error: {said}")
    assert len(output.splitlines()) <= 3
    assert not Path("outputs").exists()
    assert not Path("EVIL").exists()


@pytest.mark.parametrize("target", ["+model.part._target_", "loss._target_"])
def test_the_data_do_not_say_what_is_called(run: Run, capsys: pytest.CaptureFixture[str], target: str) -> None:
    assert run(*BASE, "dataset.how=names", f"{target}=${{facts.class_names.0}}") == 2
    assert "must not be a reference to facts" in capsys.readouterr().err
    assert not Path("EVIL").exists()


def test_a_loss_of_another_shape_is_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*BASE, "~loss", "+loss._target_=hostile.Shares") == 2
    assert capsys.readouterr().err == (
        "error: loss: Shares returns shape (64, 2) for targets of shape (64,)\n"
        "  allowed: one value per target, one per sample, or their mean: (64,) or ()\n"
    )
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("overrides", "at", "said"),
    [
        (["dataset.how=raise"], 'raise ValueError("one', "dataset: sample 0 cannot be read: ValueError: one (PLACE)"),
        (["~loss", "+loss._target_=hostile.Failing"], "raise RuntimeError(",
         "loss: Failing fails on the first batch: no luck (PLACE)"),
        (["+metric.own._target_=hostile.no_share"], "return 1 / 0",
         "metric.own: cannot be computed: division by zero (PLACE)"),
    ],
)  # fmt: skip
def test_where_it_fails_is_said(
    run: Run, capsys: pytest.CaptureFixture[str], overrides: list[str], at: str, said: str
) -> None:
    line = next(number for number, text in enumerate(CODE.splitlines(), 1) if at in text)
    assert run(*BASE, *overrides) == 2
    assert capsys.readouterr().err == (
        f"error: {said.replace('PLACE', f'hostile.py, line {line}')}\n"
        "  try: the same command with -v, for the traceback\n"
    )


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("hostile.per_class", "returns an array of shape (3,)"),
        ("hostile.nothing", "returns None"),
        ("hostile.both", "returns a tuple of 2"),
        ("hostile.shares", "returns a Tensor of shape (2,)"),
        ("sklearn.metrics.confusion_matrix", "returns an array of shape (2, 2)"),
    ],
)
def test_a_metric_that_is_no_number_is_said(
    run: Run, capsys: pytest.CaptureFixture[str], target: str, said: str
) -> None:
    assert run(*BASE, f"+metric.own._target_={target}") == 2
    assert capsys.readouterr().err == f"error: metric.own: {said}, not one number\n  allowed: one number\n"


@pytest.mark.parametrize(
    "overrides", [["model.how=lock"], ["model.how=parametrised", "+metric.own._target_=hostile.share"]]
)
def test_what_is_unusual_and_right_is_run(run: Run, overrides: list[str]) -> None:
    """A model that cannot be copied, one that FLOPs cannot be counted of, arguments with other names than usual."""
    assert run(*BASE, *overrides) == 0


def test_values_of_a_sweep_may_have_any_characters_and_every_job_has_its_own_number(run: Run) -> None:
    assert run(*BASE, "-m", "model.tag=ä(1),x=2", "model.width=${hydra:job.num}") == 0
    results = [json.loads(path.read_text()) for path in sorted(Path("outputs/multirun").glob("*/*/*/result.json"))]
    tags = [row["value"] for r in results for row in r["tables"]["config/difference"] if row["key"] == "model.tag"]
    assert sorted(tags) == ["x=2", "ä(1)"]
    models = [yaml.safe_load(path.read_text())["model"] for path in Path("outputs/multirun").glob("*/*/*/config.yaml")]
    assert {model["tag"]: model["width"] for model in models} == {"ä(1)": 0, "x=2": 1}


@pytest.mark.parametrize("override", ["++check=only", "check='only'"])
def test_a_sweep_is_only_checked_however_that_is_written(run: Run, override: str) -> None:
    assert run(*BASE, "-m", override, "seed=0,1") == 0
    assert not Path("outputs").exists()


def test_a_configuration_that_is_not_of_a_run_is_not_overwritten(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("study").mkdir()
    Path("study/config.yaml").write_text("mine: 1\n")
    assert run(*BASE, "hydra.run.dir=study") == 2
    assert "'study' has a config.yaml that was not written by a run" in capsys.readouterr().err
    assert Path("study/config.yaml").read_text() == "mine: 1\n"


def test_pictures_of_many_sizes_are_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np
    from PIL import Image

    for name in "ab":
        Path("photos", name).mkdir(parents=True)
        for number in range(10):
            side = 9 if name == "b" and number == 3 else 8
            Image.fromarray(np.full((side, side), 10 * number, "uint8")).save(f"photos/{name}/{number}.png")
    assert run("dataset=image_folder", "dataset.root=photos", "dataset.cache=null") == 2
    remedy = '\n  try: transform=resize, or "dataset.size=[8,8]" for an image folder'
    assert "the same shape and dtype for all samples" + remedy in capsys.readouterr().err


def test_a_model_that_does_not_work_on_the_meta_device_is_a_notice(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_outputs):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, num_outputs))\n"
        "        assert float(self[1].weight.sum()) < 1e6\n"
    )
    Path("mine/model/looks.yaml").write_text("_target_: own.Net\nnum_outputs: ${facts.num_outputs}\n")
    assert run("--config-dir", "mine", "model=looks", "allow_targets=[own.*]", "check=only") == 0
    assert "the model does not run on the meta device, so it was tried on the CPU" in capsys.readouterr().out
