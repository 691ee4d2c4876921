"""Splits: which samples are for training, for choosing (val) and for the one look at the end (test).

An option of the `split` group names a function of the targets that returns a `Split`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit

from runner.errors import DataError, Problem

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Which samples belong to which part.

    `parts` maps each of ``train``, ``val`` and ``test`` to the ascending int64 indices of its samples.
    """

    method: str
    seed: int
    parts: dict[str, NDArray[np.int64]]

    @property
    def hash(self) -> str:
        """SHA-256 over the parts' names and indices: two splits are the same if and only if their hashes are."""
        digest = hashlib.sha256()
        for name, indices in self.parts.items():
            digest.update(f"{name}:{len(indices)}:".encode())
            digest.update(indices.astype("<i8").tobytes())
        return digest.hexdigest()

    def counts(self, targets: NDArray[Any], num_classes: int) -> dict[str, list[int]]:
        """For each part, how many samples each class has."""
        return {name: np.bincount(targets[i], minlength=num_classes).tolist() for name, i in self.parts.items()}

    def save(self, folder: Path, counts: dict[str, list[int]], classes: Sequence[str]) -> None:
        """Write ``split.json`` (for people) and ``split.npz`` (the indices) into `folder`."""
        manifest = {
            "method": self.method,
            "seed": self.seed,
            "hash": self.hash,
            "samples": {name: len(indices) for name, indices in self.parts.items()},
            "classes": {name: dict(zip(classes, row, strict=True)) for name, row in counts.items()},
        }
        np.savez(folder / "split.npz", **self.parts)  # type: ignore[arg-type]  # numpy types its flag as a keyword
        (folder / "split.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def random(targets: NDArray[Any], *, val: float, test: float, seed: int) -> Split:
    """Samples drawn at random. Arguments and errors as `stratified`."""
    return Split("random", seed, _cut_twice(ShuffleSplit, targets, val, test, seed))


def stratified(targets: NDArray[Any], *, val: float, test: float, seed: int) -> Split:
    """Samples drawn at random so that every part has the classes in the same proportions.

    scikit-learn's `StratifiedShuffleSplit`, applied twice: test first, then val from the rest.

    Args:
        targets: (N,) class indices.
        val, test: fractions of the *whole*, each above 0 and together below 1: 0.2 and 0.2 of 1,000 samples give
            600/200/200.
        seed: decides the split, and nothing else.

    Raises:
        DataError: a part would be empty, or a class is too small to be in all three parts.
    """
    counts = np.unique(targets, return_counts=True)[1]
    if counts.min() < len(PARTS):
        what = f"a class with {counts.min()} samples cannot be in {len(PARTS)} parts"
        raise DataError(Problem("split", what, "at least 3 samples a class", "split=random"))
    return Split("stratified", seed, _cut_twice(StratifiedShuffleSplit, targets, val, test, seed))


def _cut_twice(
    splitter: Any, targets: NDArray[Any], val: float, test: float, seed: int
) -> dict[str, NDArray[np.int64]]:
    total = len(targets)
    # Whole numbers, because the second cut would take a fraction of what the first has left.
    sizes = {"val": round(val * total), "test": round(test * total)}
    sizes["train"] = total - sizes["val"] - sizes["test"]
    if min(sizes.values()) < 1:
        what = f"val={val} and test={test} of {total} samples leave {sizes['train']} / {sizes['val']} / {sizes['test']}"
        raise DataError(Problem("split", what, "at least 1 sample in each of train / val / test"))
    everything = np.arange(total)
    try:
        rest, test_part = _cut(splitter, everything, targets, sizes["test"], seed)
        train_part, val_part = _cut(splitter, rest, targets, sizes["val"], seed)
    except ValueError as error:
        raise DataError(
            Problem("split", str(error), remedy="larger split.val and split.test, or split=random")
        ) from error
    return {"train": np.sort(train_part), "val": np.sort(val_part), "test": np.sort(test_part)}


def _cut(
    splitter: Any, indices: NDArray[np.int64], targets: NDArray[Any], size: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # What the splitter returns are positions in `indices`, not indices of samples.
    keep, take = next(splitter(n_splits=1, test_size=size, random_state=seed).split(indices, targets[indices]))
    return indices[keep], indices[take]
