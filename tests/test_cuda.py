"""What only a CUDA device can show. Skipped where there is none."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUICK, Run, only_run, result_of, weights_of

from runner.trainer import Trainer

pytestmark = pytest.mark.cuda


@contextmanager
def memory(mebibytes: int) -> Iterator[None]:
    """A card with so little memory."""
    gc.collect()
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(mebibytes * 2**20 / total, 1.0))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


PICTURES = (
    "dataset=synthetic", "dataset.image_size=[3,128,128]", "dataset.size=800", "model=cnn", "loader.batch_size=512",
    "trainer.max_steps=2", "tensorboard.pictures=false", "device=cuda",
)  # fmt: skip
"""Of which a batch, and what a CNN makes of it, takes 4 GiB."""


@pytest.mark.parametrize("options", ["model=mlp", "model=cnn", "model=cnn transform=crop_flip trainer.precision=bf16"])
def test_no_step_waits_for_the_device(run: Run, monkeypatch: pytest.MonkeyPatch, options: str) -> None:
    """Nor does what is done between two of them: fetching and transforming batches, and the progress bar."""
    epoch, seen = Trainer.epoch, list[int]()

    def watched(self: Trainer) -> Iterator[None]:
        try:
            for _ in epoch(self):
                torch.cuda.set_sync_debug_mode("error")  # from the second step on: the first one loads kernels
                seen.append(self.progress.step)
                yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "a prototype feature"
        torch.cuda.set_sync_debug_mode("default")
    monkeypatch.setattr(Trainer, "epoch", watched)
    assert run(*options.split(), "trainer.max_epochs=2", "trainer.log_interval=1000", "device=cuda") == 0
    assert len(seen) > 20


@pytest.mark.parametrize(
    "options",
    ["trainer.precision=fp32", "trainer.precision=bf16", "trainer.precision=fp16", "trainer.compile=true",
     "loader=workers loader.num_workers=2", "transform=crop_flip trainer.ema=0.9 trainer.accumulate=2"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler
def test_a_resumed_run_has_the_same_bytes(run: Run, options: str) -> None:
    """Stopped before the first batch of another size has come, which ends an epoch."""
    given = ("model=cnn", "scheduler=constant", "device=cuda", "tensorboard.pictures=false", *options.split())
    assert run(*given, "hydra.run.dir=whole", "trainer.max_steps=25") == 0
    assert run(*given, "trainer.max_steps=7") == 0
    assert run(f"resume={only_run()}", "trainer.max_steps=25") == 0
    part, whole = weights_of(only_run()), weights_of(Path("whole"))
    assert all(torch.equal(part[name], whole[name]) for name in whole)


def test_a_nan_is_explained_by_computing_its_step_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Trainer.step

    def planting(self: Trainer, batches: list[Any]) -> None:
        if self.progress.step == 7:
            with torch.no_grad():
                next(iter(self.model.parameters()))[0] = float("nan")
        step(self, batches)

    monkeypatch.setattr(Trainer, "step", planting)
    assert run(*QUICK, "device=cuda") == 1
    assert "not finite at step 7 of epoch 1: first in layer" in "".join(capsys.readouterr())


def test_a_batch_that_does_not_fit_is_cut(run: Run) -> None:
    with memory(512):
        assert run(*PICTURES, "trainer.micro_batch=auto") == 0
    state = torch.load(only_run() / "checkpoints/last.pt", weights_only=True)
    assert 1 <= state["micro_batch"] < 512
    assert result_of(only_run())["state"] == "completed"


def test_a_batch_that_does_not_fit_is_an_error_that_says_what_would(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with memory(512):
        assert run(*PICTURES) == 1
    said = "".join(capsys.readouterr())
    assert "error: out of memory on cuda:0 with batches of 512: " in said
    assert "try: trainer.micro_batch=auto, or loader.batch_size=256 trainer.accumulate=2" in said
    assert "Traceback" not in said


def test_a_card_that_is_too_small_for_the_data(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with memory(16):  # the pictures take 40 MB as bytes
        assert run(*PICTURES) == 2
    said = "".join(capsys.readouterr())
    assert "error: device: cuda:0 has too little memory for the model and the data: CUDA out of memory. Tried" in said
    assert not list(Path().rglob("result.json"))


def test_a_profile(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for steps, expected in ((3, False), (6, False), (20, True)):
        options = (*QUICK, "trainer.profile=true", f"trainer.max_steps={steps}", f"hydra.run.dir={steps}")
        assert run(*options, "device=cuda") == 0
        said = "".join(capsys.readouterr())
        assert ("Profile of 10 steps" in said) == expected
    assert "gemm" in said  # a kernel
    assert "ProfilerStep" not in said
    assert "Warning" not in said


def test_jobs_of_a_sweep_are_forked_before_cuda_is_started() -> None:
    command = [sys.executable, "-m", "runner", "-m", *QUICK, "device=cuda", "seed=0,1,2", "sweep.n_jobs=3"]
    done = subprocess.run([*command, "hydra.sweep.dir=sweep"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(path.read_text()) for path in Path("sweep").glob("*/result.json")]
    assert [(result["state"], result["device"]) for result in results] == [("completed", "cuda:0")] * 3
