"""Tables in the forms in which other programs write them, against what pandas reads when it is told how."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shlex
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import QUICK, Run, result_of
from omegaconf import OmegaConf

from runner import config, report
from runner.dataset import table
from runner.dataset.tensors import ArrayDataset
from runner.errors import ConfigError, DataError, InputError
from runner.grammar import parse
from runner.table import Table
from runner.trained.run import load_run

TABLE = ("dataset=table", "transform=table", *QUICK)


def typed(remedy: str) -> dict[str, Any]:
    """Arguments of `table` as a remedy has them, typed into a shell."""
    parsed = [parse(override) for override in shlex.split(remedy)]
    return {each.key_or_group.removeprefix("dataset."): each.value() for each in parsed if each is not None}


def put_right(message: str, **options: Any) -> ArrayDataset:
    """What a table is after its message said how it is wrong, and the remedy of that was typed."""
    with pytest.raises(InputError) as caught:
        table(**options)
    assert message in str(caught.value)
    return table(**options, **typed(caught.value.problems[0].remedy))


def same(found: ArrayDataset, column: int, expected: Any) -> None:
    assert (found.categories or ["none"])[column] is None
    np.testing.assert_array_equal(found.inputs[:, column].numpy(), np.asarray(expected, dtype=float))


MARKED = {
    "?": ("?", 20),
    "typo": ("3O", 400),
    "words": ("n.a.", 50),
    "dashes": ("--", 7),
    "mostly": ("missing", 2),
    "code": ("-999", 0),
}


@pytest.mark.parametrize("name", [name for name in MARKED if name != "code"])
def test_a_column_that_is_numbers_but_for_a_few_cells_is_named(name: str) -> None:
    mark, every = MARKED[name]
    ages = np.random.default_rng(0).integers(18, 91, 400)
    cells = [mark if n % every == 1 else str(age) for n, age in enumerate(ages)]
    pd.DataFrame({"age": cells, "x": 0.5, "y": ["a", "b"] * 200}).to_csv("t.csv", index=False)
    count = cells.count(mark)
    said = f"column 'age' is numbers but for {count} cell{'s' if count > 1 else ''}: {mark!r} (line 3"
    expected = pd.read_csv("t.csv", na_values=[mark])["age"]
    assert expected.isna().sum() == count
    same(put_right(said, path="t.csv"), 0, expected)
    assert table("t.csv", categories=["age"]).categories[0] == sorted(set(cells))


def test_numbers_that_stand_for_a_gap_are_one_however_they_are_written() -> None:
    Path("t.csv").write_text("a,b,y\n1,2.5,u\n-999,-999.0,v\n")
    expected = pd.read_csv("t.csv", na_values=["-999"])
    for column in (0, 1):
        same(table("t.csv", missing=[-999]), column, expected.iloc[:, column])


@pytest.mark.parametrize(
    "cells", [["A/5", "12", "B7", "C3"] * 3, ["12 km", "3 m", "5 km"], ["1 a", "2", "x"], ["a1", "a2"]]
)
def test_texts_with_some_numbers_are_categories(cells: list[str]) -> None:
    pd.DataFrame({"a": cells, "y": [n % 2 for n in range(len(cells))]}).to_csv("t.csv", index=False)
    assert table("t.csv").categories == [sorted(set(cells))]


@pytest.mark.parametrize(
    ("cells", "values", "said"),
    [
        (["$1,200", "-$7", "$35.5"], [1200, -7, 35.5], "'$1,200', a number with a thousands separator"),
        (["5%", "12.5 %", "7%"], [5, 12.5, 7], "'5%', a number with a unit"),
        (["10,000", "7", "1,234,567.5"], [10000, 7, 1234567.5], "'10,000', a number with a thousands separator"),
        (["€5", "7", "?"], [5, 7, np.nan], "'€5', a number with a unit"),
        (["1,5", "12906,7", "3"], [1.5, 12906.7, 3], "'1,5', a number with a decimal comma"),
        (["1.300,25", "7", "-2,5"], [1300.25, 7, -2.5], "'1.300,25', a number with a decimal comma"),
        (["1 300,25", "7", "2,5"], [1300.25, 7, 2.5], "'1 300,25', a number with a decimal comma"),
        (["1'300.25", "7", "2.5"], [1300.25, 7, 2.5], '"1\'300.25", a number with a thousands separator'),
    ],
)
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_numbers_as_they_are_written_elsewhere(cells: list[str], values: list[float], said: str, task: Any) -> None:
    y = ["a", "b", "a"] if task == "classification" else [1, 2, 3]
    pd.DataFrame({"price": cells, "y": y}).to_csv("t.csv", index=False)
    same(put_right(f"column 'price' holds {said}", path="t.csv", task=task), 0, values)


@pytest.mark.parametrize(
    ("cells", "options", "values"),
    [
        (["1.234", "2.500"], {"decimal": ","}, [1234, 2500]),
        (["1.5", "2.25"], {"decimal": ","}, [1.5, 2.25]),
        (["1,234.5", "2.25"], {"decimal": ",", "thousands": "."}, [1234.5, 2.25]),
        (["5 $", "2 %"], {"units": ["%"]}, [5, 2]),
    ],
)
def test_a_key_that_does_not_fit_makes_no_categories(cells: list[str], options: dict[str, Any], values: Any) -> None:
    pd.DataFrame({"a": cells, "y": ["u", "v"]}).to_csv("t.csv", index=False, sep=";")
    with pytest.raises(DataError, match=f"column 'a' holds '{re.escape(cells[0])}'") as caught:
        table("t.csv", **options)
    same(table("t.csv", **{**options, **typed(caught.value.problems[0].remedy)}), 0, values)


def test_words_above_a_table_are_no_columns() -> None:
    Path("t.csv").write_text("# two words more\na,y\n1,u\n2,v\n")
    with pytest.raises(InputError, match=r"more cells than its first line|no column is left"):
        table("t.csv")


def test_a_value_to_predict_is_put_right_as_well() -> None:
    pd.DataFrame({"x": range(40), "y": ["?" if n == 3 else f"{n},5" for n in range(40)]}).to_csv("t.csv", index=False)
    found = put_right("column 'y' holds '0,5'", path="t.csv", task="regression")
    assert found.targets.tolist() == [n + 0.5 for n in range(40) if n != 3]


def test_several_columns_are_put_right_at_once() -> None:
    frame = {"a": ["$5", "6"], "b": ["5%", "6%"], "c": ["?", "2"], "d": ["-", "3"], "y": ["u", "v"]}
    pd.DataFrame(frame).to_csv("t.csv", index=False)
    found = put_right("column 'c' is numbers but for 1 cell: '?' (line 2); so is 'd'", path="t.csv")
    np.testing.assert_array_equal(found.inputs, [[5, 5, np.nan, np.nan], [6, 6, 2, 3]])


UCI = """\
18.0   8   307.0      130.0      3504.      12.0   70  1\t"chevrolet chevelle malibu"
25.0   4   98.00      ?          2046.      19.0   71  1\t"ford pinto"
  26.0   4   97.00      46.00      1835.      20.5   70  2\t"vw"
"""


def test_a_file_whose_columns_are_apart_by_blanks() -> None:
    Path("auto.data").write_text(UCI)
    expected = pd.read_csv("auto.data", sep=r"\s+", header=None, na_values="?")
    found = put_right("column 3 is numbers but for 1 cell: '?' (line 2)", path="auto.data", target=0, task="regression")
    np.testing.assert_array_equal(found.inputs[:, :7], expected.iloc[:, 1:8])
    assert found.targets.tolist() == expected[0].tolist()
    assert (found.categories or [])[7] == sorted(expected[8])


@pytest.mark.parametrize("separator", ["|", ";", "\t", " ", "  ", ":"])
def test_separators(separator: str) -> None:
    Path("t.txt").write_text("a,b,y\n1,2.5,u\n3,4.5,v\n".replace(",", separator))
    found = put_right("no column is left", path="t.txt") if separator == ":" else table("t.txt")
    assert (found.inputs.tolist(), found.classes) == ([[1, 2.5], [3, 4.5]], ["u", "v"])


FRAME = pd.DataFrame({"x": [1.5, 2.25, 3.0], "city": ["Köln", "Wien", "Köln"], "code": ["01", "02", "01"]})


def write(name: str) -> None:
    """The frame in a file."""
    text = FRAME.to_csv(index=False)
    if name.endswith(".zip"):
        with zipfile.ZipFile(name, "w") as archive:
            archive.writestr("t.csv", text)
            archive.writestr("__MACOSX/._t.csv", "x")
    elif name.endswith((".jsonl", ".json")):
        FRAME.to_json(name, orient="records", lines=name.endswith("l"))
    elif name.endswith(".parquet"):
        FRAME.to_parquet(name)
    else:
        pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(Path(name).suffix, bytes)
        encoding = {"utf16.csv": "utf-16", "bom.csv": "utf-8-sig", "latin.csv": "latin-1"}.get(name, "utf-8")
        Path(name).write_bytes(pack(text.encode(encoding)))


FORMS = [
    "t.csv.gz",
    "t.tsv.bz2",
    "t.xz",
    "t.zip",
    "utf16.csv",
    "bom.csv",
    "latin.csv",
    "t.jsonl",
    "t.json",
    "t.parquet",
]


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_files_are_read_alike(name: str) -> None:
    write(name)
    found = put_right("latin.csv is not in utf-8, line 2", path=name) if name == "latin.csv" else table(name)
    assert found.inputs.tolist() == [[1.5, 0], [2.25, 1], [3, 0]]
    assert (found.categories, found.classes) == ([None, ["Köln", "Wien"]], ["01", "02"])
    how = {"encoding": "latin-1"} if "latin" in name else {}
    assert table(name, target="x", task="regression", **how).categories == [["Köln", "Wien"], ["01", "02"]]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", b"PK\x03\x04...", "an Excel file or a zip archive"),
        ("t.csv", gzip.compress(b"a,b\n1,2\n", mtime=0), "its name has to end in .gz"),
        ("t.gz", b"a,b\n1,2\n", "cannot be read as a table"),
        ("t.csv.gz", gzip.compress(b"a,b\n1,2\n" * 999, mtime=0)[:30], "cannot be read as a table"),
        ("t.zip", b"a,b\n1,2\n", "cannot be read as a table"),
        ("t.xlsx", b"PK\x03\x04...", "Excel"),
        ("t.csv", b'{"a": 1}\n', "its name has to end in .jsonl"),
        ("t.jsonl", b'{"a": 1, "b": 2}\n{"a"\n', "line 2 is no JSON"),
        ("t.json", b"3", "it does not hold objects"),
        ("t.jsonl", b'{"a": [1, 2], "b": 2}\n', "column 'a' holds lists"),
    ],
)
def test_files_that_are_something_else_say_what(name: str, content: bytes, said: str) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        table(name)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("options", "key"),
    [({"encoding": "klingon"}, "encoding"), ({"decimal": "comma"}, "decimal"), ({"separator": "::"}, "separator"),
     ({"thousands": "."}, "thousands"), ({"categories": ["z"]}, "categories"), ({"numbers": ["z"]}, "numbers")],
)  # fmt: skip
def test_wrong_keys(options: dict[str, Any], key: str) -> None:
    Path("t.csv").write_text("a,y\n1,2\n")
    with pytest.raises(ConfigError, match=rf"^dataset\.{key}: "):
        table("t.csv", **options)


@pytest.mark.parametrize("years", ["2018,2019,2020", "2018,2019,kind", "kind,2020,2015", "1960,1961,1962"])
def test_years_are_names_and_no_sample(years: str) -> None:
    rng = np.random.default_rng(0)
    rows = [
        ",".join("ab"[n % 2] if name == "kind" else f"{rng.normal():.3f}" for name in years.split(","))
        for n in range(30)
    ]
    Path("t.csv").write_text("\n".join([years, *rows]))
    task: Any = "classification" if years.endswith("kind") else "regression"
    found = table("t.csv", target=years.split(",")[-1], task=task)
    assert len(found) == 30
    assert found.features == years.split(",")[:-1]


def test_years_that_are_data_stay_data() -> None:
    Path("t.csv").write_text("1990,1991,a\n1995,1996,b\n1990,1993,a\n")
    assert len(table("t.csv")) == 3
    Path("t.csv").write_text("1990,5.5,a\n2.5,7.5,b\n")
    assert len(table("t.csv")) == 2


def test_names_that_were_taken_for_cells_are_told() -> None:
    Path("t.csv").write_text("age,2018,y\n1,0.5,a\n?,1.5,b\n3,2.5,a\n")
    with pytest.raises(DataError) as caught:
        table("t.csv")
    assert caught.value.problems[0].remedy == "dataset.header=true"
    found = put_right("column 'age' is numbers but for 1 cell: '?' (line 3)", path="t.csv", header=True)
    same(found, 1, [0.5, 1.5, 2.5])


def test_runs_of_earlier_versions_read_a_table_as_they_did() -> None:
    Path("t.csv").write_text("a,y\n?,01\n2,02\n")
    cfg = OmegaConf.create({"dataset": {"_target_": "runner.dataset.table"}, "facts": {"numbers": "float32"}})
    found = table("t.csv", **config.read_as(cfg))
    assert (found.categories, found.classes) == ([["2", "?"]], ["1", "2"])
    cfg.facts.numbers = "float64"
    assert "categories" not in config.read_as(cfg)


def test_an_excel_file_keeps_its_texts() -> None:
    """An export of pandas, which has the numbers of the rows in a first column without a name."""
    rows = {"age": ["?", 30, 41.5], "zip": ["01", "02", "01"], 2018: [0.5, 2, 3]}
    pd.DataFrame(rows).to_excel("t.xlsx")
    found = put_right("'?'", path="t.xlsx", header=True, target="zip")
    assert (found.features, found.classes) == (["Unnamed: 0", "age", "2018"], ["01", "02"])
    np.testing.assert_array_equal(found.inputs, [[0, np.nan, 0.5], [1, 30, 2], [2, 41.5, 3]])


HINT = "looks like the names of columns\n  try: dataset.header=true"


@pytest.mark.parametrize(
    ("first", "is_odd"),
    [("0,1,2", True), ("17,23,kind", True), ("0.25,1.5,b", False), ("3,1.5,b", False), ("120,240,360", True)],
)
def test_a_first_row_that_may_be_names_is_told(first: str, is_odd: bool, caplog: pytest.LogCaptureFixture) -> None:
    is_class = not first[-1].isdigit()
    rows = [f"{n / 7:.2f},{n / 3 + 0.1:.2f},{'ab'[n % 2] if is_class else n / 9 + 0.05}" for n in range(1, 41)]
    Path("t.csv").write_text("\n".join([first, *rows]))
    assert len(table("t.csv", task="classification" if is_class else "regression")) == 41
    assert (HINT in caplog.text) == is_odd
    caplog.clear()
    table("t.csv", task="classification" if is_class else "regression", header=False)
    assert not caplog.text


def test_a_class_that_is_but_a_mark_is_told(caplog: pytest.LogCaptureFixture) -> None:
    Path("t.csv").write_text("x,y\n1,0\n2,?\n3,1\n4,0\n")
    assert table("t.csv").classes == ["0", "1", "?"]
    said, _, remedy = caplog.messages[0].partition("\n  if it is a gap: ")
    assert said == "'?' is read as a class of column 'y'"
    found = table("t.csv", **typed(remedy))
    assert (found.classes, found.inputs.flatten().tolist()) == (["0", "1"], [1, 3, 4])
    caplog.clear()
    Path("t.csv").write_text("x,y\n1,+\n2,-\n")
    table("t.csv")
    assert not caplog.text


@pytest.mark.parametrize(("count", "shown"), [(3, 3), (40, 2)])
def test_of_many_columns_those_are_shown_that_are_odd(count: int, shown: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Table] = []
    monkeypatch.setattr(report, "show", found.append)
    rows = [["a", "2 categories, 2 of them numbers", "1, 2", 0], ["b", "number", "0 … 1", 3]]
    rows += [[f"c{n}", "number", "0 … 1", 0] for n in range(count - 2)]
    report.show_columns(Table("Columns", ["column", "read as", "values", "missing"], rows))
    assert [row[0] for row in found[0].rows] == ["a", "b", "c0"][:shown]


def test_codes_with_leading_zeros_are_texts(caplog: pytest.LogCaptureFixture) -> None:
    codes = ["02134", "10001", "00501"] * 10
    pd.DataFrame({"zip": codes, "hour": [f"{n % 7}" for n in range(30)], "kind": ["01", "02", "10"] * 10}).to_csv(
        "t.csv", index=False
    )
    found = table("t.csv")
    assert found.categories == [["00501", "02134", "10001"], None]
    assert found.classes == ["01", "02", "10"]
    assert found.columns["zip"].tolist() == codes
    assert caplog.messages == [
        "read as categories, because of leading zeros: column 'zip' ('02134')\n"
        '  if these are numbers: "dataset.numbers=[zip]"'
    ]
    same(table("t.csv", numbers=["zip"]), 0, [int(code) for code in codes])
    before = table("t.csv", categories=None)  # as runs of earlier versions have it
    assert (before.categories, before.classes) == ([None, None], ["1", "2", "10"])
    assert table("t.csv", target="zip", task="regression").targets.tolist() == [float(code) for code in codes]
    assert table("t.csv", categories=["hour"]).categories[1] == [str(n) for n in range(7)]


def test_a_zero_that_comes_late_makes_codes_as_well() -> None:
    codes = [f"{n:05d}" for n in range(12_000, 9_000, -1)]
    pd.DataFrame({"zip": codes, "n": range(3000, 0, -1), "y": [n % 2 for n in range(3000)]}).to_csv(
        "t.csv", index=False
    )
    assert table("t.csv").categories == [sorted(codes), None]


@pytest.mark.parametrize(
    ("name", "values", "is_told"),
    [
        ("", range(60), True), ("id", range(1, 61), True), ("Id", [n * 37 % 101 for n in range(60)], True),
        ("index", range(60), True), ("n", range(60), True), ("n", [n // 2 for n in range(60)], False),
        ("id", [n // 2 for n in range(60)], False),
    ],
)  # fmt: skip
def test_a_column_that_counts_the_rows_is_told(
    name: str, values: Any, is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    pd.DataFrame({name: values, "x": 0.5, "kind": ["a"] * 30 + ["b"] * 30}).to_csv("t.csv", index=False)
    found = table("t.csv")
    assert ("the rows" in caplog.text) == is_told
    if is_told:
        remedy = caplog.messages[0].partition("try: ")[2]
        caplog.clear()
        assert table("t.csv", **typed(remedy)).features == [each for each in found.features or () if each == "x"]
        assert not caplog.text


def test_what_is_read_so_in_training_is_read_so_in_use(run: Run) -> None:
    """Truth: the same table with a point, empty cells and UTF-8, which a run with the same seed is trained on."""
    rng = np.random.default_rng(0)
    price, age = rng.integers(1000, 99999, 80) / 4, rng.integers(1, 90, 80).astype(float)
    age[::9] = np.nan
    kind = np.where(price > 12000, "01", "02")
    plain = pd.DataFrame({"price": price, "age": age, "city": rng.choice(["Köln", "Wien"], 80), "kind": kind})
    plain.to_csv("plain.csv", index=False)
    here = plain.assign(
        price=[f"{v:,.2f}".translate(str.maketrans(",.", ".,")) + " €" for v in price],
        age=["?" if v != v else f"{v:.0f}" for v in age],
    )
    with gzip.open("here.csv.gz", "wb") as file:
        file.write(here.to_csv(index=False, sep=";").replace("€", "\x80").encode("latin-1"))
    keys = ["decimal=','", "thousands='.'", "missing=[?]", "units=['€']", "encoding=cp1252"]
    common = (*TABLE, "dataset.target=kind", "trainer.max_epochs=2", "seed=1")
    assert run(*common, "dataset.path=plain.csv", "hydra.run.dir=a") == 0
    assert run(*common, "dataset.path=here.csv.gz", *(f"dataset.{key}" for key in keys), "hydra.run.dir=b") == 0
    assert result_of("a")["metrics"] == result_of("b")["metrics"]
    assert run("predict", "run=a", "input=plain.csv", "keep=[kind]", "output=a.csv") == 0
    assert run("predict", "run=b", "input=here.csv.gz", "keep=[kind]", "output=b.csv") == 0
    assert Path("a.csv").read_text() == Path("b.csv").read_text()
    written = pd.read_csv("b.csv", dtype=str)
    assert written["kind"].tolist() == kind.tolist()
    assert set(written["prediction"]) <= {"01", "02"}
    rows = pd.read_csv("here.csv.gz", sep=";", encoding="cp1252")
    assert load_run("b").predict(rows).labels == written["prediction"].tolist()
    plain.drop(columns="kind").to_json("new.jsonl", orient="records", lines=True)
    assert run("predict", "run=a", "input=new.jsonl", "output=c.csv") == 0
    assert pd.read_csv("c.csv", dtype=str)["prediction"].tolist() == written["prediction"].tolist()
    assert run("evaluate", "run=b", "dataset=table", "dataset.path=here.csv.gz", "dataset.target=kind", "output=e",
               "figures=false") == 0  # fmt: skip
