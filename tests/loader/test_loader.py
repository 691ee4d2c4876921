from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import random
import shutil
import signal
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset, RandomSampler
from torchvision import transforms
from torchvision.transforms import v2

from runner.dataset import ArrayDataset, Samples
from runner.errors import ConfigError, DataError
from runner.loader import Loader, Order, Resident, Workers, auto, limits
from runner.loader.workers import receive
from runner.transform import Crop, Flip, Float, Pipeline

CPU = torch.device("cpu")
INPUTS = torch.arange(100 * 4).view(100, 1, 2, 2).float()
TARGETS = torch.arange(100) % 7
PART = torch.arange(0, 100, 3)  # 34 samples


class Lazy(Dataset[Any]):
    """The same samples, read one by one."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return INPUTS[index], int(TARGETS[index])


class Drawing(Lazy):
    """Samples that draw from each of the generators that people use."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = random.random() + np.random.rand() + torch.rand(()).item()
        return INPUTS[index] + noise, int(TARGETS[index])


def loader(batch_size: int = 8, sampler: Any = "sequential", lazy: bool = False, **options: Any) -> Loader:
    order = {name: options.pop(name) for name in ("drop_last", "seed", "subset", "batch_sampler") if name in options}
    order_ = Order(PART, sampler, TARGETS[PART], batch_size=batch_size, **order)
    steps = Pipeline(options.pop("transform", ()))
    if lazy or options:
        return Workers(Samples(options.pop("source", Lazy())), order_, steps, CPU, **options)
    return Resident(Samples(ArrayDataset(INPUTS, TARGETS)), order_, steps, CPU)


def indices(loader: Loader, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [batch.index.tolist() for batch in loader.epoch(epoch, start)]


def visited(loader: Loader, epoch: int = 0) -> list[int]:
    return [index for batch in indices(loader, epoch) for index in batch]


def content(loader: Loader, epoch: int = 0, start: int = 0) -> list[tuple[Any, ...]]:
    return [(b.index.tolist(), b.input.tolist(), b.target.tolist()) for b in loader.epoch(epoch, start)]


both = pytest.mark.parametrize("lazy", [False, True])


@both
def test_without_shuffling_the_order_is_that_of_the_part(lazy: bool) -> None:
    assert visited(loader(lazy=lazy)) == PART.tolist()


@both
def test_an_epoch_has_every_sample_once_in_an_order_of_its_own(lazy: bool) -> None:
    shuffled = loader(sampler="shuffle", lazy=lazy)
    first, second = (visited(shuffled, epoch) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == PART.tolist()
    assert first != second != PART.tolist()


@both
def test_a_batch_holds_the_samples_that_its_indices_name(lazy: bool) -> None:
    for batch in loader(sampler="shuffle", lazy=lazy).epoch(3):
        assert torch.equal(batch.input, INPUTS[batch.index])
        assert torch.equal(batch.target, TARGETS[batch.index])


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    assert indices(loader(sampler="shuffle", seed=1), 2) == indices(loader(sampler="shuffle", seed=1), 2)
    assert indices(loader(sampler="shuffle", seed=1), 2) != indices(loader(sampler="shuffle", seed=2), 2)
    assert visited(loader(5, "shuffle")) == visited(loader(9, "shuffle"))


@both
@pytest.mark.parametrize("start", range(6))
def test_an_epoch_can_be_entered_at_any_batch(start: int, lazy: bool) -> None:
    transform = [v2.RandomHorizontalFlip(0.5), Crop(1), Flip()]
    made = loader(sampler="shuffle", lazy=lazy, transform=transform)
    assert content(made, 4, start) == content(made, 4)[start:]


def test_the_blocks_that_batches_are_cut_from_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = content(loader(sampler="shuffle", transform=[Flip()]), 1)
    monkeypatch.setattr(Resident, "block_bytes", 1)
    assert content(loader(sampler="shuffle", transform=[Flip()]), 1) == whole


@both
@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [8, 8, 8, 8, 2]), (True, [8, 8, 8, 8])])
def test_the_last_batch(drop_last: bool, sizes: list[int], lazy: bool) -> None:
    made = loader(drop_last=drop_last, lazy=lazy)
    assert [len(batch) for batch in made.epoch()] == sizes
    assert len(made) == len(sizes)


def test_both_loaders_give_the_same_batches() -> None:
    transform = [Crop(1), Flip(), Float()]
    a, b = (loader(sampler="shuffle", lazy=lazy, transform=transform) for lazy in (False, True))
    assert content(a, 3) == content(b, 3)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_make_no_difference(persistent: bool) -> None:
    options: dict[str, Any] = {
        "sampler": "shuffle",
        "transform": [v2.RandomHorizontalFlip(0.5), Flip()],
        "source": Drawing(),
    }
    alone = loader(**options)
    expected = [content(alone, 0), content(alone, 1), content(alone, 1, 2)]
    made = loader(**options, num_workers=2, persistent_workers=persistent)
    assert [content(made, 0), content(made, 1), content(made, 1, 2)] == expected
    assert expected[0] != content(loader(**options, seed=1), 0)


def test_augmentation_does_not_depend_on_the_size_of_the_batches() -> None:
    def inputs(size: int) -> list[Any]:
        made = loader(size, "shuffle", transform=[Crop(1), Flip(), v2.RandomVerticalFlip(0.5)])
        return [row for _, batch, _ in content(made) for row in batch]

    assert inputs(5) == inputs(34)


def test_balanced_draws_every_class_equally_often() -> None:
    targets = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    order = Order(torch.arange(1000), "balanced", targets, batch_size=100)
    drawn = targets[torch.cat([index for epoch in range(20) for index in order.batches(epoch)])].bincount()
    assert (drawn / drawn.sum() - 1 / 3).abs().max() < 0.02
    with pytest.raises(ConfigError, match=r"loader\.sampler: 'balanced' needs one class per sample"):
        Order(torch.arange(3), "balanced", torch.rand(3), batch_size=1)


def test_a_sample_that_is_drawn_twice_is_not_augmented_twice_alike() -> None:
    order = Order(torch.tensor([0, 0, 0, 0, 0, 0]), "sequential", batch_size=6)
    made = Resident(Samples(ArrayDataset(INPUTS, TARGETS)), order, Pipeline([Crop(2)]), CPU)
    assert len({str(row) for _, batch, _ in content(made) for row in batch}) > 1


@pytest.mark.parametrize(("subset", "count"), [(5, 5), (0.5, 17), (34, 34), (1.0, 34)])
def test_a_subset_is_the_same_samples_in_every_epoch(subset: float, count: int) -> None:
    made = loader(sampler="shuffle", subset=subset)
    assert sorted(visited(made, 0)) == sorted(visited(made, 1))
    assert len(set(visited(made)) & set(PART.tolist())) == count


@pytest.mark.parametrize("subset", [0, 35, 0.001])
def test_a_subset_of_none_or_too_many(subset: float) -> None:
    with pytest.raises(ConfigError, match=r"loader\.subset"):
        loader(subset=subset)


def test_a_sampler_of_ones_own_follows_the_seed() -> None:
    sampler = RandomSampler(range(34), replacement=True, num_samples=20)
    made = loader(sampler=sampler)
    assert len(visited(made)) == 20
    assert visited(made, 0) == visited(made, 0) != visited(made, 1)
    assert set(visited(made)) <= set(PART.tolist())


class Painted(Lazy):
    """PIL pictures of 6×6."""

    def __getitem__(self, index: int) -> tuple[Any, int]:
        rng = np.random.default_rng(index)
        return Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)), 0


def test_transforms_of_pil_pictures_one_by_one_on_workers() -> None:
    def made(workers: int) -> Loader:
        steps = [transforms.RandomCrop(4), transforms.ColorJitter(0.5), transforms.ToTensor(), Flip()]
        return loader(source=Painted(), sampler="shuffle", transform=steps, num_workers=workers)

    alone, shared = made(0), made(2)
    assert content(alone, 1, 2) == content(shared, 1, 2)
    batch = next(alone.epoch())
    assert batch.input.shape == (8, 3, 4, 4)
    assert 0 <= batch.input.min() < batch.input.max() <= 1
    again = next(alone.epoch(1))
    assert not torch.equal(batch.input, again.input)


@both
def test_a_batch_sampler_of_ones_own_makes_the_batches(lazy: bool) -> None:
    class Growing:
        """Batches of 1, 2, 3, 4 positions in an order of its own."""

        def __len__(self) -> int:
            return 4

        def __iter__(self) -> Iterator[list[int]]:
            left = iter(torch.randperm(10).tolist())
            return ([next(left) for _ in range(size)] for size in (1, 2, 3, 4))

    made = loader(batch_sampler=Growing(), sampler="shuffle", lazy=lazy, transform=[v2.RandomHorizontalFlip(), Flip()])
    assert len(made) == 4
    assert [len(batch) for batch in indices(made)] == [1, 2, 3, 4]
    assert sorted(visited(made)) == PART[:10].tolist()
    assert visited(made, 0) != visited(made, 1)
    for start in range(4):
        assert content(made, 1, start) == content(made, 1)[start:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sampler": "sequential"},
            "cannot be combined with loader.sampler=sequential: .*\n  try: loader.sampler=shuffle",
        ),
        ({"sampler": [1]}, "cannot be combined with loader.sampler=list: .*\n  try: loader.sampler=shuffle"),
        (
            {"sampler": "shuffle", "drop_last": True},
            "cannot be combined with loader.drop_last=true: .*\n  try: loader.drop_last=false",
        ),
    ],
)
def test_what_a_batch_sampler_excludes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loader(batch_sampler=BatchSampler(range(34), 4, drop_last=False), **options)


class Short(list[Any]):
    """Says that it is one longer than it is."""

    def __len__(self) -> int:
        return 1 + super().__len__()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": [0, 34]}, "loader.sampler: list yields position 34\n  allowed: positions from 0 to 33"),
        ({"sampler": Short([0, 1])}, "loader.sampler: Short yields 2 items in epoch 0, but its length is 3"),
        ({"batch_sampler": [[0, 1], [-1]], "sampler": "shuffle"}, "batch_sampler: list yields position -1"),
        (
            {"batch_sampler": Short([[0]]), "sampler": "shuffle"},
            "batch_sampler: Short yields 1 item in epoch 0, but its length is 2",
        ),
    ],
)
def test_samplers_that_do_not_keep_to_the_data(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        visited(loader(**options))


@pytest.mark.parametrize(("limit", "workers", "expected"), [(4e9, 0, Resident), (100, 0, Workers), (4e9, 1, Workers)])
def test_auto_takes_what_fits(limit: float, workers: int, expected: type) -> None:
    order = Order(PART, batch_size=8)
    made = auto(Samples(ArrayDataset(INPUTS, TARGETS)), order, Pipeline(), CPU, memory_limit=limit, num_workers=workers)
    assert type(made) is expected
    assert type(auto(Samples(Lazy()), order, Pipeline(), CPU)) is Workers


def test_data_in_memory_are_read_without_workers() -> None:
    with pytest.raises(ConfigError, match="try: loader=workers"):
        Resident(Samples(ArrayDataset(INPUTS, TARGETS)), Order(PART, batch_size=8), Pipeline(), CPU, num_workers=2)


class Failing(Lazy):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 9:
            raise ValueError("no such picture")
        return super().__getitem__(index)


class Ragged(Lazy):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.zeros(1, 2, 2 + (index == 9)), 0


class Dying(Lazy):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        import os

        return os._exit(7) if index == 9 else super().__getitem__(index)


class Hanging(Lazy):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        import time

        return time.sleep(1000) if index == 9 else super().__getitem__(index)  # type: ignore[func-returns-value]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_read_is_named(workers: int) -> None:
    with pytest.raises(DataError, match="sample 9 cannot be read: ValueError: no such picture"):
        indices(loader(source=Failing(), num_workers=workers))
    with pytest.raises(DataError, match="sample 0 is 1×2×2 float32, sample 9 is 1×2×3 float32"):
        indices(loader(source=Ragged(), num_workers=workers))


def test_a_worker_that_dies_or_hangs_is_told_with_the_samples_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that hangs is not waited for at the end of the process."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    with pytest.raises(DataError, match=r"reading samples 0, 3, 6, 9, 12, … failed(.|\n)*try: loader.num_workers=0"):
        indices(loader(source=Dying(), num_workers=1))
    with pytest.raises(DataError, match=r"reading samples 0, 3, 6, 9, 12, … failed(.|\n)*timed out"):
        indices(loader(source=Hanging(), num_workers=1, timeout=0.5))
    gc.collect()  # the traceback holds what holds the worker
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("code", "said"), [(errno.ENOSPC, "/dev/shm is full"), (errno.EMFILE, r"\(ulimit -n\)")])
def test_a_batch_that_cannot_be_sent_is_an_error_that_says_what_is_too_little(
    monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    """Python's queue drops it, and it would be waited for without end."""

    def full(*_: object) -> None:
        raise RuntimeError(f"unable to do it: {os.strerror(code)} ({code})")

    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)
    with pytest.raises(DataError, match=rf"reading samples (.|\n)*{said}(.|\n)*try: loader.num_workers=0"):
        indices(loader(source=Lazy(), num_workers=2))


def test_workers_that_cannot_be_started_are_an_error_and_those_that_were_do_not_stay(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fork, done = os.fork, []

    def failing() -> int:
        if done:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        done.append(True)
        return fork()

    made = loader(source=Lazy(), num_workers=2)
    monkeypatch.setattr(os, "fork", failing)
    with pytest.raises(DataError, match=r"2: they cannot be started: Resource temporarily (.|\n)*try: a smaller"):
        indices(made)
    gc.collect()
    assert multiprocessing.active_children() == []
    assert capsys.readouterr().err == ""


def test_a_worker_that_dies_is_no_error_in_the_middle_of_something_else() -> None:
    batches = iter(loader(source=Dying(), num_workers=1).epoch())
    with pytest.raises(DataError, match="reading samples"):
        next(batches)
    handler = signal.getsignal(signal.SIGCHLD)
    assert isinstance(handler, partial)
    said: list[str] = []
    mine = partial(handler.func, lambda *_: said.append("dead"))
    mine(signal.SIGCHLD, sys._getframe())
    assert said == []

    class Waiting:
        def __next__(self) -> None:
            mine(signal.SIGCHLD, sys._getframe())

    receive(Waiting(), 1, "")  # type: ignore[arg-type]
    assert said == ["dead"]


def test_too_little_shared_memory_or_too_few_open_files_are_found_before(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/dev/shm")
    batch = INPUTS[:1].nbytes * 5
    monkeypatch.setattr(limits.shutil, "disk_usage", lambda path: usage._replace(free=4 * batch - 1))
    with pytest.raises(
        ConfigError, match=r"loader.num_workers: 2: they hold 4 batches of (.|\n)*docker run --shm-size"
    ):
        loader(source=Lazy(), num_workers=2, batch_size=5)
    monkeypatch.setattr(limits.shutil, "disk_usage", lambda path: usage._replace(free=4 * batch))
    loader(source=Lazy(), num_workers=2, batch_size=5)
    loader(source=Lazy(), num_workers=0, batch_size=5)
    monkeypatch.setattr(limits.resource, "getrlimit", lambda which: (24, 24))
    with pytest.raises(ConfigError, match=r"a process may have 24 here \(ulimit -n\)(.|\n)*ulimit -n 4096"):
        loader(source=Lazy(), num_workers=2, batch_size=5)


class Restless(Lazy):
    def __init__(self) -> None:
        self.own = np.random.default_rng(0)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return INPUTS[index] + self.own.random(), 0


def test_a_data_set_with_a_generator_of_its_own_is_told_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    loader(source=Restless())
    assert "the first sample differs each time it is read" in caplog.text
    caplog.clear()
    loader(source=Drawing(), transform=[v2.RandomHorizontalFlip(0.5)])
    assert caplog.text == ""


class Wanting(Lazy):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return INPUTS[index].clone().requires_grad_(), 0


def test_samples_that_no_worker_can_hand_over() -> None:
    with pytest.raises(DataError, match=r"samples require gradients(.|\n)*try: loader.num_workers=0"):
        loader(source=Wanting(), num_workers=1)
    assert next(loader(source=Wanting(), num_workers=0).epoch()).input.requires_grad


def test_an_own_collate_function() -> None:
    def collate(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return torch.stack([x * 2 for x, _ in pairs]), torch.stack([y for _, y in pairs])

    batch = next(loader(lazy=True, collate_fn=collate).epoch())
    assert torch.equal(batch.input, INPUTS[batch.index] * 2)


def test_what_else_a_sample_held_is_in_the_batch() -> None:
    weight = torch.rand(100)
    held, order = Samples(ArrayDataset(INPUTS, TARGETS, extra={"weight": weight})), Order(PART, batch_size=8)
    for kind in (Resident, Workers):
        for batch in kind(held, order, Pipeline(), CPU).epoch():
            assert torch.equal(batch.extra["weight"], weight[batch.index])


def test_balanced_draws_none_of_the_samples_that_do_not_count() -> None:
    targets = torch.tensor([0] * 50 + [1] * 10 + [-100] * 40)
    order = Order(torch.arange(100), "balanced", targets, targets >= 0, batch_size=100)
    drawn = targets[torch.cat([index for epoch in range(20) for index in order.batches(epoch)])]
    assert drawn.min() == 0
    assert drawn.float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_an_example_is_what_the_first_batch_holds_without_a_worker() -> None:
    def first(**options: Any) -> Tensor:
        return next(loader(lazy=True, transform=[Float(0.5)], **options).epoch()).input[:1]

    made = loader(lazy=True, num_workers=2, transform=[Float(0.5)])
    assert isinstance(made, Workers)
    assert torch.equal(made.example(), first())
    assert not multiprocessing.active_children()
