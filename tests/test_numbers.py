"""Numbers of more digits than a float32 has, and such as no float32 holds: from the file to the predictions."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LIGHT, Run, composed, only_run, result_of
from sklearn.metrics import root_mean_squared_error
from sklearn.preprocessing import StandardScaler
from torch.utils.data import IterableDataset, TensorDataset

from runner import dataset, load_run
from runner.data import Data, prepare, read
from runner.dataset import ArrayDataset, Parts, Samples
from runner.errors import DataError
from runner.numbers import check_finite
from runner.transform import Float, Normalize, Pipeline, Table

EARLIER = Path(__file__).with_name("earlier")
N = 120
DRAW = np.random.default_rng(0)
MS = 1_700_000_000_000 + 100 * DRAW.permutation(N)
"""Times in milliseconds, of which all are one float32."""
COLUMNS = {
    "ms": MS,
    "day": pd.date_range("2024-01-01", periods=N).strftime("%Y%m%d").astype(int),
    "id": 12_345_678 + DRAW.permutation(N),
    "x": DRAW.normal(size=N).round(3),
}
TABLE = ("dataset=table", "dataset.path=t.csv", "transform=table", "device=cpu")
SECONDS = ("dataset.target=seconds", "dataset.task=regression", "loss=mse", "metric=regression", "split=random")


@pytest.fixture
def frame() -> pd.DataFrame:
    made = pd.DataFrame(COLUMNS).assign(kind=np.where(np.median(MS) < MS, "late", "early"))
    made.to_csv("t.csv", index=False)
    return made


def prepared(*options: str) -> Data:
    return prepare(composed(*options), torch.device("cpu"))


def in_order(data: Data, part: str) -> tuple[np.ndarray, np.ndarray]:
    """The inputs of a part as the model gets them, and their rows in the file."""
    batches = list(data.loaders[part].epoch())
    assert {batch.input.dtype for batch in batches} == {torch.float32}
    return torch.cat([batch.input for batch in batches]).numpy(), torch.cat([batch.index for batch in batches]).numpy()


@pytest.mark.parametrize(
    "options", [("transform=table",), ("transform=normalize",), ("transform=table", "loader=workers")]
)
def test_columns_are_scaled_as_by_scikit_learn_in_float64(frame: pd.DataFrame, options: tuple[str, ...]) -> None:
    data = prepared(*TABLE, "dataset.target=kind", *options)
    stored = frame.drop(columns="kind").to_numpy(np.float64)
    scaler = StandardScaler().fit(stored[data.indices["train"]])
    for part in ("train", "val", "test"):
        inputs, rows = in_order(data, part)
        np.testing.assert_allclose(inputs, scaler.transform(stored[rows]), atol=1e-6)


@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
@pytest.mark.parametrize("value", [0.1, 1_700_000_000_123.0, 0.0])
def test_a_constant_column_is_0_and_another_value_no_number_of_another_world(value: float, kind: torch.dtype) -> None:
    stored = torch.full((1000, 1), value, dtype=kind)
    for step in (Normalize(), Table([None])):
        made = Pipeline([step]).fit(lambda: stored.split(37))
        assert made(stored).abs().max() < 1e-3
        assert made(stored + 1).abs().max() < 1.1


def test_a_gap_beside_large_numbers_is_the_mean(frame: pd.DataFrame) -> None:
    frame = frame.astype({"ms": "Int64"})
    frame.loc[frame.index % 5 == 0, "ms"] = pd.NA
    frame.to_parquet("t.parquet")
    data = prepared(*TABLE, "dataset.path=t.parquet", "dataset.target=kind")
    stored = frame[["ms"]].to_numpy(np.float64, na_value=np.nan)
    scaler = StandardScaler().fit(stored[data.indices["train"]])
    inputs, rows = in_order(data, "val")
    np.testing.assert_allclose(inputs[:, :1], np.nan_to_num(scaler.transform(stored[rows])), atol=1e-6)


class Dicts(torch.utils.data.Dataset[Any]):
    """Samples with Python's numbers."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input": [float(MS[index]), float(index)], "target": MS[index] / 1000}


class Times(IterableDataset[Any]):
    def __len__(self) -> int:
        return N

    def __iter__(self) -> Iterator[tuple[Any, float]]:
        return ((np.array([MS[i], i], dtype=np.float64), MS[i] / 1000) for i in range(N))


@pytest.mark.parametrize("kind", ["dicts", "tensors", "whole numbers", "stream"])
def test_data_sets_of_ones_own_keep_their_digits(kind: str) -> None:
    stored = np.stack([MS, np.arange(N)], 1)
    if kind == "dicts":
        given: Any = Dicts()
    elif kind == "stream":
        given = Parts(Times(), Times(), Times())
    else:
        inputs = torch.from_numpy(stored)
        given = TensorDataset(inputs if kind == "whole numbers" else inputs.double(), torch.from_numpy(MS / 1000))
    held = dataset.read(given)["train"].head
    assert (held.targets.numpy() == MS / 1000).all()
    inputs = held.arrays.inputs
    made = Pipeline([Normalize()]).fit(lambda: [inputs])(inputs)
    assert made.dtype == torch.float32
    np.testing.assert_allclose(made.numpy(), StandardScaler().fit_transform(stored.astype(np.float64)), atol=1e-6)


def test_given_moments_of_large_numbers_keep_their_digits_and_those_of_pictures_need_none() -> None:
    normalize = Normalize([float(MS.mean())], [float(MS.std())])
    normalize.fit(lambda: pytest.fail("read"))
    expected = StandardScaler().fit_transform(MS[:, None].astype(np.float64))
    np.testing.assert_allclose(normalize(torch.from_numpy(MS[:, None])).numpy(), expected, atol=1e-6)
    usual = Normalize([0.485], [0.229])
    usual.fit(lambda: pytest.fail("read"))
    assert usual.mean.dtype == torch.float32
    assert Float(2.0)(torch.tensor([[0.1]], dtype=torch.float64)).dtype == torch.float32


def test_where_there_is_no_float64_large_numbers_are_scaled_on_the_cpu() -> None:
    numbers, mps = torch.from_numpy(MS[:, None]).double(), torch.device("mps")
    assert Pipeline([Normalize()]).fit(lambda: [numbers]).place(mps) == torch.device("cpu")
    assert Pipeline([Normalize()]).fit(lambda: [numbers.float()]).place(mps) == mps
    assert Pipeline([Normalize()]).fit(lambda: [numbers]).place(torch.device("cuda")) == torch.device("cuda")


@pytest.fixture
def seconds() -> pd.DataFrame:
    made = pd.DataFrame(
        {"x": COLUMNS["x"], "ms": MS, "seconds": 1_700_000_000 + (10 * COLUMNS["x"]).round().astype(int)}
    )
    made.to_csv("t.csv", index=False)
    return made


def test_times_as_targets_are_learnt_measured_and_predicted_to_the_second(run: Run, seconds: pd.DataFrame) -> None:
    assert run(*LIGHT, *TABLE, *SECONDS, "trainer.max_epochs=20", "optimizer.lr=0.02", "loader.batch_size=16") == 0
    place = only_run()
    with np.load(place / "split.npz") as split:
        train, test = seconds.iloc[split["train"]], seconds.iloc[split["test"]]
    result = result_of(place)
    expected = root_mean_squared_error(test["seconds"], np.full(len(test), train["seconds"].mean()))
    assert result["baseline"]["test/rmse"] == pytest.approx(expected, rel=1e-9)
    assert 5 < expected < 15
    assert result["metrics"]["test/rmse"] < expected / 2

    assert run("predict", f"run={place}", "input=test", "output=of_part.csv") == 0
    of_part = pd.read_csv("of_part.csv")
    assert of_part["target"].tolist() == test["seconds"].tolist()
    error = root_mean_squared_error(of_part["target"], of_part["prediction"])
    assert error == pytest.approx(result["metrics"]["test/rmse"], rel=1e-6)
    test.drop(columns="seconds").to_csv("new.csv", index=False)
    assert run("predict", f"run={place}", "input=new.csv", "output=of_file.csv") == 0
    predicted = load_run(place).predict(test[["x", "ms"]]).values
    assert pd.read_csv("of_file.csv")["prediction"].tolist() == pytest.approx(predicted, abs=1e-4, rel=0)
    assert of_part["prediction"].tolist() == pytest.approx(predicted, abs=1e-4, rel=0)
    assert run("evaluate", f"run={place}", "output=evaluated", "figures=false") == 0
    assert result_of("evaluated")["metrics"]["test/rmse"] == pytest.approx(result["metrics"]["test/rmse"], rel=1e-9)

    assert run("export", f"run={place}", "output=m.pt2") == 0
    stored = torch.from_numpy(test[["x", "ms"]].to_numpy(np.float64))
    said = torch.export.load("m.pt2").module()(stored)
    assert said.dtype == torch.float64
    assert said[:, 0].tolist() == pytest.approx(predicted, abs=1e-3, rel=0)


def test_several_targets_and_those_that_are_not_scaled(run: Run, seconds: pd.DataFrame) -> None:
    seconds.assign(other=seconds["x"] / 1e6).to_csv("t.csv", index=False)
    both = (*SECONDS, '"dataset.target=[seconds,other]"'.strip('"'))
    assert run(*LIGHT, *TABLE, *both) == 0
    assert run("predict", f"run={only_run()}", "input=test", "output=p.csv") == 0
    found = pd.read_csv("p.csv")
    assert found["target_1"].tolist() == (seconds["x"] / 1e6).iloc[found["index"]].tolist()
    assert found["prediction_0"].sub(1_700_000_000).abs().max() < 100
    assert run(*LIGHT, *TABLE, *SECONDS, "loss.standardize=false", "debug=dev_run") == 0


def with_cell(frame: pd.DataFrame, column: str, row: int, text: str) -> None:
    lines = [list(map(str, frame.columns)), *(list(map(str, cells)) for cells in frame.itertuples(index=False))]
    lines[row + 1][frame.columns.get_loc(column)] = text
    with open("t.csv", "w", newline="") as file:
        csv.writer(file).writerows(lines)


@pytest.mark.parametrize("text", ["inf", "-inf", "1e39", "1e400"])
@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_cell_that_is_too_large_is_named_wherever_it_is(
    run: Run, frame: pd.DataFrame, capsys: pytest.CaptureFixture[str], part: str, text: str
) -> None:
    row = int(prepared(*TABLE, "dataset.target=kind").indices[part][3])
    with_cell(frame, "x", row, text)
    assert run(*LIGHT, *TABLE, "dataset.target=kind") == 2
    value = "-inf" if text == "-inf" else "1e+39" if text == "1e39" else "inf"
    said = f"column 'x' holds {value}, which is too large a number; row {row} (counted from 0), line {row + 2} of t.csv"
    printed = capsys.readouterr().err
    assert said in printed
    assert not Path("outputs").exists()
    remedy = re.search(r'try: "(.*)"', printed)
    assert remedy is not None
    assert run(*LIGHT, *TABLE, "dataset.target=kind", remedy[1], "debug=dev_run") == 0


def test_rows_that_are_left_out_do_not_move_the_line(frame: pd.DataFrame) -> None:
    with_cell(pd.concat([frame[:10], frame[:10], frame[10:]]).assign(kind=lambda f: f["kind"].where(f.index != 3, "")),
              "ms", 40, "1e300")  # fmt: skip
    with pytest.raises(
        DataError, match=r"column 'ms' holds 1e\+300, .*; row 40 \(counted from 0\), line 42 of t.csv\n"
    ):
        dataset.table("t.csv", target="kind", duplicates="drop", missing_target="drop")


def test_a_target_and_a_parquet_file_and_several_cells(seconds: pd.DataFrame) -> None:
    with_cell(seconds, "seconds", 5, "Infinity")
    with pytest.raises(DataError, match=r"column 'seconds' holds inf, .* row 5 \(counted from 0\), line 7 of t.csv"):
        dataset.table("t.csv", target="seconds", task="regression")
    seconds["x"] = [np.inf if i in (7, 9) else x for i, x in enumerate(seconds["x"])]
    seconds.to_parquet("t.parquet")
    with pytest.raises(DataError, match=r"holds inf, .*; row 7 \(counted from 0\), and 1 more\n"):
        dataset.table("t.parquet", target="seconds", task="regression")


@pytest.mark.parametrize("value", [float("inf"), 1e39, 1e300])
def test_a_number_of_a_data_set_of_ones_own_that_is_too_large_is_named_by_its_sample(value: float) -> None:
    inputs = torch.zeros(6, 2, dtype=torch.float64)
    inputs[4, 1] = value
    samples = Samples(ArrayDataset(inputs, torch.zeros(6).long(), ["a"]))
    rows = {"train": torch.tensor([0, 1, 2]), "val": torch.tensor([3, 4]), "test": torch.tensor([5])}
    for transform in (Normalize(), Table([None, None]), Float()):
        pipeline = Pipeline([transform]).fit(lambda: [inputs[:3]])
        with pytest.raises(DataError, match=r"1 of 2 inputs of val contain .*; the first is sample 4"):
            check_finite(dict.fromkeys(rows, samples), rows, pipeline, inputs[:1])
    targets = Samples(TensorDataset(inputs, inputs[:, 1]))
    with pytest.raises(DataError, match="the target of sample 4 is"):
        targets.check(0)


def test_predict_and_training_say_the_same_of_a_cell(
    run: Run, seconds: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*LIGHT, *TABLE, *SECONDS) == 0
    with_cell(seconds.drop(columns="seconds"), "x", 2, "1e39")
    assert run("predict", f"run={only_run()}", "input=t.csv", "output=p.csv") == 1
    assert "column 'x' holds '1e39', which is too large a number" in Path("p.csv").read_text()
    capsys.readouterr()


def test_what_a_float32_does_not_tell_apart_is_said(frame: pd.DataFrame, caplog: pytest.LogCaptureFixture) -> None:
    prepared(*TABLE, "dataset.target=kind", "transform=none")
    said = [message for message in caplog.messages if "different values" in message]
    assert [re.findall(r"column '(\w+)' has 72 different values .* gets (\d+)", each) for each in said] == [
        [("ms", str(len(np.unique(MS[prepared_rows()].astype(np.float32)))))],
        [("day", str(len(np.unique(np.asarray(COLUMNS["day"])[prepared_rows()].astype(np.float32)))))],
    ]
    assert all("try: transform=table" in each for each in said)


def prepared_rows() -> np.ndarray:
    return prepared(*TABLE, "dataset.target=kind").indices["train"].numpy()


def test_a_value_beside_which_all_others_are_alike_is_said(
    frame: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    rows = prepared(*TABLE, "dataset.target=kind").indices
    caplog.clear()
    with_cell(frame, "x", int(rows["train"][0]), "1e30")
    prepared(*TABLE, "dataset.target=kind")
    assert any("column 'x' has" in message and "as large as 1e+30" in message for message in caplog.messages)
    caplog.clear()
    with_cell(frame, "x", int(rows["val"][1]), "-1e30")
    prepared(*TABLE, "dataset.target=kind")
    assert any(f"column 'x' of val holds -1e+30 (sample {int(rows['val'][1])})" in each for each in caplog.messages)


def test_usual_numbers_are_not_worth_a_word(caplog: pytest.LogCaptureFixture) -> None:
    skewed = {"x": DRAW.lognormal(0, 3, 500), "n": DRAW.integers(0, 3, 500), "c": 5.0, "g": [None, *[1.5] * 499],
              "s": np.round(DRAW.normal(size=500), 1) * 0.1, "kind": ["a", "b"] * 250}  # fmt: skip
    pd.DataFrame(skewed).to_csv("t.csv", index=False)
    prepared(*TABLE, "dataset.target=kind")
    assert not [each for each in caplog.records if each.levelname == "WARNING"]


def test_whole_numbers_that_float64_does_not_tell_apart_are_said(
    frame: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    frame["id"] = 2**60 + np.arange(N)
    frame.to_csv("t.csv", index=False)
    dataset.table("t.csv", target="kind")
    said = "column 'id' has 120 different whole numbers, of which float64 tells 1 apart\n  try: dataset.drop=[id]"
    assert [message.replace('"', "") for message in caplog.messages] == [said]


def test_distinct_rows_are_no_duplicates(frame: pd.DataFrame, caplog: pytest.LogCaptureFixture) -> None:
    frame[["ms", "kind"]].to_csv("t.csv", index=False)
    prepared(*TABLE, "dataset.target=kind")
    assert not [message for message in caplog.messages if "exactly the inputs" in message]


def test_a_run_of_an_earlier_version_says_that_it_scales_as_it_did(
    run: Run, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(EARLIER / "data", "data")
    shutil.copytree(EARLIER / "runs/large_numbers", "old")
    shutil.copytree(EARLIER / "runs/digits", "pictures")
    assert run("predict", "run=old", "input=data/events.csv", "output=p.csv") == 0
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("numbers are scaled in float32, as by the earlier version") == 1
    assert run("evaluate", "run=pictures", "figures=false") == 0
    printed = capsys.readouterr()
    assert "float32" not in printed.out + printed.err
    new = (*TABLE, "dataset.path=data/events.csv", "dataset.target=delay", *SECONDS[1:])
    assert run(*LIGHT, *new, "split.path=old", "hydra.run.dir=new") == 0
    assert run("predict", "run=[old,new]", "input=data/events.csv", "output=both.csv") == 0
    each = [load_run(place).predict(pd.read_csv("data/events.csv")).values for place in ("old", "new")]
    assert pd.read_csv("both.csv")["prediction"].tolist() == pytest.approx(np.mean(each, axis=0), rel=1e-12)
    # A new run on the split of the old one has other bytes of the same data.
    new = new[:-1]
    data = prepared(*new, "split.path=old")
    with np.load("old/split.npz") as split:
        assert data.indices["test"].tolist() == split["test"].tolist()
    cfg = composed(*new)
    assert read(cfg)["train"].head.arrays.inputs.dtype == torch.float64
    pd.read_csv("data/events.csv")[::-1].to_csv("data/events.csv", index=False)
    with pytest.raises(DataError, match="was made for other data"):
        prepared(*new, "split.path=old")
