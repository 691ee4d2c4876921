"""Runs side by side: which settings are better, by how much, and how sure that is."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.direction import direction
from runner.keys import is_below
from runner.result import ENDED_WELL, from_json
from runner.table import Table, cell, no_formula

REPEATED = ("seed", "split.seed")
"""Keys in which runs of one setting may differ: what they reach is averaged over them."""

CONFIDENCE = 0.95

FITS = 40
"""Settings up to which the terminal has them all."""


def quantile(freedom: int) -> float:
    """Of Student's t with so many degrees of freedom: within it and its negative are 95 of 100 draws."""
    from scipy.special import stdtrit  # what scipy.stats calls, without the second that it takes to import

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


@dataclass(frozen=True)
class Repetition:
    """Which one of the runs of a setting a run is. Two runs of two settings that are the same in all of it had the same
    draws, and were measured on the same samples: they make a pair.

    Args:
        data, split: hashes of the samples, and of which of them are in which part.
    """

    seed: Any = None
    split_seed: Any = None
    fold: int | None = None
    data: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Row:
    """One run, or one fold of a run.

    Args:
        job: what it is called, without the fold.
        keys: what tells it from others, by key.
        fold: which one was held out, or None.
        result: its ``result.json``.
        repetition: with which runs of other settings it makes a pair.
    """

    job: str
    keys: Mapping[str, str]
    fold: int | None
    result: Mapping[str, Any]
    repetition: Repetition = Repetition()

    @property
    def state(self) -> str:
        return str(self.result.get("state"))

    def figure(self, tag: str) -> float:
        """A metric, ``<part>/<metric>``; NaN where there is none."""
        return from_json(self.result.get("metrics", {}).get(tag))


@dataclass(frozen=True)
class Figure:
    """A mean over repetitions, and how far it can be trusted.

    Args:
        std: of the repetitions, with n − 1 in the denominator; NaN for one alone, as are the bounds.
        low, high: the interval that holds the true mean in 95 of 100 cases, if the repetitions are independent draws
            from a normal distribution: mean ± t · std / √n, with Student's t of n − 1 degrees of freedom.
    """

    mean: float
    std: float
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        n = len(values)
        mean = statistics.fmean(values) if values else math.nan
        if n < 2 or not all(map(math.isfinite, values)):
            return cls(mean, math.nan, n, math.nan, math.nan)
        std = statistics.stdev(values)
        half = quantile(n - 1) * std / math.sqrt(n)
        return cls(mean, std, n, mean - half, mean + half)

    def __str__(self) -> str:
        return cell(self.mean) if math.isnan(self.std) else f"{cell(self.mean)} ± {cell(self.std)}"

    @property
    def interval(self) -> str:
        return "–" if math.isnan(self.low) else f"{cell(self.low)} … {cell(self.high)}"


@dataclass
class Setting:
    """Runs that differ in nothing but their seeds and folds."""

    keys: dict[str, str]
    rows: list[Row] = field(default_factory=list)

    @property
    def completed(self) -> list[Row]:
        return [row for row in self.rows if row.state == "completed"]

    @property
    def failed(self) -> int:
        return sum(row.state not in ENDED_WELL for row in self.rows)

    @property
    def repetitions(self) -> list[list[Row]]:
        """The completed runs of each seed; of a cross-validation, its folds."""
        found: dict[tuple[str, ...], list[Row]] = {}
        for row in self.completed:
            found.setdefault(tuple(row.keys.get(key, "") for key in REPEATED), []).append(row)
        return list(found.values())

    def figure(self, tag: str) -> Figure:
        """A metric over seeds, of each the mean of its folds; of one seed alone, over its folds."""
        each = [[row.figure(tag) for row in rows] for rows in self.repetitions]
        return Figure.of(each[0] if len(each) == 1 else [statistics.fmean(values) for values in each])

    def has(self, tag: str) -> bool:
        """Whether a metric was measured in a completed run, with whatever result."""
        return any(tag in row.result.get("metrics", {}) for row in self.completed)

    def mean(self, name: str) -> float | int | None:
        """Of a number that the record of every completed run has, such as its seconds; to three digits unless whole."""
        values = [value for row in self.completed if (value := row.result.get(name)) is not None]
        if not values:
            return None
        mean = statistics.fmean(values)
        return round(mean) if all(isinstance(value, int) for value in values) else float(f"{mean:.3g}")

    @property
    def count(self) -> str:
        """How many runs the figures are of: ``3 seeds × 5 folds``."""
        seeds, folds = len(self.repetitions), max((len(rows) for rows in self.repetitions), default=0)
        if not self.completed and any(row.state == "pruned" for row in self.rows):
            return "pruned"
        words = [f"{n} {word}{'s' if n > 1 else ''}" for n, word in ((seeds, "seed"), (folds, "fold")) if n > 1]
        return " × ".join(words) or str(len(self.completed))


def settings(rows: Sequence[Row]) -> list[Setting]:
    """Rows that differ in nothing but seeds and folds, together."""
    found: dict[tuple[tuple[str, str], ...], Setting] = {}
    for row in rows:
        keys = {key: value for key, value in row.keys.items() if key not in REPEATED}
        found.setdefault(tuple(keys.items()), Setting(keys)).rows.append(row)
    return list(found.values())


def rank(rows: Sequence[Row], tag: str, mode: str = "auto") -> list[Setting]:
    """Settings, the best first; what has no figure comes last.

    Args:
        tag: the metric, ``<part>/<metric>``.
        mode: ``min``, ``max``, or ``auto`` for what its name says.
    """
    sign = 1.0 if direction(tag, mode) == "min" else -1.0

    def place(setting: Setting) -> tuple[bool, float]:
        mean = setting.figure(tag).mean
        return math.isnan(mean), sign * mean if math.isfinite(mean) else math.inf

    return sorted(settings(rows), key=place)


def comparable(monitor: str, keys: Iterable[str], there: Iterable[str]) -> str:
    """The metric to rank by: `monitor`, or the first other one of val where that is the loss, and the loss is among
    what tells the runs apart: figures of different losses cannot be compared.

    Args:
        keys: that tell them apart.
        there: the metrics that they have.
    """
    of_losses = any(is_below(key, "loss") for key in keys)
    others = [tag for tag in there if tag.startswith("val/") and tag != "val/loss" and not tag.endswith("_std")]
    return others[0] if monitor == "val/loss" and of_losses and others else monitor


def table(ranked: Sequence[Setting], tag: str, mode: str = "auto", also: Sequence[str] = ()) -> Table:
    """A row for each setting: its rank, if it has the metric; what it is; how many runs it is the mean of, and what
    they reached.

    Args:
        ranked: the best first.
        tag: the metric of val that they are ranked by; beside it stands that of test.
        mode: as for `rank`.
        also: numbers that stand beside the figures; see `Setting.mean`.
    """
    keys = list(dict.fromkeys(key for setting in ranked for key in setting.keys))
    shown = [tag, *_others(ranked, tag)]
    several = any(setting.figure(tag).n > 1 for setting in ranked)
    failed = any(setting.failed for setting in ranked)
    columns = ["", *keys, "runs", *shown, *(["95 % interval"] if several else []), *also]
    columns += ["failed"] if failed else []
    if several:  # beside the figure that it belongs to
        columns.remove("95 % interval")
        columns.insert(columns.index(tag) + 1, "95 % interval")
    lines = []
    for place, setting in enumerate(ranked, 1):
        figures = {name: setting.figure(name) for name in shown}
        cells: dict[str, Any] = {"": place if setting.has(tag) else None, "runs": setting.count}
        cells |= {key: setting.keys.get(key) for key in keys}
        said = {name: figure.mean if math.isnan(figure.std) else str(figure) for name, figure in figures.items()}
        cells |= {name: text if setting.has(name) else None for name, text in said.items()}
        cells |= {"95 % interval": figures[tag].interval, "failed": setting.failed}
        cells |= {name: setting.mean(name) for name in also}
        lines.append([cells[name] for name in columns])
    direction_ = {"min": "lower is better", "max": "higher is better"}[direction(tag, mode)]
    return Table(f"Ranked by {tag} ({direction_})", columns, lines, exact=[name for name in also if name == "seconds"])


def _others(ranked: Sequence[Setting], tag: str) -> list[str]:
    """The same metric of test, or the first one if that is the loss."""
    completed = [row for setting in ranked for row in setting.completed]
    there = dict.fromkeys(key for row in completed for key in row.result.get("metrics", {}))
    name = tag.partition("/")[2]
    of_test = [key for key in there if key.startswith("test/") and not key.endswith(("/loss", "_std"))]
    wanted = of_test[:1] if name == "loss" and of_test else [f"test/{name}"]
    return [key for key in wanted if key in there and key != tag]


def differing(keys: Collection[Mapping[str, str]]) -> list[str]:
    """The keys whose values are not the same in all of several mappings."""
    names = list(dict.fromkeys(name for each in keys for name in each))
    return [name for name in names if len({each.get(name) for each in keys}) > 1]


def csv_of(rows: Sequence[Row]) -> str:
    """Every figure of every run, unrounded, as the text of a CSV file."""
    lines = [line_of(row) for row in rows]
    keys = dict.fromkeys(key for row in rows for key in row.keys)
    folds = [] if all(row.fold is None for row in rows) else ["fold"]
    columns = list(dict.fromkeys(["folder", *keys, *folds, *(name for line in lines for name in line)]))
    last = [name for name in ("seconds", "error") if name in columns]
    buffer = io.StringIO()
    names = [*(name for name in columns if name not in last), *last]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(no_formula, names))
    writer.writerows([no_formula(line.get(name)) for name in names] for line in lines)
    return buffer.getvalue()


def line_of(row: Row) -> dict[str, Any]:
    """A run as a line of a file."""
    result = row.result
    line = {"folder": row.job, **row.keys, **({} if row.fold is None else {"fold": row.fold}), "state": row.state}
    line |= {name: result[name] for name in ("epochs", "best_epoch", "parameters") if name in result}
    line |= {tag: row.figure(tag) for tag in result.get("metrics", {})}
    error = str(result.get("error") or "").partition("\n")[0]
    return line | {"seconds": result.get("seconds"), "error": error}
