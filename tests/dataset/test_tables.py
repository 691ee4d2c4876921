from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from runner.dataset import table
from runner.errors import ConfigError, DataError
from runner.grammar import parse

TEXT = "size,colour,ok,species\n1.5,red,true,cat\n2,blue,false,dog\nNA,red,true,cat\n4,,false,ant\n"


@pytest.fixture
def path() -> str:
    Path("pets.csv").write_text(TEXT)
    return "pets.csv"


def test_numbers_stay_and_categories_are_coded(path: str) -> None:
    data = table(path)
    expected = [[1.5, 1, 1], [2, 0, 0], [float("nan"), 1, 1], [4, float("nan"), 0]]
    torch.testing.assert_close(data.inputs, torch.tensor(expected, dtype=torch.float64), equal_nan=True)
    assert data.categories == [None, ["blue", "red"], ["False", "True"]]
    assert data.classes == ["ant", "cat", "dog"]
    assert data.targets.tolist() == [1, 2, 1, 0]
    assert list(data.columns) == ["size", "colour", "ok", "species"]


@pytest.mark.parametrize("target", ["size", 0, -4])
def test_a_target_by_name_or_number(path: str, target: Any) -> None:
    with pytest.raises(DataError, match=r"1 row has no target; the first is row 2 \(counted from 0\), line 4 of"):
        table(path, target=target, task="regression")
    Path("pets.csv").write_text(TEXT.replace("NA", "3"))
    data = table(path, target=target, task="regression")
    assert data.targets.tolist() == [1.5, 2.0, 3.0, 4.0]
    assert data.targets.dtype == torch.float64
    assert data.classes == []


@pytest.mark.parametrize(
    ("header", "rows", "classes"), [("auto", 3, ["0", "1"]), (False, 3, ["0", "1"]), (True, 2, ["0", "1"])]
)
def test_with_or_without_a_header(header: Any, rows: int, classes: list[str]) -> None:
    Path("plain.csv").write_text("1,2.5,0\n3,4.5,1\n5,6.5,0\n")
    data = table("plain.csv", header=header)
    assert data.inputs.shape == (rows, 2)
    assert data.classes == classes


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters(delimiter: str) -> None:
    Path("x.csv").write_text(TEXT.replace(",", delimiter))
    assert table("x.csv").inputs.shape == (4, 3)


def test_features_and_what_is_left_out(path: str) -> None:
    assert table(path, features=["ok", "size"]).categories == [["False", "True"], None]
    assert table(path, drop=["colour", 2]).categories == [None]
    assert list(table(path, drop=["colour"]).columns) == ["size", "colour", "ok", "species"]


def test_rows_that_repeat_can_be_left_out() -> None:
    Path("x.csv").write_text("a,b\n1,x\n2,y\n1,x\n1,y\n")
    assert len(table("x.csv")) == 4
    assert table("x.csv", duplicates="drop").inputs.flatten().tolist() == [1, 2, 1]


GAPS = 'a,note,b\n1,x,1\n\n2,"two\nlines",0\n1,x,1\n   \n3,z,\n4,y,1\n5,z,NA\n'


@pytest.mark.parametrize("duplicates", ["keep", "drop"])
def test_a_row_without_a_target_is_found_where_an_editor_shows_it(duplicates: Any) -> None:
    Path("x.csv").write_text(GAPS)
    line = 1 + next(number for number, text in enumerate(GAPS.split("\n")) if text.startswith("3,z"))
    with pytest.raises(DataError) as caught:
        table("x.csv", duplicates=duplicates)
    assert str(caught.value) == (
        f"dataset.target: 2 rows have no target; the first is row 3 (counted from 0), line {line} of x.csv; "
        "'NA' was read as a gap in 1 row\n"
        "  allowed: a target in every row\n"
        '  try: "dataset.gap_classes=[NA]", to keep this as a class, or '
        "dataset.missing_target=drop, to leave out such rows"
    )
    pd.read_csv("x.csv").set_index("a", drop=False).to_parquet("x.parquet")
    with pytest.raises(DataError, match=r"the first is row 3 \(counted from 0\)\n"):
        table("x.parquet")
    Path("x.csv").write_text(GAPS.partition("\n")[2])  # without names
    with pytest.raises(DataError, match=rf"row 3 \(counted from 0\), line {line - 1} of x.csv; 'NA' was"):
        table("x.csv")


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_rows_without_a_target_can_be_left_out(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "runner")
    Path("x.csv").write_text(GAPS)
    pd.read_csv("x.csv").to_parquet("x.parquet")
    data = table(name, missing_target="drop")
    assert caplog.messages == ["dataset.missing_target=drop: 2 rows have no target, and 4 are left"]
    assert data.inputs[:, 0].tolist() == [1, 2, 1, 4]
    assert data.categories == [None, ["two\nlines", "x", "y"]]  # and not the z of rows that are left out
    assert (data.targets.tolist(), data.classes) == ([1, 0, 1, 1], ["0", "1"])  # named as without a gap
    assert data.columns["a"].tolist() == [1, 2, 1, 4]
    assert table(name, missing_target="drop", duplicates="drop").inputs[:, 0].tolist() == [1, 2, 4]
    values = table(name, target=["b", "a"], task="regression", missing_target="drop")
    assert values.targets.tolist() == [[1, 1], [0, 2], [1, 1], [1, 4]]


def test_a_table_without_any_target_is_said() -> None:
    Path("x.csv").write_text("a,b\n1,\n2,\n")
    with pytest.raises(DataError, match=r"dataset\.target: none of 2 rows has a target\n  allowed: another column$"):
        table("x.csv", missing_target="drop")


def test_parquet_is_read_as_csv_is(path: str) -> None:
    pd.read_csv(path).to_parquet("pets.parquet")
    one, other = table(path), table("pets.parquet")
    torch.testing.assert_close(one.inputs, other.inputs, equal_nan=True)
    assert (one.classes, one.categories) == (other.classes, other.categories)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "none.csv"}, r"there is no file 'none.csv' \(looked for /"),
        ({"path": "empty.csv"}, "empty.csv cannot be read as a table"),
        ({"path": "ragged.csv"}, "ragged.csv cannot be read as a table: Error tokenizing data"),
        ({"path": "binary.csv"}, "binary.csv cannot be read as a table: it is no text"),
        ({"target": "specie"}, "the table has no column 'specie'\n  allowed: .*\n  try: dataset.target=species"),
        ({"target": 4}, "the table has no column 4"),
        ({"drop": ["x"]}, "dataset.drop: the table has no column 'x'"),
        ({"features": ["x"]}, "dataset.features: the table has no column 'x'"),
        ({"drop": ["size", "colour", "ok"]}, "no column is left as an input"),
        ({"features": []}, "no column is left as an input"),
        ({"task": "regression"}, "column 'species' holds 'cat', which is not a number"),
    ],
)
def test_wrong_tables(path: str, options: dict[str, Any], message: str) -> None:
    Path("empty.csv").write_text("")
    Path("ragged.csv").write_text("a,b\n1,2\n1,2,3,4\n")
    Path("binary.csv").write_bytes(b"\xff\x00\x01\x02")
    with pytest.raises((DataError, ConfigError), match=message):
        table(**{"path": path, **options})


def test_values_are_not_taken_for_classes() -> None:
    pd.DataFrame({"a": range(300), "b": [n * 0.37 for n in range(300)]}).to_csv("x.csv", index=False)
    remedy = "try: dataset.task=regression loss=mse metric=regression$"
    with pytest.raises(ConfigError, match=rf"300 different values in 300 rows(.|\n)*{remedy}"):
        table("x.csv")
    pd.DataFrame({"a": range(300), "b": [f"n{n}" for n in range(300)]}).to_csv("x.csv", index=False)
    with pytest.raises(ConfigError, match=r"allowed: a column with few distinct values, the classes$"):  # and no values
        table("x.csv")


def test_texts_are_not_taken_for_values(path: str) -> None:
    back = "try: dataset.task=classification loss=cross_entropy metric=classification$"
    with pytest.raises(ConfigError, match=f"column 'species' holds 'cat', which is not a number(.|\n)*{back}"):
        table(path, task="regression")
    rows = [f"{n}" for n in range(300)] + ["12 km"]
    pd.DataFrame({"a": 1, "b": rows}).to_csv("x.csv", index=False)
    with pytest.raises(
        DataError, match=r"'b' is numbers but for 1 cell: '12 km' \(line 302\)(.|\n)*missing_target=drop$"
    ):
        table("x.csv", task="regression")
    with pytest.raises(ConfigError, match=r"'cat', which is not a number\n  allowed: one column of classes, or sever"):
        table(path, target=["ok", "species"])
    with pytest.raises(ConfigError, match=r"'cat', which is not a number\n  allowed: numbers$"):
        table(path, target=["ok", "species"], task="regression")


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"target": "Species"}, "dataset.target=species"),
        ({"drop": ["Size"]}, '"dataset.drop=[size]"'),
        ({"drop": ["Size", "colour", "OK", 0]}, '"dataset.drop=[size,colour,ok,0]"'),
        ({"features": ["Colour"]}, '"dataset.features=[colour]"'),
        ({"target": ["Species"]}, '"dataset.target=[species]"'),
        ({"drop": ["Body mass (g)"]}, "'dataset.drop=[\"body mass (g)\"]'"),
        ({"target": "Body mass (g)"}, "'dataset.target=\"body mass (g)\"'"),
        ({"drop": ["Size", "nothing of the kind"]}, ""),
    ],
)
def test_misspelt_columns_are_put_right_as_they_are_typed(options: dict[str, Any], remedy: str) -> None:
    Path("pets.csv").write_text(
        TEXT.replace("size", "size,body mass (g)", 1).replace("\n", "\n7,").removesuffix("7,").replace("NA", "3")
    )
    with pytest.raises(ConfigError) as caught:
        table("pets.csv", **options)
    assert caught.value.problems[0].remedy == remedy
    if remedy:
        (override,) = shlex.split(remedy)
        parsed = parse(override)
        table("pets.csv", **{parsed.key_or_group.removeprefix("dataset."): parsed.value()})


@pytest.mark.parametrize("name", ["it's", 'a "b"', "17", "true", "größe", "a,b", "$HOME", "a b"])
def test_names_of_columns_reach_hydra_as_they_are(name: str, caplog: pytest.LogCaptureFixture) -> None:
    pd.DataFrame({name: [f"n{n}" for n in range(40)], "x": 1, "y": 2}).to_csv("x.csv", index=False)
    table("x.csv", header=True)
    (override,) = shlex.split(caplog.records[0].message.partition("try: ")[2])
    assert parse(override).value() == [name]
    with pytest.raises(ConfigError) as caught:
        table("x.csv", target=name + "ö", header=True)
    (override,) = shlex.split(caught.value.problems[0].remedy)
    assert parse(override).value() == name


def test_a_name_in_a_file_without_names() -> None:
    Path("plain.csv").write_text("1,2.5,0\n3,4.5,1\n")
    said = (
        "dataset.target: the first line was not read as column names, so 'quality' is unknown\n"
        "  allowed: 0 … 2\n"
        "  try: a column number, or dataset.header=true"
    )
    with pytest.raises(ConfigError) as caught:
        table("plain.csv", target="quality")
    assert str(caught.value) == said
    Path("years.csv").write_text("2019,quality\n1,a\n2,b\n")
    with pytest.raises(ConfigError, match=r"so 'quality' is unknown(.|\n)*try: dataset.header=true$"):
        table("years.csv", target="quality")
    assert table("years.csv", target="quality", header=True).classes == ["a", "b"]
    with pytest.raises(ConfigError, match=r"the table has no column 3\n  allowed: 0 … 2$"):
        table("plain.csv", target=3)


def test_columns_that_name_the_rows_are_told(caplog: pytest.LogCaptureFixture) -> None:
    rows = range(40)
    frame = pd.DataFrame({"id": [f"n{n}" for n in rows], "sign up": [f"{n // 2 if n < 10 else n}d" for n in rows]})
    frame = frame.assign(size=list(rows), colour=[f"c{n // 2}" for n in rows], y=[n % 2 for n in rows])
    frame.to_csv("x.csv", index=False)
    table("x.csv")
    assert [record.message for record in caplog.records] == [
        "column 'id' has 40 different values in 40 rows, column 'sign up' has 35; each of these values becomes a "
        "one-hot input\n"
        "  try: 'dataset.drop=[id,\"sign up\"]'"
    ]
    caplog.clear()
    table("x.csv", drop=["colour", "id"])
    assert caplog.records[0].message == (
        "column 'sign up' has 35 different values in 40 rows; each of these values becomes a one-hot input\n"
        "  try: 'dataset.drop=[colour,id,\"sign up\"]'"
    )
    caplog.clear()
    table("x.csv", drop=["id", "sign up"])
    frame[:20].to_csv("short.csv", index=False)
    table("short.csv")
    assert not caplog.records


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_decimal_commas_are_not_taken_for_categories(delimiter: str) -> None:
    text = "size;price;kind\n1;12906,7;a\n2;;b\n3;1.300,25;a\n4;-7;b\n"
    Path("x.csv").write_text(text.replace(";", delimiter))
    said = (
        r"column 'price' holds '[\d.]+,\d+', a number with a decimal comma\n  allowed: numbers with a decimal point"
        r"(; for categories .*)?\n  try: 'dataset.decimal=\",\"'( 'dataset.thousands=\".\"')?$"
    )
    with pytest.raises(DataError, match=said):
        table("x.csv")
    assert len(table("x.csv", drop=["price"])) == 4
    Path("x.csv").write_text(text.replace("2;;", "2;1,5;").replace(";", delimiter))
    with pytest.raises(DataError, match=said):
        table("x.csv", target="price", drop=["kind"], task="regression")
    rows = "".join(f"1;a;{n},5\n" for n in range(150))
    Path("x.csv").write_text(f"size;kind;price\n{rows}".replace(";", delimiter))
    with pytest.raises(DataError, match=said):  # and not of too many classes
        table("x.csv")
    Path("x.csv").write_text("a;b;kind\n1,5;2,5;a\n2;3;b\n".replace(";", delimiter))
    with pytest.raises(DataError, match=r"column 'a' holds '1,5', a number with a decimal comma; so does 'b'\n"):
        table("x.csv")


def test_texts_with_commas_are_categories() -> None:
    Path("x.csv").write_text("a;b;kind\n1,5 m;2.5;a\n2,5;3.5;b\n")
    assert table("x.csv").categories == [["1,5 m", "2,5"], None]


def test_several_targets_are_flags_or_values() -> None:
    Path("several.csv").write_text("x,a,b\n1.5,0,1\n2.5,1,1\n")
    flags = table("several.csv", target=["a", "b"])
    assert (flags.targets.tolist(), flags.targets.dtype, flags.classes) == ([[0, 1], [1, 1]], torch.int64, ["a", "b"])
    values = table("several.csv", target=["a", 0], task="regression")
    assert (values.targets.tolist(), values.classes) == ([[0.0, 1.5], [1.0, 2.5]], [])
    with pytest.raises(ConfigError, match=r"dataset\.target: column 'x' holds values other than 0 and 1"):
        table("several.csv", target=["a", "x"])


def test_rows_with_more_cells_than_names_are_not_shifted() -> None:
    for first in ("1", "x", "0"):
        Path("x.csv").write_text(f"size,species\n{first},2,cat\n3,4,dog\n")
        with pytest.raises(DataError, match="its rows have more cells than its first line"):
            table("x.csv")
    Path("x.csv").write_text("size,species\n2,cat,\n4,dog,\n")
    assert table("x.csv").inputs.tolist() == [[2], [4]]


def test_a_long_column_has_one_type() -> None:
    """Read piece by piece, the pieces of numbers would be 0 and 1, and that of the text '0' and '1' again."""
    Path("long.csv").write_text("x,target\n" + "1,0\n2,1\n" * 200_000 + "1.50,a\n")
    data = table("long.csv")
    assert data.classes == ["0", "1", "a"]
    assert torch.bincount(data.targets).tolist() == [200_000, 200_000, 1]
