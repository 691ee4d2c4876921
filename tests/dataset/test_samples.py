from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, TensorDataset

from runner.dataset import ArrayDataset, Parts, Samples, Stream, facts, read
from runner.dataset.stream import HEAD
from runner.dataset.tensors import as_input
from runner.errors import DataError

PICTURE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


class Listed(Dataset[Any]):
    """A data set of the samples that it is given."""

    def __init__(self, samples: list[Any], /, **attributes: Any) -> None:
        self.held = samples
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, index: int) -> Any:
        return self.held[index]


def samples(*held: Any, **attributes: Any) -> Samples:
    return Samples(Listed(list(held), **attributes))


X = torch.ones(3)
NAN = float("nan")


@pytest.mark.parametrize("sample", [(X, 1), [X, 1], (X, 1, 77), {"input": X, "target": 1}])
def test_every_known_form_of_sample_is_read(sample: Any) -> None:
    given, target, extra = samples(sample).read(0)
    assert torch.equal(given, X)
    assert (target.item(), target.dtype, extra) == (1, torch.int64, {})


def test_a_dict_by_the_names_of_the_user() -> None:
    sample = {"xy": [1.0, 2.0], "arm": 3, "w": 0.5, "m": np.array([True, False]), "unused": object()}
    keys = {"input": "xy", "target": "arm", "weight": "w", "mask": "m"}
    given, target, extra = Samples(Listed([sample]), keys).read(0)
    assert (given.tolist(), target.item()) == ([1.0, 2.0], 3)
    assert (extra["weight"].item(), extra["mask"].tolist()) == (0.5, [True, False])


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (X, "sample 0 is a Tensor of 3"),
        ((X,), "sample 0 is a tuple of 1"),
        (5, "sample 0 is a int"),
        ({"input": X}, "samples have no key 'target'\n  allowed: input"),
    ],
)
def test_unknown_forms_of_sample(sample: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        samples(sample).read(0)


@pytest.mark.parametrize(
    ("mode", "shape"), [("RGB", (3, 4, 5)), ("RGBA", (4, 4, 5)), ("L", (1, 4, 5)), ("I;16", (1, 4, 5))]
)
def test_pil_pictures(mode: str, shape: tuple[int, ...]) -> None:
    assert as_input(Image.new(mode, (5, 4))).shape == shape


def test_layouts_are_declared() -> None:
    first = torch.from_numpy(PICTURE).permute(2, 0, 1)
    assert torch.equal(as_input(PICTURE, "hwc"), first)
    assert torch.equal(as_input(PICTURE, "hwc_bgr"), first.flip(0))
    assert torch.equal(as_input(first), first)
    with pytest.raises(DataError, match=r"looks like height × width × channels(.|\n)*try: \+dataset\.layout=hwc"):
        as_input(np.zeros((28, 28, 3)))
    assert as_input(np.zeros((16, 5, 3)), "chw").shape == (16, 5, 3)


class Counting(Listed):
    """Counts how often it is asked for a sample."""

    asked = 0

    def __getitem__(self, index: int) -> Any:
        self.asked += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("name", ["targets", "labels", "_labels", "y"])
@pytest.mark.parametrize("make", [list, np.array, torch.tensor])
def test_targets_at_hand_are_taken_after_a_look_at_a_few_samples(name: str, make: Any) -> None:
    given = [n * n % 7 for n in range(200)]
    source = Counting([(X, target) for target in given], **{name: make(given)})
    held = Samples(source)
    assert held.targets.tolist() == given
    assert held.targets.dtype == torch.int64
    assert source.asked <= 16


@pytest.mark.parametrize("name", ["targets", "labels", "y"])
def test_an_attribute_that_is_not_the_targets_is_not_taken_for_them(name: str) -> None:
    given = [n % 3 for n in range(50)]
    for other in ([n + 1 for n in given], [0.5] * 50, ["a"] * 50):  # counted from 1; coordinates; names
        assert samples(*((X, target) for target in given), **{name: other}).targets.tolist() == given
    assert samples(*((X, t) for t in given), **{name: [n + 1 for n in given]}).arrays.targets.tolist() == given


def test_targets_from_pairs_of_path_and_class() -> None:
    assert samples((X, 1), (X, 0), samples=[("a.png", 1), ("b.png", 0)]).targets.tolist() == [1, 0]


def test_masks_and_weights_are_known_with_the_targets() -> None:
    rows = [
        {"input": X, "target": n % 2, "mask": n > 0, "weight": float(n), "name": "text", "index": n} for n in range(4)
    ]
    held = samples(*rows)
    assert held.targets.tolist() == [0, 1, 0, 1]
    assert held.counted is not None
    assert held.counted.tolist() == [False, True, True, True]
    assert held.known().tolist() == [1, 0, 1]
    assert held.known(torch.tensor([0, 3])).tolist() == [1]
    assert set(held.read(2)[2]) == {"mask", "weight"}  # numbers travel, texts do not
    assert Samples(Listed(rows), ignore_index=1).known().tolist() == [0]
    rows[2]["weight"] = float("nan")
    with pytest.raises(DataError, match=r"the weight of sample 2 is nan\n  allowed: numbers >= 0"):
        _ = samples(*rows).counted


def test_a_row_with_a_gap_is_known_in_part() -> None:
    held = Samples(Listed([(X, [0, -1]), (X, [1, 0])]), ignore_index=-1)
    assert held.task == "multilabel"
    assert held.counted is not None
    assert held.counted.tolist() == [[True, False], [True, True]]
    assert held.known().tolist() == [[1, 0]]


def test_samples_that_cannot_be_read_are_named() -> None:
    for broken in ((X, "cat"), (X, None)):
        with pytest.raises(DataError, match="sample 1 cannot be read: "):
            _ = samples((X, 0), broken).targets
    with pytest.raises(DataError, match="target of sample 0 is one number int64, the target of sample 1 is 2 int64"):
        _ = samples((X, 0), (X, [0, 1])).targets


def test_flags_may_be_floats() -> None:
    assert samples((X, [0.0, 1.0]), (X, [1.0, 1.0])).task == "multilabel"
    assert samples((X, [0.0, 1.0]), (X, [1.0, 0.0])).task == "soft"
    assert samples((X, [0.0, 1.5]), (X, [1.0, 1.0])).task == "regression"
    assert samples((X, [0.0]), (X, [1.0])).task == "regression"  # of one, nobody knows


def test_parts_call_their_classes_alike() -> None:
    train = samples((X, 0), (X, 1), classes=["a", "b"])
    facts({"train": train, "val": samples((X, 0), classes=["a"])})
    with pytest.raises(DataError, match="class 0 is 'b' in test and 'a' in train"):
        facts({"train": train, "test": samples((X, 0), (X, 1), classes=["b", "a"])})
    with pytest.raises(DataError, match="names 1 classes, but has targets up to 1"):
        facts({"train": samples((X, 0), (X, 1), classes=["a"])})


def test_targets_are_read_where_they_are_not_at_hand_or_transformed() -> None:
    assert samples((X, 2), (X, 1)).targets.tolist() == [2, 1]
    assert samples((X, 0.5), (X, 1.5)).targets.tolist() == [0.5, 1.5]
    assert samples((X, 12), (X, 11), targets=[2, 1], target_transform=lambda t: t + 10).targets.tolist() == [12, 11]
    joined = ConcatDataset([Listed([(X, 5)], targets=[5], classes=list("abcdef")), Listed([(X, 4)], targets=[4])])
    assert Samples(joined).targets.tolist() == [5, 4]
    assert Samples(joined).classes == list("abcdef")


def test_classes_are_named_by_the_data_or_numbered() -> None:
    assert samples((X, 2), (X, 0), classes=["a", "b", "c"]).classes == ["a", "b", "c"]
    assert samples((X, 2), (X, 0)).classes == ["0", "1", "2"]
    assert samples((X, 0.5)).classes == []
    assert samples((X, [0, 1, 1]), (X, [1, 0, 0])).classes == ["0", "1", "2"]


def test_facts() -> None:
    classes = {"train": samples((X, 0), (X, 2)), "test": samples((X, 1))}
    assert facts(classes) == {
        "task": "classification", "num_samples": 3, "num_classes": 3, "class_names": ["0", "1", "2"], "num_outputs": 3,
        "features": None, "categories": None, "sample_shape": [3], "sample_type": "float32", "sample_range": None,
    }  # fmt: skip
    values = facts({"train": samples((X, [0.5, 1.5]))})
    assert (values["task"], values["num_classes"], values["num_outputs"]) == ("regression", None, 2)
    many = facts({"train": samples((X, [0, 1, 1]))})
    assert (many["task"], many["num_outputs"]) == ("multilabel", 3)


@pytest.mark.parametrize(
    ("part", "targets", "message"),
    [
        ("train", [0, -1], "the target of sample 1 of the train part is -1\n  allowed: 0 … 0"),
        ("test", [0, 3], "the target of sample 1 of the test part is 3\n  allowed: 0 … 1"),
        ("train", [[0, 1], [0, 2]], r"the target of sample 1 of the train part is \[0, 2\]\n  allowed: 0 or 1"),
        ("train", [0.5, float("nan")], "the target of sample 1 of the train part is nan\n  allowed: finite numbers"),
    ],
)
def test_wrong_targets(part: str, targets: list[Any], message: str) -> None:
    given = {"train": samples((X, 0), (X, 1)), part: samples(*((X, target) for target in targets))}
    with pytest.raises(DataError, match=message):
        facts(given)


def test_parts() -> None:
    train, test = Listed([(X, 0)]), Listed([(X, 0)])
    assert list(read(train)) == ["train"]
    assert list(read(Parts(train, test=test))) == ["train", "test"]
    with pytest.raises(DataError, match="the test part is empty"):
        read(Parts(train, test=Listed([])))


class Ones(IterableDataset[Any]):
    def __init__(self, length: int) -> None:
        self.length = length

    def __iter__(self) -> Any:
        return ((X, 1) for _ in range(self.length))


def test_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.dataset.LIMIT", 5)
    parts = read(Parts(Ones(3), val=Ones(5)))
    train, val = parts["train"], parts["val"]
    assert isinstance(train, Stream)
    assert isinstance(val, Samples)
    assert (len(val), val.targets.tolist(), train.classes, train.length) == (5, [1] * 5, ["0", "1"], None)
    assert len(train.head) == 3  # not begun again
    assert len(Stream(Ones(9999)).head) == HEAD
    with pytest.raises(DataError, match="the val part is a stream that has not ended after 5 samples"):
        read(Parts(Ones(3), val=Ones(6)))
    with pytest.raises(DataError, match="the test part is empty"):
        read(Parts(Ones(3), test=Ones(0)))
    with pytest.raises(DataError, match="a map has no __len__ or no __getitem__"):
        read(map(str, range(3)))


def test_what_is_read_one_by_one_can_be_held_in_memory() -> None:
    rows: list[tuple[Tensor, int]] = [(torch.rand(3), n % 2) for n in range(5)]
    held = samples(*rows).arrays
    assert torch.equal(held.inputs, torch.stack([x for x, _ in rows]))
    assert held.targets.tolist() == [0, 1, 0, 1, 0]
    with pytest.raises(DataError, match="sample 0 is 3 float32, sample 1 is 2 float32"):
        _ = samples((torch.rand(3), 0), (torch.rand(2), 0)).arrays


def test_torchs_data_set_of_tensors_is_held_as_it_is() -> None:
    """As its samples are, one by one; where they have to be turned first, that is how they are read."""
    inputs, targets = torch.rand(5, 1, 4, 6), torch.tensor([2, 0, 1, 1, 0], dtype=torch.int32)
    held = read(TensorDataset(inputs, targets))["train"]
    assert isinstance(held, Samples)
    one_by_one = Samples(TensorDataset(inputs, targets))
    assert held.in_memory
    assert not one_by_one.in_memory
    assert torch.equal(held.arrays.inputs, one_by_one.arrays.inputs)
    assert torch.equal(held.arrays.targets, one_by_one.arrays.targets)
    assert held.arrays.targets.dtype == one_by_one.arrays.targets.dtype == torch.int64
    assert held.classes == one_by_one.classes == ["0", "1", "2"]
    named = TensorDataset(inputs, targets)
    named.classes = ["a", "b", "c", "d"]  # type: ignore[attr-defined]
    kept = read(named)["train"]
    assert isinstance(kept, Samples)
    assert kept.classes == ["a", "b", "c", "d"]
    last = TensorDataset(torch.rand(5, 6, 7, 3), targets)
    with pytest.raises(DataError, match="6×7×3 looks like height × width × channels"):
        read(last)
    turned = read(last, layout="hwc")["train"]
    assert isinstance(turned, Samples)
    assert not turned.in_memory
    assert turned.read(0)[0].shape == (3, 6, 7)


def test_columns_are_the_tables_or_attributes() -> None:
    data = ArrayDataset(torch.zeros(2, 1), torch.zeros(2), columns={"day": np.array([3, 4])})
    assert Samples(data).column("day").tolist() == [3, 4]
    assert samples((X, 0), (X, 1), patients=["a", "b"]).column("patients").tolist() == ["a", "b"]
    with pytest.raises(DataError, match="no column 'night' with a value for each of its 2 samples\n  allowed: day"):
        Samples(data).column("night")


def test_a_fingerprint_tells_data_apart() -> None:
    inputs, targets = torch.zeros(4, 2), torch.zeros(4).long()
    first = Samples(ArrayDataset(inputs, targets)).fingerprint
    assert Samples(ArrayDataset(inputs.clone(), targets.clone())).fingerprint == first
    changed = inputs.clone()
    changed[3, 1] = 1
    others = [
        ArrayDataset(changed, targets),
        ArrayDataset(inputs, targets + 1),
        ArrayDataset(inputs.view(4, 1, 2), targets),
    ]
    assert first not in [Samples(other).fingerprint for other in others]


class Broken(Listed):
    """Its sample 1 cannot be read."""

    def __getitem__(self, index: int) -> Any:
        if index == 1:
            raise Image.UnidentifiedImageError("cannot identify image file")
        return super().__getitem__(index)


def test_whatever_a_data_set_or_a_transform_raises_is_told_with_the_sample() -> None:
    held = Samples(Broken([(X, 0), (X, 1)], targets=[0, 1]))
    for reading in (lambda: held.read(1), lambda: held.arrays):
        with pytest.raises(DataError, match="sample 1 cannot be read: UnidentifiedImageError: cannot identify"):
            reading()
    with pytest.raises(DataError, match="sample 0 cannot be read: ZeroDivisionError: "):
        held.read(0, [lambda x: 1 / 0])


def test_values_at_hand_are_not_taken_for_the_class_indices_of_the_samples() -> None:
    held = samples((X, 0), (X, 1), (X, 2), y=np.array([0.0, 1.0, 2.0]))
    assert (held.task, held.targets.dtype) == ("classification", torch.int64)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, {"weight": 0.5}, "sample 1 has 'weight', which the first sample does not have"),
        ({"weight": 0.5}, {}, "sample 1 has no 'weight', which the first sample has"),
        ({"weight": 0.5}, {"weight": None}, "sample 1 has no 'weight', which the first sample has"),
    ],
)
def test_what_only_some_samples_hold_is_not_dropped(first: Any, second: Any, message: str) -> None:
    rows = [{"input": X, "target": 0, **first}, {"input": X, "target": 1, **second}]
    with pytest.raises(DataError, match=message):
        _ = samples(*rows).targets
    assert Samples(Listed(rows), {"input": "input", "target": "target"}).targets.tolist() == [0, 1]


def test_targets_that_do_not_count_may_be_anything() -> None:
    held = samples({"input": X, "target": NAN, "mask": False}, {"input": X, "target": 0.5, "mask": True})
    held.check(0)
    with pytest.raises(DataError, match="the target of sample 0 is nan"):
        samples((X, NAN)).check(0)


def test_a_stream_calls_its_classes_as_the_other_parts_do() -> None:
    class Named(Ones):
        classes = ("a", "b")

    parts = read(Parts(Named(3), val=Listed([(X, 0), (X, 1)], classes=["b", "a"])))
    assert isinstance(parts["train"], Stream)
    with pytest.raises(DataError, match="class 0 is 'b' in val and 'a' in train"):
        facts({"train": parts["train"].head, "val": parts["val"]})  # type: ignore[dict-item]


def test_a_column_has_a_value_for_every_sample() -> None:
    for gap, of in ((NAN, 1.0), (None, "a"), (pd.NA, "a"), (np.datetime64("NaT"), np.datetime64("2026-01-31"))):
        held = samples((X, 0), (X, 1), (X, 2), day=np.array([of, gap, gap]))
        with pytest.raises(DataError, match="column 'day' has no value for 2 samples; the first is 1"):
            held.column("day")
        assert list(samples((X, 0), day=np.array([of])).column("day")) == [of]


def test_attributes_that_are_something_else_are_no_columns() -> None:
    held = samples((X, 0), (X, 1), columns=["x", "y"], path="ab", day=[3, 4])
    assert held.held("path") is None
    assert held.column("day").tolist() == [3, 4]
    with pytest.raises(DataError, match="no column 'x'"):
        held.column("x")
