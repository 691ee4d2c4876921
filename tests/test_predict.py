"""What trained runs say about files, tables, arrays and parts, line by line."""

from __future__ import annotations

import csv
import gc
import io
import json
import os
import re
import shutil
import signal
import sys
import time
import tracemalloc
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import conftest
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LIGHT, QUICK, Forked, Once, Run, photos_of_several_sizes, result_of
from PIL import Image
from sklearn.datasets import load_digits, load_wine

from runner import load_run, predict
from runner.__main__ import command, main
from runner.dataset.dialect import GAPS
from runner.errors import ConfigError, DataError, InputError
from runner.trained.inputs import pieces
from runner.trained.opening import opened
from runner.trained.run import open_run
from runner.trained.writing import Layout, Writer

BUNCH = load_digits()
PICTURES = torch.from_numpy(BUNCH.images.astype(np.uint8)).unsqueeze(1)


def photos(count: int, place: str = "photos") -> None:
    for number in range(count):
        path = Path(place) / str(number // 10) / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PICTURES[number, 0].numpy()).save(path)


def lines(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def floats(rows: list[dict[str, str]], *columns: str) -> np.ndarray:
    return np.array([[float(row[column]) for column in columns] for row in rows])


CLASSES = [f"probability_{n}" for n in range(10)]


def test_a_folder_of_pictures(run: Run, digits: Path) -> None:
    photos(25)
    Path("photos/notes.txt").write_text("no picture")
    assert run("predict", f"run={digits}", "input=photos", "output=p.csv", "probabilities=true") == 0
    rows = lines("p.csv")
    assert list(rows[0]) == ["path", "prediction", "probability", *CLASSES, "error"]
    assert [row["path"] for row in rows] == [f"photos/{n // 10}/{n:03}.png" for n in range(25)]
    expected = load_run(digits).predict(PICTURES[:25])
    assert [row["prediction"] for row in rows] == expected.labels
    assert floats(rows, *CLASSES) == pytest.approx(expected.probabilities, rel=1e-4)
    assert floats(rows, "probability")[:, 0] == pytest.approx(expected.probabilities.max(1), rel=1e-4)


def test_a_part_has_the_probabilities_that_evaluate_writes(run: Run, digits: Path) -> None:
    assert run("predict", f"run={digits}", "input=test", "output=p.csv", "probabilities=true") == 0
    assert run("evaluate", f"run={digits}", "output=e", "figures=false") == 0
    assert Path("p.csv").read_text() == Path("e/predictions.csv").read_text()


def test_the_likeliest_classes_and_json(run: Run, digits: Path) -> None:
    np.save("x.npy", PICTURES[:7].numpy())
    common = ("predict", f"run={digits}", "input=x.npy", "top_k=3", "probabilities=true")
    assert run(*common, "output=p.csv") == 0
    assert run(*common, "output=p.jsonl") == 0
    chances = load_run(digits).predict(PICTURES[:7]).probabilities
    order = (-chances).argsort(1)
    objects = [json.loads(line) for line in Path("p.jsonl").read_text().splitlines()]
    for number, (row, found) in enumerate(zip(lines("p.csv"), objects, strict=True)):
        best = [str(c) for c in order[number, :3]]
        assert [row["prediction"], row["top_2"], row["top_3"]] == best
        assert [found["prediction"], found["top_2"], found["top_3"]] == best
        assert found["top_3_probability"] == pytest.approx(chances[number, order[number, 2]], rel=1e-4)
        assert list(found["probabilities"].values()) == pytest.approx(chances[number], rel=1e-4)
        assert found["index"] == number
        assert found["error"] is None


def test_a_broken_file_is_reported_in_its_row_and_the_rest_go_on(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos(9)
    Path("photos/0/003.png").write_bytes(b"no picture")
    Path("photos/0/005.png").write_bytes(Path("photos/0/005.png").read_bytes()[:60])
    Image.new("L", (9, 9)).save("photos/0/006.png")
    for output in ("p.csv", "p.jsonl"):
        assert run("predict", f"run={digits}", "input=photos", f"output={output}", "probabilities=true") == 1
    assert "warning: 3 of the 9 samples could not be read" in capsys.readouterr().err
    rows = lines("p.csv")
    expected = load_run(digits).predict(PICTURES[:9]).labels
    wrong = (3, 5, 6)
    for number, row in enumerate(rows):
        assert row["prediction"] == ("" if number in wrong else expected[number])
        assert bool(row["error"]) == (number in wrong)
        assert bool(row["probability_4"]) == (number not in wrong)
    assert "cannot identify image file" in rows[3]["error"]
    assert "is 1×9×9, but the run was trained on images of 1×8×8" in rows[6]["error"]
    objects = [json.loads(line) for line in Path("p.jsonl").read_text().splitlines()]
    assert [o["prediction"] for o in objects] == [row["prediction"] or None for row in rows]
    assert ["probabilities" in o for o in objects] == [n not in wrong for n in range(9)]


def test_nothing_but_broken_files_are_rows_too(run: Run, digits: Path) -> None:
    for name in ("a.png", "b.jpg"):
        Path(name).write_bytes(b"no picture")
    assert run("predict", f"run={digits}", "input=.", "output=p.csv") == 1
    assert [row["prediction"] for row in lines("p.csv")] == ["", ""]


@pytest.fixture
def wine(once: Once, tabular: Path) -> list[dict[str, str]]:
    """What a run on a table, ``r``, says of the rows of its test part, which are in new tables."""
    trained = Path.cwd()

    def _asked() -> None:
        shutil.copytree(trained, ".", dirs_exist_ok=True)
        frame = pd.read_csv("wine.csv")
        assert main(["predict", f"run={tabular}", "input=test", "output=test.csv"]) == 0
        with np.load(tabular / "split.npz") as held:
            frame = frame.iloc[held["test"]].drop(columns="target")
        frame.to_csv("new.csv", index=False)
        frame.sample(frac=1, axis=1, random_state=0).to_parquet("new.parquet", index=False)

    shutil.copytree(once(_asked), ".", dirs_exist_ok=True)
    return lines("test.csv")


def same(path: str, expected: list[dict[str, str]]) -> bool:
    found = lines(path)
    close = np.allclose(floats(found, "probability"), floats(expected, "probability"), rtol=1e-4)
    return close and [r["prediction"] for r in found] == [r["prediction"] for r in expected]


def test_a_table_says_what_the_part_says(run: Run, wine: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.read_csv("new.csv")
    frame.insert(0, "note", "a\n\nb")  # a cell may hold a blank line
    frame.to_csv("notes.csv", index=False)
    Path("notes.csv").write_text(Path("notes.csv").read_text() + "\n  \n")
    assert run("predict", "run=r", "input=notes.csv", "keep=[note]", "output=p.csv") == 0
    assert run("predict", "run=r", "input=new.parquet", "output=q.csv", "loader.batch_size=7") == 0
    Path("semicolons.csv").write_text(Path("new.csv").read_text().replace(",", ";").replace("\n", "\r\n"))
    assert run("predict", "run=r", "input=semicolons.csv", "output=s.csv") == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(Path("new.csv").read_text()))
    assert run("predict", "run=r", "input=-", "output=i.csv") == 0
    assert all(same(path, wine) for path in ("p.csv", "q.csv", "s.csv", "i.csv"))
    assert list(lines("s.csv")[0]) == ["index", "prediction", "probability", "error"]
    assert {row["note"] for row in lines("p.csv")} == {"a\n\nb"}


def test_rows_that_cannot_be_read(run: Run, wine: list[dict[str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    text = Path("new.csv").read_text().splitlines()
    cells = [line.split(",") for line in text]
    cells[2][text[0].split(",").index("hue")] = "much"
    cells[4][text[0].split(",").index("hue")] = "1e39"
    cells[5] = cells[5][:4]
    cells[7][-1] = "blue"
    Path("bad.csv").write_text("\n".join(",".join(row) for row in cells) + "\n\n")
    capsys.readouterr()
    assert run("predict", "run=r", "input=bad.csv", "output=p.csv") == 1
    rows = lines("p.csv")
    assert len(rows) == len(wine)
    assert rows[1]["error"] == "column 'hue' holds 'much', which is not a number"
    assert rows[3]["error"] == "column 'hue' holds '1e39', which is too large a number"
    assert rows[4]["error"] == "has 4 cells, but the table has 14 columns"
    assert [row["prediction"] for n, row in enumerate(rows) if n not in (1, 3, 4, 6)] == [
        row["prediction"] for n, row in enumerate(wine) if n not in (1, 3, 4, 6)
    ]
    said = "column colour: 1 cell with a category that is not in the training data, treated as missing"
    assert said in capsys.readouterr().err


def test_columns_are_copied_that_tell_rows_from_one_another(
    run: Run, wine: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_csv("new.csv")
    frame.insert(3, "id", [f"0{row}" for row in range(len(frame))])
    frame["day"] = pd.Timestamp("2026-01-31")
    frame.to_parquet("named.parquet", index=False)
    frame.to_csv("named.csv", index=False)
    broken = Path("named.csv").read_text().splitlines()
    broken[2] = "1,2"
    Path("named.csv").write_text("\n".join(broken))
    assert run("predict", "run=r", "input=named.csv", "keep=[id,hue]", "output=p.csv") == 1
    found = lines("p.csv")
    assert list(found[0])[:4] == ["index", "id", "hue", "prediction"]
    assert [row["id"] for row in found] == ["00", "", *(f"0{row}" for row in range(2, len(frame)))]
    assert float(found[5]["hue"]) == frame.hue[5]
    assert [row["prediction"] for row in found[2:]] == [row["prediction"] for row in wine[2:]]
    assert run("predict", "run=r", "input=named.parquet", "keep=[day]", "output=q.jsonl") == 0
    assert json.loads(Path("q.jsonl").read_text().splitlines()[0])["day"] == "2026-01-31 00:00:00"

    capsys.readouterr()
    frame.rename(columns={"id": "prediction"}).to_csv("taken.csv", index=False)
    for given, said in (
        ("input=named.csv keep=[idd]", 'try: "keep=[id]"'),
        ("input=test keep=[id]", "keep: ['id'] are columns of a table, but input=test is a part of the data"),
        ("input=taken.csv keep=[prediction]", "keep: 'prediction' is also the name of a column of the predictions"),
    ):
        assert run("predict", "run=r", *given.split(), "output=x.csv") == 2
        assert said in capsys.readouterr().err
    assert not Path("x.csv").exists()


@pytest.mark.parametrize("name", ["index", "prediction", "probability", "probabilities", "error"])
def test_a_column_that_is_copied_has_no_name_of_ours(name: str) -> None:
    keys = tuple(dict.fromkeys(("index", name, "hue")))  # of a piece, whose keys are names once each
    layout = Layout("classification", ["a", "b"], keys, fails=True)
    with pytest.raises(ConfigError, match=f"keep: '{name}' is also the name of a column of the predictions"):
        predict._check_names([name, "hue"], layout)
    predict._check_names(["hue"], Layout("classification", ["a", "b"], ("index", "hue"), fails=True))


def test_a_table_without_names_goes_by_position(run: Run) -> None:
    bunch = load_wine()
    whole = np.column_stack([bunch.data, bunch.target])
    np.savetxt("wine.csv", whole, delimiter=",", fmt="%.6g")
    table = ("dataset=table", "dataset.path=wine.csv", "transform=table", "hydra.run.dir=r")
    assert run(*QUICK, *table, "trainer.max_epochs=1") == 0
    assert run("predict", "run=r", "input=wine.csv", "output=with.csv") == 0
    np.savetxt("new.csv", bunch.data, delimiter=",", fmt="%.6g")
    assert run("predict", "run=r", "input=new.csv", "output=without.csv") == 0
    assert lines("with.csv") == lines("without.csv")
    assert len(lines("with.csv")) == 178


def test_gaps_are_those_of_pandas() -> None:
    from pandas._libs.parsers import STR_NA_VALUES

    assert GAPS == STR_NA_VALUES


def test_values_of_a_regression(run: Run, diabetes: Path) -> None:
    assert run("predict", "run=r", "input=test", "output=p.csv") == 0
    rows = lines("p.csv")
    assert list(rows[0]) == ["index", "target", "prediction"]
    error = np.abs(np.subtract(*floats(rows, "target", "prediction").T)).mean()
    assert error == pytest.approx(result_of("r")["metrics"]["test/mae"], rel=1e-6)


def test_an_ensemble_of_jobs_with_commas_in_their_names(digits: Path) -> None:
    places = ["sweep/lr=0.1,seed=0", "sweep/lr=0.1,seed=1"]
    for place in places:
        shutil.copytree(digits, place)
    found = opened("predict", [f"run=[{','.join(places)}]", "input=x.npy"], several=True)
    assert [str(each.folder) for each in found] == places


def test_an_ensemble_is_the_mean(
    run: Run, digits: Path, tabular: Path, crossed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*QUICK, "trainer.max_epochs=1", "transform=none", "hydra.run.dir=b") == 0
    np.save("x.npy", PICTURES[:30].numpy())
    assert run("predict", f"run=[{digits},b]", "input=x.npy", "output=p.csv", "probabilities=true") == 0
    one, two = (load_run(place).predict(PICTURES[:30]).probabilities for place in (digits, "b"))
    assert floats(lines("p.csv"), *CLASSES) == pytest.approx((one + two) / 2, rel=1e-4)
    assert run("predict", f"run=[{digits},b]", "input=test", "output=t.csv") == 0
    capsys.readouterr()
    assert run("predict", f"run=[{digits},{crossed}/fold-0]", "input=test", "output=u.csv") == 2
    assert f"the test parts of digits and {crossed}/fold-0 are not the same samples\n" in capsys.readouterr().err
    assert run("predict", f"run=[{digits},{tabular}]", "input=x.npy", "output=u.csv") == 2
    assert f"digits and {tabular} have different classes: only one of them has 3, 4," in capsys.readouterr().err


def test_of_a_cross_validation_all_folds_are_asked(run: Run, crossed: Path) -> None:
    np.save("x.npy", PICTURES[:30].numpy())
    assert run("predict", "run=here", "input=x.npy", "output=p.csv", "probabilities=true") == 0
    each = [load_run(f"here/fold-{n}").predict(PICTURES[:30]).probabilities for n in range(3)]
    assert floats(lines("p.csv"), *CLASSES) == pytest.approx(np.mean(each, 0), rel=1e-4)


def test_mirror_images(run: Run, digits: Path) -> None:
    np.save("x.npy", PICTURES[:30].numpy())
    trained = load_run(digits)
    assert run("predict", f"run={digits}", "input=x.npy", "flips=[horizontal]", "output=pair.csv",
               "probabilities=true") == 0  # fmt: skip
    pair = [trained.predict(x).probabilities for x in (PICTURES[:30], PICTURES[:30].flip(3))]
    assert floats(lines("pair.csv"), *CLASSES) == pytest.approx(np.mean(pair, 0), rel=1e-4)
    assert run("predict", f"run={digits}", "input=x.npy", "flips=[horizontal,vertical]", "output=p.csv",
               "probabilities=true") == 0  # fmt: skip
    four = [trained.predict(PICTURES[:30].flip(axes)).probabilities for axes in ((), (2,), (3,), (2, 3))]
    assert floats(lines("p.csv"), *CLASSES) == pytest.approx(np.mean(four, 0), rel=1e-4)


def test_paths_on_stdin_and_lines_on_stdout(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(5)
    paths = [f"photos/0/{n:03}.png" for n in (4, 0, 2)]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(paths) + "\n\n"))
    assert run("predict", f"run={digits}", "input=-") == 0
    output = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(output.out)))
    assert [row["path"] for row in rows] == paths
    assert [row["prediction"] for row in rows] == load_run(digits).predict(PICTURES[[4, 0, 2]]).labels
    assert "MLP of digits: best.pt, epoch 2" in output.err


@pytest.mark.parametrize("fit", ["cut", "stretch"])
def test_pictures_of_any_size_where_training_brought_them_to_one(run: Run, fit: str) -> None:
    """Cut where they are read one by one, stretched where they are held."""
    photos_of_several_sizes(60)
    data = ("dataset=image_folder", "dataset.root=photos", "dataset.cache=null")
    own = ("dataset.memory_limit=1",) if fit == "cut" else ("dataset.fit=stretch",)
    over = (*data, *own, "dataset.size=[8,24]", "dataset.channels=1", "split=random", "trainer.max_epochs=1")
    assert run(*QUICK, *over, "hydra.run.dir=r") == 0
    assert run("predict", "run=r", "input=test", "output=p.csv", "probabilities=true") == 0
    sys.stdin = io.StringIO("\n".join(f"photos/{row['path']}" for row in lines("p.csv")))
    assert run("predict", "run=r", "input=-", "output=f.csv", "probabilities=true") == 0
    chances = [c for c in lines("p.csv")[0] if c.startswith("probability")]
    assert len(chances) == 11
    assert floats(lines("f.csv"), *chances) == pytest.approx(floats(lines("p.csv"), *chances), rel=1e-4)
    (other,) = opened("predict", ["run=r", "input=test", *data])
    assert (list(other.cfg.dataset.size), other.cfg.dataset.fit) == ([8, 24], fit)
    (other,) = opened("predict", ["run=r", "input=test", *data, "dataset.fit=pad"])
    assert other.cfg.dataset.fit == "pad"


def test_the_paths_of_parts_in_folders_of_their_own_are_told_apart(run: Run) -> None:
    for part in ("train", "val", "test"):
        photos(20, f"pets/{part}")
    data = ("dataset=image_folder", "dataset.root=pets", "dataset.cache=null", "dataset.channels=1", "split=predefined")
    assert run(*QUICK, *data, "hydra.run.dir=r") == 0
    for part in ("val", "test"):
        assert run("predict", "run=r", f"input={part}", f"output={part}.csv") == 0
        assert [row["path"] for row in lines(f"{part}.csv")] == [
            str(path.relative_to("pets")) for path in sorted(Path("pets", part).rglob("*.png"))
        ]
    rows = result_of("r")["tables"]["val/mistakes"]
    held = {row["path"]: row for row in lines("val.csv")}
    assert rows
    assert all(held[row["file"]]["index"] == str(row["sample"]) for row in rows)
    assert all(held[row["file"]]["prediction"] == row["predicted"] for row in rows)


def test_the_range_of_deep_files_is_that_of_the_run(run: Run) -> None:
    for number in range(20):
        path = Path("deep", "ab"[number % 2], f"{number}.tif")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), number / 20, dtype=np.float32)).save(path)
    data = ("dataset=image_folder", "dataset.root=deep", "dataset.cache=null", "split=random")
    assert run(*QUICK, *data, "dataset.value_range=[0,1]", "hydra.run.dir=r") == 0
    for name, given in (("t", "test"), ("f", "deep")):
        assert run("predict", "run=r", f"input={given}", f"output={name}.csv") == 0
    files = {row["path"].removeprefix("deep/"): row["probability"] for row in lines("f.csv")}
    assert {row["path"]: row["probability"] for row in lines("t.csv")}.items() <= files.items()
    assert len(set(files.values())) > 10
    assert run("evaluate", "run=r", "dataset=image_folder", "dataset.root=deep", "dataset.cache=null") == 0


def test_pictures_are_cut_where_a_run_is_older_than_other_ways(run: Run, resized: Path) -> None:
    before = Path("r/config.yaml").read_text()
    assert "  fit: cut\n" in before
    Path("r/config.yaml").write_text(before.replace("  fit: cut\n", "").replace("  size: null\n", "  size: [8, 24]\n"))
    (other,) = opened("predict", ["run=r", "input=test", "dataset=image_folder", "dataset.root=photos"])
    assert (list(other.cfg.dataset.size), other.cfg.dataset.fit) == ([8, 24], "cut")


def test_the_sample_stage_of_the_transform_is_applied_to_files(run: Run, resized: Path) -> None:
    assert run("predict", "run=r", "input=test", "output=p.csv") == 0
    sys.stdin = io.StringIO("\n".join(f"photos/{row['path']}" for row in lines("p.csv")))
    assert run("predict", "run=r", "input=-", "output=f.csv") == 0
    assert same("f.csv", lines("p.csv"))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("input=photos",), "run: is not given"),
        (("run=digits",), "input: is not given"),
        (("run=digits", "input=photso"), "try: input=photos"),
        (("run=digits", "input=photos", "top_k=11"), "top_k: 11 is not allowed\n  allowed: 1 … 10"),
        (("run=digits", "input=photos", "output=t.csv"), "output: 't.csv' already exists"),
        (
            ("run=digits", "input=photos", "flips=[sideways]", "output=p.txt"),
            "output: 'p.txt' is not allowed\n  allowed: -, NAME.csv, NAME.jsonl\nflips: ['sideways'] is not allowed",
        ),
        (("run=digits", "input=photos", "seed=3"), "seed: cannot be changed, because the run was trained with it"),
        (("run=digits,digits", "input=photos"), "try: run=[digits,digits]"),
        (("run=[]", "input=photos"), "run: [] names no run"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str], overrides: tuple[str, ...], said: str
) -> None:
    photos(3)
    Path("t.csv").write_text("a,b\n1,2\n")
    before = sorted(Path().rglob("*"))
    assert run("predict", *overrides) == 2
    output = capsys.readouterr()
    assert said in output.err
    assert "Traceback" not in output.err
    assert output.out == ""
    assert sorted(Path().rglob("*")) == before


def test_what_is_not_such_as_the_run_was_trained_on(digits: Path) -> None:
    photos(1)
    Path("empty").mkdir()
    Path("t.csv").write_text("a,b\n1,2\n")
    Image.new("L", (9, 9)).save("large.png")
    np.save("large.npy", np.zeros((2, 1, 9, 9), np.uint8))
    np.save("floats.npy", np.zeros((2, 1, 8, 8)))
    np.save("objects.npy", np.array([None]), allow_pickle=True)
    found = opened("predict", ["run=digits", "input=photos"])
    runs = [open_run(each.cfg, each.folder, "best", None) for each in found]
    for given, said in {
        "empty": "input: there are no images in 'empty'",
        "large.png": "large.png is 1×9×9, but the run was trained on images of 1×8×8",
        "large.npy": "samples of 1×9×9, but the run was trained on images of 1×8×8",
        "floats.npy": "samples in float64, but the run was trained on images of",
        "objects.npy": "'objects.npy' cannot be read as an array",
        "t.csv": "input: is a table, but the run was trained on images of 1×8×8 (uint8)",
    }.items():
        with pytest.raises(InputError, match=re.escape(said)):
            next(pieces(given, found, runs))
    with pytest.raises(ConfigError, match=r"keep: \['id'\] are columns of a table, but the run was trained on"):
        next(pieces("photos", found, runs, ["id"]))


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("no/p.csv", "output: there is no folder 'no'"),
        ("t.csv", "output: 't.csv' already exists"),
    ],
)
def test_where_nothing_is_written(output: str, said: str) -> None:
    Path("t.csv").touch()
    with pytest.raises(ConfigError, match=re.escape(said)), Writer(output, Layout("regression", (), ("index",))):
        pytest.fail("it is written")
    assert [str(path) for path in Path().iterdir()] == ["t.csv"]


def test_a_picture_for_a_run_on_tables(
    run: Run, wine: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    photos(1)
    assert run("predict", "run=r", "input=photos") == 2
    assert "input: 'photos' is a folder, but the run was trained on a table" in capsys.readouterr().err
    assert run("predict", "run=r", "input=photos/0/000.png") == 2
    assert "input: 'photos/0/000.png' is not a CSV table (" in capsys.readouterr().err
    with pytest.raises(DataError, match="the input is taken for an image, but the run was trained on tables"):
        load_run("r").predict(Image.new("L", (8, 8)))


def test_every_row_keeps_its_place_whatever_bytes_are_before_it(run: Run, wine: list[dict[str, str]]) -> None:
    content = Path("new.csv").read_bytes().splitlines(keepends=True)
    content[9] = content[9].replace(b"white", b"wh\xefte").replace(b"red", b"r\xefd")
    content[10] = b"\xff" + content[10]
    Path("bad.csv").write_bytes(b"\xef\xbb\xbf" + b"".join([*content, *(content[1:] * 60)]))
    assert run("predict", "run=r", "input=bad.csv", "output=p.csv") == 1
    rows = lines("p.csv")
    assert len(rows) == 61 * len(wine)
    wrong = {int(row["index"]) % len(wine) for row in rows if row["error"]}
    assert wrong <= {8, 9}
    assert rows[9]["error"] == "contains bytes that are not UTF-8 text"
    for row in rows:
        if not row["error"]:
            assert row["prediction"] == wine[int(row["index"]) % len(wine)]["prediction"]


def test_what_pandas_reads_is_read_alike(run: Run) -> None:
    head = '"size, in\n cm",a,a, kind ,b\n'
    rows = [f"{n % 7},{n % 3},{n % 5},{'red ' if n % 2 else 'blue'},{'x' if n % 4 else 'y'}" for n in range(120)]
    Path("odd.csv").write_text("\n" + head + "\n\n".join(rows) + "\n")
    table = ("dataset=table", "dataset.path=odd.csv", "transform=table", "hydra.run.dir=r")
    assert run(*QUICK, *table, "trainer.max_epochs=1") == 0
    assert run("predict", "run=r", "input=odd.csv", "output=p.csv") == 0
    assert run("predict", "run=r", "input=test", "output=t.csv") == 0
    found = lines("p.csv")
    for row in lines("t.csv"):
        assert found[int(row["index"])]["prediction"] == row["prediction"]
        assert float(found[int(row["index"])]["probability"]) == pytest.approx(float(row["probability"]), rel=1e-4)


def test_a_pipe_is_no_picture(run: Run, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos(2)
    os.mkfifo("photos/0/pipe.png")
    os.symlink("nowhere.png", "photos/0/link.png")
    assert run("predict", f"run={digits}", "input=photos", "output=p.csv") == 1
    errors = {Path(row["path"]).name: row["error"] for row in lines("p.csv")}
    assert not errors["000.png"]
    assert "there is no file" in errors["pipe.png"]
    assert "there is no file" in errors["link.png"]
    assert run("predict", f"run={digits}", "input=photos/0/pipe.png") == 2
    assert "is not a regular file" in capsys.readouterr().err


def test_stdin_that_is_closed_and_stdout_that_is_full(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert run("predict", f"run={digits}", "input=-") == 2
    assert "input: - is stdin, which is closed" in capsys.readouterr().err
    photos(2)

    def to_its_end(arguments: Sequence[str]) -> int:
        """What Python does last, of which it makes an exit status of its own if it fails."""
        status = main(arguments)
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            return 120
        return status

    monkeypatch.setattr(conftest, "main", to_its_end)
    with open("/dev/full", "wb") as full, open("said.txt", "wb") as said:
        streams = {"stdout": full.fileno(), "stderr": said.fileno()}
        assert Forked("predict", f"run={digits}", "input=photos", **streams).wait() == 1
    assert "error: stdout could not be written: No space left on device" in Path("said.txt").read_text()
    assert "Traceback" not in Path("said.txt").read_text()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read(run: Run, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos(3)
    Path("photos/0").chmod(0)
    assert run("predict", f"run={digits}", "input=photos") == 2
    assert "cannot be read (Permission denied)" in capsys.readouterr().err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_prediction_leaves_nothing_that_looks_complete(
    digits: Path, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals
) -> None:
    photos(200)
    reading, writing = os.pipe()
    with open(reading) as paths, open(writing, "w") as pipe:
        pipe.write("\n".join(f"photos/{n // 10}/{n:03}.png" for n in range(200)) + "\n")
        pipe.flush()
        monkeypatch.setattr("sys.stdin", paths)
        process = Forked("predict", f"run={digits}", "input=-", "output=p.csv")
        until = time.monotonic() + 60
        while not any(path.stat().st_size for path in Path().glob(".p.csv.*.tmp")):
            assert time.monotonic() < until
            time.sleep(0.01)
        os.kill(process.pid, signum)
        status = process.wait()
    assert status == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[signum]
    assert not Path("p.csv").exists()
    assert bool(list(Path().glob(".p.csv.*"))) == (signum == signal.SIGKILL)


def test_so_does_one_that_is_interrupted_as_soon_as_there_is_a_file(
    run: Run, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    telling = Writer._telling

    def interrupted(self: Writer) -> AbstractContextManager[None]:
        assert list(Path().glob(".p.csv.*"))
        signal.raise_signal(signal.SIGTERM)
        return telling(self)

    monkeypatch.setattr(Writer, "_telling", interrupted)
    assert run("predict", f"run={digits}", "input=test", "output=p.csv") == 143
    assert not list(Path().glob("*p.csv*"))


def test_a_full_disk_is_said_and_leaves_nothing(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    photos(3)
    assert run("predict", f"run={digits}", "input=photos", "output=p.csv") == 1
    assert "error: p.csv could not be written: No space left on device" in capsys.readouterr().err
    assert not list(Path().glob("*p.csv*"))


def test_many_files_need_no_more_memory_than_few(run: Run, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(20)
    listed = [f"photos/{n // 10}/{n:03}.png" for n in range(20)]

    def ask(times: int) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(listed * times)))
        output = f"output={times}.csv"
        assert run("predict", f"run={digits}", "input=-", output, "loader.batch_size=8") == 0

    def peak(times: int) -> int:
        gc.collect()  # each starts with the collector's counters at zero: garbage of the start waits as long in both
        tracemalloc.start()
        ask(times)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    ask(1)  # what is imported, and kept by those who are
    few, many = peak(2), peak(22)
    assert len(lines("22.csv")) == 440
    assert many - few < 60_000  # bytes; the paths take 9,000, and 400 tensors that were kept would take 112,000


def test_head_ends_it_without_a_word(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save("x.npy", np.concatenate([PICTURES.numpy()] * 5))  # more lines than a pipe holds
    monkeypatch.setattr("sys.argv", ["runner", "predict", f"run={digits}", "input=x.npy"])
    monkeypatch.setattr("runner.__main__.atexit", SimpleNamespace(_run_exitfuncs=lambda: None))  # those of the tests
    reading, writing = os.pipe()

    def as_typed(_: list[str]) -> NoReturn:
        os.close(reading)  # or the process itself would be there to read what it writes
        command()

    conftest.warm()  # before what it calls is another function, which ends the process
    monkeypatch.setattr(conftest, "main", as_typed)
    with open(reading, "rb") as head, open("said.txt", "wb") as said:
        with open(writing, "wb") as pipe:
            process = Forked(stdout=pipe.fileno(), stderr=said.fileno())
        assert head.readline() == b"index,prediction,probability,error\n"
        head.readline()
    assert process.wait() == 0
    said_lines = Path("said.txt").read_text().splitlines()
    assert "MLP of digits" in said_lines[0]
    assert not any("rror" in line or "Traceback" in line for line in said_lines)


@pytest.mark.parametrize("target", ["y", "[y,z]"])
def test_no_row_of_a_regression_that_can_be_read(run: Run, target: str) -> None:
    Path("t.csv").write_text("a,b,y,z\n" + "".join(f"{n % 7},{n % 3},{n % 7 + 0.5},{n % 2}.5\n" for n in range(60)))
    over = ("dataset=table", "dataset.path=t.csv", f"dataset.target={target}", "dataset.task=regression")
    rest = ("transform=table", "loss=mse", "metric=regression", "split=random", "hydra.run.dir=r")
    assert run(*LIGHT, *over, *rest, "trainer.max_steps=1") == 0
    Path("broken.csv").write_text("a,b,z\n1,x,0\n")
    assert run("predict", "run=r", "input=broken.csv", "output=p.csv") == 1
    (line,) = lines("p.csv")
    assert "'x'" in line.pop("error")
    assert line == {"index": "0"} | ({"prediction": ""} if target == "y" else {"prediction_0": "", "prediction_1": ""})


def test_probabilities_and_scores_have_no_mean(run: Run, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(digits, "s")
    text = Path("s/config.yaml").read_text()
    Path("s/config.yaml").write_text(text.replace("output: logits", "output: values"))
    assert run("predict", f"run=[{digits},s]", "input=test") == 2
    assert "run: s gives no probabilities to average" in capsys.readouterr().err
    found = opened("predict", [f"run=[s,{digits}]", "input=test"], several=True)
    with pytest.raises(ConfigError, match="run: s gives no probabilities to average"):
        predict._check(found[0].options, [open_run(each.cfg, each.folder, "best", None) for each in found])


def test_a_number_that_is_none_is_null(run: Run) -> None:
    layout = Layout("regression", (), ("index",), width=1)
    with Writer("p.jsonl", layout) as writer:
        writer.write({"index": [0, 1]}, np.array([np.nan, 2.5]), None)
    assert [json.loads(line, parse_constant=pytest.fail) for line in Path("p.jsonl").read_text().splitlines()] == [
        {"index": 0, "prediction": None}, {"index": 1, "prediction": 2.5},
    ]  # fmt: skip


def test_samples_of_other_data_are_not_averaged(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        small = ("dataset.size=60", "dataset.image_size=[1,8,8]", "dataset.num_classes=2")
        data = ("dataset=synthetic", *small, f"dataset.seed={seed}")
        assert run(*QUICK, *data, "split=random", "trainer.max_steps=1", f"hydra.run.dir=r{seed}") == 0
    assert run("predict", "run=[r0,r1]", "input=test") == 2
    assert "input: the test parts of r0 and r1 are not the same samples" in capsys.readouterr().err


def test_a_temperature_that_is_known_needs_no_loss_and_no_data(
    run: Run, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(3)
    for name in ("runner.evaluate", "runner.trained.calibration", "runner.trained.part"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    assert run("predict", f"run={digits}", "input=photos", "output=p.csv", "temperature=2.5") == 0
    expected = load_run(digits, temperature=2.5).predict(PICTURES[:3]).probabilities.max(1)
    assert floats(lines("p.csv"), "probability")[:, 0] == pytest.approx(expected, rel=1e-5)
