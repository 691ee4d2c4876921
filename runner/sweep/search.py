"""Points of a search space, drawn before a sweep starts: at random, in a Latin hypercube, from a Sobol sequence."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from hydra.core.override_parser.types import IntervalSweep, Override
from numpy.typing import NDArray

from runner.errors import ConfigError, Problem

Draws = NDArray[np.float64]


def points(options: Any, looked_for: Mapping[str, Override]) -> list[dict[str, str]]:
    """What each point overrides.

    Args:
        options: the group ``sweep``: ``method``, ``points`` and ``seed``.
        looked_for: overrides that stand for several values, or for a range of them, by key.

    Raises:
        ConfigError: there is nothing to look for, or a range is none.
    """
    if not looked_for:
        what = f"{options.method} has no ranges or lists of values to draw from"
        remedy = "a range, as in optimizer.lr='tag(log,interval(1e-4,1e-1))', or sweep=grid"
        raise ConfigError(Problem("sweep", what, remedy=remedy))
    values = {key: dimension(override) for key, override in looked_for.items()}
    if str(options.method) not in METHODS:
        return corners(looked_for)
    drawn = METHODS[str(options.method)](len(values), int(options.points), int(options.seed))
    rows = [{key: at(u) for (key, at), u in zip(values.items(), row.tolist(), strict=True)} for row in drawn]
    return [dict(row) for row in dict.fromkeys(tuple(row.items()) for row in rows)]


def corners(looked_for: Mapping[str, Override]) -> list[dict[str, str]]:
    """Points in which every end of every range, and every choice, is tried, each with the first of the others: what a
    search may come to that makes its points up as it goes."""
    values = {key: _ends(override) for key, override in looked_for.items()}
    first = {key: ends[0] for key, ends in values.items()}
    found = [{**first, key: end} for key, ends in values.items() for end in ends]
    return [dict(point) for point in dict.fromkeys(tuple(point.items()) for point in found)]


def _ends(override: Override) -> list[str]:
    if not isinstance(override.value(), IntervalSweep):
        return list(override.sweep_string_iterator())
    at = dimension(override)
    return [at(0.0), at(1.0 - 1e-9)]


def uniform(dimensions: int, count: int, seed: int) -> Draws:
    """(`count`, `dimensions`) independent numbers from [0, 1). More points of a seed begin with the same ones."""
    return np.random.default_rng(seed).random((count, dimensions))


def latin_hypercube(dimensions: int, count: int, seed: int) -> Draws:
    """As `uniform`, with one number in each of `count` equal pieces of every axis (McKay, Beckman and Conover 1979)."""
    from scipy.stats import qmc

    return np.asarray(qmc.LatinHypercube(dimensions, seed=seed).random(count))


def sobol(dimensions: int, count: int, seed: int) -> Draws:
    """As `uniform`, filling the space evenly (Sobol' 1967, scrambled as in Owen 1998). It does so best for 2^n points;
    more points of a seed begin with the same ones."""
    from scipy.stats import qmc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the number is not a power of two
        return np.asarray(qmc.Sobol(dimensions, scramble=True, seed=seed).random(count))


METHODS: dict[str, Callable[[int, int, int], Draws]] = {
    "random": uniform,
    "latin_hypercube": latin_hypercube,
    "sobol": sobol,
}


def dimension(override: Override) -> Callable[[float], str]:
    """What a number from [0, 1) stands for, as it is typed.

    ``int(interval(1,10))`` has whole numbers, the last one too; ``tag(log,…)`` measures in orders of magnitude.

    Raises:
        ConfigError: it is no range, or has no logarithm.
    """
    swept = override.value()
    if not isinstance(swept, IntervalSweep):
        texts = list(override.sweep_string_iterator())
        return lambda u: texts[int(u * len(texts))]
    check(override)
    start: Any = swept.start
    end: Any = swept.end
    low, high, log = float(start), float(end), "log" in swept.tags
    if not low < high or (log and low <= 0):
        allowed = "interval(LOW,HIGH), above 0 for tag(log,…)" if log else "interval(LOW,HIGH)"
        raise ConfigError(Problem(override.key_or_group, f"{override.input_line} is not a valid range", allowed))
    if isinstance(start, int) and isinstance(end, int):  # as int(interval(1,10)) makes them
        return partial(_whole, int(low), int(high), log)
    return partial(_between, low, high, log)


def check(override: Override) -> None:
    """That a range is written as it is meant.

    Raises:
        ConfigError: it has a tag that is none, or is one of whole numbers whose ends are not.
    """
    swept: Any = override.value()
    key, text = override.key_or_group, str(override.input_line)
    if unknown := set(swept.tags) - {"log"}:
        problem = Problem(key, f"{text}: there is no tag {min(unknown)!r}", "log", "tag(log,interval(LOW,HIGH))")
        raise ConfigError(problem)
    ends = re.search(r"interval\(([^,]+),([^)]+)\)", text)
    if isinstance(swept.start, int) and ends and not all(float(end).is_integer() for end in ends.groups()):
        raise ConfigError(Problem(key, f"{text}: its bounds are not whole numbers", "int(interval(1,10))"))


def _between(low: float, high: float, log: bool, u: float) -> str:
    value = min(max(_at(low, high, log, u), low), high)
    short = f"{value:.6g}"
    return short if low <= float(short) <= high else repr(value)


def _at(low: float, high: float, log: bool, u: float) -> float:
    return math.exp(math.log(low) + u * (math.log(high) - math.log(low))) if log else low + u * (high - low)


def _whole(low: int, high: int, log: bool, u: float) -> str:
    if log:  # between the bounds of what is rounded to the first and to the last of them
        return str(min(max(round(_at(low - 0.499, high + 0.499, True, u)), low), high))
    return str(low + int(u * (high - low + 1)))
