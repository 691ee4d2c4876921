"""Cross-validation: scikit-learn's folds, a model of its own for each, and what they say together."""

from __future__ import annotations

import csv
import json
import re
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import CROSS, LIGHT, QUICK, THREE_FOLDS, Run, same_tensors
from sklearn.datasets import load_diabetes, load_digits
from sklearn.metrics import accuracy_score
from sklearn.model_selection import KFold, StratifiedKFold

from runner.sweep import folds

FOLDS = 3

SMALL = (*CROSS, "dataset=iris", "split.n_splits=2")
"""Overrides of a smaller cross-validation, where it does not matter of what."""


def read(folder: str | Path) -> Any:
    return json.loads((Path(folder) / "result.json").read_text())


def out_of_fold(folder: str | Path) -> list[dict[str, str]]:
    with open(Path(folder) / "out_of_fold.csv", newline="") as file:
        return list(csv.DictReader(file))


def held_out_in_turn(bundled: Any, folds: Any) -> None:
    inputs, targets = bundled(return_X_y=True)
    for number, (_, held_out) in enumerate(folds.split(inputs, targets)):
        with np.load(f"here/fold-{number}/split.npz") as parts:
            assert np.array_equal(parts["test"], held_out)
            everything = np.concatenate([parts[name] for name in ("train", "val", "test")])
        assert np.array_equal(np.sort(everything), np.arange(len(targets)))
    assert not Path(f"here/fold-{folds.n_splits}").exists()


def test_the_folds_are_those_of_scikit_learn(crossed: Path) -> None:
    held_out_in_turn(load_digits, StratifiedKFold(FOLDS, shuffle=True, random_state=7))


def test_what_the_folds_reach_together(crossed: Path) -> None:
    folds, whole = [read(f"here/fold-{n}") for n in range(FOLDS)], read("here")
    assert whole["state"] == "completed"
    for tag in ("val/loss", "test/accuracy"):
        values = [fold["metrics"][tag] for fold in folds]
        assert whole["metrics"][tag] == pytest.approx(statistics.fmean(values), abs=1e-12)
        assert whole["metrics"][f"{tag}_std"] == pytest.approx(statistics.stdev(values), abs=1e-12)
    baselines = [fold["baseline"]["test/accuracy"] for fold in folds]
    assert whole["baseline"]["test/accuracy"] == pytest.approx(statistics.fmean(baselines), abs=1e-12)
    printed = Path("printed.txt").read_text()
    assert f"{FOLDS} folds" in printed
    assert f"mean                   –     {whole['metrics']['val/loss']:.4f}" in printed
    assert re.search(rf"(?m)^ baseline +– +– +– +{statistics.fmean(baselines):.4f}$", printed)
    said = out_of_fold("here")
    assert [int(row["index"]) for row in said] == list(range(1797))
    assert [int(row["target"]) for row in said] == load_digits().target.tolist()
    accuracy = accuracy_score([row["target"] for row in said], [row["prediction"] for row in said])
    assert whole["metrics"]["out_of_fold/accuracy"] == pytest.approx(accuracy)
    for number in range(FOLDS):
        mine = [row for row in said if row["fold"] == str(number)]
        right = statistics.fmean(row["target"] == row["prediction"] for row in mine)
        assert right == pytest.approx(folds[number]["metrics"]["test/accuracy"])


def test_the_parts_of_its_folds_are_no_one_part_but_their_predictions_are_there(
    run: Run, crossed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("predict", "run=here", "input=test") == 2
    assert "  try: here/out_of_fold.csv, which has the prediction of every held-out sample\n" in capsys.readouterr().err


def test_every_fold_begins_with_a_new_model_and_is_the_run_that_it_would_be_alone(run: Run, crossed: Path) -> None:
    assert run(*CROSS, "split.fold=2", "hydra.run.dir=alone") == 0
    of_fold, alone = (torch.load(f"{f}/checkpoints/last.pt", weights_only=True) for f in ("here/fold-2", "alone"))
    assert same_tensors(of_fold["model"], alone["model"])
    assert not Path("alone/fold-0").exists()


def test_where_there_is_an_official_test_part_the_fold_is_val_and_all_folds_say_it_together(run: Run) -> None:
    images = np.random.default_rng(0).normal(size=(120, 1, 4, 4)).astype(np.float32)
    labels = (images.mean((1, 2, 3)) > 0).astype(np.int64)
    np.savez("data.npz", x_train=images[:90], y_train=labels[:90], x_test=images[90:], y_test=labels[90:])
    Path("own_data.py").write_text(
        "import numpy as np, torch\nfrom runner.dataset import Parts\n"
        "def parts():\n"
        "    d = np.load('data.npz')\n"
        "    made = {p: torch.utils.data.TensorDataset(torch.from_numpy(d[f'x_{p}']), torch.from_numpy(d[f'y_{p}']))\n"
        "            for p in ('train', 'test')}\n"
        "    return Parts(**made)\n"
    )
    Path("mine/dataset").mkdir(parents=True)
    Path("mine/dataset/own.yaml").write_text("_target_: own_data.parts\n")
    own = "--config-dir", "mine", "dataset=own", "allow_targets=[own_data.*]", "transform=none"
    assert run(*own, *LIGHT, *THREE_FOLDS, "split.n_splits=2", "metric=classification_full", "hydra.run.dir=here") == 0
    whole, said = read("here"), out_of_fold("here")
    assert [int(row["index"]) for row in said] == list(range(90))
    accuracy = statistics.fmean(row["target"] == row["prediction"] for row in said)
    assert whole["metrics"]["out_of_fold/accuracy"] == pytest.approx(accuracy)
    chances = [np.load(f"here/fold-{n}/predictions.npz")["test_probabilities"] for n in range(2)]
    ensemble = np.mean(chances, axis=0).argmax(1)
    assert whole["metrics"]["ensemble/accuracy"] == pytest.approx(accuracy_score(labels[90:], ensemble))
    assert "ensemble/auroc" in whole["metrics"] or "ensemble/roc_auc" in whole["metrics"]


def test_values_are_averaged_and_kept_for_every_sample(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Also of a length that refers to another key, which is a length all the same."""
    values = "dataset=diabetes", "loss=mse", "metric=regression"
    folds = "split=kfold", "split.n_splits=2", "split.seed=7", "trainer.max_epochs=${split.n_splits}"
    assert run(*LIGHT, *values, *folds, "hydra.run.dir=here") == 0
    held_out_in_turn(load_diabetes, KFold(2, shuffle=True, random_state=7))
    said = out_of_fold("here")
    errors = [abs(float(row["target"]) - float(row["prediction"])) for row in said]
    assert len(said) == 442
    assert read("here")["metrics"]["out_of_fold/mae"] == pytest.approx(statistics.fmean(errors), rel=1e-4)
    assert read("here")["epochs"] == 2
    before = Path("here/fold-1/checkpoints/last.pt").stat().st_mtime_ns
    capsys.readouterr()
    assert run("resume=here") == 0
    assert "here is complete" in capsys.readouterr().out
    assert Path("here/fold-1/checkpoints/last.pt").stat().st_mtime_ns == before


STATES: dict[str, dict[str, Any]] = {
    "after the last fold, before anything": {"state": "running", "folds": 2, "csv": False},
    "before it says that it is completed": {"state": "running", "folds": 2, "csv": True},
    "while its first start was the only one to write it": {"state": "running", "folds": 0, "csv": False},
    "before its record was written": {"csv": False},
    "with another figure than its folds have": {"state": "completed", "folds": 3, "csv": True, "loss": 0.5},
    "without its predictions": {"state": "completed", "folds": 3, "csv": False},
}
"""Where a cross-validation all of whose folds are completed may have been killed, or damaged: what is left."""


def _put_back(folder: Path, state: str | None = None, folds: int = 0, csv: bool = True, loss: float = 0.0) -> None:
    """Have a completed cross-validation be as it was when it was killed."""
    said = read(folder)
    if state is None:
        (folder / "result.json").unlink()
    else:
        kept = {tag: value for tag, value in said["metrics"].items() if folds and "out_of_fold" not in tag}
        kept |= {"val/loss": loss} if loss else {}
        said |= {"state": state, "metrics": said["metrics"] | kept if loss else kept, "folds": said["folds"][:folds]}
        (folder / "result.json").write_text(json.dumps(said))
    if not csv:
        (folder / "out_of_fold.csv").unlink()


@pytest.mark.parametrize("left", STATES)
def test_what_is_killed_after_its_last_fold_is_completed_without_training(
    run: Run, crossed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], left: str
) -> None:
    """It ends as the one that nothing happened to did."""
    folds = {path: path.read_bytes() for n in range(FOLDS) for path in (crossed / f"fold-{n}").rglob("*.*")
             if path.is_file()}  # fmt: skip
    expected, lines = read(crossed), (crossed / "out_of_fold.csv").read_bytes()
    _put_back(crossed, **STATES[left])
    monkeypatch.setattr("runner.sweep.start.try_folds", None)  # nor is anything built
    assert run("resume=here") == 0
    assert read(crossed)["state"] == "completed"
    for key in ("metrics", "baseline", "folds", "epochs", "steps", "seconds", "started"):
        assert json.dumps(read(crossed)[key]) == json.dumps(expected[key])
    assert (crossed / "out_of_fold.csv").read_bytes() == lines
    assert {path: path.read_bytes() for path in folds} == folds
    capsys.readouterr()
    assert run("resume=here") == 0
    assert "here is complete" in capsys.readouterr().out
    assert run("resume=here", "tensorboard.enabled=true") == 0  # which it had not
    assert list(crossed.glob("tensorboard/*tfevents*"))
    capsys.readouterr()
    assert run("resume=here") == 0
    assert "here is complete" in capsys.readouterr().out


def test_a_job_of_a_sweep_that_is_killed_after_its_last_fold_is_completed_too(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("-m", *SMALL, "seed=0,1", "hydra.sweep.dir=sweep") == 0
    job = Path("sweep/seed=1")
    expected, lines = read(job), (job / "out_of_fold.csv").read_bytes()
    table = Path("sweep/results.csv").read_bytes()
    _put_back(job, "running", 1, csv=False)
    Path("sweep/results.csv").unlink()
    capsys.readouterr()
    assert run("resume=sweep") == 0
    assert "2 jobs, 2 of them done, nothing left to run" in capsys.readouterr().out
    assert {key: value for key, value in read(job).items() if key != "git"} == {
        key: value for key, value in expected.items() if key != "git"
    }
    assert (job / "out_of_fold.csv").read_bytes() == lines
    assert Path("sweep/results.csv").read_bytes() == table


def test_in_a_sweep_folds_and_seeds_count_apart(run: Run) -> None:
    several = "seed=0,1", "optimizer.lr=0.01,0.001", "sweep.n_jobs=2"
    assert run("-m", *SMALL, *several, "hydra.sweep.dir=sweep") == 0
    with open("sweep/results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert {(row["seed"], row["fold"]) for row in rows} == {(s, f) for s in "01" for f in "01"}
    table = Path("sweep/results.md").read_text()
    assert "| 2 seeds × 2 folds |" in table
    assert "| seed | optimizer.lr | fold | state |" in table  # each run by itself
    assert read("sweep/seed=0,optimizer.lr=0.01")["metrics"]["test/accuracy_std"] > 0
    assert run("resume='sweep/seed=0,optimizer.lr=0.01'", "trainer.max_epochs=2") == 0
    assert read("sweep/seed=0,optimizer.lr=0.01")["epochs"] == 2
    for fold in (Path(f"sweep/seed=0,optimizer.lr=0.01/fold-{n}") for n in range(2)):  # each goes on where it was
        assert read(fold)["epochs"] == 2
        assert "the end of epoch 1" in (fold / "runner.log").read_text()


def test_a_fold_that_fails_is_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*CROSS, "optimizer=sgd", "optimizer.lr=1e30", "split.n_splits=2", "hydra.run.dir=here") == 1
    assert read("here")["state"] == "failed"
    assert read("here")["error"].startswith("fold 0: ")
    assert "try: python -m runner resume=here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("split=kfold", "split.n_splits=1"), "split.n_splits: 1 is not allowed"),
        (("split=kfold", "split.fold=some"), "split.fold: 'some' is not allowed"),
        (("split=kfold", "split.path=split.npz"), "split.path: is a single split and cannot be combined"),
        (("split=stratified", "+split.fold=all"), "split.fold: runner.split.stratified has no argument 'fold'"),
    ],
)
def test_what_is_no_cross_validation(
    run: Run, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run(*QUICK, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_folds_that_are_values_of_a_key_are_folds_all_the_same(run: Run) -> None:
    assert run("-m", *SMALL, "split.fold=0,1", "seed=0,1", "hydra.sweep.dir=sweep") == 0
    assert "| 2 seeds × 2 folds |" in Path("sweep/results.md").read_text()


def test_what_is_missing_or_damaged_is_made_again_and_nothing_else(
    run: Run, crossed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, kept = read("here")["metrics"], Path("here/fold-1/checkpoints/last.pt").stat().st_mtime_ns
    assert run("resume=here") == 0
    assert "here is complete" in capsys.readouterr().out
    shutil.copytree("here/fold-1", "here/fold-backup1")  # not a fold
    Path("here/fold-0/predictions.npz").unlink()
    shutil.rmtree("here/fold-2")
    Path("here/out_of_fold.csv").unlink()
    assert run("resume=here") == 0
    assert "3 folds, 1 of them done" in capsys.readouterr().out
    assert read("here")["metrics"] == before
    assert Path("here/fold-1/checkpoints/last.pt").stat().st_mtime_ns == kept
    assert len(out_of_fold("here")) == 1797
    Path("here/fold-1/predictions.npz").write_bytes(b"PK")
    shutil.rmtree("here/fold-2")
    assert run("resume=here") == 1
    assert "here/fold-1/predictions.npz: cannot be read" in (said := capsys.readouterr().err)
    assert "try: rm here/fold-1/predictions.npz, then the same command again" in said
    Path("here/fold-1/predictions.npz").unlink()
    assert run("resume=here") == 0
    assert read("here")["metrics"] == before


def test_a_disk_that_is_full_for_a_moment_ends_no_fold(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summarise, calls = folds.summarise, iter(range(100))

    def full(cfg: Any, run_dir: Path) -> Any:
        if next(calls) == 1:  # when the first fold has ended
            raise OSError(28, "No space left on device")
        return summarise(cfg, run_dir)

    monkeypatch.setattr(folds, "summarise", full)
    assert run(*SMALL, "hydra.run.dir=here") == 0
    assert "what has been reached could not be written: [Errno 28] No space left on device" in capsys.readouterr().out
    assert read("here")["state"] == "completed"


@pytest.mark.parametrize("is_of_before", [False, True])
def test_a_fold_that_is_trained_after_a_resume_has_the_options_of_the_others(run: Run, is_of_before: bool) -> None:
    assert run(*SMALL, "hydra.run.dir=here") == 0
    expected = yaml.safe_load(Path("here/fold-1/config.yaml").read_text())["facts"]["options"]
    assert (expected["dataset"], expected["model"]) == ("iris", "mlp")
    shutil.rmtree("here/fold-1")
    whole = yaml.safe_load(Path("here/config.yaml").read_text())
    assert whole["facts"]["options"] == expected
    if is_of_before:
        whole["facts"]["options"] = "???"
        Path("here/config.yaml").write_text(yaml.safe_dump(whole))
    assert run("resume=here") == 0
    assert yaml.safe_load(Path("here/fold-1/config.yaml").read_text())["facts"]["options"] == expected
