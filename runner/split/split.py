"""What a split is of, what it is, its files, and whether it is one."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.errors import ConfigError, DataError, Problem, few, reason_of
from runner.files import read, readable, write
from runner.part_names import PARTS
from runner.visible import log

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Subject:
    """What a split may look at.

    Args:
        targets: (N,) class indices or values, or (N, K) of both kinds.
        column: gives the (N,) values of a column by its name; see `Samples.column`.
        official: the sizes of the val and test parts that the data set comes with.
        fingerprint: tells these data from others; with `earlier`, which computes what it was in earlier versions.
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
    earlier: Callable[[], str] = str


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
            "method": self.method, "seed": self.seed, "fold": self.fold, "official": list(self.official),
            "hash": self.hash, "data": fingerprint,
            "samples": {name: len(indices) for name, indices in self.parts.items()},
            "classes": {name: dict(row) for name, row in classes.items()},
        }  # fmt: skip
        indices = io.BytesIO()
        np.savez(indices, **self.parts)  # type: ignore[arg-type]  # numpy types its flag as a keyword
        write(folder / "split.npz", indices.getvalue())
        write(folder / "split.json", json.dumps(manifest, indent=2, ensure_ascii=False).encode() + b"\n")


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
        with readable(arrays) as file, np.load(file, allow_pickle=False) as held:
            parts = {name: np.sort(_whole(held[name])) for name in PARTS}
        written = folder / "split.json"
        is_ours = arrays.name == "split.npz" and written.is_file()
        manifest = json.loads(read(written)) if is_ours else {}
        method, official = manifest.get("method", "predefined"), tuple(manifest.get("official", ()))
        made = Split(method, parts, manifest.get("seed"), official, manifest.get("fold"))
    except Exception as error:  # whatever a damaged file makes of NumPy, of its archives and of JSON
        what = f"{str(path)!r} is not a split ({type(error).__name__}: {reason_of(error)})"
        raise DataError(Problem("split.path", what, allowed)) from error
    data = manifest.get("data")
    if data not in (None, "", subject.fingerprint) and data != subject.earlier():
        what = f"{str(path)!r} was made for other data"
        raise DataError(Problem("split.path", what, "a split of these samples", "split.path=null"))
    return made


def _whole(held: NDArray[Any]) -> Indices:
    # An empty list is an array of floats to NumPy.
    return held.astype(np.int64, casting="same_kind" if held.size else "unsafe")


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
        twice = len(together) - len(np.unique(together))
        what = f"{twice:,} samples are in several parts, or several times in one part"
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


def check_classes(
    counts: Mapping[str, Mapping[str, int]], as_values: str = "", for_rare: str = "", official: Sequence[str] = ()
) -> None:
    """That every class of val and test is in train, too. Classes of train that are not in both are named.

    Args:
        counts: for each part, how many samples each class has.
        as_values: see `Subject`.
        for_rare: what to type to have samples stay in train whose classes have none there; empty if nothing does that.
        official: the parts that came with the data, out of which nothing is taken.
    """
    without = {
        name: (counts["val"][name], counts["test"][name])
        for name, count in counts["train"].items()
        if count == 0 and (counts["val"][name] or counts["test"][name])
    }
    if without:
        (first, (val, test)), *others = without.items()
        what = f"class {first!r} has no train sample ({val:,} in val, {test:,} in test)"
        what += f", nor {'has' if len(others) == 1 else 'have'} {few(repr(n) for n, _ in others)}" if others else ""
        is_given = any(counts[part][name] for part in official for name in without)
        remedy = "" if is_given else for_rare
        remedy = remedy or "samples of these classes in train, or val and test without them"
        remedy = f"{as_values}, if the numbers are values; else {remedy}" if as_values else remedy
        raise DataError(Problem("split", what, "every class in train", remedy))
    absent = {part: [n for n, count in counts["train"].items() if count and not counts[part][n]] for part in PARTS[1:]}
    for part, names in absent.items():
        where = [other for other in absent if absent[other] == names]
        if names and where[0] == part:
            which, that = (f"class {names[0]}", "it") if len(names) == 1 else (f"classes {few(names)}", "them")
            what = "no sample of %s in %s: no metric of that part shows how well the model recognises %s"
            what += "\n  try: more samples of %s, or the data without %s"
            log.warning(what, which, " and ".join(where), that, that, that)
