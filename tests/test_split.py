from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import model_selection

from runner import split
from runner.errors import ConfigError, DataError
from runner.split import Split, Subject

TARGETS = np.repeat([0, 1, 2], [500, 300, 200])
PATIENTS = np.arange(1000) // 7  # 143 groups, each of one class but two
COLUMNS: dict[str, NDArray[Any]] = {
    "patient": PATIENTS,
    "part": np.array(["Train", "valid", "test", "train"] * 250),
    "day": np.arange(1000)[::-1] // 10,
    "wrong": np.array(["train", "other"] * 500),
}


def subject(targets: NDArray[Any] = TARGETS, **official: int) -> Subject:
    return Subject(targets, COLUMNS.__getitem__, official, "of these data")


def sizes(made: Split) -> dict[str, int]:
    return {name: len(rows) for name, rows in made.parts.items()}


def classes(made: Split, targets: NDArray[Any] = TARGETS) -> dict[str, list[int]]:
    return {name: np.bincount(targets[rows], minlength=3).tolist() for name, rows in made.parts.items()}


EVERY: dict[str, Callable[..., Split]] = {
    "random": lambda s, **k: split.random(s, **k),
    "stratified": lambda s, **k: split.stratified(s, **k),
    "kfold": lambda s, **k: split.kfold(s, **k),
    "stratified_kfold": lambda s, **k: split.stratified_kfold(s, **k),
    "group_kfold": lambda s, **k: split.group_kfold(s, groups="patient", **k),
    "stratified_group_kfold": lambda s, **k: split.stratified_group_kfold(s, groups="patient", **k),
    "time_ordered": lambda s, **k: split.time_ordered(s, column="day", **k),
    "predefined": lambda s, **k: split.predefined(s, column="part", **k),
}
FOLDS = [name for name in EVERY if "kfold" in name]
every = pytest.mark.parametrize("name", EVERY)


@pytest.mark.parametrize("method", ["random", "stratified"])
def test_fractions_are_of_the_whole(method: str) -> None:
    assert sizes(EVERY[method](subject(), val=0.2, test=0.2)) == {"train": 600, "val": 200, "test": 200}


@every
def test_every_sample_is_in_exactly_one_part(name: str) -> None:
    made = EVERY[name](subject())
    assert sorted(np.concatenate(list(made.parts.values()))) == list(range(1000))
    assert all((np.diff(rows) > 0).all() for rows in made.parts.values())


@every
def test_an_official_test_part_stays_the_test_part(name: str) -> None:
    if name == "predefined":
        pytest.skip("a column names all three parts")
    made = EVERY[name](subject(test=77))
    assert made.official == ("test",)
    assert made.parts["test"].tolist() == list(range(77))
    assert sorted(np.concatenate([made.parts["train"], made.parts["val"]])) == list(range(1000))
    assert len(made.parts["val"]) == pytest.approx(200, abs=20)


def test_official_val_and_test_parts_leave_the_train_part_whole() -> None:
    for made in (split.predefined(subject(val=50, test=77)), split.stratified(subject(val=50, test=77))):
        assert sizes(made) == {"train": 1000, "val": 50, "test": 77}
        assert made.official == ("val", "test")


def test_an_official_val_part_stays_and_test_is_carved() -> None:
    made = split.stratified(subject(val=50), test=0.1)
    assert (made.official, sizes(made)) == (("val",), {"train": 900, "val": 50, "test": 100})
    made = split.stratified_kfold(subject(val=50))
    assert (made.official, sizes(made)) == (("val",), {"train": 800, "val": 50, "test": 200})


def test_stratified_parts_have_the_classes_in_the_same_proportions() -> None:
    expected = {"train": [300, 180, 120], "val": [100, 60, 40], "test": [100, 60, 40]}
    assert classes(split.stratified(subject())) == expected
    assert classes(split.stratified_kfold(subject())) == expected


def test_values_are_stratified_by_their_quantiles() -> None:
    values = np.random.default_rng(0).lognormal(size=1000)
    made = split.stratified(subject(values), bins=10)
    edges = np.quantile(values, np.linspace(0, 1, 11)[1:-1])
    for rows in made.parts.values():
        counts = np.bincount(np.searchsorted(edges, values[rows], side="right"), minlength=10)
        assert counts.tolist() == [len(rows) // 10] * 10


def test_the_second_cuts_positions_are_mapped_through_the_first() -> None:
    def cut(rows: NDArray[Any], seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
        splitter = model_selection.StratifiedShuffleSplit(1, test_size=200, random_state=seed)
        keep, take = next(splitter.split(rows, TARGETS[rows]))
        return rows[keep], rows[take]

    rest, test = cut(np.arange(1000), 3)
    _, val = cut(rest, 3)
    made = split.stratified(subject(), seed=3)
    assert made.parts["test"].tolist() == sorted(test)
    assert made.parts["val"].tolist() == sorted(val)


@pytest.mark.parametrize(
    ("name", "splitter"),
    [
        ("kfold", model_selection.KFold(5, shuffle=True, random_state=4)),
        ("stratified_kfold", model_selection.StratifiedKFold(5, shuffle=True, random_state=4)),
        ("group_kfold", model_selection.GroupKFold(5, shuffle=True, random_state=4)),
        ("stratified_group_kfold", model_selection.StratifiedGroupKFold(5, shuffle=True, random_state=4)),
    ],
)
def test_folds_are_scikit_learns(name: str, splitter: Any) -> None:
    groups = PATIENTS if "group" in name else None
    for fold, (_, held) in enumerate(splitter.split(np.zeros(1000), TARGETS, groups)):
        made = EVERY[name](subject(), fold=fold, seed=4)
        assert made.parts["test"].tolist() == held.tolist()
        assert made.fold == fold
        assert EVERY[name](subject(test=9), fold=fold, seed=4).parts["val"].tolist() == held.tolist()


@pytest.mark.parametrize("name", FOLDS)
def test_every_sample_is_held_out_once(name: str) -> None:
    held = [EVERY[name](subject(), fold=fold).parts["test"] for fold in range(5)]
    assert sorted(np.concatenate(held)) == list(range(1000))


@pytest.mark.parametrize("name", ["group_kfold", "stratified_group_kfold"])
def test_no_group_is_in_two_parts(name: str) -> None:
    for fold in range(5):
        made = EVERY[name](subject(), fold=fold)
        groups = [set(PATIENTS[rows]) for rows in made.parts.values()]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 143


def test_the_newest_samples_test_and_samples_of_one_time_stay_together() -> None:
    made = split.time_ordered(subject(), column="day", val=0.155, test=0.2)
    day = COLUMNS["day"]
    assert day[made.parts["train"]].max() < day[made.parts["val"]].min()
    assert day[made.parts["val"]].max() < day[made.parts["test"]].min()
    # 645 train samples end in the middle of day 64, all of which then trains.
    assert sizes(made) == {"train": 650, "val": 150, "test": 200}


def test_a_column_names_the_parts() -> None:
    made = split.predefined(subject(), column="part")
    assert made.parts["val"].tolist() == list(range(1, 1000, 4))
    assert sizes(made) == {"train": 500, "val": 250, "test": 250}


@pytest.mark.parametrize("name", ["random", "stratified", *(n for n in FOLDS if n != "group_kfold")])
def test_the_seed_decides_the_split_and_the_hash_tells_splits_apart(name: str) -> None:
    a, b, c = (EVERY[name](subject(), seed=seed) for seed in (0, 0, 1))
    assert a.hash == b.hash
    assert a.hash != c.hash


def test_a_sample_that_changes_parts_changes_the_hash() -> None:
    one = Split("x", {"train": np.array([0, 1]), "val": np.array([2]), "test": np.array([3])})
    other = Split("x", {"train": np.array([0]), "val": np.array([1, 2]), "test": np.array([3])})
    assert one.hash != other.hash


def save(folder: Path) -> Split:
    made = split.stratified_kfold(subject(test=9), fold=2, seed=1)
    made.save(folder, {"val": {"a": 100, "b": 60}}, "of these data")
    return made


def test_manifest(tmp_path: Path) -> None:
    made = save(tmp_path)
    manifest = json.loads((tmp_path / "split.json").read_text())
    assert manifest == {
        "method": "stratified_kfold", "seed": 1, "fold": 2, "official": ["test"], "hash": made.hash,
        "data": "of these data", "samples": {"train": 800, "val": 200, "test": 9},
        "classes": {"val": {"a": 100, "b": 60}},
    }  # fmt: skip
    with np.load(tmp_path / "split.npz") as saved:
        assert {name: saved[name].tolist() for name in saved} == {n: i.tolist() for n, i in made.parts.items()}


@pytest.mark.parametrize("name", ["", "split.json", "split.npz"])
def test_a_manifest_is_used_again_byte_for_byte(tmp_path: Path, name: str) -> None:
    made = save(tmp_path)
    again = split.load(tmp_path / name, subject(test=9))
    assert again.hash == made.hash
    (tmp_path / "b").mkdir()
    again.save(tmp_path / "b", {"val": {"a": 100, "b": 60}}, "of these data")
    for file in ("split.json", "split.npz"):
        assert (tmp_path / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_manifest_of_other_data_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(DataError, match="was made for other data"):
        split.load(tmp_path, Subject(TARGETS, fingerprint="of others", official={"test": 9}))


def test_a_file_of_indices(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", train=[5, 1], val=[2], test=[999])
    made = split.load(tmp_path / "mine.npz", subject())
    assert {name: rows.tolist() for name, rows in made.parts.items()} == {"train": [1, 5], "val": [2], "test": [999]}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train": [0], "val": [1]}, "is not a split"),
        ({"train": [0, 1], "val": [1], "test": [2]}, "1 samples are in several parts"),
        ({"train": [0], "val": [1], "test": [1000]}, "the test part has index 1000, but there are 1,000 samples"),
        ({"train": [0], "val": [], "test": [2]}, r"the val part is empty \(train 1, val 0, test 1\)"),
    ],
)
def test_a_file_that_is_no_split_of_these_data(tmp_path: Path, arrays: dict[str, list[int]], message: str) -> None:
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(DataError, match=message):
        split.check(split.load(tmp_path / "mine.npz", subject()), subject())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split.random(subject(), val=0.6, test=0.5), "split.val=0.6 and split.test=0.5 of 1,000 samples leave "
         "train -100, val 600, test 500\n.*\n  try: split.val=0.2 split.test=0.2"),
        (lambda: split.random(subject(), val=0.0001), "leave train 800, val 0, test 200"),
        (lambda: split.random(subject(test=9), val=1.0), "split.val=1 of 1,000 samples leave train 0, val 1,000\n"),
        (lambda: split.stratified(subject(np.array([0] * 50 + [1, 1]))), "too few samples for 3 parts: class 1 has 2"),
        (lambda: split.stratified(subject(np.array([0] * 50 + [1])), test=0.1), "class 1 has 1"),
        (lambda: split.stratified(Subject(np.array([0] * 50 + [1]), classes=["cat", "dog"])),
         "class dog has 1\n.*\n  try: split.rare=train, to keep this class in train alone, or more samples of this cl"),
        (lambda: split.stratified_kfold(Subject(np.array([0] * 50 + [1, 2, 2]), classes=["cat", "dog", "ant"]), fold=1),
         "too few samples for 5 folds, val and train: class dog has 1, class ant has 2\n.*\n  try: split.rare=train"),
        (lambda: split.stratified(Subject(np.arange(20.0))), "quantile bin 0 has 2, .*\n.* per quantile bin\n  try: a"),
        (lambda: split.stratified(subject(np.arange(30) // 3), val=0.1), "test_size = 6 should be greater"),
        (lambda: split.stratified(subject(np.zeros((50, 2)))), "multi-label or multi-output targets cannot be strat"),
        (lambda: split.kfold(subject(), fold=5), "5 is not one of 5 folds\n  allowed: 0 … 4, or all"),
        (lambda: split.kfold(subject(), val=0.9), "try: a larger split.val, or fewer folds"),
        (lambda: split.group_kfold(subject(), groups="patient", val=0.9), "try: another split.val"),
        (lambda: split.kfold(subject(np.arange(3))), "5: Cannot have number of splits"),
        (lambda: split.predefined(subject()), "the data set has no val or test part"),
        (lambda: split.predefined(subject(), column="wrong"), "column 'wrong' holds 'other'"),
    ],
)  # fmt: skip
def test_impossible_splits_say_their_counts(call: Callable[[], Split], message: str) -> None:
    with pytest.raises((DataError, ConfigError), match=message):
        call()


def test_a_class_that_is_missing_from_train_is_an_error() -> None:
    with pytest.raises(DataError, match=r"class 'b' has no train sample \(1 in val, 2 in test\)"):
        split.check_classes({"train": {"a": 3, "b": 0}, "val": {"a": 1, "b": 1}, "test": {"a": 0, "b": 2}})
    split.check_classes(
        {"train": {"a": 3, "never seen": 0}, "val": {"a": 1, "never seen": 0}, "test": {"a": 1, "never seen": 0}}
    )


def test_of_many_classes_that_are_too_small_a_few_are_named() -> None:
    rare = Subject(np.concatenate([np.zeros(50, np.int64), np.arange(1, 31)]), classes=[f"c{n}" for n in range(31)])
    with pytest.raises(DataError) as caught:
        split.stratified(rare)
    (problem,) = caught.value.problems
    assert problem.what == (
        "too few samples for 3 parts: class c1 has 1, class c2 has 1, class c3 has 1, class c4 has 1, class c5 has 1, …"
    )
    assert problem.remedy.startswith("split.rare=train, to keep these classes in train alone, or more samples of these")


RARE = np.concatenate([np.repeat([0, 1], [70, 47]), [2, 3, 4, 4]])


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("predefined", "time_ordered")])
@pytest.mark.parametrize("official", [{}, {"test": 9}, {"val": 9}])
def test_rare_classes_can_stay_in_train(name: str, official: dict[str, int], caplog: pytest.LogCaptureFixture) -> None:
    # Each rare class is one patient, and so in one part.
    patient = np.concatenate([np.arange(117) // 4, [40, 41, 42, 42]])
    columns = {"patient": patient}
    given = Subject(RARE, columns.__getitem__, official, classes=["a", "b", "rare1", "rare2", "two"])
    for seed in range(3):
        for fold in range(5) if name in FOLDS else (None,):
            options = {"seed": seed, "rare": "train"} | ({} if fold is None else {"fold": fold})
            made = EVERY[name](given, **options)
            carved = {part: rows for part, rows in made.parts.items() if part not in made.official}
            assert sorted(np.concatenate(list(carved.values()))) == list(range(len(RARE)))
            assert set(RARE[carved["train"]]) == {0, 1, 2, 3, 4}
            if "group" in name:
                groups = [set(patient[rows]) for rows in carved.values()]
                assert len(set.union(*groups)) == sum(map(len, groups))
            if name in ("stratified", "stratified_kfold"):
                # Of a class of two samples one may be held out where no second part is carved.
                there = {0, 1, 4} if official and "kfold" in name else {0, 1}
                assert all({0, 1} <= set(RARE[carved[part]]) <= there for part in carved.keys() - {"train"})
                whole = (
                    "split.rare=train: in train alone, and not in what is measured, are samples of rare1 (1), rare2 (1)"
                )
                assert caplog.records[-1].getMessage().startswith(whole)
    assert caplog.records


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("predefined", "time_ordered")])
def test_classes_that_are_not_rare_are_split_as_without(name: str) -> None:
    assert EVERY[name](subject(), rare="train").hash == EVERY[name](subject()).hash


def test_the_remedy_for_a_class_that_train_lacks_is_one() -> None:
    counts = {"train": {"a": 3, "b": 0, "c": 0}, "val": {"a": 1, "b": 1, "c": 0}, "test": {"a": 0, "b": 2, "c": 1}}
    with pytest.raises(DataError) as caught:
        split.check_classes(counts, for_rare="split.rare=train")
    (problem,) = caught.value.problems
    assert problem.what == "class 'b' has no train sample (1 in val, 2 in test), nor has 'c'"
    assert problem.remedy == "split.rare=train"
    with pytest.raises(DataError, match=r"try: samples of these classes in train, or val and test without them$"):
        split.check_classes(counts, for_rare="split.rare=train", official=["test"])  # out of which nothing is taken


def test_a_class_that_is_missing_from_val_or_test_is_named(caplog: pytest.LogCaptureFixture) -> None:
    split.check_classes({"train": {"a": 3, "b": 1}, "val": {"a": 1, "b": 1}, "test": {"a": 1, "b": 1}})
    assert not caplog.records
    split.check_classes(
        {"train": {"a": 3, "b": 1, "c": 1}, "val": {"a": 1, "b": 0, "c": 0}, "test": {"a": 1, "b": 0, "c": 1}}
    )
    assert [record.getMessage() for record in caplog.records] == [
        "no sample of classes b, c in val: no metric of that part shows how well the model recognises them\n"
        "  try: more samples of them, or the data without them",
        "no sample of class b in test: no metric of that part shows how well the model recognises it\n"
        "  try: more samples of it, or the data without it",
    ]
    split.check_classes({"train": {"a": 3, "b": 1}, "val": {"a": 1, "b": 0}, "test": {"a": 1, "b": 0}})
    assert caplog.records[2].getMessage().startswith("no sample of class b in val and test: ")
    assert len(caplog.records) == 3


@pytest.mark.parametrize("name", ["group_kfold", "stratified_group_kfold"])
def test_val_of_a_split_by_groups_is_a_fraction_of_all_groups(name: str) -> None:
    made = EVERY[name](subject(), val=0.2)
    assert len(set(PATIENTS[made.parts["val"]])) == round(0.2 * 143)


@pytest.mark.parametrize("file", ["split.npz", "split.json"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "a list", "an array"])
def test_a_damaged_split_is_told(tmp_path: Path, file: str, damage: str) -> None:
    save(tmp_path)
    content = (tmp_path / file).read_bytes()
    made = {
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "flipped": content[:300] + bytes([content[300] ^ 255]) + content[301:],
        "a list": b"[1]",
        "an array": b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }".ljust(117)
        + b"\n" + bytes(8),
    }  # fmt: skip
    (tmp_path / file).write_bytes(made[damage])
    with pytest.raises(DataError, match="is not a split"):
        split.load(tmp_path, subject(test=9))


def test_indices_are_whole_numbers(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", train=[0.5, 1.7], val=[2], test=[3])
    with pytest.raises(DataError, match="is not a split"):
        split.load(tmp_path / "mine.npz", subject())


def rows(*numbers: int) -> Any:
    return np.array(numbers, dtype=np.int64)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (5, "its function returns a int\n  allowed: a runner.split.Split"),
        (Split("own", {"train": rows(0), "val": rows(1)}), "the test part is empty"),
        (Split("own", {"train": rows(0, 1), "val": rows(1), "test": rows(2)}), "1 samples are in several parts"),
        (Split("own", {"train": rows(0), "val": rows(1), "test": rows(-2)}), "the test part has index -2, but there "),
        (Split("own", {"train": rows(0), "val": [1], "test": rows(2)}), "the val part is of type list"),  # type: ignore[dict-item]
        (Split("own", {"train": rows(0), "val": rows(1), "test": rows(2) * 1.0}), "the test part is of type float64"),
    ],
)  # fmt: skip
def test_a_split_of_the_users_is_checked(made: Any, message: str) -> None:
    with pytest.raises((DataError, ConfigError), match=message):
        split.check(made, subject())


def test_a_part_of_the_data_sets_own_that_is_not_used_is_told(caplog: pytest.LogCaptureFixture) -> None:
    given = subject(val=50, test=77)
    split.check(split.stratified(given), given)
    assert caplog.text == ""
    split.check(split.stratified_kfold(given), given)
    assert "the data set's own val part (50 samples) is not used" in caplog.text


def test_samples_that_do_not_count_are_no_class() -> None:
    targets = np.where(np.arange(1000) == 7, -100, TARGETS)
    given = Subject(targets, counted=targets >= 0)
    assert sizes(split.stratified(given)) == {"train": 600, "val": 200, "test": 200}
    assert sizes(split.stratified_kfold(given)) == {"train": 600, "val": 200, "test": 200}
    values = np.where(np.arange(1000) < 3, np.nan, np.arange(1000.0))
    made = split.stratified(Subject(values, counted=values == values))
    assert abs(np.nanmean(values[made.parts["test"]]) - 500) < 10


def test_the_seed_moves_the_folds_of_groups() -> None:
    """Or three values of split.seed would count as three splits, and be one."""
    tests = [split.group_kfold(subject(), groups="patient", seed=seed).parts["test"].tolist() for seed in (0, 0, 1)]
    assert tests[0] == tests[1] != tests[2]
