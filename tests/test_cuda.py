"""What only a CUDA device can show. Skipped where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUICK, Run, only_run, result_of, weights_of

from runner.trainer import Trainer

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_no_step_waits_for_the_device(run: Run, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    step, seen = Trainer.step, list[int]()

    def watched(self: Trainer, batches: list[Any]) -> None:
        torch.cuda.set_sync_debug_mode("error" if seen else "default")  # the first one loads kernels
        try:
            step(self, batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        seen.append(self.progress.step)

    monkeypatch.setattr(Trainer, "step", watched)
    assert run(f"model={model}", "trainer.max_epochs=1", "device=cuda") == 0
    assert len(seen) > 10


def test_a_resumed_run_has_the_same_bytes(run: Run) -> None:
    options = ("model=cnn", "scheduler=constant", "device=cuda")
    assert run(*options, "hydra.run.dir=whole", "trainer.max_steps=25") == 0
    assert run(*options, "trainer.max_steps=11") == 0
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
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(512 * 2**20 / total, 1.0))
    try:
        picture = ("dataset=synthetic", "dataset.image_size=[3,128,128]", "dataset.size=800", "model=cnn")
        assert (
            run(*picture, "loader.batch_size=512", "trainer.micro_batch=auto", "trainer.max_steps=2", "device=cuda")
            == 0
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    state = torch.load(only_run() / "checkpoints/last.pt", weights_only=True)
    assert 1 <= state["micro_batch"] < 512
    assert result_of(only_run())["state"] == "completed"


def test_jobs_of_a_sweep_are_forked_before_cuda_is_started() -> None:
    command = [sys.executable, "-m", "runner", "-m", *QUICK, "device=cuda", "seed=0,1,2", "sweep.n_jobs=3"]
    done = subprocess.run([*command, "hydra.sweep.dir=sweep"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(path.read_text()) for path in Path("sweep").glob("*/result.json")]
    assert [(result["state"], result["device"]) for result in results] == [("completed", "cuda:0")] * 3
