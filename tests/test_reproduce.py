"""A run again: the same figures, or what may be the reason that they are others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import QUICK, Run


def test_a_run_again_is_the_same(run: Run, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("reproduce", f"run={digits}", "hydra.run.dir=again") == 0
    assert "digits reproduced: all 10 metric values and the weights are identical" in capsys.readouterr().out
    for name in ("metrics.jsonl", "split.json"):
        assert Path("again", name).read_bytes() == (digits / name).read_bytes()
    assert not (digits / "runner.log").read_text().count("again")


def test_every_fold_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(*QUICK, "dataset=iris", "split=kfold", "split.n_splits=2", "trainer.max_epochs=1", "hydra.run.dir=r") == 0
    )
    assert run("reproduce", "run=r", "hydra.run.dir=again") == 0
    # of each fold 3 at its evaluation and 4 at its end; of all of them 4, their deviations, and 1 out of fold
    assert "r reproduced: all 23 metric values and the weights are identical" in capsys.readouterr().out
    text = Path("again/fold-1/result.json").read_text()
    Path("r/fold-1/result.json").write_text(text.replace('"test/accuracy": 0.', '"test/accuracy": 0.1'))
    assert run("reproduce", "run=r", "hydra.run.dir=third") == 1
    assert "r not reproduced: 1 of 23 metric values differ" in capsys.readouterr().out


def test_other_weights_are_found(run: Run, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = torch.load(digits / "checkpoints/best.pt", weights_only=True)
    state["model"]["1.weight"] += 1
    torch.save(state, digits / "checkpoints/best.pt")
    assert run("reproduce", f"run={digits}", "hydra.run.dir=again") == 1
    assert "digits not reproduced: 0 of 10 metric values differ, but the weights do" in capsys.readouterr().out


def test_what_differs_is_said_with_what_may_be_the_reason(
    run: Run, tabular: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_csv("wine.csv")
    frame.assign(hue=frame["hue"] * 2 + frame["ash"]).to_csv("wine.csv", index=False)
    text = Path("r/result.json").read_text()
    Path("r/result.json").write_text(text.replace(json.loads(text)["versions"]["torch"], "1.0"))
    assert run("reproduce", "run=r", "hydra.run.dir=again") == 1
    output = capsys.readouterr().out
    said = [line.split() for line in output[output.index("r not reproduced:") :].splitlines()]
    assert ["torch", "1.0"] in [line[:2] for line in said]
    assert "data" in [line[0] for line in said if line]
    assert any(line[:3] == ["step", "2:", "train/loss"] for line in said)


def test_a_run_that_draws_from_no_seed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own_data.py").write_text(
        "import os, torch\nfrom runner.dataset import ArrayDataset\n\n"
        "def data():\n    draw = torch.Generator().manual_seed(0)\n"
        "    inputs = torch.randn(100, 4, generator=draw)\n"
        "    noise = torch.tensor(list(os.urandom(100))) / 255\n"
        "    return Noisy(inputs, (inputs[:, 0] > 0).long(), noise)\n\n"
        "class Noisy(torch.utils.data.Dataset):\n"
        "    def __init__(self, inputs, targets, noise):\n"
        "        self.inputs, self.targets, self.noise = inputs, targets, noise\n"
        "    def __len__(self):\n        return 100\n"
        "    def __getitem__(self, i):\n        return self.inputs[i] + self.noise[i], int(self.targets[i])\n"
    )
    Path("mine/dataset").mkdir(parents=True)
    Path("mine/dataset/own.yaml").write_text("_target_: own_data.data\n")
    own = ("--config-dir", "mine", "allow_targets=[own_data.*]")
    assert run(*own, *QUICK, "trainer.max_epochs=1", "dataset=own", "hydra.run.dir=r") == 0
    assert run(*own, "reproduce", "run=r") == 2  # the command comes first
    assert run("reproduce", "run=r", "hydra.run.dir=again", "allow_targets=[own_data.*]") == 1
    assert "no other difference was found: something random does not depend on the seed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((), "run: is not given"),
        (("run=nowhere",), "run: 'nowhere' does not exist"),
        (("run=digits", "seed=3"), "seed: would make it a different experiment"),
        (("run=digits", "trainer.max_epochs=3"), "trainer.max_epochs: would make it a different experiment"),
        (("run=digits", "trainer.early_stopping.patience=1"), "patience: would make it a different experiment"),
        (("run=digits", "model=cnn"), "model: would make it a different experiment"),
        (("run=digits", "-m"), "-m: reproduce takes one run"),
        (("run=half",), "run: half is not completed (state: interrupted)\n  allowed: a completed run"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str], overrides: tuple[str, ...], said: str
) -> None:
    shutil.copytree(digits, "half")
    Path("half/result.json").write_text('{"state": "interrupted"}')
    before = sorted(Path().rglob("*"))
    assert run("reproduce", *overrides) == 2
    assert said in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints/best.pt"])
def test_what_is_damaged_is_found_before_everything_is_trained_again(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (digits / name).write_text("[")
    assert run("reproduce", f"run={digits}", "hydra.run.dir=again") == 2
    assert f"error: digits/{name}: " in capsys.readouterr().err
    assert not Path("again").exists()
