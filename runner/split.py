"""Splits: which samples are for training, for choosing (val) and for the one look at the end (test).

An option of the `split` group names a function of a `Subject` that returns a `Split`. A part that the data set comes
with stays what it is; only the others are carved out of its train part.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping
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

from runner.errors import ConfigError, DataError, Problem, reason_of
from runner.files import write

PARTS = ("train", "val", "test")
SYNONYMS = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test"}

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Subject:
    """What a split may look at.

    Args:
        targets: (N,) class indices or values, or (N, K) of both kinds.
        column: gives the (N,) values of a column by its name; see `Samples.column`.
        official: the sizes of the val and test parts that the data set comes with.
        fingerprint: tells these data from others.
    """

    targets: NDArray[Any]
    column: Callable[[str], NDArray[Any]] = field(default=lambda name: np.empty(0))
    official: Mapping[str, int] = field(default_factory=dict)
    fingerprint: str = ""


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
    return _shuffled("random", ShuffleSplit, subject, None, val, test, seed)


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
    return _shuffled("stratified", StratifiedShuffleSplit, subject, _strata(subject, bins), val, test, seed)


def kfold(subject: Subject, *, n_splits: int = 5, fold: int = 0, val: float = 0.2, seed: int = 0) -> Split:
    """One of `n_splits` folds, drawn at random, is held out. Arguments as `stratified_kfold`."""
    folds = KFold(n_splits, shuffle=True, random_state=seed)
    return _held_out("kfold", folds, ShuffleSplit, subject, None, None, n_splits, fold, val, seed)


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
    strata = _strata(subject, bins)
    return _held_out(
        "stratified_kfold", folds, StratifiedShuffleSplit, subject, strata, None, n_splits, fold, val, seed
    )


def group_kfold(
    subject: Subject, *, groups: str, n_splits: int = 5, fold: int = 0, val: float = 0.2, seed: int = 0
) -> Split:
    """One of `n_splits` folds is held out, no group being in two parts (`GroupKFold`). Arguments as `stratified_kfold`.

    Args:
        groups: the column that says which samples belong together, such as the patient.
        val: fraction of the *groups* outside the fold.
    """
    folds = GroupKFold(n_splits)
    return _held_out(
        "group_kfold", folds, GroupShuffleSplit, subject, None, subject.column(groups), n_splits, fold, val, seed
    )


def stratified_group_kfold(
    subject: Subject, *, groups: str, n_splits: int = 5, fold: int = 0, val: float = 0.2, seed: int = 0, bins: int = 10
) -> Split:
    """As `group_kfold`, with the classes in proportions as equal as the groups allow (`StratifiedGroupKFold`)."""
    folds = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    strata, columns = _strata(subject, bins), subject.column(groups)
    return _held_out(
        "stratified_group_kfold", folds, GroupShuffleSplit, subject, strata, columns, n_splits, fold, val, seed
    )


def predefined(subject: Subject, *, column: str | None = None) -> Split:
    """The parts that a column names for each sample, or that the data set comes with.

    Args:
        column: holds ``train``, ``val`` or ``test`` for each sample; None where the data set's own parts are all three.
    """
    if column is None:
        missing = [name for name in ("val", "test") if name not in subject.official]
        if missing:
            what = f"the data set comes without a {' and a '.join(missing)} part"
            raise DataError(Problem("split", what, remedy="split.column=NAME, split.path=FILE, or split=stratified"))
        return _complete("predefined", subject, {"train": np.arange(len(subject.targets))})
    named = [str(value).strip().lower() for value in subject.column(column)]
    words = np.array([SYNONYMS.get(name, name) for name in named])
    unknown = sorted(set(words) - set(PARTS))
    if unknown:
        what = f"column {column!r} holds '{unknown[0]}'"
        raise DataError(Problem("split.column", what, ", ".join(PARTS)))
    return _complete("predefined", subject, {name: np.flatnonzero(words == name) for name in PARTS})


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
        DataError: the file cannot be read, is of other data, or names samples that are not there.
    """
    folder = path if path.is_dir() else path.parent
    arrays = path if path.suffix == ".npz" else folder / "split.npz"
    try:
        with np.load(arrays, allow_pickle=False) as held:
            parts = {name: np.sort(held[name].astype(np.int64)) for name in PARTS}
        written = folder / "split.json"
        manifest = json.loads(written.read_text()) if arrays.name == "split.npz" and written.is_file() else {}
    except (OSError, KeyError, ValueError) as error:
        if not path.exists():
            raise DataError(
                Problem(
                    "split.path",
                    f"there is no {str(path)!r}",
                    "split.json or split.npz of a run, or an .npz of indices",
                )
            ) from error
        what = f"{str(path)!r} is not a split ({reason_of(error)})"
        raise DataError(
            Problem("split.path", what, "split.json or split.npz of a run, or an .npz of indices")
        ) from error
    if manifest.get("data") not in (None, "", subject.fingerprint):
        what = f"{str(path)!r} was made for other data"
        raise DataError(Problem("split.path", what, "a split of these very samples", "split.path=null"))
    official = tuple(manifest.get("official", ()))
    made = Split(manifest.get("method", "predefined"), parts, manifest.get("seed"), official, manifest.get("fold"))
    _check(made, subject)
    return made


def duplicates(inputs: Mapping[str, Iterable[NDArray[Any]]]) -> dict[str, int]:
    """For val and test: how many of their inputs are, to the byte, also in train.

    Args:
        inputs: for each part, its inputs one by one; none is kept, so that large data are not held twice.
    """

    def digest(row: NDArray[Any]) -> bytes:
        return hashlib.blake2b(row.tobytes(), digest_size=16).digest()

    seen = {digest(row) for row in inputs["train"]}
    return {name: sum(digest(row) in seen for row in inputs[name]) for name in ("val", "test")}


def _shuffled(
    method: str, splitter: Any, subject: Subject, strata: NDArray[Any] | None, val: float, test: float, seed: int
) -> Split:
    sizes = _sizes(subject, val, test)
    if strata is not None:
        _check_strata(strata, 1 + sum(size > 0 for name, size in sizes.items() if name != "train"))
    rest, parts = np.arange(len(subject.targets)), {}
    for name in ("test", "val"):
        if sizes[name]:
            rest, parts[name] = _cut(splitter, rest, strata, None, sizes[name], seed)
    return _complete(method, subject, {"train": rest, **parts}, seed)


def _held_out(
    method: str, folds: Any, splitter: Any, subject: Subject, strata: NDArray[Any] | None,
    groups: NDArray[Any] | None, n_splits: int, fold: int, val: float, seed: int,
) -> Split:  # fmt: skip
    if not 0 <= fold < n_splits:
        raise ConfigError(Problem("split.fold", f"{fold} is not one of {n_splits} folds", f"0 … {n_splits - 1}"))
    everything = np.arange(len(subject.targets))
    try:
        rest, held = list(folds.split(everything, strata, groups))[fold]
    except ValueError as error:
        raise DataError(Problem("split.n_splits", f"{n_splits}: {error}", "fewer folds")) from error
    if "test" in subject.official:
        return _complete(method, subject, {"train": rest, "val": held}, seed, fold)
    if "val" in subject.official:
        return _complete(method, subject, {"train": rest, "test": held}, seed, fold)
    size = val if groups is not None else round(val * len(everything))
    train, chosen = _cut(splitter, rest, strata, groups, size, seed)
    return _complete(method, subject, {"train": train, "val": chosen, "test": held}, seed, fold)


def _cut(
    splitter: Any, indices: Indices, strata: NDArray[Any] | None, groups: NDArray[Any] | None, size: float, seed: int
) -> tuple[Indices, Indices]:
    """Cut `size` samples (or that fraction of the groups) from `indices`."""
    cutter = splitter(n_splits=1, test_size=size, random_state=seed)
    try:
        # What the splitter returns are positions in `indices`, not indices of samples.
        keep, take = next(cutter.split(indices, _of(strata, indices), _of(groups, indices)))
    except ValueError as error:
        remedy = "larger split.val and split.test, or split=random"
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
    if min(size for name, size in sizes.items() if name not in subject.official) < 1:
        what = f"val={val} and test={test} of {total} samples leave {sizes['train']} / {sizes['val']} / {sizes['test']}"
        raise DataError(Problem("split", what, "at least 1 sample in each of train / val / test"))
    return sizes


def _strata(subject: Subject, bins: int) -> NDArray[Any]:
    """(N,) what to stratify by: the class, or the quantile of a value."""
    targets = subject.targets
    if targets.ndim > 1:
        raise ConfigError(
            Problem("split", "targets with several values a sample cannot be stratified", remedy="split=random")
        )
    if not np.issubdtype(targets.dtype, np.floating):
        return targets
    edges = np.quantile(targets, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, targets, side="right")


def _check_strata(strata: NDArray[Any], parts: int) -> None:
    values, counts = np.unique(strata, return_counts=True)
    small = {str(value): int(count) for value, count in zip(values, counts, strict=True) if count < parts}
    if small:
        listed = ", ".join(f"class {value} has {count}" for value, count in small.items())
        what = f"too few samples to be in {parts} parts: {listed}"
        raise DataError(Problem("split", what, f"at least {parts} samples a class", "split=random"))


def _complete(
    method: str, subject: Subject, parts: Mapping[str, Indices], seed: int | None = None, fold: int | None = None
) -> Split:
    """A split of `parts`, and of those that the data set comes with."""
    official = {name: np.arange(size) for name, size in subject.official.items() if name not in parts}
    ordered = {
        name: np.sort({**parts, **official}[name]).astype(np.int64) for name in PARTS if name in {**parts, **official}
    }
    made = Split(method, ordered, seed, tuple(name for name in PARTS if name in official), fold)
    _check(made, subject)
    return made


def _check(split: Split, subject: Subject) -> None:
    """That no part is empty, none overlaps another, and every index is one of a sample."""
    empty = [name for name in PARTS if len(split.parts.get(name, ())) == 0]
    if empty:
        sizes = ", ".join(f"{name} {len(split.parts.get(name, ()))}" for name in PARTS)
        raise DataError(Problem("split", f"the {empty[0]} part is empty ({sizes})", "at least 1 sample in each part"))
    carved = [split.parts[name] for name in PARTS if name not in split.official]
    together = np.concatenate(carved)
    if len(np.unique(together)) < len(together):
        what = f"{len(together) - len(np.unique(together))} samples are in more than one part"
        raise DataError(Problem("split", what, "every sample in at most one part"))
    limits = {name: subject.official.get(name, 0) if name in split.official else len(subject.targets) for name in PARTS}
    beyond = [name for name in PARTS if split.parts[name].min() < 0 or split.parts[name].max() >= limits[name]]
    if beyond:
        what = f"the {beyond[0]} part names sample {split.parts[beyond[0]].max()} of {limits[beyond[0]]}"
        raise DataError(Problem("split", what, "indices of samples, from 0"))


def check_classes(counts: Mapping[str, Mapping[str, int]]) -> None:
    """That every class of val and test is in train, too.

    Args:
        counts: for each part, how many samples each class has.
    """
    for name in counts["train"]:
        here = {part: row[name] for part, row in counts.items()}
        if here["train"] == 0 and (here["val"] or here["test"]):
            what = f"class {name!r} has no train sample ({here['val']} in val, {here['test']} in test)"
            raise DataError(Problem("split", what, "every class in train", "split=stratified, or another split.seed"))
