"""`debug=ide`: what a debugger needs of a run."""

from __future__ import annotations

import multiprocessing.process
import os
import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUICK, Run
from PIL import Image

import runner
from runner import debugger, folder

ROOT = Path(runner.__file__).parent.parent

OWN = """
import numpy as np, threading, torch
from torch import nn
from runner.dataset import Parts

class Broken(Exception):
    pass

here, seen, copies, threads = {}, [], [], []

def at(place):
    seen.append(threading.current_thread() is threading.main_thread())
    threads.append(threading.active_count())
    if place in here:
        raise here[place]

class Set(torch.utils.data.Dataset):
    classes = ["a", "b"]
    def __init__(self, size=40):
        at("dataset")
        self.size = size
    def __len__(self):
        return self.size
    def __getitem__(self, index):
        at("sample")
        return torch.randn(3) + index % 2, index % 2

class Stream(torch.utils.data.IterableDataset):
    classes = ["a", "b"]
    def __iter__(self):
        for index in range(64):
            at("streamed")
            yield torch.randn(3) + index % 2, index % 2

def stream():
    return Parts(Stream(), val=Set(), test=Set())

class Shift:
    def __call__(self, inputs):
        at("transform")
        return inputs + 0.5

class Net(nn.Module):
    def __init__(self, where=""):
        super().__init__()
        at("model")
        self.body = nn.Linear(3, 2)
    def forward(self, inputs):
        at("train" if self.training else "forward")
        return self.body(inputs)
    def __deepcopy__(self, memo):
        copies.append(self)
        raise RuntimeError("no copy")

class Entropy(nn.CrossEntropyLoss):
    def forward(self, output, target):
        at("loss")
        return super().forward(output, target)

def score(y_true, y_pred):
    at("metric")
    return float((y_true == y_pred).mean())

def step(model, loss, batch):
    at("step")
    return loss(model(batch.input), batch)

def make_split(subject):
    at("split")
    from runner.split import random
    return random(subject, seed=0)

class Sgd(torch.optim.SGD):
    def step(self, closure=None):
        at("optimizer")
        return super().step(closure)

def curve(epoch):
    at("scheduler")
    return 0.9 ** epoch
"""

GROUPS = {
    "dataset/own": "_target_: own.Set\nsize: 40",
    "dataset/stream": "_target_: own.stream",
    "transform/own": "train: [{_target_: own.Shift}]\neval: [{_target_: own.Shift}]",
    "split/own": "_target_: own.make_split",
    "model/own": "_target_: own.Net",
    "loss/own": "_target_: own.Entropy",
    "metric/own": "score: {_target_: own.score}",
    "optimizer/own": "_target_: own.Sgd\nlr: 0.1",
    "scheduler/own": (
        "_target_: torch.optim.lr_scheduler.LambdaLR\ninterval: epoch\n"
        "lr_lambda: {_target_: own.curve, _partial_: true}"
    ),
}  # fmt: skip

RUN = (
    "--config-dir", "mine", "allow_targets=[own.*]",
    *(name.replace("/", "=") for name in GROUPS if "stream" not in name),
    "trainer.max_epochs=2", "trainer.threads=1", "hydra.output_subdir=null", "loader.batch_size=10",
)  # fmt: skip

PLACES = (
    "dataset", "sample", "transform", "split", "model", "forward", "train", "loss", "metric", "optimizer", "scheduler",
)  # fmt: skip


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A project with code of its own for every group."""
    import importlib

    Path("own.py").write_text(OWN)
    for name, text in GROUPS.items():
        path = Path("mine", f"{name}.yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(os.getcwd())
    return importlib.import_module("own")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has whatever starts a thread or a process fail, and be noted."""
    started: list[str] = []

    def refuse(what: str) -> Callable[..., None]:
        def start(*arguments: object) -> None:
            started.append(what)
            raise AssertionError(f"{what} was started")

        return start

    monkeypatch.setattr(os, "fork", refuse("a process"))
    monkeypatch.setattr(threading.Thread, "start", refuse("a thread"))
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse("a process of multiprocessing"))
    return started


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / "checkpoints" / "best.pt", weights_only=True)["model"]
    assert isinstance(state, dict)
    return state


@pytest.mark.parametrize("place", PLACES)
def test_an_error_of_the_users_code_arrives_as_it_was_raised(
    run: Run, own: Any, alone: list[str], capsys: pytest.CaptureFixture[str], place: str
) -> None:
    error = own.here[place] = own.Broken("as it is")
    with pytest.raises(own.Broken) as caught:
        run(*RUN, "debug=ide")
    assert caught.value is error
    assert error.__cause__ is None
    assert error.__context__ is None
    frames = traceback.extract_tb(error.__traceback__)
    assert [Path(frame.filename).name for frame in frames[-2:]] == ["own.py", "own.py"]
    assert (frames[-1].name, frames[-1].line) == ("at", "raise here[place]")
    assert "error:" not in capsys.readouterr().err
    assert not alone
    assert not debugger.on
    assert not folder.held()
    del own.here[place]


@pytest.mark.parametrize("place", PLACES)
def test_without_it_the_same_error_is_a_message(
    run: Run, own: Any, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    own.here[place] = own.Broken("as it is")
    assert run(*RUN) in (1, 2)
    said = capsys.readouterr().err
    assert re.search(r"error: .*\bas it is\b", said)


@pytest.mark.parametrize("kind", [OSError, ValueError, torch.OutOfMemoryError, MemoryError])
@pytest.mark.parametrize("place", ["model", "train"])
def test_an_error_of_a_kind_that_has_a_message_arrives_too(
    run: Run, own: Any, place: str, kind: type[Exception]
) -> None:
    own.here[place] = kind("as it is")
    with pytest.raises(kind) as caught:
        run(*RUN, "debug=ide")
    assert caught.value is own.here[place]


def test_a_module_that_fails_when_it_is_imported(run: Run, own: Any) -> None:
    Path("half.py").write_text("import own\n1 / 0\n")
    with pytest.raises(ZeroDivisionError) as caught:
        run(*RUN, "allow_targets=[own.*,half.*]", "model._target_=half.Net", "debug=ide")
    assert traceback.extract_tb(caught.value.__traceback__)[-1].line == "1 / 0"
    Path("lacks.py").write_text("import never_installed\n")
    with pytest.raises(ModuleNotFoundError, match="never_installed"):
        run(*RUN, "allow_targets=[own.*,lacks.*]", "model._target_=lacks.Net", "debug=ide")


def test_mistakes_of_the_configuration_stay_messages(run: Run, own: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*RUN, "debug=ide", "trainer.max_epochs=many") == 2
    assert "trainer.max_epochs: 'many' is not allowed" in capsys.readouterr().err
    assert run(*RUN, "debug=ide", "model._target_=own.Nothing") == 2
    assert "own has no 'Nothing'" in capsys.readouterr().err
    assert run(*RUN, "debug=ide", "trainer.accumulate=50") == 2
    assert "trainer.accumulate: 50 is more than" in capsys.readouterr().err


def test_a_run_is_the_same_with_nothing_beside_it(run: Run, own: Any, request: pytest.FixtureRequest) -> None:
    assert run(*RUN, "loader.num_workers=2", "hydra.run.dir=usual") == 0
    own.seen.clear()
    own.copies.clear()
    started = request.getfixturevalue("alone")
    assert run(*RUN, "loader.num_workers=2", "hydra.run.dir=looked_at", "debug=ide") == 0
    assert not started
    assert not own.copies
    assert len(own.seen) > 100
    assert all(own.seen)
    before, now = weights(Path("usual")), weights(Path("looked_at"))
    assert before.keys() == now.keys()
    assert all(torch.equal(before[name], now[name]) for name in before)
    assert Path("usual/metrics.jsonl").read_bytes() == Path("looked_at/metrics.jsonl").read_bytes()
    held = [Path(name, "config.yaml").read_text() for name in ("usual", "looked_at")]
    assert held[0] == held[1]  # it says how to run it again, and with two workers


def test_pictures_are_decoded_and_a_board_is_written_in_this_thread(run: Run, alone: list[str]) -> None:
    for number in range(24):
        path = Path("photos", "ab"[number % 2], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    small = ("model=mlp", "model.hidden=[4]", "trainer.max_epochs=1", "dataset=image_folder", "dataset.root=photos")
    assert run(*small, "dataset.size=[8,8]", "hydra.run.dir=here", "figures=true", "debug=ide") == 0
    assert not alone
    assert list(Path("here/tensorboard").glob("events.*"))
    assert torch.get_num_threads() == 1  # as trainer.threads=auto would have it here anyway


def test_all_threads_are_not_taken_for_a_large_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from runner import device

    monkeypatch.setattr(device, "WORTH_A_THREAD", 0.0)
    monkeypatch.setattr(device, "cores", lambda: [0, 1, 2])
    assert run(*QUICK, "trainer.threads=auto", "debug=ide") == 0
    assert torch.get_num_threads() == 1
    assert run(*QUICK, "trainer.threads=2", "debug=ide") == 0
    assert torch.get_num_threads() == 2


def test_a_file_may_ask_for_it(run: Run, own: Any) -> None:
    Path("mine/experiment").mkdir()
    Path("mine/experiment/looked_at.yaml").write_text("# @package _global_\ndebug: ide\n")
    own.here["train"] = own.Broken()
    with pytest.raises(own.Broken):
        run(*RUN, "experiment=looked_at")
    assert own.threads[-1] == 1


def test_a_stream_of_several_workers_is_refused(run: Run, own: Any, capsys: pytest.CaptureFixture[str]) -> None:
    stream = (*RUN, "dataset=stream", "split=predefined", "loader.epoch_samples=32", "debug=ide")
    assert run(*stream, "loader.num_workers=2") == 2
    assert "loader.num_workers: 2: without workers (debug=ide)" in capsys.readouterr().err
    assert run(*stream, "loader.num_workers=0") == 0
    own.here["streamed"] = own.Broken()
    with pytest.raises(own.Broken):
        run(*stream)


def test_a_sweep_is_refused(run: Run, own: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-m", *RUN, "seed=0,1", "debug=ide") == 2
    assert "debug: ide works on a single run" in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_of_a_cross_validation_fold_0_alone(run: Run, alone: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUICK, "split=stratified_kfold", "hydra.run.dir=here", "debug=ide") == 0
    assert "debug=ide: fold 0 alone" in capsys.readouterr().out
    assert not alone
    assert not Path("here/fold-0").exists()


def test_resuming_a_cross_validation_names_the_folder_of_a_fold(
    run: Run, crossed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in crossed.rglob("*") if path.is_file()}
    assert run(f"resume={crossed}", "trainer.max_epochs=3", "debug=ide") == 2
    remedy = f"resume={crossed}/fold-0"
    assert f"  try: {remedy}" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in crossed.rglob("*") if path.is_file()} == before
    assert run(remedy, "trainer.max_epochs=3", "debug=ide") == 0


def test_it_is_typed_when_a_run_is_resumed_and_not_kept(run: Run, own: Any, alone: list[str]) -> None:
    own.here["train"] = own.Broken()
    with pytest.raises(own.Broken):
        run(*RUN, "hydra.run.dir=here", "debug=ide")
    assert '"state": "failed"' in Path("here/result.json").read_text()
    del own.here["train"]
    assert run("resume=here", "allow_targets=[own.*]", "debug=ide") == 0
    assert not alone
    assert "debug: null" in Path("here/config.yaml").read_text()


@pytest.mark.parametrize("command", ["inspect", "lr_find"])
def test_commands_that_look_at_a_model(run: Run, own: Any, alone: list[str], command: str) -> None:
    own.here["model"] = own.Broken()
    with pytest.raises(own.Broken):
        run(command, *RUN, "debug=ide")
    assert not alone
    assert not debugger.on


def test_pdb_stops_where_it_was_raised_and_sees_what_was_there(own: Any) -> None:
    """In a process of its own, as it is typed."""
    Path("own.py").write_text(OWN.replace("return self.body(inputs)", 'return self.body(inputs) + {}["missing"]'))
    words = ["-c", "continue", "-c", "p ('seen', tuple(inputs.shape))", "-c", "quit", "-m", "runner"]
    done = subprocess.run(
        [sys.executable, "-m", "pdb", *words, *RUN, "debug=ide"],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "KeyError: 'missing'" in done.stdout + done.stderr
    assert "('seen', (10, 3))" in done.stdout


def test_pdb_goes_on_behind_the_end() -> None:
    words = ["-c", "continue", "-c", "quit", "-m", "runner", "--version", "debug=ide"]
    done = subprocess.run(
        [sys.executable, "-m", "pdb", *words],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "The program exited via sys.exit(). Exit status: 0" in done.stdout


def test_python_prints_the_usual_traceback(own: Any) -> None:
    Path("own.py").write_text(OWN.replace("return self.body(inputs)", 'return self.body(inputs) + {}["missing"]'))
    done = subprocess.run(
        [sys.executable, "-m", "runner", *RUN, "debug=ide"],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert done.stderr.splitlines()[-1] == "KeyError: 'missing'"
