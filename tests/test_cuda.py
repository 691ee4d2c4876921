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
from conftest import QUICK, Run, only_run, own_model, result_of, weights_of
from torch import nn

from runner.batch import Batch
from runner.loss import Loss, Term
from runner.trainer import Gradient, Trainer
from runner.trainer.graphs import SETTLED, Recording

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


@pytest.mark.parametrize(
    "options",
    ["model=mlp", "model=cnn", "model=cnn transform=crop_flip trainer.precision=bf16",
     "model=mlp trainer.cuda_graph=true loader.drop_last=true"],
)  # fmt: skip
def test_no_step_waits_for_the_device(run: Run, monkeypatch: pytest.MonkeyPatch, options: str) -> None:
    """Nor does what is done between two of them: fetching and transforming batches, and the progress bar."""
    epoch, seen = Trainer.epoch, list[int]()

    def watched(self: Trainer) -> Iterator[None]:
        try:
            for number, _ in enumerate(epoch(self)):
                if number >= SETTLED:  # the first step loads kernels, and graphs are compared
                    torch.cuda.set_sync_debug_mode("error")
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


SMALL = "scheduler=constant tensorboard.pictures=false device=cuda trainer.max_epochs=4"


@pytest.mark.parametrize(
    "options",
    [
        "model=mlp model.dropout=0.3", "model=cnn", "model=cnn trainer.precision=bf16 transform=crop_flip",
        "loader.batch_size=20 trainer.accumulate=3 trainer.micro_batch=16 trainer.ema=0.9 trainer.clip_norm=1",
        "model=vit_small model.patch_size=2 loss=weighted_ce", "model=resnet optimizer=sgd trainer.clip_value=0.01",
        "model=mlp loader=workers loader.num_workers=2 trainer.on_nonfinite=skip", "model=mlp optimizer=lbfgs",
        'model=cnn model.freeze=["0.*"] model.unfreeze_at_epoch=2', "model=mlp trainer.compile=true",
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler
def test_a_graph_trains_to_the_same_bytes(run: Run, monkeypatch: pytest.MonkeyPatch, options: str) -> None:
    replay, replayed = Recording.__call__, list[int]()

    def counted(self: Recording, batches: Any) -> Any:
        replayed.append(len(batches))
        return replay(self, batches)

    monkeypatch.setattr(Recording, "__call__", counted)
    given = (*SMALL.split(), *options.split())
    assert run(*given, "hydra.run.dir=plain") == 0
    assert not replayed
    assert run(*given, "trainer.cuda_graph=true", "hydra.run.dir=whole") == 0
    assert len(replayed) > 30
    assert run(*given, "trainer.cuda_graph=true", "hydra.run.dir=part", "trainer.max_steps=33") == 0
    assert run("resume=part", "trainer.max_steps=null") == 0
    plain, whole, part = (weights_of(Path(name)) for name in ("plain", "whole", "part"))
    assert all(torch.equal(plain[name], whole[name]) and torch.equal(plain[name], part[name]) for name in plain)


def test_a_graph_has_its_memory_for_itself() -> None:
    """Also where somebody has freed what cuBLAS works in, and somebody else has been given it."""
    device = torch.device("cuda:0")
    taken: list[torch.Tensor] = []
    found: list[list[torch.Tensor]] = []
    for graph in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10)).to(device)
        loss = Loss([Term(nn.CrossEntropyLoss())], "classification", 10).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        gradient = Gradient(model, loss, optimizer, device=device, seed=0, graph=graph)
        batch = Batch(torch.randn(64, 784), torch.arange(64) % 10, torch.arange(64)).to(device)
        for number in range(SETTLED + 6):
            gradient([batch], number)
            gradient.update()
            gradient.clear()
            if number == SETTLED:
                torch._C._cuda_clearCublasWorkspaces()
                torch.cuda.empty_cache()
                taken = [torch.full((2**20,), 7.0, device=device) for _ in range(64)]
        found.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert all(bool((each == 7.0).all()) for each in taken)


def test_what_no_graph_can_hold_is_an_error_before_training(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    own = own_model(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, num_outputs):\n"
        "        super().__init__()\n        self.layer = nn.Linear(64, num_outputs)\n\n    def forward(self, x):\n"
        "        return self.layer(x.flatten(1)) * float(x.mean() > -1000)\n"
    )
    waits, draws = own, ("model=mlp", "trainer.step={_target_:runner.trainer.step.mixup}")
    for given, expected in ((waits, "a step cannot be recorded: "), (draws, "a step draws random numbers on the CPU")):
        assert run(*given, "device=cuda", "trainer.cuda_graph=true") == 2
        said = "".join(capsys.readouterr())
        assert f"error: trainer.cuda_graph: true, but {expected}" in said
        assert "try: trainer.cuda_graph=false" in said
        assert not list(Path().rglob("result.json"))
    # What is left of a recording that was broken off does not keep others from drawing: the next job of a sweep.
    assert run("model=mlp", "model.dropout=0.3", "trainer.max_epochs=1", "device=cuda") == 0


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
