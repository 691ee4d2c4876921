"""What is in `examples/` does what it says there."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import Run, only_run, result_of, same_tensors, weights_of
from torch.nn import functional

SPIRALS = Path(__file__).parents[1] / "examples/spirals"
RECIPE = (SPIRALS / "conf/experiment/spirals.yaml").read_text().splitlines()


def test_parts_of_ones_own(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained with the command that their recipe has, stopped, resumed, and used."""
    command = shlex.split(RECIPE[1].removeprefix("# runner "))
    assert f"runner {shlex.join(command)}".replace("'", '"') in (SPIRALS / "spirals.py").read_text()
    shutil.copytree(SPIRALS, ".", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "outputs"))
    monkeypatch.syspath_prepend(Path.cwd())
    short = (*command, "dataset.size=600", "trainer.max_epochs=2", "scheduler=constant", "tensorboard.enabled=false")
    assert run(*short, "hydra.run.dir=whole") == 0
    assert run(*short, "trainer.max_steps=7") == 0
    assert run(f"resume={only_run()}", "trainer.max_steps=null") == 0
    assert same_tensors(weights_of("whole"), weights_of(only_run()))
    assert result_of("whole")["metrics"]["test/worst_recall"] > 0.3  # of a class by chance
    assert run("evaluate", "run=whole", "figures=false") == 0
    assert run("predict", "run=whole", "input=test", "output=predictions.csv") == 0
    assert len(Path("predictions.csv").read_text().splitlines()) == 121


def test_the_loss_lies_between_cross_entropy_and_absolute_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SPIRALS)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    from spirals import GeneralizedCrossEntropy  # type: ignore[import-not-found, unused-ignore]

    logits, target = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]]).double(), torch.tensor([0, 2])
    wrong = 1 - functional.softmax(logits, 1)[torch.arange(2), target]
    torch.testing.assert_close(GeneralizedCrossEntropy(1.0)(logits, target), wrong)
    torch.testing.assert_close(
        GeneralizedCrossEntropy(1e-5)(logits, target), functional.cross_entropy(logits, target, reduction="none"),
        rtol=1e-3, atol=1e-4,
    )  # fmt: skip
    sure = torch.tensor([[120.0, 0.0, 0.0]], requires_grad=True)
    GeneralizedCrossEntropy()(sure, torch.tensor([1])).sum().backward()
    assert sure.grad is not None
    assert sure.grad.isfinite().all()
    del sys.modules["spirals"]
