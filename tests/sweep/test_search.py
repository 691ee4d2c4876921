"""Points of a search: inside their ranges, spread as they should be, and the same again for the same seed."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from scipy.stats import qmc

from runner.sweep import search

PARSER = OverridesParser.create()


def draw(method: str, count: int, *typed: str, seed: int = 0) -> list[dict[str, str]]:
    overrides = {o.key_or_group: o for o in PARSER.parse_overrides(list(typed))}
    return search.points(SimpleNamespace(method=method, points=count, seed=seed), overrides)


@pytest.mark.parametrize("method", search.METHODS)
def test_points_are_in_their_ranges_and_depend_on_the_seed_alone(method: str) -> None:
    typed = "lr=tag(log,interval(1e-4,1e-1))", "n=int(interval(3,7))", "d=interval(0,0.5)", "model=cnn,mlp"
    drawn = draw(method, 64, *typed)
    assert len(drawn) == 64
    for point in drawn:
        assert 1e-4 <= float(point["lr"]) <= 1e-1
        assert int(point["n"]) in range(3, 8)
        assert 0 <= float(point["d"]) <= 0.5
        assert point["model"] in ("cnn", "mlp")
    assert {int(point["n"]) for point in drawn} == set(range(3, 8))
    assert drawn == draw(method, 64, *typed)
    assert drawn != draw(method, 64, *typed, seed=1)


def test_a_logarithm_gives_each_order_of_magnitude_as_many() -> None:
    orders = [
        math.floor(math.log10(float(p["x"]))) for p in draw("latin_hypercube", 60, "x=tag(log,interval(0.001,1))")
    ]
    assert [orders.count(order) for order in (-3, -2, -1)] == [20, 20, 20]


def test_a_latin_hypercube_has_one_point_in_each_piece_of_every_axis() -> None:
    drawn = search.latin_hypercube(3, 17, 4)
    for axis in range(3):
        assert sorted(np.floor(drawn[:, axis] * 17)) == list(range(17))


def test_sobol_points_are_scipys_and_spread_better_than_random_ones() -> None:
    drawn = search.sobol(2, 64, 3)
    assert np.array_equal(drawn, qmc.Sobol(2, seed=3).random(64))
    assert qmc.discrepancy(drawn) < qmc.discrepancy(search.uniform(2, 64, 3)) / 2


@pytest.mark.parametrize("method", ["random", "sobol"])
def test_more_points_begin_with_the_same_ones(method: str) -> None:
    typed = "x=interval(0,1)", "y=interval(0,1)"
    assert draw(method, 20, *typed)[:8] == draw(method, 8, *typed)


def test_whole_numbers_on_a_logarithmic_scale() -> None:
    at = search.dimension(PARSER.parse_override("n=tag(log,int(interval(1,100)))"))
    numbers = [int(at(u)) for u in np.linspace(0, 1, 10001)[:-1]]
    assert (min(numbers), max(numbers)) == (1, 100)
    # Of the logarithm's range from 0.501 to 100.499: up to 9.5.
    share = sum(number < 10 for number in numbers) / len(numbers)
    assert share == pytest.approx(math.log(9.5 / 0.501) / math.log(100.499 / 0.501), abs=0.001)


def test_two_points_that_are_the_same_are_one() -> None:
    assert len(draw("random", 50, "model=cnn,mlp")) == 2


def test_no_value_is_rounded_out_of_its_range() -> None:
    high = search._between(0.0, 0.12345678, False, 1 - 1e-12)
    assert high == "0.123457" or float(high) <= 0.12345678
    assert float(search._between(0.0, 0.12345678, False, 0.99999999)) <= 0.12345678
    assert int(search._whole(1, 1234567, True, 1 - 1e-12)) == 1234567
    assert search._whole(1, 1234567, True, 0.0) == "1"
