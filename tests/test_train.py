"""Whole runs, from the command line to the folder they leave."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import (
    BOARD,
    LIGHT,
    QUICK,
    Forked,
    Once,
    Run,
    goes_on,
    left_at,
    only_run,
    records_of,
    result_of,
    same_tensors,
    stopping,
    weights_of,
)
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runner import checkpoint, metric
from runner.errors import DataError, Problem, RunFolderError
from runner.loader import workers
from runner.split import Subject, stratified
from runner.trainer import Trainer
from runner.transform import Normalize, Pipeline

LONGER = (*QUICK, "model.dropout=0.5", "trainer.max_epochs=3")


def same_run(a: Path, b: Path) -> None:
    """The two folders hold the same figures and the same weights, byte for byte."""
    for name in ("metrics.jsonl", "split.npz", "split.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes()
    assert result_of(a)["metrics"] == result_of(b)["metrics"]
    for name in ("last.pt", "best.pt"):
        assert same_tensors(weights_of(a, name), weights_of(b, name))


def test_the_default_run_and_its_log(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("trainer.threads=1", "trainer.max_epochs=4") == 0
    made = only_run()
    result = result_of(made)
    assert result["state"] == "completed"
    assert result["metrics"]["test/accuracy"] >= 0.97
    printed = capsys.readouterr().out
    assert f"{result['metrics']['test/accuracy']:.4f}" in printed
    assert "baseline (majority class)" in printed
    assert str(made) in printed
    assert sum(line.split()[:1] == ["epoch"] for line in printed.splitlines()) == 1  # one head for all epochs
    logged = (made / "runner.log").read_text()
    assert [line for line in printed.splitlines() if line.strip() and line not in logged] == []
    assert "\x1b" not in logged
    assert sorted(path.name for path in made.iterdir()) == [
        ".hydra", ".mark", "checkpoints", "config.yaml", "metrics.jsonl", "result.json", "runner.log", "split.json",
        "split.npz", "tensorboard",
    ]  # fmt: skip


@pytest.fixture
def made(digits: Path) -> Path:
    return digits


def test_the_figures_are_those_of_the_best_weights_on_parts_that_do_not_overlap(made: Path) -> None:
    # Recomputed from the files alone, without any of our modules but the split.
    digits, model = load_digits(), weights_of(made, "best.pt")
    with np.load(made / "split.npz") as split:
        parts = {name: split[name] for name in split}
    assert sorted(np.concatenate(list(parts.values()))) == list(range(1797))
    expected = stratified(Subject(digits.target), val=0.2, test=0.2, seed=0).parts
    assert all((parts[name] == expected[name]).all() for name in expected)

    train = digits.images[parts["train"]]
    for part in ("val", "test"):
        x = torch.tensor((digits.images[parts[part]] - train.mean()) / train.std(), dtype=torch.float32).flatten(1)
        hidden = torch.relu(x @ model["1.weight"].T + model["1.bias"])
        output = hidden @ model["4.weight"].T + model["4.bias"]
        target = digits.target[parts[part]]
        metrics = result_of(made)["metrics"]
        assert metrics[f"{part}/accuracy"] == accuracy_score(target, output.argmax(1))
        loss = torch.nn.functional.cross_entropy(output, torch.tensor(target))
        assert metrics[f"{part}/loss"] == pytest.approx(loss.item(), abs=1e-5)


def test_the_best_epoch_is_the_one_that_the_metrics_say(made: Path) -> None:
    best = min(records_of(made), key=lambda record: record["val/loss"])
    result = result_of(made)
    assert result["best_epoch"] == best["epoch"]
    assert {k: v for k, v in result["metrics"].items() if k.startswith("val/")} == {
        k: v for k, v in best.items() if k.startswith("val/")
    }


def test_the_record_names_its_checkpoint_and_surroundings(made: Path) -> None:
    result = result_of(made)
    data = (made / result["checkpoint"]["path"]).read_bytes()
    assert result["checkpoint"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert (result["epochs"], result["steps"], result["seed"], result["threads"]) == (2, 34, 0, 1)
    assert result["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert result["split"] == json.loads((made / "split.json").read_text())["hash"]


def test_the_saved_configuration_has_every_fact(made: Path) -> None:
    saved = yaml.safe_load((made / "config.yaml").read_text())
    assert saved["facts"]["train_samples"] == 1079
    assert saved["facts"]["input_shape"] == saved["model"]["input_shape"] == [1, 8, 8]
    assert saved["facts"]["total_steps"] == 34
    (group,) = saved["facts"]["param_groups"]
    assert group == {
        "group": "all", "rule": None, "tensors": 4, "parameters": 1210, "lr": 0.001, "weight decay": 0.01,
    }  # fmt: skip
    assert "???" not in (made / "config.yaml").read_text()


def test_tensorboard_has_the_points_of_the_metrics_and_the_tables(run: Run) -> None:
    assert run(*BOARD, "tensorboard.steps=10", "hydra.run.dir=here") == 0
    made = Path("here")
    events = EventAccumulator(str(made / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("steps/train_loss")] == [10, 20, 30]  # of 34
    rates = {event.step: event.value for event in events.Scalars("steps/learning_rate/all")}
    assert rates[20] == pytest.approx(0.001 * (1 + math.cos(math.pi * 19 / 34)) / 2)  # with which the 20th was done
    for name in ("train/loss", "val/loss", "val/accuracy"):
        points = [(event.step, event.value) for event in events.Scalars(name)]
        assert points == [(r["step"], pytest.approx(r[name], rel=1e-6)) for r in records_of(made)]
    tags = [tag for tag in events.Tags()["tensors"] if tag.endswith("/text_summary")]
    texts = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in tags}
    tables = [f"{part}/{table}" for part in ("val", "test") for table in ("per_class", "confusion")]
    assert set(texts) == {
        f"{tag}/text_summary"
        for tag in (
            "config",
            "config/difference",
            "environment",
            "split",
            "optimizer/groups",
            "result",
            "model/layers",
            "model/memory",
            "val/mistakes",
            *tables,
        )
    }
    assert "| all | 1,079 | 359 | 359 |" in texts["split/text_summary"]
    assert f"{result_of(made)['metrics']['test/accuracy']:.4f}" in texts["result/text_summary"]


def _longer() -> None:
    assert Forked(*LONGER, "hydra.run.dir=whole").wait() == 0


@pytest.fixture
def longer(once: Once) -> Path:
    """A run of `LONGER`, in a process of its own, that nothing happened to: to be looked at."""
    return once(_longer) / "whole"


def test_a_seed_repeats_a_run_byte_for_byte_and_another_one_does_not(run: Run, longer: Path) -> None:
    for name, seed in (("b", 0), ("c", 1)):
        assert run(*LONGER, f"seed={seed}", f"hydra.run.dir={name}") == 0
    same_run(longer, Path("b"))
    assert (longer / "metrics.jsonl").read_bytes() != (Path("c") / "metrics.jsonl").read_bytes()
    assert (longer / "split.npz").read_bytes() == (Path("c") / "split.npz").read_bytes()


def test_a_run_that_is_stopped_again_and_again_goes_on_to_the_same_bytes(
    run: Run, longer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In its first step, at the end of an epoch, and inside one."""
    typed: tuple[str, ...] = (*LONGER, "hydra.run.dir=parts")
    for at, signum, status in ((1, signal.SIGINT, 130), (17, signal.SIGTERM, 143), (25, signal.SIGINT, 130)):
        with monkeypatch.context() as patch:
            stopping(patch, at, signum)
            assert run(*typed) == status
        assert result_of(Path("parts"))["state"] == "interrupted"
        assert "to resume: python -m runner resume=parts" in capsys.readouterr().out
        assert torch.load("parts/checkpoints/last.pt", weights_only=True)["progress"]["step"] == at
        typed = ("resume=parts",)
    assert run("resume=parts") == 0
    same_run(longer, Path("parts"))


def test_a_complete_run_is_left_as_it_is(run: Run, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("outputs/2026-01-01").mkdir(parents=True)
    made = made.rename("outputs/2026-01-01/00-00-00")
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    assert run("resume=last") == 0
    assert "is complete" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before
    # Less than it has is not what was asked for.
    assert run("resume=last", "trainer.max_epochs=1") == 2
    error = capsys.readouterr().err
    what = f"{made} is complete with 2 epochs, 34 steps, and would not be longer (ended by max_epochs)"
    assert f"trainer.max_epochs: 1: {what}\n  try: trainer.max_epochs=4" in error
    assert run("resume=last", "trainer.max_steps=1000") == 2
    assert f"trainer.max_steps: 1000: {what}\n  try: trainer.max_epochs=4" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


def test_a_complete_run_can_train_on_and_remembers_it(run: Run, made: Path) -> None:
    assert run(f"resume={made}", "trainer.max_epochs=4") == 0
    assert [record["epoch"] for record in records_of(made)] == [1, 2, 3, 4]
    assert yaml.safe_load((made / "config.yaml").read_text())["trainer"]["max_epochs"] == 4
    assert result_of(made)["epochs"] == 4
    assert run(f"resume={made}") == 0  # nothing more to do: 4 epochs is its own length now
    assert result_of(made)["epochs"] == 4


def test_a_run_without_a_checkpoint_starts_at_step_0_with_its_own_configuration(run: Run, made: Path) -> None:
    expected = records_of(made)
    for path in (made / "checkpoints").iterdir():
        path.unlink()
    (made / "result.json").unlink()
    assert run(f"resume={made}") == 0
    assert records_of(made) == expected


def test_class_weights_come_from_the_train_part_and_are_kept(run: Run) -> None:
    assert run(*QUICK, "loss=weighted_ce") == 0
    made = only_run()
    with np.load(made / "split.npz") as split:
        counts = np.bincount(load_digits().target[split["train"]])
    saved = yaml.safe_load((made / "config.yaml").read_text())
    assert saved["facts"]["class_weights"] == pytest.approx(list(counts.sum() / (10 * counts)))
    in_checkpoint = weights_of(made, "last.pt", "loss")["terms.0.criterion.weight"]
    assert in_checkpoint.tolist() == pytest.approx(saved["facts"]["class_weights"])
    assert run(f"resume={made}", "trainer.max_epochs=3") == 0
    again = yaml.safe_load((made / "config.yaml").read_text())
    assert again["facts"]["class_weights"] == saved["facts"]["class_weights"]


LEARNED = """\
import torch
from torch import nn

class Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.sharpness = nn.Parameter(torch.zeros(()))

    def forward(self, output, target):
        return nn.functional.cross_entropy(output * self.sharpness.exp(), target, reduction="none")
"""


def test_what_a_loss_has_learnt_is_that_of_the_best_epoch_too(run: Run) -> None:
    Path("own_loss.py").write_text(LEARNED)
    Path("mine/loss").mkdir(parents=True)
    Path("mine/loss/learned.yaml").write_text("_target_: own_loss.Learned\n")
    own = "--config-dir", "mine", "loss=learned", "allow_targets=[own_loss.*]"
    assert run(*QUICK, *own, "checkpoint.mode=max", "optimizer.lr=0.01") == 0  # of the first epoch, that is
    first, last = records_of(only_run())
    assert last["val/loss"] < first["val/loss"]
    assert result_of(only_run())["metrics"]["val/loss"] == first["val/loss"]


def test_the_best_epoch_need_not_be_the_last(run: Run) -> None:
    # Steps that are too large: the loss goes up and down.
    assert (
        run(*QUICK, "optimizer=sgd", "optimizer.lr=1.0", "trainer.max_epochs=6", "checkpoint.monitor=val/accuracy") == 0
    )
    made = only_run()
    best = max(records_of(made), key=lambda record: record["val/accuracy"])
    assert best["epoch"] < 6
    result = result_of(made)
    assert (result["best_epoch"], result["metrics"]["val/accuracy"]) == (best["epoch"], best["val/accuracy"])
    assert result["metrics"]["val/loss"] == best["val/loss"] != records_of(made)[-1]["val/loss"]
    assert (
        torch.load(made / "checkpoints/best.pt", weights_only=True)["progress"]["step"]
        == result["best_step"]
        == best["step"]
    )


@pytest.mark.parametrize(
    ("monitor", "mode", "better"),
    [
        ("val/loss", "auto", 1.0), ("val/rmse", "auto", 1.0), ("val/accuracy", "auto", 2.0),
        ("val/accuracy", "min", 1.0), ("val/loss", "max", 2.0),
    ],
)  # fmt: skip
def test_which_record_is_better(monitor: str, mode: str, better: float) -> None:
    compare = metric.better(monitor, mode)
    worse = 3.0 - better
    assert compare({monitor: better}, {monitor: worse})
    assert not compare({monitor: worse}, {monitor: better})
    assert not compare({monitor: better}, {monitor: better})
    assert compare({monitor: worse}, {monitor: float("nan")})
    assert not compare({monitor: float("nan")}, {monitor: worse})


def test_settings_of_the_trainer_reach_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Trainer] = []
    fit = Trainer.fit
    monkeypatch.setattr(Trainer, "fit", lambda self: (seen.append(self), fit(self))[1])
    assert run(*QUICK, "trainer.threads=2", "trainer.clip_norm=0.5", "trainer.accumulate=3", "trainer.max_steps=5") == 0
    (trainer,) = seen
    assert (trainer.gradient.clip_norm, trainer.accumulate, trainer.limits.steps, trainer.limits.epochs) == (
        0.5,
        3,
        5,
        2,
    )
    assert (torch.get_num_threads(), torch.get_deterministic_debug_mode()) == (2, 2)
    assert run(*QUICK, "trainer.deterministic=false", "check=only") == 0
    assert torch.get_deterministic_debug_mode() == 0


def test_a_stopped_run_can_be_ended_early(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stopping(patch, 30)
        assert run(*LONGER, "hydra.run.dir=max_epochs") == 130
    shutil.copytree("max_epochs", "max_steps")
    for key, value in (("max_epochs", 1), ("max_steps", 20)):
        assert run(f"resume={key}", f"trainer.{key}={value}") == 0
        result = result_of(key)
        assert (result["state"], result["steps"]) == ("completed", 30)


def test_a_failure_after_the_start_keeps_the_folder_and_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(path: Path) -> Any:
        raise RunFolderError(Problem(str(path), "cannot be read"))

    monkeypatch.setattr("runner.train.read", damaged)
    assert run(*QUICK) == 2
    assert result_of(only_run())["state"] == "failed"
    assert (only_run() / "runner.log").is_file()


def test_a_run_killed_between_its_two_checkpoints_ends_as_if_it_had_not_been(
    run: Run, longer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = checkpoint.write
    written: list[Path] = []

    def dying(path: Path, data: bytes) -> None:
        if len(written) == 3:  # best and last of the first epoch, best of the second
            raise KeyboardInterrupt
        original(path, data)
        written.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", dying)
        assert run(*LONGER, "hydra.run.dir=parts") == 130
    steps = {
        n: torch.load(f"parts/checkpoints/{n}.pt", weights_only=True)["progress"]["step"] for n in ("best", "last")
    }
    assert steps == {"best": 34, "last": 17}
    assert run("resume=parts") == 0
    same_run(longer, Path("parts"))


def test_other_data_or_another_split_are_not_what_a_run_goes_on_with(
    run: Run, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(made / "checkpoints/last.pt", weights_only=True)
    for name, what in (("split", "the split has"), ("data", "the data have")):
        torch.save({**state, name: "0" * 64}, made / "checkpoints/last.pt")
        assert run(f"resume={made}", "trainer.max_epochs=9") == 2
        assert f"resume: {what} changed since {made} began (000000000000, now " in capsys.readouterr().err


def test_a_foreign_folder_allows_itself_nothing(run: Run, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made / "config.yaml"
    text = path.read_text().replace("allow_targets: []", "allow_targets: ['*']")
    path.write_text(text.replace("_target_: runner.model.MLP", "_target_: timeit.timeit"))
    assert run(f"resume={made}", "trainer.max_epochs=9") == 2
    assert "'timeit.timeit' is not on the list of allowed targets" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["hydra: {callbacks: {x: {_target_: evil.C}}}", "defaults: [_self_]"])
def test_what_a_folder_says_of_hydra_is_not_heard(
    run: Run, made: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    Path("evil.py").write_text("open('called', 'w')\nclass C: pass\n")
    monkeypatch.syspath_prepend(Path.cwd())
    path = made / "config.yaml"
    path.write_text(f"{key}\n{path.read_text()}")
    assert run(f"resume={made}", "trainer.max_epochs=3") == 0
    assert not Path("called").exists()


def test_what_was_learnt_for_the_transform_is_in_the_checkpoint(made: Path) -> None:
    learnt = weights_of(made, "best.pt", "transform")
    with np.load(made / "split.npz") as split:
        pixels = load_digits().images[split["train"]]
    assert sorted(value.item() for value in learnt.values()) == pytest.approx(sorted([pixels.mean(), pixels.std()]))
    fresh = Pipeline([Normalize()])
    fresh.load_state_dict(learnt)
    assert fresh.state_dict().keys() == learnt.keys()


def test_tensorboard_can_be_left_out(made: Path) -> None:
    assert "tensorboard.enabled=false" in QUICK
    assert not (made / "tensorboard").exists()


ROWS = np.random.default_rng(0).normal(size=(150, 3))
TABLE = ("dataset=table", "dataset.path=table.csv", "transform=table", "model=mlp", "optimizer.lr=0.01",
         "trainer.threads=1", "tensorboard.enabled=false")  # fmt: skip


def write_table(**columns: Any) -> None:
    frame = pd.DataFrame(ROWS, columns=["x", "y", "z"]).assign(**columns)
    frame.to_csv("table.csv", index=False)


def test_values_are_learnt_and_reported_in_their_units(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(price=1000 + 50 * (ROWS[:, 0] - 2 * ROWS[:, 1]))
    steps = ("loader.batch_size=8", "trainer.max_epochs=6")
    assert run(*TABLE, "dataset.task=regression", "loss=mse", "metric=regression", *steps) == 0
    printed = capsys.readouterr().out
    assert "table: 150 samples of 3 numbers, regression · " in printed
    assert "baseline (mean)" in printed
    assert " · MSELoss of standardised targets · " in printed
    assert re.search(r"(?m)^ spearman .* –$", printed)  # of predictions that are all the same
    assert re.search(r"(?m)^Samples\n +train +val +test\n", printed)
    found = result_of(only_run())
    spread = 50 * np.sqrt(5)
    assert found["baseline"]["test/rmse"] == pytest.approx(spread, rel=0.4)
    assert found["metrics"]["test/rmse"] < 0.2 * spread
    assert found["metrics"]["test/mse"] == pytest.approx(found["metrics"]["test/rmse"] ** 2)
    assert set(found["tables"]) == {
        "config/difference", "data/columns", "environment", "split", "model/layers", "model/memory", "optimizer/groups",
        "result",
    }  # fmt: skip


def test_how_the_columns_of_a_table_were_read(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{n},{'abc'[n % 3]},{'' if n == 4 else n / 2},x,{'yes' if n % 2 else 'no'}" for n in range(40)]
    Path("t.csv").write_text("\n".join(["id,letter,half,note,answer", *lines]))
    table = ("dataset=table", "dataset.path=t.csv", "dataset.drop=[id,note]", "transform=table")
    assert run(*QUICK, *table, "trainer.max_epochs=1", "hydra.run.dir=t") == 0
    assert result_of("t")["tables"]["data/columns"] == [
        {"column": "id", "read as": "left out", "values": None, "missing": None},
        {"column": "letter", "read as": "3 categories", "values": "a, b, c", "missing": 0},
        {"column": "half", "read as": "number", "values": "0 … 19.5", "missing": 1},
        {"column": "note", "read as": "left out", "values": None, "missing": None},
        {"column": "answer", "read as": "target", "values": None, "missing": None},
    ]
    assert re.search(r"(?m)^ half +number +0 … 19\.5 +1$", capsys.readouterr().out)
    # Of a file without names they are numbers, and a number from the end is a place.
    Path("u.csv").write_text("\n".join(f"{n},{n % 7},{n % 2}" for n in range(40)))
    table = ("dataset=table", "dataset.path=u.csv", "dataset.target=-1", "transform=table")
    assert run(*QUICK, *table, "trainer.max_epochs=1", "hydra.run.dir=u") == 0
    read = [[row["column"], row["read as"]] for row in result_of("u")["tables"]["data/columns"]]
    assert read == [["0", "number"], ["1", "number"], ["2", "target"]]


def test_every_loss_of_a_sum_is_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUICK, "loss=sum", "trainer.max_epochs=1") == 0
    assert " parameters · CrossEntropyLoss + Focal · AdamW" in capsys.readouterr().out


def test_several_classes_per_sample(run: Run) -> None:
    write_table(a=(ROWS[:, 0] > 0).astype(int), b=(ROWS[:, 1] > 1).astype(int))
    overrides = ("dataset.target=[a,b]", "loss=bce", "loss.pos_weight=balanced", "metric=multilabel", "split=random")
    assert run(*TABLE, *overrides, "trainer.max_epochs=60", "trainer.evaluate_every=20 epochs") == 0
    made = only_run()
    facts = yaml.safe_load((made / "config.yaml").read_text())["facts"]
    assert (facts["task"], facts["class_names"]) == ("multilabel", ["a", "b"])
    with np.load(made / "split.npz") as split:
        positive = (ROWS[split["train"]][:, [0, 1]] > [0, 1]).sum(0)
        assert facts["class_weights"] == pytest.approx((len(split["train"]) - positive) / positive)
    assert result_of(made)["metrics"]["test/macro_f1"] > 0.8 > result_of(made)["baseline"]["test/macro_f1"]


def test_targets_that_stand_for_none_are_left_out_everywhere(run: Run) -> None:
    kind = np.where(np.arange(150) % 5 == 0, -100, (ROWS[:, 0] > 0).astype(int))
    Path("marked.py").write_text(
        "import numpy as np, torch\n"
        "from runner.dataset import ArrayDataset\n"
        "def make():\n"
        "    held = np.load('marked.npz')\n"
        "    return ArrayDataset(torch.tensor(held['x']).float(), torch.tensor(held['y']), ['a', 'b'])\n"
    )
    np.savez("marked.npz", x=ROWS, y=kind)
    overrides = ("~dataset", "+dataset._target_=marked.make", "allow_targets=[marked.*]", "model=mlp", "transform=none")
    overrides += ("loss=weighted_ce", "trainer.max_epochs=40", "trainer.threads=1", "tensorboard.enabled=false")
    assert run(*overrides, "trainer.evaluate_every=20 epochs") == 0
    made = only_run()
    manifest = json.loads((made / "split.json").read_text())
    assert sum(manifest["classes"]["train"].values()) == 72  # 90 in the part, of which a fifth has no class
    rows = result_of(made)["tables"]["test/per_class"]
    assert rows[-1]["support"] == 24
    assert result_of(made)["metrics"]["test/accuracy"] > 0.9


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.weight={zero:1}"], "loss.weight: there is no class 'zero'\n  allowed: 0, 1, 2"),
        (["loss.weight=[1,1,1,1,1,1,1,1,1,-1]"], "loss.weight: [1, 1, 1, 1, 1, 1, 1, 1, 1, -1] is not allowed"),
        (["loss=mse", "loss.one_hot=true", "metric=classification_full", "checkpoint.monitor=val/brier"],
         "checkpoint.monitor: 'val/brier' needs probabilities, which this loss does not provide"),
        (["+model.output=values"], "model.output: 'values', but CrossEntropyLoss takes logits"),
        (["+metric.odd={_target_: sklearn.metrics.mean_squared_log_error, takes: probabilities}"],
         "metric.odd: cannot be computed:"),
        (["loss=sum", "loss.terms=[{_target_: torch.nn.CrossEntropyLoss, gamma: 2}]"],
         "loss.terms.0.gamma: torch.nn.CrossEntropyLoss has no argument 'gamma'"),
        (["loss=sum", "loss.terms.0.ignore_index=-1"], "loss.terms.0.ignore_index: "),
        (["loss=sum", "+loss.scale=10"], "loss.scale: has no effect together with loss.terms"),
        (["loss=sum", "loss.terms=[3]"], "loss.terms.0: 3 is not a mapping with a _target_"),
        (["loss=sum", "loss.terms.1.weight=[1,2]"], "loss.terms.1.weight: [1, 2] does not give a weight for each"),
        (["loss=sum", "loss.terms=[]"], "loss.terms: [] is not a list of losses"),
        (["loss=sum", "loss.terms.1.weight=5"], "loss.terms.1.weight: 5 is not allowed"),
        (["+metric.m={_target_: sklearn.metrics.accuracy_score, takes: probs}"], "metric.m.takes: 'probs' is not"),
        (["loader.epoch_samples=20"], "loader.epoch_samples: only applies to an IterableDataset"),
        (["+dataset.keys={input: a, target: b}"], "dataset.keys: only applies to data sets whose samples are dicts"),
        (["dataset=diabetes", "model=mlp"], "loss: CrossEntropyLoss takes class indices or class probabilities"),
    ],
)  # fmt: skip
def test_losses_and_metrics_that_do_not_fit_end_before_training(
    run: Run, overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*LIGHT, *overrides) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert not list(Path().glob("outputs/*/*"))


def test_probability_metrics_are_left_out_where_there_are_no_probabilities(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ("loss=mse", "loss.one_hot=true", "metric=classification_full", "optimizer.lr=0.01")
    assert run(*LIGHT, *overrides, "trainer.max_epochs=3") == 0
    assert "metrics skipped, because they need probabilities and this loss has none" in capsys.readouterr().out
    found = result_of(only_run())["metrics"]
    assert "val/brier" not in found
    assert 0.5 < found["val/accuracy"] < 1


CNN = ("model=cnn", "model.channels=[4,4]", "trainer.max_epochs=2", "trainer.threads=1", "loader.subset=200",
       "tensorboard.enabled=false")  # fmt: skip


UNFREEZING = (*CNN, "model.freeze=['0']", "model.unfreeze_at_epoch=2", "scheduler=constant")


def _thawed() -> None:
    assert Forked(*UNFREEZING, "hydra.run.dir=whole").wait() == 0


@pytest.fixture
def thawed(once: Once) -> Path:
    """A run of `UNFREEZING`, in a process of its own, that nothing happened to: to be looked at."""
    return once(_thawed) / "whole"


def test_what_is_frozen_stays_and_is_trained_from_the_epoch_on_that_is_named(run: Run, thawed: Path) -> None:
    assert run(*CNN, "model.freeze=['0']", "checkpoint.keep=2", "hydra.run.dir=frozen") == 0
    first, last = (weights_of("frozen", name) for name in ("step-4.pt", "step-8.pt"))
    assert all(
        torch.equal(first[name], last[name]) for name in first if name.startswith("0.")
    )  # BatchNorm's buffers too
    assert not torch.equal(list(first.values())[-2], list(last.values())[-2])  # of the last layer
    assert not torch.equal(weights_of(thawed)["0.0.weight"], first["0.0.weight"])


def test_a_run_that_unfreezes_resumes_to_the_same_bytes(run: Run, thawed: Path) -> None:
    """Before it unfreezes, and after."""
    assert run(*UNFREEZING, "trainer.max_steps=2", "hydra.run.dir=part") == 0
    for steps in (6, "null"):
        assert run("resume=part", f"trainer.max_steps={steps}") == 0
    assert same_tensors(*(weights_of(place) for place in (thawed, "part")))


def test_weights_of_another_run_start_this_one_and_are_not_asked_for_again(
    run: Run, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.rename("first")
    again = ("trainer.max_epochs=1", "optimizer.lr=0.0", "hydra.run.dir=second")
    assert run(*QUICK, "model.weights=first", "seed=7", *again) == 0
    best, started = weights_of(Path("first"), "best.pt", "model"), weights_of(Path("second"), "last.pt", "model")
    assert all(torch.equal(best[name], started[name]) for name in best)
    assert "loaded" in capsys.readouterr().out
    shutil.rmtree("first")
    assert run("resume=second", "trainer.max_epochs=2") == 0


def test_initial_weights_follow_the_rules_of_the_configuration(run: Run) -> None:
    assert run(*QUICK, "model.init=zeros", "optimizer.lr=0.0", "trainer.max_epochs=1") == 0
    state = weights_of(only_run(), "last.pt", "model")
    assert all(tensor.abs().sum() == 0 for tensor in state.values())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.init=kaimin"], "model.init: 'kaimin' is not an initialisation method"),
        (["model.init={method: zeros, layers: Conv2d}"], "model.init.layers: ['Conv2d'] matches no layer of the model"),
        (["model.unfreeze_at_epoch=0"], "model.unfreeze_at_epoch: 0 is not allowed\n  allowed: a whole number >= 1"),
        (["model=lenet"], "model: cannot be built: images of 8×8 are too small"),
        (["model=torchvision", "model.name=squeezenet1_0"], "model: cannot take inputs of shape 1×8×8"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_meant_end_before_training(
    run: Run, overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = QUICK if not any(o.startswith("model=") for o in overrides) else ("trainer.max_epochs=1",)
    assert run(*quick, *overrides) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert not list(Path().glob("outputs/*/*"))


STREAM = """
import random
import torch
from torch.utils.data import IterableDataset, get_worker_info
from runner.dataset import Parts

class Numbers(IterableDataset):
    classes = ["even", "odd"]
    def __init__(self, length, nan_at=-1):
        self.length, self.nan_at = length, nan_at
    def __iter__(self):
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for n in range(first, self.length, step):
            yield torch.full((4,), n / self.length) + 0.01 * torch.rand(4), n % 2

def make(length=90):
    return Parts(Numbers(length), Numbers(20), Numbers(20))

def broken(how):
    if how == "missing":
        raise FileNotFoundError(2, "No such file", "/x/list.csv")
    if how == "none":
        return None
    if how == "width":
        return Parts(make().train, [(torch.zeros(5), 0)] * 4 + [(torch.zeros(5), 1)] * 4, Numbers(20))
    class Dies(Numbers):
        def __iter__(self):
            raise OSError("the disk is gone")
            yield
    return Parts(Numbers(90), Dies(20), Numbers(20))
"""
STREAMED = ("~dataset", "allow_targets=[streams.*]", "model=mlp", "model.hidden=[8]", "transform=none",
            "loader.batch_size=16", "loader.epoch_samples=80", "trainer.threads=1",
            "tensorboard.enabled=false")  # fmt: skip


def test_a_run_on_a_stream_resumes_to_the_same_bytes(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("streams.py").write_text(STREAM)
    overrides = (*STREAMED, "+dataset._target_=streams.make", "loader.num_workers=2", "trainer.max_epochs=2")
    with left_at(7):
        assert run(*overrides, "checkpoint.every=7 steps", "hydra.run.dir=whole") == 0
    again = ("resume=part", "allow_targets=[streams.*]")
    assert run(*again, "loader.num_workers=0") == 2
    assert "loader.num_workers: 0: part began with 2" in capsys.readouterr().err
    assert run(*again) == 0
    assert same_tensors(*(weights_of(name) for name in ("whole", "part")))
    assert records_of("whole") == records_of("part")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+dataset._target_=streams.broken", "+dataset.how=missing"], "dataset: cannot be built: FileNotFoundError: "),
        (["+dataset._target_=streams.broken", "+dataset.how=none"], "dataset: there is no train part"),
        (["+dataset._target_=streams.broken", "+dataset.how=width"], "dataset: inputs of val are 5 float32"),
        (
            ["+dataset._target_=streams.broken", "+dataset.how=width", "loader.num_workers=1"],
            "dataset: inputs of val are 5 float32",
        ),
        (["+dataset._target_=streams.broken", "+dataset.how=dies"], "dataset: the val part cannot be read: OSError"),
        (
            ["+dataset._target_=streams.make", "loader.drop_last=true", "loader.epoch_samples=9"],
            "loader.batch_size: 16",
        ),
        (
            ["+dataset._target_=streams.make", "loader.sampler=balanced"],
            "loader.sampler: 'balanced' cannot be used with a stream",
        ),
    ],
)
def test_data_of_ones_own_that_cannot_be_used(
    run: Run, overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("streams.py").write_text(STREAM)
    assert run(*STREAMED, *overrides) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert not list(Path().glob("outputs/*/*"))


def test_a_run_that_diverges_stops_and_says_where(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUICK, "optimizer=sgd", "optimizer.lr=1e30", "trainer.max_epochs=3") == 1
    said = "".join(capsys.readouterr())
    assert (
        "error: the loss or its gradient is not finite at step 1 of epoch 1: first in layer 4 (Linear); samples" in said
    )
    assert "try: a smaller optimizer.lr, trainer.clip_norm=1, or trainer.on_nonfinite=skip" in said
    assert "Traceback" not in said
    found = result_of(only_run())
    assert found["state"] == "failed"
    assert found["error"].startswith("NonFinite: the loss or its gradient is not finite at step 1")


def test_a_worker_that_a_signal_took_along_is_no_mistake_in_the_data(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def receive(batches: Any, num_workers: int, what: str) -> Any:
        calls.append(1)
        if len(calls) == 30:  # of the first epochs of training
            os.kill(os.getpid(), signal.SIGTERM)
            raise DataError(Problem("loader.num_workers", "a worker exited unexpectedly"))
        return before(batches, num_workers, what)

    before = workers.receive
    monkeypatch.setattr(workers, "receive", receive)
    assert run(*QUICK, "loader=workers", "trainer.max_epochs=3", "hydra.run.dir=r") == 143
    assert result_of("r")["state"] == "interrupted"
    monkeypatch.setattr(workers, "receive", before)
    assert run("resume=r") == 0


def test_vitals_and_gradients_of_the_interval_in_which_a_run_was_resumed_are_those_of_the_whole_one(run: Run) -> None:
    whole, part = goes_on(run, *BOARD, "tensorboard.gradients=true", "trainer.max_epochs=1")
    assert whole["vitals"] == part["vitals"]
    boards = [EventAccumulator(f"{name}/tensorboard").Reload() for name in ("whole", "part")]
    tags = [tag for tag in boards[0].Tags()["scalars"] if tag.startswith("gradients/")]
    assert len(tags) == 2
    for tag in (*tags, "vitals/gradient_norm", "vitals/update_to_weight"):
        found = [[(point.step, point.value) for point in board.Scalars(tag)] for board in boards]
        assert found[0] == found[1], tag
        assert len(found[0]) == 1


def test_a_checkpoint_that_a_killed_run_was_about_to_remove_is_removed_when_it_goes_on(run: Run) -> None:
    assert run(*QUICK, "checkpoint.keep=2", "hydra.run.dir=r") == 0
    kept = sorted(path.name for path in Path("r/checkpoints").iterdir())
    shutil.copy("r/checkpoints/last.pt", "r/checkpoints/step-5.pt")
    (Path("r") / "result.json").unlink()  # it did not get to the end
    assert run("resume=r") == 0
    assert sorted(path.name for path in Path("r/checkpoints").iterdir()) == kept
