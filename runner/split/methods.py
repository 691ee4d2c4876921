"""The ways to divide samples into parts: scikit-learn's splitters, applied to what a `Subject` says."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn import model_selection as sk

from runner.errors import ConfigError, DataError, Problem, few, reason_of
from runner.part_names import PARTS, part_named
from runner.split.split import Indices, Split, Subject
from runner.visible import log

Rare = Literal["error", "train"]


def random(subject: Subject, *, val: float = 0.2, test: float = 0.2, seed: int = 0, rare: Rare = "error") -> Split:
    """Samples drawn at random. Arguments and errors as `stratified`."""
    return _shuffled("random", subject, None, val, test, seed, rare)


def stratified(
    subject: Subject, *, val: float = 0.2, test: float = 0.2, seed: int = 0, bins: int = 10, rare: Rare = "error"
) -> Split:
    """Samples drawn at random so that every part has the classes in the same proportions.

    scikit-learn's `StratifiedShuffleSplit`, applied twice: test first, then val from the rest.

    Args:
        val, test: fractions of the *whole*, together below 1: 0.2 and 0.2 of 1,000 samples give 600/200/200.
        seed: decides the split, and nothing else.
        bins: where the targets are values, they are stratified by this many quantiles.
        rare: ``train`` for classes with too few samples for every part, and such that would have none in train: all
            of their samples stay in train, and are in no other part. With ``error`` there must be no such class.

    Raises:
        DataError: a part would be empty, or a class is too small to be in every part.
    """
    return _shuffled("stratified", subject, _strata(subject, bins), val, test, seed, rare)


def kfold(
    subject: Subject, *, n_splits: int = 5, fold: int = 0, val: float = 0.2, seed: int = 0, rare: Rare = "error"
) -> Split:
    """One of `n_splits` folds, drawn at random, is held out. Arguments as `stratified_kfold`."""
    folds = sk.KFold(n_splits, shuffle=True, random_state=seed)
    return _held_out("kfold", folds, subject, fold, val, seed, rare)


def stratified_kfold(
    subject: Subject, *, n_splits: int = 5, fold: int = 0, val: float = 0.2, seed: int = 0, bins: int = 10,
    rare: Rare = "error",
) -> Split:  # fmt: skip
    """One of `n_splits` folds with the classes in the same proportions is held out (`StratifiedKFold`).

    The held-out fold is test, and val is carved from the rest; where the data set comes with a test part, the fold is
    val.

    Args:
        fold: which one is held out, from 0.
        val: fraction of the *whole* to carve from the rest; not used where the data set comes with a test part.
        rare: see `stratified`. Samples that stay in train are held out by no fold.
    """
    folds = sk.StratifiedKFold(n_splits, shuffle=True, random_state=seed)
    return _held_out("stratified_kfold", folds, subject, fold, val, seed, rare, _strata(subject, bins))


def group_kfold(
    subject: Subject, *, groups: str, n_splits: int = 5, fold: int = 0, val: float = 0.2, seed: int = 0,
    rare: Rare = "error",
) -> Split:  # fmt: skip
    """One of `n_splits` folds is held out, no group being in two parts (`GroupKFold`). Arguments as `stratified_kfold`.

    Args:
        groups: the column that says which samples belong together, such as the patient.
        val: fraction of all *groups*, to carve from outside the fold.
        rare: see `stratified`; what stays in train are whole groups.
    """
    folds = sk.GroupKFold(n_splits, shuffle=True, random_state=seed)
    return _held_out("group_kfold", folds, subject, fold, val, seed, rare, groups=subject.column(groups))


def stratified_group_kfold(
    subject: Subject, *, groups: str, n_splits: int = 5, fold: int = 0, val: float = 0.2, seed: int = 0, bins: int = 10,
    rare: Rare = "error",
) -> Split:  # fmt: skip
    """As `group_kfold`, with the classes in proportions as equal as the groups allow (`StratifiedGroupKFold`)."""
    folds = sk.StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    strata, columns = _strata(subject, bins), subject.column(groups)
    return _held_out("stratified_group_kfold", folds, subject, fold, val, seed, rare, strata, columns)


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


def _shuffled(
    method: str, subject: Subject, strata: NDArray[Any] | None, val: float, test: float, seed: int, rare: Rare
) -> Split:
    sizes = _sizes(subject, val, test)
    rest, aside = np.arange(len(subject.targets)), np.empty(0, dtype=np.int64)
    if strata is not None:
        count = 1 + sum(size > 0 for name, size in sizes.items() if name != "train")
        small = _small(strata, lambda samples: samples < count)
        if rare == "train" and small and _has_classes(subject):
            aside = _stay(subject, np.flatnonzero(np.isin(strata, list(small))))
        elif small:
            raise DataError(_too_few(subject, small, f"for {count} parts", f"at least {count}"))
    rest, parts = np.setdiff1d(rest, aside), {}
    for name in ("test", "val"):
        if sizes[name]:
            rest, parts[name] = _cut(rest, sizes[name], seed, strata)
    return _complete(method, subject, {"train": np.union1d(rest, aside), **parts}, seed, None, rare)


def _held_out(
    method: str, folds: Any, subject: Subject, fold: int, val: float, seed: int, rare: Rare,
    strata: NDArray[Any] | None = None, groups: NDArray[Any] | None = None,
) -> Split:  # fmt: skip
    count = folds.get_n_splits()
    if not 0 <= fold < count:
        raise ConfigError(Problem("split.fold", f"{fold} is not one of {count} folds", f"0 … {count - 1}, or all"))
    everything = np.arange(len(subject.targets))
    with_val = not {"val", "test"} & set(subject.official)
    # What the fold leaves of a class is divided once more, into train and val.
    small = {}
    if strata is not None and groups is None and _has_classes(subject):
        small = _small(strata, lambda samples: samples - math.ceil(samples / count) < 1 + with_val)
    aside = np.empty(0, dtype=np.int64)
    if strata is not None and small and rare == "train":
        aside = _stay(subject, np.flatnonzero(np.isin(strata, list(small))))
    among = np.setdiff1d(everything, aside)
    try:
        with warnings.catch_warnings():  # which of the classes a part lacks is said later, by name
            warnings.simplefilter("ignore", UserWarning)
            rest, held = list(folds.split(among, _of(strata, among), _of(groups, among)))[fold]
    except ValueError as error:
        raise DataError(Problem("split.n_splits", f"{count}: {reason_of(error)}", "fewer folds")) from error
    rest, held = among[rest], among[held]
    if not with_val:
        other = "val" if "test" in subject.official else "test"
        return _complete(method, subject, {"train": np.union1d(rest, aside), other: held}, seed, fold, rare, groups)
    size = round(val * len(everything if groups is None else np.unique(groups)))
    remedy = "a larger split.val, or fewer folds (split.n_splits)" if groups is None else "another split.val"
    remedy = remedy if strata is None else subject.as_values or remedy
    try:
        train, chosen = _cut(rest, size, seed, strata, groups, remedy)
    except DataError as error:
        if not small or rare == "train":
            raise
        raise DataError(_too_few(subject, small, f"for {count} folds, val and train", "more")) from error
    parts = {"train": np.union1d(train, aside), "val": chosen, "test": held}
    return _complete(method, subject, parts, seed, fold, rare, groups)


def _cut(
    indices: Indices, size: int, seed: int, strata: NDArray[Any] | None = None, groups: NDArray[Any] | None = None,
    remedy: str = "larger split.val and split.test, or split=random split.rare=train",
) -> tuple[Indices, Indices]:  # fmt: skip
    """Cut `size` samples (or groups) from `indices`."""
    splitter = sk.ShuffleSplit if strata is None else sk.StratifiedShuffleSplit
    cutter = (splitter if groups is None else sk.GroupShuffleSplit)(n_splits=1, test_size=size, random_state=seed)
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
        problem = Problem("split", "multi-label or multi-output targets cannot be stratified", remedy="split=random")
        raise ConfigError(problem)
    known = targets if counted is None or not counted.any() else targets[counted]
    if not np.issubdtype(targets.dtype, np.floating):
        if counted is None or (~counted).sum() >= len(PARTS):
            return targets
        values, counts = np.unique(known, return_counts=True)
        return np.where(counted, targets, values[counts.argmax()])  # too few to be in every part
    edges = np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, targets, side="right")


def _has_classes(subject: Subject) -> bool:
    return subject.targets.ndim == 1 and not np.issubdtype(subject.targets.dtype, np.floating)


def _small(strata: NDArray[Any], is_small: Callable[[int], bool]) -> dict[int, int]:
    """The strata with too few samples, and how many these are."""
    values, counts = np.unique(strata, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True) if is_small(int(count))}


def _too_few(subject: Subject, small: Mapping[int, int], what_for: str, least: str) -> Problem:
    these = "these classes" if len(small) > 1 else "this class"
    kind, names = "class", dict(enumerate(subject.classes))
    remedy = f"split.rare=train, to keep {these} in train alone, or more samples of {these}"
    if not _has_classes(subject):
        kind, names, remedy = "quantile bin", {}, "a smaller split.bins, or split=random"
    listed = few(f"{kind} {names.get(value, value)} has {count}" for value, count in small.items())
    what = f"too few samples {what_for}: {listed}"
    if subject.as_values:
        what += f"; the {len(subject.classes)} classes are numbers"
        remedy = f"{subject.as_values}, if they are values; else {remedy}"
    return Problem("split", what, f"{least} samples per {kind}", remedy)


def _stay(subject: Subject, rows: Indices) -> Indices:
    """Samples that stay in train, which is said."""
    found = np.bincount(subject.targets[rows][subject.targets[rows] >= 0], minlength=1)
    names = dict(enumerate(subject.classes))
    listed = few(f"{names.get(n, n)} ({count:,})" for n, count in enumerate(found.tolist()) if count)
    if listed:
        log.warning("split.rare=train: in train alone, and not in what is measured, are samples of %s", listed)
    return rows


def _without_train(subject: Subject, parts: Mapping[str, Indices], groups: NDArray[Any] | None) -> dict[str, Indices]:
    """The parts, with those samples of val and test in train whose classes have none there."""
    targets, counted = subject.targets, subject.counted
    there = np.unique(targets[parts["train"]])
    others = np.concatenate([rows for name, rows in parts.items() if name != "train"])
    lacking = others[~np.isin(targets[others], there) & (True if counted is None else counted[others])]
    if len(lacking) == 0:
        return dict(parts)
    _stay(subject, lacking)
    moved = lacking if groups is None else np.flatnonzero(np.isin(groups, groups[lacking]))
    kept = {name: np.setdiff1d(rows, moved) for name, rows in parts.items()}
    return kept | {"train": np.union1d(parts["train"], moved)}


def _complete(
    method: str, subject: Subject, parts: Mapping[str, Indices], seed: int | None = None, fold: int | None = None,
    rare: Rare = "error", groups: NDArray[Any] | None = None,
) -> Split:  # fmt: skip
    """A split of `parts`, and of those that the data set comes with."""
    if rare == "train" and _has_classes(subject):
        parts = _without_train(subject, parts, groups)
    official = {name: np.arange(size) for name, size in subject.official.items() if name not in parts}
    whole = {**parts, **official}
    ordered = {name: np.sort(whole[name]).astype(np.int64) for name in PARTS if name in whole}
    return Split(method, ordered, seed, tuple(name for name in PARTS if name in official), fold)
