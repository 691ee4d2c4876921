"""The bench in short. In full: `uv run tests/reliability/bench.py`."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from conftest import ONE_METRIC, QUICK, Forked, Once, Run, result_of, wait_for, warm
from reliability import bench
from reliability.bench import COMMON, EXPERIMENTS, MODELS, whole

from runner import folder
from runner.__main__ import main
from runner.batch import Batch
from runner.experiment import Experiment
from runner.trainer import Trainer

SHORT = ("trainer.max_epochs=2", "loader.subset=400", "loader.batch_size=16", *ONE_METRIC)
"""Overrides by which a run of the bench has half as many steps, as many between two checkpoints, and a start, an
evaluation in between and an end."""


def _spoilt() -> None:
    warm()
    whole(Path("damaged"), (*COMMON, *SHORT, *MODELS["mlp"]))


@pytest.mark.parametrize(
    ("experiment", "count"),
    [
        ("kills", 1),
        ("signals", 1),
        ("flips", 100),
        ("truncations", 40),
        ("zeros", 40),
        ("foreign", 8),
        ("disks", 2),
        ("sweeps", 1),
        ("stalls", 1),
        ("errors", 2),
        ("folds", 2),
    ],
)
def test_nothing_is_lost_and_nothing_differs(
    once: Once,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    experiment: str,
    count: int,
) -> None:
    warm()
    monkeypatch.setattr(bench, "COMMON", (*COMMON, *SHORT))
    monkeypatch.setattr(bench, "OFTEN", ("trainer.max_epochs=3", "checkpoint.every=1 steps"))
    if experiment in ("flips", "truncations", "zeros", "foreign"):
        shutil.copytree(once(_spoilt) / "damaged", "damaged")
    seed = os.getpid()  # other moments each time
    said, wrong = EXPERIMENTS[experiment][0](count, random.Random(seed))
    assert wrong == 0, f"seed {seed}: {said}\n{capsys.readouterr().out}"
    if "left out" in said:
        pytest.skip(said)


CHANGES = [
    "dataset=wine", "split.seed=1", "split.val=0.3", "split=random", "seed=1", "model=cnn", "model.hidden=[8]",
    "model.dropout=0.5", "loss=focal", "loss.label_smoothing=0.1", "loss.weight=balanced", "optimizer=sgd",
    "optimizer.lr=0.5", "optimizer.weight_decay=0", "scheduler=cosine", "scheduler.warmup=5", "loader.batch_size=32",
    "loader.sampler=sequential", "trainer.accumulate=2", "trainer.clip_norm=1", "trainer.precision=bf16",
    "transform.train=[]",
]  # fmt: skip


def test_changes_that_make_another_experiment_are_refused_by_name(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in digits.rglob("*") if path.is_file()}
    groups = [change for change in CHANGES if "." not in change.partition("=")[0] and change != "seed=1"]
    for changes in (groups, [change for change in CHANGES if change not in groups], ["seed=1"]):
        capsys.readouterr()
        assert run("resume=digits", "trainer.max_epochs=9", *changes) == 2
        said = capsys.readouterr().err
        lines = said.removeprefix("error: ").splitlines()
        keys = [line.partition(":")[0].partition("=")[0] for line in lines if not line.startswith("  ")]
        assert sorted(keys) == sorted(change.partition("=")[0] for change in changes), said
        assert len(lines) <= 3 * len(changes)
        assert said.count("leave out resume= to start a new run") >= len(changes)
        assert "Traceback" not in said
    assert {path: path.read_bytes() for path in digits.rglob("*") if path.is_file()} == before


def test_changes_that_do_not_are_made_and_said(run: Run, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ("trainer.max_epochs=3", "trainer.log_interval=3", "checkpoint.every=2 steps", "trainer.threads=2")
    assert run("resume=digits", *changes) == 0
    said = capsys.readouterr().out
    for line in (
        "trainer.max_epochs: 2 → 3 from here on",
        "checkpoint.every: '1 epoch' → '2 steps' from here on",
    ):
        assert line in said
    assert "the run was started with 1 thread and now has 2" in said
    assert result_of(digits)["epochs"] == 3


def test_two_processes_do_not_run_in_one_folder_and_the_one_stopped_says_how_to_go_on(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Forked(*QUICK, "trainer.max_epochs=5000", "hydra.run.dir=here")
    wait_for(Path("here/checkpoints/last.pt"))
    assert run("resume=here") == 2
    assert f"resume: 'here' is in use by process {first.pid} on " in capsys.readouterr().err
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait() == 143
    assert "stopped by SIGTERM; to resume: python -m runner resume=here" in Path("output.txt").read_text()
    assert folder.state(Path("here")) == "interrupted"
    step = torch.load("here/checkpoints/last.pt", weights_only=True)["progress"]["step"]
    assert run("resume=here", f"trainer.max_steps={step + 1}") == 0


@pytest.mark.parametrize("where", ["runner.experiment.prepare", "runner.trial.eval_mode", "runner.model.MLP.forward"])
def test_a_signal_while_it_is_built_leaves_nothing(run: Run, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Also where what code of the user's raises is taken for a mistake in it."""

    def slow(*arguments: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("it should have stopped")

    monkeypatch.setattr(where, slow)
    assert run(*QUICK) == 143
    assert not Path("outputs").exists()


def test_a_signal_inside_an_evaluation_stops_it_there(run: Run, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examine, asked = Experiment.examine, [0]

    def stopping(self: Experiment, *arguments: object) -> object:
        asked[0] += 1
        if asked[0] in stops:
            signal.raise_signal(signal.SIGTERM)
        return examine(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Experiment, "examine", stopping)
    # The second epoch's val part, and test at the end.
    stops: tuple[int, ...] = (2, 5)
    assert run(*QUICK, "hydra.run.dir=here") == 143
    state = torch.load("here/checkpoints/last.pt", weights_only=True)
    assert (state["progress"]["step"], len(state["progress"]["history"])) == (34, 1)
    assert run("resume=here") == 143
    assert result_of("here")["state"] == "interrupted"
    stops = ()
    assert run("resume=here") == 0
    assert Path("here/metrics.jsonl").read_bytes() == (digits / "metrics.jsonl").read_bytes()
    found, expected = (result_of(folder)["metrics"] for folder in ("here", digits))
    assert found == expected


def test_a_run_does_not_start_without_room_for_its_checkpoints(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """64·16 + 16 + 16·10 + 10 weights of 4 bytes, three times with the optimizer's moments, in three files."""
    needed = 4 * (64 * 16 + 16 + 16 * 10 + 10) * 3 * 3
    usage = shutil.disk_usage(".")
    monkeypatch.setattr("runner.recorder.shutil.disk_usage", lambda path: usage._replace(free=needed - 1))
    assert run(*QUICK) == 2
    assert "checkpoints will take 0 MiB, and 0 MiB are free there\n  try: hydra.run.dir=" in capsys.readouterr().err
    assert not Path("outputs").exists()
    monkeypatch.setattr("runner.recorder.shutil.disk_usage", lambda path: usage._replace(free=needed))
    assert run(*QUICK, "check=only") == 0


def test_a_second_ctrl_c_ends_it_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer.step

    def interrupted(self: Trainer, batches: list[Batch]) -> None:
        if self.progress.step == 20:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("it should have ended")
        step(self, batches)

    monkeypatch.setattr(Trainer, "step", interrupted)
    assert run(*QUICK, "hydra.run.dir=here") == 130
    assert result_of("here")["state"] == "interrupted"
    assert torch.load("here/checkpoints/last.pt", weights_only=True)["progress"]["step"] == 17


def test_the_checkpoint_of_another_run_is_not_taken(run: Run, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUICK, "hydra.run.dir=there", "seed=1", "split.seed=2", "trainer.max_steps=5") == 0
    shutil.copyfile("there/checkpoints/last.pt", digits / "checkpoints/last.pt")
    assert run("resume=digits", "trainer.max_epochs=9") == 2
    said = capsys.readouterr().err
    assert "resume: the split has changed since digits began" in said
    assert "resume: the seed has changed since digits began (1, now 0)" in said


def _long_and_short() -> None:
    """A run of 3 epochs, and one of 1 that could become it."""
    for name, epochs in (("whole", 3), ("here", 1)):
        options = (*QUICK, "scheduler=constant", f"trainer.max_epochs={epochs}", f"hydra.run.dir={name}")
        assert main([*options, "hydra.output_subdir=.hydra"]) == 0


@pytest.mark.parametrize(
    "names", [["split.json"], ["split.npz"], ["result.json"], ["metrics.jsonl"], ["runner.log", ".hydra"]]
)
def test_what_else_is_lost_or_damaged(
    run: Run, capsys: pytest.CaptureFixture[str], once: Once, names: list[str]
) -> None:
    """A run goes on without what it can make again, and says what it cannot do without."""
    shutil.copytree(once(_long_and_short), ".", dirs_exist_ok=True)
    for damage in ("missing", "damaged"):
        for path in (Path("here") / name for name in names):
            if path.is_dir():
                shutil.rmtree(path)
            elif damage == "missing":
                path.unlink()
            else:
                path.write_bytes(b"{\0")
        epochs = 2 if damage == "missing" else 3
        status = run("resume=here", f"trainer.max_epochs={epochs}")
        assert status in (0, 2), damage
        assert "Traceback" not in "".join(capsys.readouterr())
        if status == 2:
            return
    assert Path("here/metrics.jsonl").read_bytes() == Path("whole/metrics.jsonl").read_bytes()
    assert (Path("here/split.npz")).read_bytes() == Path("whole/split.npz").read_bytes()


def test_several_best_checkpoints_need_room_for_the_one_that_falls_out(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last one, the best one, two and the one they replace, and the one that is being written."""
    needed = 4 * (64 * 16 + 16 + 16 * 10 + 10) * 3 * 6
    usage = shutil.disk_usage(".")
    monkeypatch.setattr("runner.recorder.shutil.disk_usage", lambda path: usage._replace(free=needed - 1))
    assert run(*QUICK, "checkpoint.keep=2", "check=only") == 2
    assert "checkpoints will take" in capsys.readouterr().err
    monkeypatch.setattr("runner.recorder.shutil.disk_usage", lambda path: usage._replace(free=needed))
    assert run(*QUICK, "checkpoint.keep=2", "check=only") == 0
