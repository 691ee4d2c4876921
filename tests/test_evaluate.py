"""A trained run on a part of its data, or on other data."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import QUICK, Run, records_of, result_of
from PIL import Image
from scipy.optimize import minimize
from sklearn.datasets import load_digits, load_wine

from runner import dataset, load_run
from runner.pictures import gallery
from runner.trained.calibration import fit_temperature


def found(folder: str | Path) -> dict[str, Any]:
    """What the one evaluation of a run wrote."""
    (path,) = Path(folder).glob("evaluate/*/result.json")
    return json.loads(path.read_text())


def recorded(folder: str | Path, part: str) -> dict[str, float]:
    """The figures of a part that training wrote."""
    metrics = json.loads((Path(folder) / "result.json").read_text())["metrics"]
    return {tag: value for tag, value in metrics.items() if tag.startswith(f"{part}/")}


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and saved but not drawn, which takes half of an evaluation; some tests of each task do draw."""
    monkeypatch.setattr(gallery, "to_image", lambda figure: torch.zeros(3, 8, 8, dtype=torch.uint8))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("part", ["val", "test"])
def test_the_figures_are_those_of_training_to_the_last_digit(run: Run, digits: Path, part: str) -> None:
    before = (digits / "result.json").read_bytes()
    assert run("evaluate", f"run={digits}", f"part={part}") == 0
    assert found(digits)["metrics"] == recorded(digits, part)
    assert (digits / "result.json").read_bytes() == before


OTHERS = {
    "convolutions, augmented, weighted": (
        "model=cnn", "model.channels=[4,8]", "loss=weighted_ce", "transform=crop_flip", "trainer.max_epochs=1"),
    "averaged, of a fold": ("trainer.ema=0.9", "split=stratified_kfold", "split.fold=1", "trainer.max_epochs=1"),
    "bf16, focal": ("trainer.precision=bf16", "loss=focal", "metric=classification_full", "trainer.max_epochs=1"),
    "read one by one, a sum of losses": ("loader=workers", "loss=sum", "trainer.max_epochs=1"),
}  # fmt: skip


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", OTHERS)
def test_so_they_are_however_it_was_trained(run: Run, name: str) -> None:
    quick = [override for override in QUICK if not override.startswith("model")]
    assert run("model=mlp", *quick, *OTHERS[name], "hydra.run.dir=r") == 0
    assert run("evaluate", "run=r") == 0
    assert found("r")["metrics"] == recorded("r", "test")


def test_so_they_are_where_values_are_learnt(run: Run, diabetes: Path) -> None:
    assert run("evaluate", f"run={diabetes}") == 0
    assert found(diabetes)["metrics"] == recorded(diabetes, "test")


OWN = """\
import numpy as np
import torch
from runner.dataset import ArrayDataset, Parts
from torch.utils.data import Dataset, IterableDataset

draw = np.random.default_rng(0)
PICTURES = draw.integers(0, 255, (240, 6, 6, 3), dtype=np.uint8)
TARGETS = (PICTURES[..., 0].mean((1, 2)) > 127).astype(int)


class Dicts(Dataset):
    def __len__(self):
        return 240

    def __getitem__(self, i):
        x = PICTURES[i].reshape(-1).astype(np.float32) / 255
        return {"x": x, "y": TARGETS[i] if i % 9 else -1, "w": 1.0 + i % 2, "m": i % 7 > 0}


class Pictures(Dataset):
    targets = TARGETS

    def __len__(self):
        return 240

    def __getitem__(self, i):
        return PICTURES[i], TARGETS[i]


class Endless(IterableDataset):
    classes = ["dark", "light"]

    def __iter__(self):
        return ((torch.from_numpy(PICTURES[i]).permute(2, 0, 1), int(TARGETS[i])) for i in range(120))


def stream():
    rest = [torch.from_numpy(PICTURES[n : n + 60]).permute(0, 3, 1, 2).contiguous() for n in (120, 180)]
    val, test = (ArrayDataset(x, torch.from_numpy(TARGETS[n : n + 60]), ["dark", "light"])
                 for x, n in zip(rest, (120, 180)))
    return Parts(Endless(), val, test)


def soft():
    x = torch.from_numpy(PICTURES.reshape(240, -1).astype(np.float32) / 255)
    chance = torch.from_numpy(PICTURES[..., 0].mean((1, 2)).astype(np.float32) / 255)
    return ArrayDataset(x, torch.stack([1 - chance, chance], 1), ["dark", "light"])
"""

OWN_DATA = {
    "dicts with weights, masks and targets that do not count": (
        "dataset._target_=own_data.Dicts", "dataset.keys={input: x, target: y, weight: w, mask: m}",
        "loss.ignore_index=-1", "transform=none", "split=random"),
    "pictures with the channels last, as OpenCV has them": (
        "dataset._target_=own_data.Pictures", "dataset.layout=hwc_bgr", "split=random"),
    "a stream": (
        "dataset._target_=own_data.stream", "split=predefined", "loader.epoch_samples=240"),
    "distributions": ("dataset._target_=own_data.soft", "loss=kl_div", "split=random", "transform=none"),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN_DATA)
def test_so_they_are_for_data_of_the_users_own(run: Run, name: str) -> None:
    Path("own_data.py").write_text(OWN)
    Path("mine/dataset").mkdir(parents=True)
    Path("mine/dataset/own.yaml").write_text("_target_: ???\nkeys: null\nlayout: chw\n")
    allowed = "allow_targets=[own_data.*]"
    own = ("--config-dir", "mine", "dataset=own", allowed, *OWN_DATA[name])
    assert run(*own, *QUICK, "trainer.accumulate=1", "hydra.run.dir=r") == 0
    assert run("evaluate", "run=r", allowed) == 0
    assert found("r")["metrics"] == recorded("r", "test")
    assert run("predict", "run=r", allowed, "input=val", "output=p.csv") == 0
    with np.load("r/split.npz") as held:
        assert len(Path("p.csv").read_text().splitlines()) == len(held["val"]) + 1
    if name == "a stream":
        assert run("evaluate", "run=r", allowed, "part=train") == 2


def test_several_classes_a_sample(run: Run) -> None:
    rows = [f"{n % 7},{n % 3},{n % 2},{int(n % 7 > 3)}" for n in range(200)]
    Path("t.csv").write_text("\n".join(["x,y,a,b", *rows]))
    over = ("dataset=table", "dataset.path=t.csv", "dataset.target=[a,b]", "transform=table", "loss=bce")
    assert run(*QUICK, *over, "metric=multilabel", "split=random", "hydra.run.dir=r") == 0
    assert run("evaluate", "run=r", "temperature=val") == 0
    assert run("evaluate", "run=r", "output=e") == 0
    assert result_of("e")["metrics"] == recorded("r", "test")
    with Path("e/predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert lines[0].keys() == {"index", "target", "prediction", "probability_a", "probability_b"}
    for line in lines:
        n = int(line["index"])
        assert line["target"] == ";".join(name for name, on in (("a", n % 2), ("b", n % 7 > 3)) if on)


@pytest.mark.usefixtures("undrawn")
def test_the_last_weights_have_the_figures_of_the_last_evaluation(run: Run, digits: Path) -> None:
    last = records_of(digits)[-1]
    assert run("evaluate", f"run={digits}", "part=val", "weights=last") == 0
    assert found(digits)["metrics"] == {tag: value for tag, value in last.items() if tag.startswith("val/")}


def test_it_leaves_every_table_figure_and_prediction(run: Run, digits: Path) -> None:
    assert run("evaluate", f"run={digits}", "part=val", "output=e") == 0
    there = {str(path.relative_to("e")) for path in Path("e").rglob("*") if path.is_file()}
    pictures = {f"figures/val-{name}.png" for name in ("confusion", "ranking", "mistakes")}
    assert there == {"result.json", "predictions.csv", *pictures}
    content = result_of("e")
    before = result_of(digits)["tables"]
    for tag in ("val/per_class", "val/confusion", "val/mistakes"):
        assert content["tables"][tag] == before[tag]
    with Path("e/predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    accuracy = sum(line["target"] == line["prediction"] for line in lines) / len(lines)
    assert accuracy == content["metrics"]["val/accuracy"]
    assert [line["target"] for line in lines] == [str(load_digits().target[int(line["index"])]) for line in lines]


@pytest.mark.usefixtures("undrawn")
def test_the_mistakes_on_test_are_not_shown(run: Run, digits: Path) -> None:
    assert run("evaluate", f"run={digits}", "output=e") == 0
    assert not Path("e/figures/test-mistakes.png").exists()
    assert "test/mistakes" not in result_of("e")["tables"]


@pytest.mark.usefixtures("undrawn")
def test_a_moved_run_and_moved_data(run: Run) -> None:
    pictures = load_digits()
    for number in range(200):
        path = Path(f"here/photos/{pictures.target[number]}/{number:03}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pictures.images[number] * 15).astype(np.uint8)).save(path)
    over = ("dataset=image_folder", "dataset.channels=1", "dataset.cache=null")
    assert run(*QUICK, *over, "dataset.root=here/photos", "hydra.run.dir=here/run") == 0
    Path("here").rename("there")
    assert run("evaluate", "run=there/run") == 2
    assert run("evaluate", "run=there/run", "dataset.root=there/photos") == 0
    assert found("there/run")["metrics"] == recorded("there/run", "test")
    assert found("there/run")["own_data"]


def folder_of_digits(place: str, classes: dict[int, str], each: int = 3) -> None:
    bunch = load_digits()
    for target, name in classes.items():
        for number in np.flatnonzero(bunch.target == target)[:each]:
            path = Path(place) / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(bunch.images[number].astype(np.uint8)).save(path)


@pytest.mark.usefixtures("undrawn")
def test_other_data_with_the_same_classes(run: Run, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder_of_digits("photos", {n: str(n) for n in range(10)})
    other = ("dataset=image_folder", "dataset.root=photos", "dataset.cache=null")
    assert run("evaluate", f"run={digits}", *other, "output=e") == 0
    output = capsys.readouterr().out
    assert "the data set is not divided into parts: using all 30 samples" in output
    content = result_of("e")
    assert not content["own_data"]
    assert content["samples"] == 30
    with Path("e/predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    right = sum(line["target"] == line["prediction"] for line in lines) / 30
    assert content["metrics"]["test/accuracy"] == pytest.approx(right)
    folder_of_digits("some", {3: "3", 7: "7"})
    assert run("evaluate", f"run={digits}", *other, "dataset.root=some", "output=s") == 0
    assert "of the run's 10 classes, these data lack 0, 1, 2, 4, 5, …" in capsys.readouterr().out
    with Path("s/predictions.csv").open(newline="") as file:
        assert [line["target"] for line in csv.DictReader(file)] == ["3"] * 3 + ["7"] * 3


def test_classes_that_differ_are_an_error_with_the_difference(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder_of_digits("photos", {n: "seven" if n == 7 else str(n) for n in range(10)})
    other = ("dataset=image_folder", "dataset.root=photos", "dataset.cache=null")
    assert run("evaluate", f"run={digits}", *other) == 2
    expected = "its classes are not those of the run: it has seven, which the run does not have, and lacks 7"
    assert expected in capsys.readouterr().err
    assert not (digits / "evaluate").exists()


@pytest.mark.usefixtures("undrawn")
def test_another_table_is_read_in_the_codes_of_the_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    frame = load_wine(as_frame=True).frame
    frame = frame.assign(colour=[("red", "rose", "white")[row % 3] for row in range(178)])
    frame.to_csv("wine.csv", index=False)
    table = ("dataset=table", "dataset.target=target", "transform=table")
    assert run(*QUICK, *table, "dataset.path=wine.csv", "hydra.run.dir=r") == 0
    with np.load("r/split.npz") as held:
        rows = held["test"]
    # Other categories come first, a column is elsewhere, and one class is not there.
    part = frame.iloc[rows]
    part[part.target != 1].sample(frac=1, axis=1, random_state=1).to_csv("new.csv", index=False)
    assert run("evaluate", "run=r", *table[:2], "dataset.path=new.csv", "output=new") == 0
    assert run("evaluate", "run=r", "output=old") == 0
    with Path("new/predictions.csv").open(newline="") as new, Path("old/predictions.csv").open(newline="") as old:
        mine, theirs = list(csv.DictReader(new)), [r for r in csv.DictReader(old) if r["target"] != "1"]
    assert [float(r["probability"]) for r in mine] == pytest.approx([float(r["probability"]) for r in theirs], rel=1e-4)
    assert [r["target"] for r in mine] == [r["target"] for r in theirs]
    part.assign(colour="blue").to_csv("blue.csv", index=False)
    assert run("evaluate", "run=r", *table[:2], "dataset.path=blue.csv") == 0
    said = f"column colour: {len(part)} cells with a category that is not in the training data, treated as missing"
    assert said in capsys.readouterr().out


def test_the_temperature_is_the_one_with_the_least_log_loss() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(500, 4, generator=draw)
    target = (logits / 3).softmax(1).multinomial(1, generator=draw)[:, 0]

    def log_loss(t: np.ndarray) -> float:
        return float(torch.nn.functional.cross_entropy(logits.double() / float(t[0]), target))

    (expected,) = minimize(log_loss, [1.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12}).x
    assert fit_temperature(logits, target, "classification") == pytest.approx(expected, rel=1e-4)
    assert expected == pytest.approx(3, rel=0.2)
    flags = (torch.rand(500, 4, generator=draw) < (logits / 2).sigmoid()).long()
    assert fit_temperature(logits, flags, "multilabel") == pytest.approx(2, rel=0.2)


@pytest.mark.usefixtures("undrawn")
def test_two_evaluations_in_one_second_get_two_folders(run: Run, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5)
    monkeypatch.setattr("runner.evaluate.datetime", SimpleNamespace(now=lambda: moment))
    for _ in range(3):
        assert run("evaluate", f"run={digits}") == 0
    names = sorted(path.name for path in (digits / "evaluate").iterdir())
    assert names == ["2026-01-02_03-04-05", "2026-01-02_03-04-05-1", "2026-01-02_03-04-05-2"]
    assert all((digits / "evaluate" / name / "result.json").is_file() for name in names)


@pytest.mark.usefixtures("undrawn")
def test_calibration_lowers_the_log_loss_on_val_and_leaves_the_classes(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, over in (("plain", ()), ("cooled", ("temperature=val",))):
        assert run("evaluate", f"run={digits}", "part=val", f"output={name}", *over) == 0
    assert "is fitted on the same samples that it is evaluated on" in capsys.readouterr().out
    plain, cooled = (json.loads(Path(name, "result.json").read_text()) for name in ("plain", "cooled"))
    assert cooled["metrics"]["val/loss"] < plain["metrics"]["val/loss"]
    assert cooled["metrics"]["val/accuracy"] == plain["metrics"]["val/accuracy"]
    before, after = cooled["tables"]["val/calibration"]
    assert before["log loss"] == pytest.approx(plain["metrics"]["val/loss"], rel=1e-6)
    assert after["log loss"] == pytest.approx(cooled["metrics"]["val/loss"], rel=1e-6)
    assert cooled["temperature"] == pytest.approx(float(after["temperature"]), rel=1e-3)


@pytest.mark.usefixtures("undrawn")
def test_rows_without_a_target_are_left_out_and_predicted(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    frame = load_wine(as_frame=True).frame
    frame.loc[[3, 50, 51], "target"] = None
    frame.to_csv("wine.csv", index=False)
    table = ("dataset=table", "dataset.path=wine.csv", "dataset.target=target", "transform=table")
    assert run(*QUICK, *table) == 2
    said = "error: dataset.target: 3 rows have no target; the first is row 3 (counted from 0), line 5 of wine.csv\n"
    assert said in capsys.readouterr().err
    assert run(*QUICK, *table, "dataset.missing_target=drop", "hydra.run.dir=r") == 0
    assert "dataset.missing_target=drop: 3 rows have no target, and 175 are left" in capsys.readouterr().out
    assert run("evaluate", "run=r", "output=e") == 0
    assert result_of("e")["metrics"] == recorded("r", "test")
    # An index is a position among the rows that are left; that of a file that is predicted is of all its rows.
    assert run("predict", "run=r", "input=wine.csv", "output=all.csv") == 0
    every, test = pd.read_csv("all.csv"), pd.read_csv("e/predictions.csv")
    assert every["index"].tolist() == list(range(178))
    left = np.flatnonzero(frame.target.notna())[test["index"]]
    assert test.target.tolist() == frame.target[left].tolist()
    assert test.prediction.tolist() == every.prediction[left].tolist()


@pytest.mark.usefixtures("undrawn")
def test_data_without_targets_are_for_predict(run: Run, tabular: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pd.read_csv("wine.csv").drop(columns="target").to_csv("a new.csv", index=False)
    other = ("dataset=table", "dataset.target=target", "dataset.path=a new.csv")
    assert run("evaluate", f"run={tabular}", *other) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "error: dataset.target: the table has no column 'target'"
    command = said[2].removeprefix("  try: ").removesuffix(", for data without targets")
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "runner"]
    assert run(*words[3:]) == 0
    assert run("evaluate", f"run={tabular}", *other[:1], "dataset.target=Hue", *other[2:]) == 2
    assert capsys.readouterr().err.endswith("\n  try: dataset.target=hue\n")  # misspelt, and there
    assert run(*QUICK, *other, "transform=table") == 2
    assert "predict" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((), "run: is not given"),
        (("run=nowhere",), "run: 'nowhere' does not exist"),
        (("run=digits", "part=tset"), "part: 'tset' is not allowed\n  allowed: train, val, test"),
        (("run=digits", "weigths=last"), "try: weights=last"),
        (("run=digits", "weights=lats"), "try: weights=last"),
        (("run=digits", "model.hidden=[3]"), "model.hidden: cannot be changed, because the run was trained with it"),
        (("run=digits", "loader=workers"), "loader: another option cannot be chosen, but single keys can be set"),
        (("run=digits", "dataset=digts"), "dataset: there is no option 'digts'"),
        (("run=[digits,digits]",), "'[digits,digits]' is several runs"),
        (("run=digits,digits",), "is several runs"),
        (("run=digits", "temperature=-1"), "temperature: -1 is not allowed"),
        (("run=digits", "output=digits"), "output: 'digits' already exists"),
        (("run=digits", "-m"), "-m: evaluate has no such flag"),
        (("run=digits", "device=cuda:77"), "device: there is no 'cuda:77'"),
        (("run=digits", "dataset=wine", "transform=none"), "transform: cannot be changed, because the run was trained"),
        (("run=digits", "dataset=wine"), "dataset: its classes are not those of the run: it has class_0"),
        (("run=digits", "dataset=synthetic", "dataset.size=20"), "samples are 3×32×32 after the transforms"),
        (("run=digits", "dataset=diabetes"), "dataset: has regression targets"),
        (("run=digits", "resume=digits"), "resume: has no effect on a trained run"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str], overrides: tuple[str, ...], said: str
) -> None:
    before = sorted(Path().rglob("*"))
    assert run("evaluate", *overrides) == 2
    output = capsys.readouterr()
    assert said in output.err
    assert "Traceback" not in output.err + output.out
    assert sorted(Path().rglob("*")) == before


def test_of_several_keys_the_wrong_one_is_named_and_no_other(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", "run=digits", "weights=last", "foo=3") == 2
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == ["error", "  allowed"]


@pytest.mark.usefixtures("undrawn")
def test_data_that_changed_are_not_taken_for_those_of_the_run(
    run: Run, tabular: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pd.read_csv("wine.csv").iloc[1:].to_csv("wine.csv", index=False)
    assert run("evaluate", "run=r") == 2
    assert "dataset: the data have changed since training" in capsys.readouterr().err
    other = ("dataset=table", "dataset.path=wine.csv", "dataset.target=target")
    assert run("evaluate", "run=r", *other) == 0  # as other data, if that is what is meant


@pytest.mark.usefixtures("undrawn")
def test_a_cross_validation_names_its_folds(run: Run, crossed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "run=here") == 2
    assert "try: run=here/fold-0" in capsys.readouterr().err
    assert run("evaluate", "run=here/fold-1") == 0
    assert found("here/fold-1")["metrics"] == recorded("here/fold-1", "test")


def test_a_figure_that_cannot_be_drawn_leaves_nothing(run: Run, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("runner.pictures.gallery.save", fail)
    assert run("evaluate", f"run={digits}") == 1
    assert not list(digits.glob("evaluate/*"))
    assert not list(digits.glob("evaluate/.*"))
    shutil.rmtree(digits)


ARMS = """\
import numpy as np
from torch.utils.data import Dataset

X = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
ARMS = np.where(X[:, 0] > 0.6, "right", np.where(X[:, 0] < -0.6, "left", "none"))


class Dicts(Dataset):
    def __init__(self, classes, ignored, first=0):
        self.classes, self.ignored, self.first = classes, ignored, first

    def __len__(self):
        return 200 - self.first

    def __getitem__(self, i):
        i += self.first
        arm = self.classes.index(str(ARMS[i])) if i % 9 else self.ignored
        # What is masked may be anything in data that come later.
        return {"xy": X[i], "arm": arm if i % 7 or not self.first else 77, "m": i % 7 > 0}
"""


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("ignored", [-1, 255])
def test_classes_in_another_order_are_the_same_classes(run: Run, ignored: int) -> None:
    Path("arms.py").write_text(ARMS)
    Path("mine/dataset").mkdir(parents=True)
    keys = "keys: {input: xy, target: arm, mask: m}"
    for name, order, first in (("here", "left, right, none", 0), ("there", "none, left, right", 20)):
        text = f"_target_: arms.Dicts\nclasses: [{order}]\nignored: {ignored}\nfirst: {first}\n{keys}\n"
        Path(f"mine/dataset/{name}.yaml").write_text(text)
    own = ("--config-dir", "mine", "allow_targets=[arms.*]")
    over = ("dataset=here", f"loss.ignore_index={ignored}", "transform=none", "split=random", "trainer.max_epochs=9")
    assert run(*own, *QUICK, *over, "hydra.run.dir=r") == 0
    assert run("evaluate", *own, "run=r", "dataset=there", "output=e") == 0
    measured = result_of("e")["metrics"]["test/accuracy"]
    import arms

    counted = [i for i in range(20, 200) if i % 9 and i % 7]
    said = load_run("r", allow_targets=["arms.*"]).predict(arms.X[counted]).labels
    right = [mine == arm for mine, arm in zip(said, arms.ARMS[counted], strict=True)]
    assert 0.5 < measured == pytest.approx(sum(right) / len(right))


@pytest.mark.usefixtures("undrawn")
def test_the_data_are_read_once_for_the_part_and_the_temperature(
    run: Run, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, read = [0], dataset.read

    def counting(*arguments: Any) -> Any:
        count[0] += 1
        return read(*arguments)

    monkeypatch.setattr(dataset, "read", counting)
    assert run("evaluate", f"run={digits}", "temperature=val") == 0
    assert count == [1]
