"""A trained run on a part of its data, or on other data."""

from __future__ import annotations

import csv
import json
import shlex
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LIGHT, QUICK, Run, records_of, result_of
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


UNDRAWN = "figures=false"  # drawing takes half of an evaluation, and is what some tests are about


def test_the_figures_are_those_of_training_to_the_last_digit(
    run: Run, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And evaluations in one second get folders of their own."""
    moment = datetime(2026, 1, 2, 3, 4, 5)
    monkeypatch.setattr("runner.evaluate.datetime", SimpleNamespace(now=lambda: moment))
    before = (digits / "result.json").read_bytes()
    for over in (("part=val",), ("part=test",), ("part=val", "weights=last")):
        assert run("evaluate", f"run={digits}", UNDRAWN, *over) == 0
    assert (digits / "result.json").read_bytes() == before
    names = [f"2026-01-02_03-04-05{end}" for end in ("", "-1", "-2")]
    assert sorted(path.name for path in (digits / "evaluate").iterdir()) == names
    val, test, last = (result_of(digits / "evaluate" / name) for name in names)
    assert [Path(each["weights"]["path"]).name for each in (val, test, last)] == ["best.pt", "best.pt", "last.pt"]
    assert val["metrics"] == recorded(digits, "val")
    assert test["metrics"] == recorded(digits, "test")
    assert last["metrics"] == {tag: value for tag, value in records_of(digits)[-1].items() if tag.startswith("val/")}
    assert "val/mistakes" in val["tables"]
    assert "test/mistakes" not in test["tables"]  # they are not shown


OTHERS = {
    "convolutions, augmented, weighted, averaged, of a fold": (
        "model=cnn", "model.channels=[4,8]", "transform=crop_flip", "loss=weighted_ce", "trainer.ema=0.9",
        "split=stratified_kfold", "split.fold=1"),
    "bf16, a sum of losses, read one by one, more metrics": (
        "model=mlp", "model.hidden=[16]", "trainer.precision=bf16", "loss=sum", "loss.terms.1.weight=balanced",
        "loader=workers", "metric=classification_full"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_so_they_are_however_it_was_trained(run: Run, name: str) -> None:
    quick = [override for override in LIGHT if not override.startswith("model")]
    assert run(*quick, *OTHERS[name], "trainer.max_epochs=1", "hydra.run.dir=r") == 0
    assert run("evaluate", "run=r", UNDRAWN) == 0
    assert found("r")["metrics"] == recorded("r", "test")


def test_so_they_are_where_values_are_learnt(run: Run, diabetes: Path) -> None:
    assert run("evaluate", f"run={diabetes}") == 0
    assert found(diabetes)["metrics"] == recorded(diabetes, "test")
    assert [path.name for path in diabetes.glob("evaluate/*/figures/*")] == ["test-residuals.png"]


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
        return {"x": PICTURES[i], "y": TARGETS[i] if i % 9 else -1, "w": 1.0 + i % 2, "m": i % 7 > 0}


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
    "dicts with weights, masks, targets that do not count, and pictures as OpenCV has them": (
        "dataset._target_=own_data.Dicts", "dataset.keys={input: x, target: y, weight: w, mask: m}",
        "loss.ignore_index=-1", "dataset.layout=hwc_bgr", "split=random"),
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
    assert run(*own, *QUICK, "trainer.max_epochs=1", "trainer.accumulate=1", "hydra.run.dir=r") == 0
    assert run("evaluate", "run=r", allowed, UNDRAWN) == 0
    assert found("r")["metrics"] == recorded("r", "test")
    assert run("predict", "run=r", allowed, "input=val", "output=p.csv") == 0
    with np.load("r/split.npz") as held:
        assert len(Path("p.csv").read_text().splitlines()) == len(held["val"]) + 1
    if name == "a stream":
        assert run("evaluate", "run=r", allowed, "part=train") == 2


def test_several_classes_a_sample(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn, with a temperature, for which the data are read once, and without."""
    rows = [f"{n % 7},{n % 3},{n % 2},{int(n % 7 > 3)}" for n in range(200)]
    Path("t.csv").write_text("\n".join(["x,y,a,b", *rows]))
    over = ("dataset=table", "dataset.path=t.csv", "dataset.target=[a,b]", "transform=table", "loss=bce")
    assert run(*LIGHT, *over, "trainer.max_epochs=1", "metric=multilabel", "split=random", "hydra.run.dir=r") == 0
    count, read = [0], dataset.read

    def counting(*arguments: Any) -> Any:
        count[0] += 1
        return read(*arguments)

    monkeypatch.setattr(dataset, "read", counting)
    assert run("evaluate", "run=r", "temperature=val", "output=cooled") == 0
    assert count == [1]
    assert [path.name for path in Path("cooled/figures").iterdir()] == ["test-ranking.png"]
    assert run("evaluate", "run=r", "output=e", UNDRAWN) == 0
    assert not Path("e/figures").exists()
    assert result_of("e")["metrics"] == recorded("r", "test") != result_of("cooled")["metrics"]
    with Path("e/predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert lines[0].keys() == {"index", "target", "prediction", "probability_a", "probability_b"}
    for line in lines:
        n = int(line["index"])
        assert line["target"] == ";".join(name for name, on in (("a", n % 2), ("b", n % 7 > 3)) if on)


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


def test_a_moved_run_and_moved_data(run: Run, resized: Path) -> None:
    Path("photos").rename("there")
    assert run("evaluate", f"run={resized}", UNDRAWN) == 2
    assert run("evaluate", f"run={resized}", "dataset.root=there", UNDRAWN) == 0
    assert found(resized)["metrics"] == recorded(resized, "test")
    assert found(resized)["own_data"]


def folder_of_digits(place: str, classes: dict[int, str], each: int = 3) -> None:
    bunch = load_digits()
    for target, name in classes.items():
        for number in np.flatnonzero(bunch.target == target)[:each]:
            path = Path(place) / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(bunch.images[number].astype(np.uint8)).save(path)


def test_other_data_with_the_same_classes(run: Run, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder_of_digits("photos", {n: str(n) for n in range(10)})
    other = ("dataset=image_folder", "dataset.root=photos", "dataset.cache=null")
    assert run("evaluate", f"run={digits}", *other, "output=e", UNDRAWN) == 0
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
    assert run("evaluate", f"run={digits}", *other, "dataset.root=some", "output=s", UNDRAWN) == 0
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


def test_another_table_is_read_in_the_codes_of_the_run(
    run: Run, tabular: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_csv("wine.csv")
    with np.load(tabular / "split.npz") as held:
        part = frame.iloc[held["test"]]
    # Other categories come first, a column is elsewhere, and one class is not there.
    part = part[part.target != 1].sort_values("colour", ascending=False, kind="stable")
    assert (part.colour.iloc[0], frame.colour[0]) == ("white", "red")
    unknown = part.assign(colour="blue")
    pd.concat([part, unknown]).sample(frac=1, axis=1, random_state=1).to_csv("new.csv", index=False)
    table = ("dataset=table", "dataset.target=target", "dataset.path=new.csv")
    assert run("evaluate", f"run={tabular}", *table, "output=new", UNDRAWN) == 0
    said = f"column colour: {len(part)} cells with a category that is not in the training data, treated as missing"
    assert said in capsys.readouterr().out
    assert run("evaluate", f"run={tabular}", "output=old", UNDRAWN) == 0
    new, old = pd.read_csv("new/predictions.csv"), pd.read_csv("old/predictions.csv").set_index("index")
    mine, theirs = new[: len(part)], old.loc[part.index]
    assert mine.probability.tolist() == pytest.approx(theirs.probability.tolist(), rel=1e-4)
    assert mine.target.tolist() == theirs.target.tolist() == part.target.tolist()
    gaps = part.colour.isna().to_numpy()
    missing = new[len(part) :].probability.to_numpy()
    assert missing[gaps] == pytest.approx(mine.probability[gaps], rel=1e-4)
    assert missing[~gaps] != pytest.approx(mine.probability[~gaps], rel=1e-4)


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


def test_calibration_lowers_the_log_loss_on_val_and_leaves_the_classes(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", f"run={digits}", "part=val", "output=e", "temperature=val", UNDRAWN) == 0
    assert "is fitted on the same samples that it is evaluated on" in capsys.readouterr().out
    plain, cooled = recorded(digits, "val"), result_of("e")
    assert cooled["metrics"]["val/loss"] < plain["val/loss"]
    assert cooled["metrics"]["val/accuracy"] == plain["val/accuracy"]
    before, after = cooled["tables"]["val/calibration"]
    assert before["log loss"] == pytest.approx(plain["val/loss"], rel=1e-6)
    assert after["log loss"] == pytest.approx(cooled["metrics"]["val/loss"], rel=1e-6)
    assert cooled["temperature"] == pytest.approx(float(after["temperature"]), rel=1e-3)


def test_rows_without_a_target_are_left_out_and_predicted(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    frame = load_wine(as_frame=True).frame
    frame.loc[[3, 50, 51], "target"] = None
    frame.to_csv("wine.csv", index=False)
    table = ("dataset=table", "dataset.path=wine.csv", "dataset.target=target", "transform=table")
    assert run(*QUICK, *table) == 2
    said = "error: dataset.target: 3 rows have no target; the first is row 3 (counted from 0), line 5 of wine.csv\n"
    assert said in capsys.readouterr().err
    assert run(*QUICK, *table, "trainer.max_epochs=1", "dataset.missing_target=drop", "hydra.run.dir=r") == 0
    assert "dataset.missing_target=drop: 3 rows have no target, and 175 are left" in capsys.readouterr().out
    assert run("evaluate", "run=r", "output=e", UNDRAWN) == 0
    assert result_of("e")["metrics"] == recorded("r", "test")
    # An index is a position among the rows that are left; that of a file that is predicted is of all its rows.
    assert run("predict", "run=r", "input=wine.csv", "output=all.csv") == 0
    every, test = pd.read_csv("all.csv"), pd.read_csv("e/predictions.csv")
    assert every["index"].tolist() == list(range(178))
    left = np.flatnonzero(frame.target.notna())[test["index"]]
    assert test.target.tolist() == frame.target[left].tolist()
    assert test.prediction.tolist() == every.prediction[left].tolist()


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


def test_data_that_changed_are_not_taken_for_those_of_the_run(
    run: Run, tabular: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pd.read_csv("wine.csv").iloc[1:].to_csv("wine.csv", index=False)
    assert run("evaluate", "run=r") == 2
    assert "dataset: the data have changed since training" in capsys.readouterr().err
    other = ("dataset=table", "dataset.path=wine.csv", "dataset.target=target")
    assert run("evaluate", "run=r", *other, UNDRAWN) == 0  # as other data, if that is what is meant


def test_a_cross_validation_names_its_folds(run: Run, crossed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "run=here") == 2
    assert "try: run=here/fold-0" in capsys.readouterr().err
    assert run("evaluate", "run=here/fold-1", UNDRAWN) == 0
    assert found("here/fold-1")["metrics"] == recorded("here/fold-1", "test")


def test_a_figure_that_cannot_be_saved_leaves_nothing(run: Run, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def fail(pictures: dict[str, torch.Tensor], _: Path) -> None:
        made.extend(pictures)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gallery, "to_image", lambda figure: torch.zeros(3, 8, 8, dtype=torch.uint8))
    monkeypatch.setattr(gallery, "save", fail)
    assert run("evaluate", f"run={digits}") == 1
    assert made == ["test/confusion", "test/ranking"]  # and no mistakes on test
    assert not list(digits.glob("evaluate/*"))
    assert not list(digits.glob("evaluate/.*"))


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


def test_classes_in_another_order_are_the_same_classes(run: Run) -> None:
    Path("arms.py").write_text(ARMS)
    Path("mine/dataset").mkdir(parents=True)
    keys = "keys: {input: xy, target: arm, mask: m}"
    for name, order, first in (("here", "left, right, none", 0), ("there", "none, left, right", 20)):
        text = f"_target_: arms.Dicts\nclasses: [{order}]\nignored: -7\nfirst: {first}\n{keys}\n"
        Path(f"mine/dataset/{name}.yaml").write_text(text)
    own = ("--config-dir", "mine", "allow_targets=[arms.*]")
    over = ("dataset=here", "loss.ignore_index=-7", "transform=none", "split=random", "loader.batch_size=8")
    assert run(*own, *QUICK, *over, "hydra.run.dir=r") == 0
    assert run("evaluate", *own, "run=r", "dataset=there", "output=e", UNDRAWN) == 0
    measured = result_of("e")["metrics"]["test/accuracy"]
    import arms

    counted = [i for i in range(20, 200) if i % 9 and i % 7]
    said = load_run("r", allow_targets=["arms.*"]).predict(arms.X[counted]).labels
    right = [mine == arm for mine, arm in zip(said, arms.ARMS[counted], strict=True)]
    assert 0.5 < measured == pytest.approx(sum(right) / len(right))
