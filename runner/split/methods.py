"""The ways to divide samples into parts: scikit-learn's splitters, applied to what a `Subject` says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import (
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    ShuffleSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
)

from runner.errors import ConfigError, DataError, Problem, few, reason_of
from runner.part_names import PARTS, part_named
from runner.split.split import Indices, Split, Subject


def random(subject: Subject, *, val: float = 0.2, test: float = 0.2, seed: int = 0) -> Split:
    """Samples drawn at random. Arguments and errors as `stratified`."""
    return _shuffled("random", subject, None, val, test, seed)


def stratified(subject: Subject, *, val: float = 0.2, test: float = 0.2, seed: int = 0, bins: int = 10) -> Split:
    """Samples drawn at random so that every part has the classes in the same proportions.

    scikit-learn's `StratifiedShuffleSplit`, applied twice: test first, then val from the rest.

    Args:
        val, test: fractions of the *whole*, together below 1: 0.2 and 0.2 of 1,000 samples give 600/200/200.
        seed: decides the split, and nothing else.
        bins: where the targets are values, they are stratified by this many quantiles.

    Raises:
        DataError: a part would be empty, or a class is too small to be in every part.
    """
    return _shuffled("stratified", subject, _strata(subject, bins), val, test, seed)


def kfold(subject: Subject, *, n_splits: int = 5, fold: int = 0, val: float = 0.2, seed: int = 0) -> Split:
    """One of `n_splits` folds, drawn at random, is held out. Arguments as `stratified_kfold`."""
    folds = KFold(n_splits, shuffle=True, random_state=seed)
    return _held_out("kfold", folds, subject, fold, val, seed)


def stratified_kfold(
    subject: Subject, *, n_splits: int = 5, fold: int = 0, val: float = 0.2, seed: int = 0, bins: int = 10
) -> Split:
    """One of `n_splits` folds with the classes in the same proportions is held out (`StratifiedKFold`).

    The held-out fold is test, and val is carved from the rest; where the data set comes with a test part, the fold is
    val.

    Args:
        fold: which one is held out, from 0.
        val: fraction of the *whole* to carve from the rest; not used where the data set comes with a test part.
    """
    folds = StratifiedKFold(n_splits, shuffle=True, random_state=seed)
    return _held_out("stratified_kfold", folds, subject, fold, val, seed, _strata(subject, bins))


def group_kfold(
    subject: Subject, *, groups: str, n_splits: int = 5, fold: int = 0, val: float = 0.2, seed: int = 0
) -> Split:
    """One of `n_splits` folds is held out, no group being in two parts (`GroupKFold`). Arguments as `stratified_kfold`.

    Args:
        groups: the column that says which samples belong together, such as the patient.
        val: fraction of all *groups*, to carve from outside the fold.
    """
    folds = GroupKFold(n_splits, shuffle=True, random_state=seed)
    return _held_out("group_kfold", folds, subject, fold, val, seed, groups=subject.column(groups))


def stratified_group_kfold(
    subject: Subject, *, groups: str, n_splits: int = 5, fold: int = 0, val: float = 0.2, seed: int = 0, bins: int = 10
) -> Split:
    """As `group_kfold`, with the classes in proportions as equal as the groups allow (`StratifiedGroupKFold`)."""
    folds = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    strata, columns = _strata(subject, bins), subject.column(groups)
    return _held_out("stratified_group_kfold", folds, subject, fold, val, seed, strata, columns)


def predefined(subject: Subject, *, column: str | None = None) -> Split:
    """The parts that a column names for each sample, or that the data set comes with.

    Args:
        column: holds ``train``, ``val`` or ``test`` for each sample; None where the data set's own parts are all three.
    """
    if column is None:
        missing = [name for name in ("val", "test") if name not in subject.official]
        if missing:
            what = f"the data set has no {' or '.join(missing)} part"
            raise DataError(Problem("split", what, remedy="split.column=NAME, split.path=FILE, or split=stratified"))
        return _complete("predefined", subject, {"train": np.arange(len(subject.targets))})
    words = [str(value) for value in subject.column(column)]
    means = {word: part_named(word) for word in set(words)}
    if unknown := sorted(word for word, part in means.items() if part is None):
        what = f"column {column!r} holds {unknown[0]!r}"
        raise DataError(Problem("split.column", what, ", ".join(PARTS)))
    parts = np.array([means[word] for word in words])
    return _complete("predefined", subject, {name: np.flatnonzero(parts == name) for name in PARTS})


def time_ordered(subject: Subject, *, column: str, val: float = 0.2, test: float = 0.2) -> Split:
    """The oldest samples train, the newest test. Samples of one time stay together in the older part.

    Args:
        column: what to order by: numbers, or texts that sort by time, such as 2026-01-31.
        val, test: fractions of the whole.
    """
    times = subject.column(column)
    order = np.argsort(times, kind="stable")
    sizes = _sizes(subject, val, test)
    cuts = [sizes["train"], sizes["train"] + sizes["val"]]
    for number, cut in enumerate(cuts):
        while 0 < cut < len(order) and times[order[cut]] == times[order[cut - 1]]:
            cut += 1
        cuts[number] = cut
    parts = dict(zip(PARTS, np.split(order, cuts), strict=True))
    return _complete("time_ordered", subject, {k: v for k, v in parts.items() if k not in subject.official})


def _shuffled(method: str, subject: Subject, strata: NDArray[Any] | None, val: float, test: float, seed: int) -> Split:
    sizes = _sizes(subject, val, test)
    if strata is not None:
        _check_strata(subject, strata, 1 + sum(size > 0 for name, size in sizes.items() if name != "train"))
    rest, parts = np.arange(len(subject.targets)), {}
    for name in ("test", "val"):
        if sizes[name]:
            rest, parts[name] = _cut(rest, sizes[name], seed, strata)
    return _complete(method, subject, {"train": rest, **parts}, seed)


def _held_out(
    method: str, folds: Any, subject: Subject, fold: int, val: float, seed: int,
    strata: NDArray[Any] | None = None, groups: NDArray[Any] | None = None,
) -> Split:  # fmt: skip
    count = folds.get_n_splits()
    if not 0 <= fold < count:
        raise ConfigError(Problem("split.fold", f"{fold} is not one of {count} folds", f"0 … {count - 1}, or all"))
    everything = np.arange(len(subject.targets))
    try:
        rest, held = list(folds.split(everything, strata, groups))[fold]
    except ValueError as error:
        raise DataError(Problem("split.n_splits", f"{count}: {reason_of(error)}", "fewer folds")) from error
    if "test" in subject.official:
        return _complete(method, subject, {"train": rest, "val": held}, seed, fold)
    if "val" in subject.official:
        return _complete(method, subject, {"train": rest, "test": held}, seed, fold)
    size = round(val * len(everything if groups is None else np.unique(groups)))
    remedy = "a larger split.val, or fewer folds (split.n_splits)" if groups is None else "another split.val"
    remedy = remedy if strata is None else subject.as_values or remedy
    train, chosen = _cut(rest, size, seed, strata, groups, remedy)
    return _complete(method, subject, {"train": train, "val": chosen, "test": held}, seed, fold)


def _cut(
    indices: Indices, size: int, seed: int, strata: NDArray[Any] | None = None, groups: NDArray[Any] | None = None,
    remedy: str = "larger split.val and split.test, or split=random",
) -> tuple[Indices, Indices]:  # fmt: skip
    """Cut `size` samples (or groups) from `indices`."""
    splitter = ShuffleSplit if strata is None else StratifiedShuffleSplit
    cutter = (splitter if groups is None else GroupShuffleSplit)(n_splits=1, test_size=size, random_state=seed)
    try:
        # What the splitter returns are positions in `indices`, not indices of samples.
        keep, take = next(cutter.split(indices, _of(strata, indices), _of(groups, indices)))
    except ValueError as error:
        raise DataError(Problem("split", reason_of(error), remedy=remedy)) from error
    return indices[keep], indices[take]


def _of(values: NDArray[Any] | None, indices: Indices) -> NDArray[Any] | None:
    return None if values is None else values[indices]


def _sizes(subject: Subject, val: float, test: float) -> dict[str, int]:
    """Samples in each part, in whole numbers: a fraction of what the first cut leaves would not be one of the whole."""
    total = len(subject.targets)
    wanted = {"val": val, "test": test}
    sizes = {name: 0 if name in subject.official else round(share * total) for name, share in wanted.items()}
    sizes["train"] = total - sum(sizes.values())
    carved = {name: sizes[name] for name in PARTS if name not in subject.official}
    if min(carved.values()) < 1:
        given = " and ".join(f"split.{name}={share:g}" for name, share in wanted.items() if name in carved)
        what = f"{given} of {total:,} samples leave {', '.join(f'{name} {size:,}' for name, size in carved.items())}"
        remedy = " ".join(f"split.{name}=0.2" for name in wanted if name in carved)
        raise DataError(Problem("split", what, "at least 1 sample in each part", remedy))
    return sizes


def _strata(subject: Subject, bins: int) -> NDArray[Any]:
    """(N,) what to stratify by: the class, or the quantile of a value."""
    targets, counted = subject.targets, subject.counted
    if targets.ndim > 1:
        raise ConfigError(
            Problem("split", "multi-label or multi-output targets cannot be stratified", remedy="split=random")
        )
    known = targets if counted is None or not counted.any() else targets[counted]
    if not np.issubdtype(targets.dtype, np.floating):
        if counted is None or (~counted).sum() >= len(PARTS):
            return targets
        values, counts = np.unique(known, return_counts=True)
        return np.where(counted, targets, values[counts.argmax()])  # too few to be in every part
    edges = np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, targets, side="right")


def _check_strata(subject: Subject, strata: NDArray[Any], parts: int) -> None:
    values, counts = np.unique(strata, return_counts=True)
    small = {int(value): int(count) for value, count in zip(values, counts, strict=True) if count < parts}
    if small:
        kind, names = "class", dict(enumerate(subject.classes))
        remedy = f"more samples of {'this class' if len(small) == 1 else 'these classes'}, or the data without "
        remedy += f"{'it' if len(small) == 1 else 'them'}; split=random would leave some parts without any"
        if np.issubdtype(subject.targets.dtype, np.floating):
            kind, names, remedy = "quantile bin", {}, "a smaller split.bins, or split=random"
        listed = few(f"{kind} {names.get(value, value)} has {count}" for value, count in small.items())
        what = f"too few samples for {parts} parts: {listed}"
        if subject.as_values:
            what += f"; the {len(subject.classes)} classes are numbers"
            remedy = f"{subject.as_values}, if they are values; else {remedy}"
        raise DataError(Problem("split", what, f"at least {parts} samples per {kind}", remedy))


def _complete(
    method: str, subject: Subject, parts: Mapping[str, Indices], seed: int | None = None, fold: int | None = None
) -> Split:
    """A split of `parts`, and of those that the data set comes with."""
    official = {name: np.arange(size) for name, size in subject.official.items() if name not in parts}
    ordered = {
        name: np.sort({**parts, **official}[name]).astype(np.int64) for name in PARTS if name in {**parts, **official}
    }
    return Split(method, ordered, seed, tuple(name for name in PARTS if name in official), fold)
