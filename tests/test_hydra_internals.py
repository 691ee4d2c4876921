"""What is private in Hydra and OmegaConf, with the release that is installed and as a user has it: in processes without
the patches of `composing`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import QUICK, Run
from omegaconf import OmegaConf

import runner
from runner import hydra_internals

CHEAP = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(runner.__file__).parents[1]), "PYTHONWARNINGS": "error"}
"""Of the environment: a warning ends a process with a traceback."""


def typed(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """The exit status, and what was printed, of a command in a process of its own."""
    line = [sys.executable, "-m", "runner", *arguments]
    done = subprocess.run(
        line, env={**os.environ, **CHEAP, **environment}, capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_the_configuration_is_shown() -> None:
    status, out, err = typed("--cfg", "job", "model=mlp")
    assert (status, err) == (0, "")
    assert OmegaConf.create(out).model["_target_"] == "runner.model.MLP"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--help",), "Groups and their options"),
        (("--info", "defaults"), "dataset/digits"),
        (("--hydra-help",), "--config-dir"),
    ],
)
def test_what_it_tells_of_itself(arguments: tuple[str, ...], said: str) -> None:
    status, out, err = typed(*arguments)
    assert (status, err) == (0, "")
    assert said in out


def test_options_are_completed() -> None:
    status, out, err = typed("-sc", "query=bash", COMP_LINE="runner model=ml", COMP_POINT="15")
    assert (status, err) == (0, "")
    assert out.split() == ["model=mlp"]


def test_an_override_that_cannot_be_applied_is_explained() -> None:
    status, out, err = typed("modle=cnn", "optimizer=nope", "optimizer.lr=abc")
    assert (status, out) == (2, "")
    assert err.startswith("error: optimizer: there is no option 'nope'")
    assert "modle: there is no such key" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1")])
def test_a_run_and_a_sweep_are_checked_without_a_warning(sweep: tuple[str, ...]) -> None:
    light = "model=mlp", "model.hidden=[8]", "trainer.threads=1", "check=only"
    status, out, err = typed(*sweep, *light, PYTHONWARNINGS="default::UserWarning,default::FutureWarning")
    assert (status, err) == (0, "")
    assert "arning" not in out
    assert out.endswith("check passed; nothing was written\n")


@pytest.mark.skipif(not hydra_internals.has_whitelist(), reason="of Hydra 1.4")
def test_hydra_is_given_those_of_our_patterns_that_it_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import hydra

    given: list[str] = []
    monkeypatch.setattr(hydra, "main", lambda *, execution_whitelist=(), **options: given.extend(execution_whitelist))
    hydra_internals.main("/", "config", ["a.*", "b.c.D", "b.*Sampler", "*", "*.x", ".*"])
    assert given == [*hydra_internals.OF_HYDRA, "a.*", "b.c.D"]


OWN = """\
from torch import nn

def made():
    return dict.fromkeys  # a callable that nobody has named

class Layers:
    make = nn.Identity

class Net(nn.Linear):
    def __init__(self, num_outputs, given):
        super().__init__(64, num_outputs)
        method, layer, deferred = given
        assert method("a") == {"a": None}
        assert isinstance(layer, nn.Identity)
        assert deferred()("b") == {"b": None}

    def forward(self, x):
        return super().forward(x.flatten(1))
"""


def test_what_runner_allows_hydra_builds(run: Run) -> None:
    given = "[{_target_: own.made}, {_target_: own.Layers.make}, {_target_: own.made, _partial_: true}]"
    Path("own.py").write_text(OWN)
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/own.yaml").write_text(f"_target_: own.Net\nnum_outputs: ${{facts.num_outputs}}\ngiven: {given}\n")
    own = "--config-dir", "mine", "model=own", "allow_targets=[own.*,ow?.made,torch.nn.modules.*.Identity]"
    assert run(*own, *QUICK[2:], "check=only") == 0


LOGGING = """\
# @package _global_
hydra:
  job_logging: {handlers: {console: {class: own.Handler}}}
"""


@pytest.mark.parametrize("mark", ["job_logging", "hydra_logging"])
def test_a_class_of_the_users_own_for_logging_is_called_when_it_is_allowed(
    run: Run, capsys: pytest.CaptureFixture[str], mark: str
) -> None:
    Path("own.py").write_text("from runner.terminal import ConsoleHandler\nclass Handler(ConsoleHandler): pass\n")
    Path("mine/experiment").mkdir(parents=True)
    Path("mine/experiment/mine.yaml").write_text(LOGGING.replace("job_logging", mark))
    typed = "--config-dir", "mine", "experiment=mine", *QUICK, "trainer.max_epochs=1"
    if hydra_internals.has_whitelist():
        assert run(*typed) == 2
        said = capsys.readouterr().err
        assert "error: hydra: names own.Handler, which is not on the list" in said
        assert '"allow_targets=[own.Handler]" on the command line' in said
        assert not Path("outputs").exists()
    assert run(*typed, "allow_targets=[own.Handler]") == 0
