"""Runs on a device that is not the CPU: on CUDA if it is there and asked for, and on a pretended one everywhere."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Run, result_of
from PIL import Image
from sklearn.datasets import load_digits

SMALL = "loader.subset=200 scheduler=constant tensorboard.enabled=false trainer.threads=1 hydra.output_subdir=null"
LINES = {
    f"device={{}} {SMALL} model=cnn model.dropout=0 hydra.run.dir=whole trainer.max_epochs=2": 0,
    f"device=cpu {SMALL} model=cnn model.dropout=0 hydra.run.dir=cpu trainer.max_epochs=1": 0,
    "resume=cpu device={} trainer.max_epochs=2": 0,
    "evaluate run=whole device={} temperature=val output=evaluated figures=false": 0,
    "predict run=whole device={} input=test flips=[horizontal] output=there.csv": 0,
    "predict run=whole device=cpu input=test flips=[horizontal] output=here.csv": 0,
    # Reports and plots are made of what is on the CPU again, so two classes will do.
    "device={} dataset=image_folder dataset.root=pictures dataset.channels=1 dataset.cache=null loader.batch_size=16"
    " model=cnn loss=weighted_ce transform=crop_flip optimizer=muon"
    " trainer.max_epochs=1 trainer.ema=0.9 trainer.clip_norm=1 trainer.clip_value=1 trainer.accumulate=2"
    " trainer.on_nonfinite=skip trainer.micro_batch=8 trainer.step={{_target_:runner.trainer.step.mixup}}"
    " trainer.evaluate_train=true tensorboard.gradients=true tensorboard.histograms=true"
    " tensorboard.embeddings=6 'tensorboard.grad_cam=\"4.0\"'"
    " hydra.run.dir=much figures=true": 0,
    f"device={{}} {SMALL} dataset=diabetes model=mlp loss=mse metric=regression trainer.max_epochs=1"
    " optimizer=lbfgs optimizer.max_iter=4 hydra.run.dir=values": 0,
    "predict run=values device={} input=test output=values.csv": 0,
    f"device={{}} {SMALL} model=mlp optimizer=sgd optimizer.lr=1e30 trainer.max_epochs=1 hydra.run.dir=nan": 1,
}
"""Command lines, and their exit statuses."""


def draw_pictures() -> None:
    """Of two digits, a folder for each."""
    inputs, targets = load_digits(n_class=2, return_X_y=True)
    for number, (pixels, digit) in enumerate(zip(inputs[:80], targets[:80], strict=True)):
        path = Path(f"pictures/{digit}/{number:02}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.reshape(8, 8).astype(np.uint8) * 15).save(path)


def check() -> None:
    """That the device has computed what the CPU computes."""
    whole, resumed = result_of("whole")["metrics"], result_of("cpu")["metrics"]
    assert whole["val/loss"] == pytest.approx(resumed["val/loss"], rel=2e-3)
    assert whole["test/accuracy"] == pytest.approx(resumed["test/accuracy"], abs=0.01)
    assert result_of("evaluated")["metrics"]["test/accuracy"] == whole["test/accuracy"]
    there, here = Path("there.csv").read_text().splitlines(), Path("here.csv").read_text().splitlines()
    for one, other in zip(there[1:], here[1:], strict=True):
        (index, *_, probability), (same, *_, its) = one.split(","), other.split(",")
        assert index == same
        assert float(probability) == pytest.approx(float(its), rel=1e-3)
    assert "not finite at step 1 of epoch 1: first in layer 4 (Linear)" in result_of("nan")["error"]


def test_a_device_that_mixes_with_the_cpu_as_little_as_cuda_does() -> None:
    draw_pictures()
    script = str(Path(__file__).parent / "pretend.py")
    lines = [line.format("mps") for line in LINES]
    done = subprocess.run([sys.executable, script, *lines], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == list(LINES.values()), done.stdout + done.stderr
    assert "pretend:0" in done.stdout
    check()


@pytest.mark.cuda
def test_cuda(run: Run) -> None:
    draw_pictures()
    for line, status in LINES.items():
        assert run(*shlex.split(line.format("cuda"))) == status, line
    check()
