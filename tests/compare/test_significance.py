"""Paired tests, against scipy's and figures worked by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from runner.compare.significance import Comparison, compare, holm, paired, table
from runner.ranking import Repetition, Row, Setting, rank

A, B = [0.91, 0.87, 0.95, 0.90], [0.89, 0.88, 0.90, 0.86]


def row(figure: float, name: str = "a", samples: dict[str, int] | None = None, **repetition: Any) -> Row:
    result = {"state": "completed", "metrics": {"val/accuracy": figure, "val/loss": 1 - figure}, "samples": samples}
    return Row(
        "job", {"model": name}, repetition.get("fold"), result, Repetition(**{"data": "d", "split": "s", **repetition})
    )


def setting(name: str, *rows: Row) -> Setting:
    return Setting({"model": name}, list(rows))


def over_seeds(figures: list[float]) -> Setting:
    return setting("a", *(row(figure, seed=seed) for seed, figure in enumerate(figures)))


def over_folds(figures: list[float], **sizes: int) -> Setting:
    rows = (row(figure, samples=sizes, seed=0, fold=fold, split=f"s{fold}") for fold, figure in enumerate(figures))
    return setting("a", *rows)


def test_the_paired_t_test_is_that_of_scipy() -> None:
    oracle = stats.ttest_rel(A, B)
    interval = oracle.confidence_interval(0.95)
    mean, low, high, p = paired([a - b for a, b in zip(A, B, strict=True)])
    assert (mean, p) == (pytest.approx(np.mean(A) - np.mean(B)), pytest.approx(oracle.pvalue))
    assert (low, high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_the_corrected_test_worked_by_hand() -> None:
    # Mean 0.03, variance 0.00025; 0.00025 · (1/5 + 1/4) = 0.0001125, and 0.03 / √0.0001125 = 2 √2, of 4 degrees.
    mean, low, high, p = paired([0.01, 0.02, 0.03, 0.04, 0.05], 1 / 4)
    assert p == pytest.approx(2 * stats.t.sf(2 * math.sqrt(2), 4))
    assert p == pytest.approx(0.0474, abs=1e-4)
    half = float(stats.t.ppf(0.975, 4)) * math.sqrt(0.0001125)
    assert (mean, low, high) == (pytest.approx(0.03), pytest.approx(0.03 - half), pytest.approx(0.03 + half))


def test_what_is_the_same_each_time(recwarn: pytest.WarningsRecorder) -> None:
    assert paired([0.0, 0.0, 0.0], 0.25) == (0.0, 0.0, 0.0, 1.0)
    assert paired([0.5, 0.5]) == (0.5, 0.5, 0.5, 0.0)
    assert paired([0.9 - 0.8, 0.8 - 0.7, 0.7 - 0.6])[3] == 0.0  # but for the last digit
    assert Comparison("2 seeds", *paired([0.0, 0.0])).interval == "–"
    assert not recwarn


def test_holm_worked_by_hand() -> None:
    # In order 0.005 · 4, 0.01 · 3, 0.03 · 2, and 0.04 · 1, which is not below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]


def test_over_seeds_and_which_way_round() -> None:
    found = compare(over_seeds(A), over_seeds(B), "val/accuracy")
    assert found is not None
    assert (found.over, found.mean) == ("4 seeds", pytest.approx(0.025))
    assert found.p == pytest.approx(stats.ttest_rel(A, B).pvalue)
    by_loss = compare(over_seeds(A), over_seeds(B), "val/loss")
    assert by_loss is not None
    assert by_loss.mean == pytest.approx(0.025)  # of the loss less is better: the same one is ahead
    other = compare(over_seeds(A), over_seeds(B), "val/loss", "max")
    assert other is not None
    assert other.mean == pytest.approx(-0.025)


def test_over_folds_with_the_samples_that_are_measured_over_those_that_are_trained_on() -> None:
    differences = [0.01, 0.02, 0.03, 0.04, 0.05]
    best, zeros = over_folds(differences, train=80, val=20, test=40), over_folds([0.0] * 5)
    found = compare(best, zeros, "val/accuracy")
    assert found is not None
    assert found.over == "5 folds"
    assert found.p == pytest.approx(2 * stats.t.sf(2 * math.sqrt(2), 4))
    unknown = compare(over_folds(differences), zeros, "val/accuracy")  # 1 / (5 − 1), the same
    assert unknown is not None
    assert unknown.p == pytest.approx(found.p)
    other = compare(over_folds(differences, train=80, val=60), zeros, "val/accuracy")
    assert other is not None
    assert other.p == pytest.approx(paired(differences, 0.75)[3])


def test_of_seeds_and_folds_the_less_sure_one() -> None:
    def both(figures: list[list[float]]) -> Setting:
        return setting("a", *(
            row(figure, seed=seed, fold=fold, split=f"s{fold}")
            for seed, of_seed in enumerate(figures) for fold, figure in enumerate(of_seed)
        ))  # fmt: skip

    zeros = both([[0.0] * 3] * 2)
    folds = compare(both([[0.1, 0.4, 0.3], [0.3, 0.2, 0.7]]), zeros, "val/accuracy")
    assert folds is not None
    assert paired([0.2, 0.3, 0.5], 1 / 2)[3] > paired([0.8 / 3, 0.4])[3]
    assert (folds.over, folds.p) == ("3 folds", pytest.approx(paired([0.2, 0.3, 0.5], 1 / 2)[3]))
    seeds = compare(both([[0.1, 0.11, 0.12], [0.7, 0.71, 0.72]]), zeros, "val/accuracy")
    assert seeds is not None
    assert (seeds.over, seeds.p) == ("2 seeds", pytest.approx(paired([0.11, 0.71])[3]))


def test_over_other_splits_of_the_same_data_and_over_data_drawn_anew() -> None:
    def drawn(figures: list[float], **which: str) -> Setting:
        named = [{name: value.format(n) for name, value in which.items()} for n in range(len(figures))]
        rows = (row(figure, split_seed=n, **named[n]) for n, figure in enumerate(figures))
        return setting("a", *rows)

    differences = [0.1, 0.2, 0.4]
    same = compare(drawn(differences, split="s{}"), drawn([0.0] * 3, split="s{}"), "val/accuracy")
    assert same is not None
    assert (same.over, same.p) == ("3 splits", pytest.approx(paired(differences, 1 / 2)[3]))
    unsaid = compare(setting("a", *(row(d, seed=n, split=f"s{n}") for n, d in enumerate(differences))),
                     setting("a", *(row(0.0, seed=n, split=f"s{n}") for n in range(3))), "val/accuracy")  # fmt: skip
    assert unsaid == same
    assert same.p > paired(differences)[3]
    anew = compare(drawn(differences, data="d{}"), drawn([0.0] * 3, data="d{}"), "val/accuracy")
    assert anew is not None
    assert anew.p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)


def test_pairs_are_of_the_same_seed_on_the_same_samples() -> None:
    assert compare(over_seeds(A), over_seeds([0.8]), "val/accuracy") is None
    others = setting("b", *(row(0.5 + seed / 10, seed=seed, split="other") for seed in range(4)))
    assert compare(over_seeds(A), others, "val/accuracy") is None
    shuffled = setting("b", *(row(B[seed], seed=seed) for seed in (3, 1, 0, 2)), row(0.1, seed=17))
    found = compare(over_seeds(A), shuffled, "val/accuracy")
    assert found is not None
    assert (found.over, found.p) == ("4 seeds", pytest.approx(stats.ttest_rel(A, B).pvalue))


def test_a_figure_that_is_nan_makes_no_pair() -> None:
    assert compare(over_seeds(A[:2]), over_seeds([0.5, math.nan]), "val/accuracy") is None


def test_the_table_has_adjusted_p_and_says_so() -> None:
    others = {"b": B, "c": [0.5, 0.51, 0.52, 0.5], "d": [0.9]}
    rows = [
        row(figure, name, seed=seed)
        for name, figures in {"a": A, **others}.items()
        for seed, figure in enumerate(figures)
    ]
    ranked = rank(rows, "val/accuracy")
    made = table(ranked, "val/accuracy")
    assert made is not None
    assert made.title == "Against the best in val/accuracy (p adjusted for 2 comparisons by Holm's method)"
    assert {record["model"] for record in made.records()} == {"b", "c"}
    known = {name: stats.ttest_rel(A, others[name]).pvalue for name in "bc"}
    assert {record["model"]: record["p"] for record in made.records()} == {
        "b": pytest.approx(known["b"]), "c": pytest.approx(2 * known["c"]),
    }  # fmt: skip
    assert table(ranked[:1], "val/accuracy") is None
    single = table(rank([each for each in rows if each.keys["model"] in "ab"], "val/accuracy"), "val/accuracy")
    assert single is not None
    assert single.title == "Against the best in val/accuracy"


def test_the_corrected_test_is_wrong_as_often_as_it_says() -> None:
    """Of two settings that are the same in the mean, over folds whose differences have the correlation that Nadeau and
    Bengio assume, n_test / (n_test + n_train)."""
    rng, wrong, correlation = np.random.default_rng(0), {0.0: 0, 0.25: 0}, 0.2
    for _ in range(2000):
        shared, own = rng.normal(), rng.normal(size=5)
        differences = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
        for overlap in wrong:
            wrong[overlap] += paired(differences.tolist(), overlap)[3] < 0.05
    assert wrong[0.25] / 2000 == pytest.approx(0.05, abs=0.015)
    assert wrong[0.0] / 2000 > 0.1
