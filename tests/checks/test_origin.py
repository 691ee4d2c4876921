from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import Run

NET = """\
import torch
from torch import nn


class Net(nn.Sequential):
    def __init__(self, num_outputs):
        super().__init__(nn.Flatten(), nn.Linear(64, num_outputs))

class Deep(Net):
    def __init__(self, num_outputs, depth):
        super().__init__(num_outputs)
"""
OPTIONS = ("--config-dir", "mine", "allow_targets=[nets.*]")


def mine(name: str, text: str) -> None:
    path = Path("mine") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def chosen(files: Sequence[tuple[str, str]], number: int) -> tuple[list[str], str]:
    """What is typed for one of several files of one's own, and its path. All of them are laid down each time, for what
    Hydra makes of the same files is remembered."""
    Path("nets.py").write_text(NET)
    for other, (file, text) in enumerate(files):
        mine(f"{file}{other}.yaml", text)
    own = f"{files[number][0]}{number}"
    group, _, name = own.rpartition("/")
    return [f"{group}={name}"] if group else ["--config-name", name], f"mine/{own}.yaml"


LINES: list[tuple[str, str, tuple[str, ...], str]] = [
    ("optimizer/own", "defaults: [sgd]\n\nlr: abc\n", (), "FILE, line 3: optimizer.lr: 'abc'"),
    ("optimizer/own", "defaults: [sgd]\nlr: abc\n", ("optimizer.lr=x",), "optimizer.lr: 'x' is not allowed"),
    (
        "optimizer/own", "defaults: [sgd]\nparam_groups:\n  - match: fc\n  - match: bias\n    lr: -1\n", (),
        "FILE, line 5: optimizer.param_groups.1.lr: -1 is not allowed",
    ),
    (
        "model/own", "# mine\n_target_: nets.Net\nnum_outputs: ${facts.num_outputs}\nwidth: 3\n", (),
        "FILE, line 4: model.width: nets.Net has no argument 'width'",
    ),
    (
        "experiment/own", "# @package _global_\ntrainer:\n  max_epochs: 0\n", (),
        "FILE, line 3: trainer.max_epochs: 0 is not allowed",
    ),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(LINES)), ids=[said for *_, said in LINES])
def test_a_mistake_in_a_file_of_ones_own_has_its_line(
    run: Run, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    _, _, override, said = LINES[number]
    typed, file = chosen([(name, text) for name, text, *_ in LINES], number)
    assert run(*OPTIONS, *typed, *override) == 2
    assert capsys.readouterr().err.startswith(f"error: {said.replace('FILE', file)}")
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


BROKEN = [
    ("model/own", "_target_: nets.Net\nwidth: 3\nwidth: 4\n", "FILE, line 3: is not YAML: found duplicate key"),
    ("model/own", "a: 1\nb: {x: 1, y\nc: 2\n", "FILE, line 3: is not YAML: "),
    ("model/own", "_target_: runner.model.MLP\n  hidden: [1\n", "FILE, line 2: is not YAML: "),
    ("model/own", "hidden: 'open\n", "FILE, line 2: is not YAML: "),
    ("model/own", "_target_: nets.Net\n\twidth: 3\n", "FILE, line 2: is not YAML: found "),
    ("model/own", "- a\n- b\n", "FILE: contains a list\n  allowed: a mapping of keys to values"),
    ("model/own", "only words\n", "FILE: model._target_: is missing"),
    ("model/own", "", "FILE: model._target_: is missing"),
    ("model/own", "_target_: nets.Net\nnum_outputs: ${facts.num_outputs\n", "FILE: cannot be read: no viable"),
    (
        "model/own", "_target_: nets.Deep\n",
        "FILE: model.depth: is missing: nets.Deep needs it\n  try: +model.depth=VALUE",
    ),
    ("model/own", "defaults:\n  - mpl\n", "FILE, line 2: model: there is no option 'mpl'"),
    ("model/own", "_target_: os.system\ncommand: ls\n", "FILE, line 1: model._target_: 'os.system' is blocked"),
    ("experiment/own", "# @package _global_\ntrainer: {max_epoch: 3}\n", "FILE, line 2: trainer.max_epoch: there"),
    ("experiment/own", "trainer: {max_epochs: 3}\n", "experiment: is not a recipe\n  try: # @package _global_ as"),
    (
        "experiment/own", "# @package _global_\ndefaults:\n  - override /modle: mlp\n",
        "FILE, line 3: there is no group 'modle'",
    ),
    (
        "experiment/own", "# @package _global_\ndefaults:\n  - override /model: mpl\n",
        "FILE, line 3: model: there is no option 'mpl'",
    ),
    (
        "experiment/own", "# @package _global_\ndefaults:\n  - model: mlp\n",
        "FILE, line 3: there is no group 'model' inside the group 'experiment'\n  try: override /model: mlp",
    ),
    ("study", "defaults:\n  - config\n  - override model: mpl\n", "FILE, line 3: model: there is no option 'mpl'"),
    ("study", "defaults:\n  - config\n  - model: mlp\n", "FILE, line 3: model is already in the defaults list"),
    ("study", "defaults: [confg]\n", "--config-name: there is no confg.yaml in runner's own conf/"),
    ("study", "seed: 3\n", "--config-name: the file sets none of runner's groups\n  try: defaults: [config,"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BROKEN)), ids=[f"{file}-{said}" for file, _, said in BROKEN])
def test_files_of_every_kind_of_broken(run: Run, capsys: pytest.CaptureFixture[str], number: int) -> None:
    typed, file = chosen([(name, text) for name, text, _ in BROKEN], number)
    assert run(*OPTIONS, *typed) == 2
    output = capsys.readouterr().err
    said = BROKEN[number][2].replace("FILE", file)
    assert output.removeprefix("error: ").replace(f"{Path.cwd()}/", "").startswith(said)
    assert len(output.splitlines()) <= 3
    assert not Path("outputs").exists()


def test_hydras_own_references_are_followed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    mine("dataset/own.yaml", "_target_: runner.dataset.image_folder\nroot: ${hydra:runtime.cwd}/pictures\n")
    assert run("--config-dir", "mine", "dataset=own") == 2
    assert f"dataset.root: there is no folder '{Path.cwd()}/pictures'" in capsys.readouterr().err
