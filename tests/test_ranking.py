"""Settings side by side, against hand-worked figures and scipy's."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scipy import stats

from runner.ranking import Figure, Row, differing, rank, settings, table
from runner.table import cell


def row(value: float | None, fold: int | None = None, state: str = "completed", **keys: Any) -> Row:
    metrics = {} if value is None else {"val/accuracy": value, "test/accuracy": value - 0.1, "val/loss": 1 - value}
    return Row("job", {k: str(v) for k, v in keys.items()}, fold, {"state": state, "metrics": metrics})


def test_a_mean_its_deviation_and_its_interval() -> None:
    values = [0.91, 0.87, 0.95, 0.9]
    figure = Figure.of(values)
    assert figure.mean == pytest.approx(0.9075)
    assert figure.std == pytest.approx(math.sqrt(sum((v - 0.9075) ** 2 for v in values) / 3))
    low, high = stats.t.interval(0.95, 3, loc=0.9075, scale=stats.sem(values))
    assert (figure.low, figure.high) == (pytest.approx(low), pytest.approx(high))
    assert str(figure) == "0.9075 ± 0.0330"


def test_one_alone_has_no_interval_and_nothing_no_mean() -> None:
    assert str(Figure.of([0.5])) == "0.5000"
    assert Figure.of([0.5]).interval == "–"
    assert math.isnan(Figure.of([]).mean)
    assert math.isnan(Figure.of([0.5, math.nan]).mean)


def test_seeds_are_averaged_and_the_best_setting_is_first() -> None:
    rows = [row(value, model=model, seed=seed) for model, values in {"a": [0.5, 0.7], "b": [0.8, 0.9]}.items()
            for seed, value in enumerate(values)]  # fmt: skip
    best, second = rank(rows, "val/accuracy")
    assert (best.keys, second.keys) == ({"model": "b"}, {"model": "a"})
    assert best.figure("val/accuracy").mean == pytest.approx(0.85)
    assert best.count == "2 seeds"
    assert [setting.keys["model"] for setting in rank(rows, "val/loss")] == ["b", "a"]
    assert [setting.keys["model"] for setting in rank(rows, "val/accuracy", "min")] == ["a", "b"]


def test_folds_count_apart_from_seeds() -> None:
    rows = [row(0.1 * fold + 0.5 * seed, fold, seed=seed) for seed in range(2) for fold in range(3)]
    (setting,) = settings(rows)
    assert setting.count == "2 seeds × 3 folds"
    figure = setting.figure("val/accuracy")
    # Of each seed the mean of its folds: 0.1 and 0.6.
    assert (figure.mean, figure.std, figure.n) == (pytest.approx(0.35), pytest.approx(0.5 / math.sqrt(2)), 2)
    (alone,) = settings(rows[:3])
    assert alone.count == "3 folds"
    assert alone.figure("val/accuracy").std == pytest.approx(0.1)


def test_what_failed_or_has_no_figure_comes_last() -> None:
    rows = [row(None, state="failed", lr=3), row(math.nan, lr=1), row(0.2, lr=2), row(0.3, lr=4)]
    assert [setting.keys["lr"] for setting in rank(rows, "val/accuracy")][:2] == ["4", "2"]
    made = table(rank(rows, "val/accuracy"), "val/accuracy")
    assert made.columns == ["", "lr", "runs", "val/accuracy", "test/accuracy", "failed"]
    assert made.records()[0] == {
        "": 1, "lr": "4", "runs": "1", "val/accuracy": 0.3, "test/accuracy": pytest.approx(0.2), "failed": 0,
    }  # fmt: skip
    assert {r["lr"]: r["failed"] for r in made.records()} == {"4": 0, "2": 0, "1": 0, "3": 1}


def test_a_metric_that_was_not_measured_is_not_nan() -> None:
    made = table(rank([row(math.nan, lr=1), row(None, lr=2)], "val/accuracy"), "val/accuracy")
    assert {record["lr"]: cell(record["val/accuracy"]) for record in made.records()} == {"1": "NaN", "2": "–"}
    assert {record["lr"]: record[""] for record in made.records()} == {"1": 1, "2": None}


def test_beside_a_loss_stands_the_first_metric() -> None:
    made = table(rank([row(0.5, seed=0), row(0.7, seed=1)], "val/loss"), "val/loss")
    assert made.columns == ["", "runs", "val/loss", "95 % interval", "test/accuracy"]
    assert made.title == "Ranked by val/loss (lower is better)"


def test_keys_that_differ() -> None:
    assert differing([{"a": "1", "b": "2"}, {"a": "1", "b": "3"}, {"a": "1", "c": "4"}]) == ["b", "c"]
