from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Run

NET = """\
import torch
from torch import nn


class Net(nn.Sequential):
    def __init__(self, num_outputs):
        super().__init__(nn.Flatten(), nn.Linear(64, num_outputs))
"""
OPTIONS = ("--config-dir", "mine", "allow_targets=[nets.*]")


def mine(name: str, text: str) -> None:
    path = Path("mine") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("option", "text", "override", "said"),
    [
        ("optimizer/own", "defaults: [sgd]\n\nlr: abc\n", (), "mine/optimizer/own.yaml, line 3: optimizer.lr: 'abc'"),
        ("optimizer/own", "defaults: [sgd]\nlr: abc\n", ("optimizer.lr=x",), "optimizer.lr: 'x' is not allowed"),
        (
            "optimizer/own", "defaults: [sgd]\nparam_groups:\n  - match: fc\n  - match: bias\n    lr: -1\n", (),
            "mine/optimizer/own.yaml, line 5: optimizer.param_groups.1.lr: -1 is not allowed",
        ),
        (
            "model/own", "# mine\n_target_: nets.Net\nnum_outputs: ${facts.num_outputs}\nwidth: 3\n", (),
            "mine/model/own.yaml, line 4: model.width: nets.Net has no argument 'width'",
        ),
        (
            "experiment/own", "# @package _global_\ntrainer:\n  max_epochs: 0\n", (),
            "mine/experiment/own.yaml, line 3: trainer.max_epochs: 0 is not allowed",
        ),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_of_ones_own_has_its_line(
    run: Run, capsys: pytest.CaptureFixture[str], option: str, text: str, override: tuple[str, ...], said: str
) -> None:
    Path("nets.py").write_text(NET)
    mine(f"{option}.yaml", text)
    group = option.partition("/")[0]
    assert run(*OPTIONS, f"{group}=own", *override) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")
    assert not Path("outputs").exists()


def test_a_primary_file_of_ones_own_too(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    mine("study.yaml", "defaults:\n  - config\n  - _self_\n\nsed: 1\ntrainer:\n  max_epochs: many\n")
    assert run("--config-dir", "mine", "--config-name", "study") == 2
    said = capsys.readouterr().err
    assert "mine/study.yaml, line 7: trainer.max_epochs: 'many' is not allowed" in said
    assert "mine/study.yaml, line 5: sed: there is no such key" in said


def test_of_ours_the_key_is_enough(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("trainer.max_epochs=0") == 2
    assert capsys.readouterr().err.startswith("error: trainer.max_epochs: 0 is not allowed")
