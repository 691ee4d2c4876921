"""Splits: which samples are for training, for choosing (val) and for the one look at the end (test).

An option of the `split` group names a function of a `Subject` that returns a `Split`. A part that the data set comes
with stays what it is; only the others are carved out of its train part.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
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
from runner.files import write
from runner.part_names import PARTS, part_named

log = logging.getLogger("runner")

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Subject:
    """What a split may look at.

    Args:
        targets: (N,) class indices or values, or (N, K) of both kinds.
        column: gives the (N,) values of a column by its name; see `Samples.column`.
        official: the sizes of the val and test parts that the data set comes with.
        fingerprint: tells these data from others.
        counted: (N,) which targets stand for something; None for all.
        classes: the name of each class.
        as_values: what to type to have the classes taken as values, if that may have been meant.
    """

    targets: NDArray[Any]
    column: Callable[[str], NDArray[Any]] = field(default=lambda name: np.empty(0))
    official: Mapping[str, int] = field(default_factory=dict)
    fingerprint: str = ""
    counted: NDArray[Any] | None = None
    classes: Sequence[str] = ()
    as_values: str = ""


@dataclass(frozen=True)
class Split:
    """Which samples belong to which part.

    `parts` maps each of ``train``, ``val`` and ``test`` to the ascending int64 indices of its samples; those of a part
    named in `official` count within that part of the data set, all others within its train part.
    """

    method: str
    parts: dict[str, Indices]
    seed: int | None = None
    official: tuple[str, ...] = ()
    fold: int | None = None

    @property
    def hash(self) -> str:
        """SHA-256 over the parts' names and indices: two splits are the same if and only if their hashes are."""
        digest = hashlib.sha256()
        for name in PARTS:
            indices = self.parts[name]
            digest.update(f"{name}:{name in self.official}:{len(indices)}:".encode())
            digest.update(indices.astype("<i8").tobytes())
        return digest.hexdigest()

    def save(self, folder: Path, classes: Mapping[str, Mapping[str, int]], fingerprint: str) -> None:
        """Write ``split.json`` (for people) and ``split.npz`` (the indices) into `folder`.

        Args:
            classes: for each part, how many samples each class has.
        """
        manifest = {
            "method": self.method,
            "seed": self.seed,
            "fold": self.fold,
            "official": list(self.official),
            "hash": self.hash,
            "data": fingerprint,
            "samples": {name: len(indices) for name, indices in self.parts.items()},
            "classes": {name: dict(row) for name, row in classes.items()},
        }
        indices = io.BytesIO()
        np.savez(indices, **self.parts)  # type: ignore[arg-type]  # numpy types its flag as a keyword
        write(folder / "split.npz", indices.getvalue())
        write(folder / "split.json", json.dumps(manifest, indent=2, ensure_ascii=False).encode() + b"\n")


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


def load(path: Path, subject: Subject) -> Split:
    """The split that a manifest or a file of indices holds.

    Args:
        path: ``split.json`` or ``split.npz`` of a run (or the run folder), or any ``.npz`` with the arrays ``train``,
            ``val`` and ``test``.

    Raises:
        DataError: the file cannot be read, or is of other data.
    """
    folder = path if path.is_dir() else path.parent
    arrays = path if path.suffix == ".npz" else folder / "split.npz"
    allowed = "split.json or split.npz of a run, or an .npz of indices"
    if not path.exists():
        raise DataError(Problem("split.path", f"{str(path)!r} does not exist", allowed))
    try:
        with arrays.open("rb") as file, np.load(file, allow_pickle=False) as held:
            parts = {name: np.sort(_whole(held[name])) for name in PARTS}
        written = folder / "split.json"
        is_ours = arrays.name == "split.npz" and written.is_file()
        manifest = json.loads(written.read_text(encoding="utf-8")) if is_ours else {}
        method, official, data = (
            manifest.get("method", "predefined"),
            manifest.get("official", ()),
            manifest.get("data"),
        )
        made = Split(method, parts, manifest.get("seed"), tuple(official), manifest.get("fold"))
    except Exception as error:  # whatever a damaged file makes of NumPy, of its archives and of JSON
        what = f"{str(path)!r} is not a split ({type(error).__name__}: {reason_of(error)})"
        raise DataError(Problem("split.path", what, allowed)) from error
    if data not in (None, "", subject.fingerprint):
        what = f"{str(path)!r} was made for other data"
        raise DataError(Problem("split.path", what, "a split of these samples", "split.path=null"))
    return made


def _whole(held: NDArray[Any]) -> Indices:
    # An empty list is an array of floats to NumPy.
    return held.astype(np.int64, casting="same_kind" if held.size else "unsafe")


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


def check(split: Split, subject: Subject) -> None:
    """That a split is one: no part is empty, none overlaps another, and every index is one of a sample.

    Raises:
        InputError: it is not.
    """
    if not isinstance(split, Split):
        raise ConfigError(Problem("split", f"its function returns a {type(split).__name__}", "a runner.split.Split"))
    for name, rows in split.parts.items():
        if not isinstance(rows, np.ndarray) or rows.ndim != 1 or (len(rows) and rows.dtype != np.int64):
            what = f"the {name} part is of type {getattr(rows, 'dtype', type(rows).__name__)}"
            raise ConfigError(Problem("split", what, "an array of int64 indices"))
    empty = [name for name in PARTS if len(split.parts.get(name, ())) == 0]
    if empty:
        sizes = ", ".join(f"{name} {len(split.parts.get(name, ())):,}" for name in PARTS)
        raise DataError(Problem("split", f"the {empty[0]} part is empty ({sizes})", "at least 1 sample in each part"))
    carved = [split.parts[name] for name in PARTS if name not in split.official]
    together = np.concatenate(carved)
    if len(np.unique(together)) < len(together):
        what = (
            f"{len(together) - len(np.unique(together)):,} samples are in several parts, or several times in one part"
        )
        raise DataError(Problem("split", what, "every sample in at most one part"))
    limits = {name: subject.official.get(name, 0) if name in split.official else len(subject.targets) for name in PARTS}
    beyond = [name for name in PARTS if split.parts[name].min() < 0 or split.parts[name].max() >= limits[name]]
    if beyond:
        rows = split.parts[beyond[0]]
        index = rows.min() if rows.min() < 0 else rows.max()
        what = f"the {beyond[0]} part has index {index}, but there are {limits[beyond[0]]:,} samples"
        raise DataError(Problem("split", what, "indices of samples, counted from 0"))
    for name in subject.official:
        if name not in split.official:
            what = "the data set's own %s part (%s samples) is not used: the split (%s) makes its own"
            log.warning(what, name, f"{subject.official[name]:,}", split.method)


def check_classes(counts: Mapping[str, Mapping[str, int]], as_values: str = "") -> None:
    """That every class of val and test is in train, too. Classes of train that are not in both are named.

    Args:
        counts: for each part, how many samples each class has.
        as_values: see `Subject`.
    """
    for name in counts["train"]:
        here = {part: row[name] for part, row in counts.items()}
        if here["train"] == 0 and (here["val"] or here["test"]):
            what = f"class {name!r} has no train sample ({here['val']:,} in val, {here['test']:,} in test)"
            remedy = "split=stratified, or another split.seed"
            remedy = f"{as_values}, if the numbers are values; else {remedy}" if as_values else remedy
            raise DataError(Problem("split", what, "every class in train", remedy))
    absent = {part: [n for n, count in counts["train"].items() if count and not counts[part][n]] for part in PARTS[1:]}
    for part, names in absent.items():
        where = [other for other in absent if absent[other] == names]
        if names and where[0] == part:
            which, that = (f"class {names[0]}", "it") if len(names) == 1 else (f"classes {few(names)}", "them")
            what = "no sample of %s in %s: no metric of that part shows how well the model recognises %s"
            log.warning(
                what + "\n  try: more samples of %s, or the data without %s", which, " and ".join(where), *[that] * 3
            )
