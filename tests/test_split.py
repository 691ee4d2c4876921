from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedShuffleSplit

from runner import split
from runner.errors import DataError

TARGETS = np.repeat([0, 1, 2], [500, 300, 200])


@pytest.mark.parametrize("method", [split.random, split.stratified])
def test_fractions_are_of_the_whole(method: Any) -> None:
    made = method(TARGETS, val=0.2, test=0.2, seed=0)
    assert {name: len(rows) for name, rows in made.parts.items()} == {"train": 600, "val": 200, "test": 200}


@pytest.mark.parametrize("method", [split.random, split.stratified])
def test_every_sample_is_in_exactly_one_part(method: Any) -> None:
    made = method(TARGETS, val=0.1, test=0.3, seed=4)
    assert sorted(np.concatenate(list(made.parts.values()))) == list(range(1000))


def test_stratified_parts_have_the_classes_in_the_same_proportions() -> None:
    made = split.stratified(TARGETS, val=0.2, test=0.2, seed=0)
    assert made.counts(TARGETS, 3) == {"train": [300, 180, 120], "val": [100, 60, 40], "test": [100, 60, 40]}


def test_the_second_cuts_positions_are_mapped_through_the_first() -> None:
    keep, test = next(StratifiedShuffleSplit(1, test_size=200, random_state=3).split(TARGETS, TARGETS))
    _, val = next(StratifiedShuffleSplit(1, test_size=200, random_state=3).split(keep, TARGETS[keep]))
    made = split.stratified(TARGETS, val=0.2, test=0.2, seed=3)
    assert made.parts["test"].tolist() == sorted(test)
    assert made.parts["val"].tolist() == sorted(keep[val])


def test_the_seed_decides_the_split_and_the_hash_tells_splits_apart() -> None:
    a, b, c = (split.stratified(TARGETS, val=0.2, test=0.2, seed=seed) for seed in (0, 0, 1))
    assert a.hash == b.hash
    assert a.hash != c.hash


def test_a_sample_that_changes_parts_changes_the_hash() -> None:
    one = split.Split("x", 0, {"train": np.array([0, 1]), "val": np.array([2])})
    other = split.Split("x", 0, {"train": np.array([0]), "val": np.array([1, 2])})
    assert one.hash != other.hash


def test_manifest(tmp_path: Path) -> None:
    made = split.stratified(TARGETS, val=0.2, test=0.2, seed=0)
    made.save(tmp_path, made.counts(TARGETS, 3), ["a", "b", "c"])
    manifest = json.loads((tmp_path / "split.json").read_text())
    assert manifest["method"] == "stratified"
    assert manifest["seed"] == 0
    assert manifest["hash"] == made.hash
    assert manifest["samples"] == {"train": 600, "val": 200, "test": 200}
    assert manifest["classes"]["val"] == {"a": 100, "b": 60, "c": 40}
    with np.load(tmp_path / "split.npz") as saved:
        assert {name: saved[name].tolist() for name in saved} == {n: i.tolist() for n, i in made.parts.items()}


@pytest.mark.parametrize(
    ("targets", "val", "test", "message"),
    [
        (TARGETS, 0.6, 0.5, "val=0.6 and test=0.5 of 1000 samples leave -100 / 600 / 500"),
        (TARGETS, 0.0001, 0.2, "leave 800 / 0 / 200"),
        (np.array([0] * 50 + [1] * 2), 0.2, 0.2, "a class with 2 samples cannot be in 3 parts"),
        (np.arange(30) // 3, 0.1, 0.2, "test_size = 6 should be greater"),
    ],
)
def test_impossible_splits_say_their_counts(targets: NDArray[Any], val: float, test: float, message: str) -> None:
    with pytest.raises(DataError, match=message):
        split.stratified(targets, val=val, test=test, seed=0)
