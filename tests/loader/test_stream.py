from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from torchvision.transforms import v2

from runner.batch import Batch
from runner.dataset import Stream
from runner.errors import DataError
from runner.loader import Order, Streaming
from runner.transform import Crop, Flip, Pipeline


class Numbers(IterableDataset[Any]):
    """The pictures 0, 1, 2, … up to a length, or without end."""

    classes = ("even", "odd")

    def __init__(self, length: int | None = None, shards: bool = False, shuffles: bool = False) -> None:
        self.length, self.shards, self.shuffles = length, shards, shuffles

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker is not None and self.shards else (0, 1)
        numbers: Any = count(first, step) if self.length is None else range(first, self.length, step)
        if self.shuffles:
            numbers = random.sample(numbers, len(numbers))
        for number in numbers:
            yield torch.arange(4.0).view(1, 2, 2) + 10 * number, number % 2


def loader(source: IterableDataset[Any], samples: int = 10, transform: Any = (), **options: Any) -> Streaming:
    order = Order(torch.arange(samples), "sequential", batch_size=4, drop_last=options.pop("drop_last", False))
    return Streaming(Stream(source), order, Pipeline(transform), torch.device("cpu"), **options)


def numbers(batches: Iterator[Batch]) -> list[list[int]]:
    return [[int(value) // 10 for value in batch.input[:, 0, 0, 0]] for batch in batches]


def content(made: Streaming, epoch: int = 0, start: int = 0) -> list[Any]:
    return [(batch.index.tolist(), batch.input.tolist(), batch.target.tolist()) for batch in made.epoch(epoch, start)]


def test_an_epoch_is_so_many_samples_and_the_next_goes_on() -> None:
    made = loader(Numbers())
    assert len(made) == 3
    assert numbers(made.epoch(0)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert numbers(made.epoch(1)) == [[10, 11, 12, 13], [14, 15, 16, 17], [18, 19]]
    assert numbers(loader(Numbers(), drop_last=True).epoch(1)) == [[8, 9, 10, 11], [12, 13, 14, 15]]


def test_a_stream_that_ends_begins_again() -> None:
    assert numbers(loader(Numbers(7)).epoch(0)) == [[0, 1, 2, 3], [4, 5, 6, 0], [1, 2]]


def test_passes_of_a_stream_that_shuffles_differ_and_follow_from_the_seed() -> None:
    made = loader(Numbers(10, shuffles=True))
    first, second = ([n for batch in numbers(made.epoch(epoch)) for n in batch] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    random.seed(5)
    assert [n for batch in numbers(loader(Numbers(10, shuffles=True)).epoch(1)) for n in batch] == second


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_epoch_can_be_entered_at_any_batch(workers: int) -> None:
    def made() -> Streaming:
        transform = [v2.RandomHorizontalFlip(0.5), Crop(1), Flip()]
        return loader(Numbers(7, shards=True, shuffles=True), transform=transform, num_workers=workers)

    whole, again = made(), made()
    expected = [content(whole, epoch) for epoch in range(3)]
    for epoch, start in ((1, 1), (2, 0), (0, 2), (2, 2)):
        assert content(again, epoch, start) == expected[epoch][start:]


def test_one_worker_makes_no_difference() -> None:
    transform = [v2.RandomHorizontalFlip(0.5), Flip()]
    a, b = (loader(Numbers(7, shuffles=True), transform=transform, num_workers=workers) for workers in (0, 1))
    assert [content(a, epoch) for epoch in range(2)] == [content(b, epoch) for epoch in range(2)]


def test_two_workers_share_a_stream_that_can_be_shared_and_no_other() -> None:
    made = loader(Numbers(shards=True), 12, num_workers=2)
    assert numbers(made.epoch(0)) == [[0, 2, 4, 6], [1, 3, 5, 7], [8, 10, 12, 14]]
    with pytest.raises(DataError, match=r"each worker yields the whole stream(.|\n)*get_worker_info"):
        loader(Numbers(), num_workers=2)


class Failing(Numbers):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        yield from ((torch.zeros(1, 2, 2), 0) for _ in range(4))
        raise OSError("the disk is gone")


class Empty(Numbers):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        yield from ()


class ManyClasses(Numbers):
    classes = ("only",)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Failing(), "batch 1 of the stream cannot be read: OSError: the disk is gone"),
        (Empty(), "the stream has no samples"),
        (
            ManyClasses(),
            "the target of sample 1 of batch 0 of epoch 0 of the stream is 1\n  allowed: 0 … 0\n.*`classes`",
        ),
    ],
)
def test_what_goes_wrong_is_said(source: Numbers, message: str, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.dataset.stream.HEAD", 1 if isinstance(source, ManyClasses) else 4)
    with pytest.raises(DataError, match=message):
        numbers(loader(source, num_workers=workers).epoch())


def test_a_stream_whose_beginning_cannot_be_read() -> None:
    with pytest.raises(DataError, match="dataset: the stream cannot be read: OSError: the disk is gone"):
        loader(Failing())


def test_a_stream_with_a_generator_of_its_own_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Own(Numbers):
        random = random.Random(0)

        def __iter__(self) -> Iterator[tuple[Tensor, int]]:
            while True:
                yield torch.full((1, 2, 2), self.random.random()), 0

    loader(Own())
    assert "differs each time it is read" in caplog.text


class Rows(Numbers):
    """Dicts: those behind the head of another form."""

    def __init__(self, usual: dict[str, Any], later: dict[str, Any]) -> None:
        super().__init__()
        self.usual, self.later = usual, later

    def __iter__(self) -> Iterator[Any]:
        for number in count():
            yield {"input": torch.zeros(1, 2, 2), "target": 0.5, **(self.usual if number < 4 else self.later)}


@pytest.mark.parametrize(
    ("usual", "later", "message"),
    [
        ({"mask": True}, {"mask": True, "target": float("nan")}, "the target of sample 0 of batch 1 .* is nan"),
        ({"weight": 1.0}, {"weight": -1.0}, "the weight of sample 0 is -1.0"),
        ({"weight": 1.0}, {}, "sample 0 has no 'weight', which the first sample has"),
        ({"target": [0, 1]}, {"target": [0, 2]}, r"the target of sample 0 of batch 1 .* is \[0, 2\]"),
    ],
)
def test_what_is_behind_the_head_of_a_stream_is_looked_at(
    usual: Any, later: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.dataset.stream.HEAD", 4)
    made = loader(Rows(usual, later))
    with pytest.raises(DataError, match=message):
        list(made.epoch())


def test_what_does_not_count_in_a_stream_may_be_anything() -> None:
    made = loader(Rows({"mask": True}, {"mask": False, "target": float("nan")}))
    assert len(list(made.epoch())) == 3


def test_a_stream_that_holds_nan_is_told_when_it_is_not_shared() -> None:
    class Gaps(Numbers):
        def __iter__(self) -> Iterator[tuple[Tensor, int]]:
            return ((torch.full((1, 2, 2), float("nan")), 0) for _ in range(9))

    with pytest.raises(DataError, match="each worker yields the whole stream"):
        loader(Gaps(), num_workers=2)
