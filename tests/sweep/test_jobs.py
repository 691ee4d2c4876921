"""Every job of a sweep is checked before the first one starts, and what they have in common is made once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUICK, Run, own_model
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from runner import config
from runner.errors import ConfigError, Problem
from runner.sweep import jobs

NET = """\
import os
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_outputs, how="fine"):
        super().__init__()
        self.layer, self.how = nn.Linear(64, num_outputs), how

    def forward(self, x):
        if self.how == "kill":
            os.kill(os.getpid(), 9)
        if self.how == "exit" and self.training:
            os._exit(3)
        if self.how == "raise" and self.training:
            raise RuntimeError("no luck")
        return self.layer(x.flatten(1))
"""

COUNTED = """\
import os
import torch

class Counted(torch.utils.data.Dataset):
    def __init__(self, n):
        with open("built", "a") as file:
            print(os.path.exists("outputs"), file=file)
        self.x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
        self.y = (self.x.sum(1) > 0).long()
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i], self.y[i]
"""


def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Write a data set that notes each time it is built, and whether there were outputs; the overrides that name it."""
    Path("counted.py").write_text(COUNTED)
    Path("mine/dataset").mkdir(parents=True)
    Path("mine/dataset/counted.yaml").write_text("_target_: counted.Counted\nn: 60\n")
    monkeypatch.syspath_prepend(Path.cwd())
    return "--config-dir", "mine", "dataset=counted", "transform=none", "allow_targets=[counted.*]", *QUICK


def test_one_bad_value_in_five_jobs_launches_none(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-m", *QUICK, "optimizer.lr=0.1,0.2,0.3,-1,0.4") == 2
    assert capsys.readouterr().err == "error: optimizer.lr (job 4 of 5): -1 is not allowed\n  allowed: a number >= 0\n"
    assert not Path("outputs").exists()


def test_what_only_the_data_show_launches_none_either(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-m", *QUICK, "loss.weight=null,[1]", "seed=0,1,2") == 2
    assert capsys.readouterr().err.startswith(
        "error: loss.weight (jobs 4, 5 and 6 of 6): [1] does not give a weight for each"
    )
    assert not Path("outputs").exists()


def test_what_is_wrong_with_many_jobs_is_said_once(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-m", *QUICK, "optimizer.lr=-1", "seed=range(6)") == 2
    assert capsys.readouterr().err.startswith("error: optimizer.lr (jobs 1, 2, 3, 4, 5, … of 6): -1 is not allowed")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("kill", "model (job 2 of 3): the trial crashed (signal 9)"),
        ("exit", "configuration (job 2 of 3): the trial crashed (exit status 3)"),
        ("raise", "model (job 2 of 3): cannot be trained on a batch of 64: no luck (own_net.py, line 16)"),
    ],
)
def test_a_model_that_dies_takes_nothing_with_it(
    run: Run, capsys: pytest.CaptureFixture[str], how: str, said: str
) -> None:
    own = own_model(NET)
    Path("mine/model/own.yaml").write_text("_target_: own_net.Net\nnum_outputs: ${facts.num_outputs}\nhow: fine\n")
    assert run("-m", *own, f"model.how=fine,{how},fine", "trainer.max_epochs=1") == 2
    assert capsys.readouterr().err.splitlines()[0] == f"error: {said}"
    assert not Path("outputs").exists()


def test_jobs_share_a_data_set_that_is_read_once_and_before_there_is_a_folder(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("-m", *counted(monkeypatch), "seed=0,1") == 0
    assert Path("built").read_text() == "False\n"
    assert len(list(Path("outputs/multirun").glob("*/*/*/result.json"))) == 2


def test_a_run_reads_its_data_once_and_before_there_is_a_folder(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(*counted(monkeypatch)) == 0
    assert Path("built").read_text() == "False\n"


def test_checking_a_sweep_leaves_nothing(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-m", *QUICK, "check=only", "seed=0,1", "optimizer=adamw,sgd") == 0
    assert capsys.readouterr().out == "4 jobs\ncheck passed; nothing was written\n"
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    "line",
    [
        "model=cnn,mlp optimizer=sgd,adamw ++seed=3",
        "experiment=digits_mlp,wine_quality trainer.max_epochs=3,4 model={dropout:0.1}",
        "optimizer.lr=0.1,0.2 ++optimizer.param_groups=null",
        "--config-dir mine +length=short,long",  # a group of the user's own
    ],
)
def test_jobs_are_composed_as_hydra_composes_them(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    def compare(cfg: DictConfig, check: Callable[[DictConfig], None]) -> jobs.Jobs:
        ours = compose_all(cfg, lambda cfg: None)
        for number, job in enumerate(ours.jobs):
            overrides = list(job.overrides)
            theirs, mine = (
                GlobalHydra.instance().config_loader().load_sweep_config(cfg, overrides),
                ours.configs[number],
            )
            assert config.job(mine) == config.job(theirs)
            for part in ("overrides", "runtime"):
                assert mine.hydra[part] == theirs.hydra[part]
            compared.append(mine.trainer.max_epochs)
        raise ConfigError(Problem("sweep", "was compared"))

    compared: list[int] = []
    compose_all = jobs.compose_all
    monkeypatch.setattr(jobs, "compose_all", compare)
    Path("mine/length").mkdir(parents=True)
    for name, epochs in (("short", 1), ("long", 2)):
        Path(f"mine/length/{name}.yaml").write_text(f"# @package _global_\ntrainer: {{max_epochs: {epochs}}}\n")
    assert run("-m", *line.split()) == 2
    assert "sweep: was compared" in capsys.readouterr().err  # no further
    assert len(compared) == (4 if "model" in line else 2)
    if "length" in line:
        assert compared == [1, 2]


def test_code_that_has_computed_in_several_threads_can_be_tried() -> None:
    """A child of a process that has done so hangs as soon as it does the same; one of this process might."""
    own = own_model("import torch\nW = torch.randn(1500, 1500) @ torch.randn(1500, 1500)\n" + NET)
    line = [sys.executable, "-m", "runner", "-m", *own, "check=only", "seed=0,1"]
    done = subprocess.run(
        line, capture_output=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "2"}, timeout=120
    )
    assert done.returncode == 0, done.stderr
