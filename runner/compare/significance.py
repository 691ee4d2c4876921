"""Whether one setting is better than another: paired tests over the seeds, or the splits, that both have."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from runner.direction import direction
from runner.errors import counted
from runner.ranking import Repetition, Row, Setting, quantile
from runner.table import Table, cell


@dataclass(frozen=True)
class Comparison:
    """By how much one setting is ahead of another, and how sure that is.

    Args:
        over: what the pairs are: ``3 seeds``, ``5 folds``.
        mean: of the differences; above 0 the first one is better.
        low, high: the interval that holds the true difference in 95 of 100 cases.
        p: how often a difference at least as large would be seen if there were none.
    """

    over: str
    mean: float
    low: float
    high: float
    p: float

    @property
    def interval(self) -> str:
        return "–" if self.low == self.high else f"{cell(self.low)} … {cell(self.high)}"


def paired(differences: Sequence[float], overlap: float = 0.0) -> tuple[float, float, float, float]:
    """The paired t-test of two or more differences: their mean, the bounds of its 95 % interval, and p of two sides.

    Args:
        overlap: 0 for independent differences. For those of several splits of the same data, whose train parts share
            samples, the samples that are measured over those that are trained on: the variance of the mean is taken
            as σ² (1/n + overlap), without which a difference is found far too often. Nadeau and Bengio, "Inference
            for the Generalization Error", Machine Learning 52 (2003), p. 239–281: the corrected resampled t-test.
    """
    from scipy.special import stdtr

    n, mean = len(differences), statistics.fmean(differences)
    error = statistics.stdev(differences) * math.sqrt(1 / n + overlap)
    if error <= 1e-12 * abs(mean):  # the same difference each time: none, or one that nothing speaks against
        return mean, mean, mean, float(mean == 0)
    half = quantile(n - 1) * error
    return mean, mean - half, mean + half, 2 * float(stdtr(n - 1, -abs(mean) / error))


def holm(found: Sequence[float]) -> list[float]:
    """Each p of several tests, such that one below 0.05 is found in at most 5 of 100 cases in which there is nothing.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979),
    p. 65–70: the smallest is multiplied by the number of tests, the next one by one less, and none is below one before.
    """
    adjusted, before = [0.0] * len(found), 0.0
    for place, number in enumerate(sorted(range(len(found)), key=found.__getitem__)):
        before = adjusted[number] = max(before, min(1.0, (len(found) - place) * found[number]))
    return adjusted


def compare(best: Setting, other: Setting, tag: str, mode: str = "auto") -> Comparison | None:
    """How far `best` is ahead of `other`; None if they do not share two seeds or two splits.

    Over the seeds, of each the mean over its splits, by the paired t-test. Over several splits of the same data (folds,
    or values of ``split.seed``), of each the mean over its seeds, corrected for the samples that the splits share.
    Where there are both, by the less sure of the two: each is blind to how much the other makes of the difference.

    Args:
        tag: the metric, ``<part>/<metric>``.
        mode: ``min``, ``max`` or ``auto``.
    """
    sign = 1.0 if direction(tag, mode) == "max" else -1.0
    ours, theirs = _by_repetition(best, tag), _by_repetition(other, tag)
    ahead = {key: sign * (value - theirs[key]) for key, value in ours.items() if key in theirs}
    found = []
    for over, means, overlap in (
        ("seed", _means(ahead, lambda key: key.seed), 0.0),
        (_kind(list(ahead)), _means(ahead, _split), _overlap(best, list(ahead), tag)),
    ):
        found += [Comparison(counted(len(means), over), *paired(means, overlap))] if len(means) > 1 else []
    return max(found, key=lambda comparison: comparison.p, default=None)


def table(ranked: Sequence[Setting], tag: str, mode: str = "auto") -> Table | None:
    """Each setting that can be compared with the best one, and how far it is behind: above 0, the best is better.

    Args:
        ranked: the best first.
    """
    found = [(place, setting, compare(ranked[0], setting, tag, mode)) for place, setting in enumerate(ranked[1:], 2)]
    known = [(place, setting, comparison) for place, setting, comparison in found if comparison is not None]
    if not known:
        return None
    keys = list(dict.fromkeys(key for setting in ranked for key in setting.keys))
    adjusted = holm([comparison.p for _, _, comparison in known])
    rows = [
        [place, *(setting.keys.get(key) for key in keys), each.over, each.mean, each.interval, p]
        for (place, setting, each), p in zip(known, adjusted, strict=True)
    ]
    how = f" (p adjusted for {len(known)} comparisons by Holm's method)" if len(known) > 1 else ""
    return Table(f"Against the best in {tag}{how}", ["", *keys, "pairs", "behind by", "95 % interval", "p"], rows)


def _by_repetition(setting: Setting, tag: str) -> dict[Repetition, float]:
    found = {row.repetition: row.figure(tag) for row in setting.completed}
    return {key: value for key, value in found.items() if math.isfinite(value)}


def _split(key: Repetition) -> object:
    return key.split_seed, key.fold, key.data, key.split


def _means(ahead: Mapping[Repetition, float], group: Callable[[Repetition], object]) -> list[float]:
    found: dict[object, list[float]] = {}
    for key, value in ahead.items():
        found.setdefault(group(key), []).append(value)
    return [statistics.fmean(values) for values in found.values()]


def _kind(shared: Sequence[Repetition]) -> str:
    of_one = len({key.split_seed for key in shared}) == 1
    return "fold" if of_one and shared[0].fold is not None else "split"


def _overlap(setting: Setting, shared: Sequence[Repetition], tag: str) -> float:
    """Samples that are measured over samples that are trained on; where they are not known, those of as many folds."""
    splits = {_split(key) for key in shared}
    if len({key.data for key in shared}) == len(splits):
        return 0.0  # data that were drawn anew for each
    part = tag.partition("/")[0]
    of_each = [_ratio(row, part) for row in setting.completed if row.repetition in set(shared)]
    known = [ratio for ratio in of_each if ratio is not None]
    return statistics.fmean(known) if known else 1 / (len(splits) - 1)


def _ratio(row: Row, part: str) -> float | None:
    samples = row.result.get("samples") or {}
    measured, trained = samples.get(part), samples.get("train")
    return measured / trained if measured and trained else None
