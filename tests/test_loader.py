from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from runner.loader import Resident

INPUTS = torch.arange(100).view(100, 1).float()
TARGETS = torch.arange(100) % 7
PART = torch.arange(0, 100, 3)  # 34 samples


def loader(batch_size: int = 8, **options: object) -> Resident:
    return Resident(INPUTS, TARGETS, PART, nn.Identity(), batch_size=batch_size, **options)


def indices(loader: Resident, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [batch.index.tolist() for batch in loader.epoch(epoch, start)]


def visited(loader: Resident, epoch: int = 0) -> list[int]:
    return [index for batch in indices(loader, epoch) for index in batch]


def test_without_shuffling_the_order_is_that_of_the_part() -> None:
    assert visited(loader()) == PART.tolist()


def test_an_epoch_has_every_sample_once_in_an_order_of_its_own() -> None:
    shuffled = loader(shuffle=True)
    first, second = (visited(shuffled, epoch) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == PART.tolist()
    assert first != second != PART.tolist()


def test_a_batch_holds_the_samples_that_its_indices_name() -> None:
    for batch in loader(shuffle=True).epoch(3):
        assert torch.equal(batch.input, INPUTS[batch.index])
        assert torch.equal(batch.target, TARGETS[batch.index])


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    assert indices(loader(shuffle=True, seed=1), 2) == indices(loader(shuffle=True, seed=1), 2)
    assert indices(loader(shuffle=True, seed=1), 2) != indices(loader(shuffle=True, seed=2), 2)
    assert visited(loader(5, shuffle=True)) == visited(loader(9, shuffle=True))


@pytest.mark.parametrize("start", range(6))
def test_an_epoch_can_be_entered_at_any_batch(start: int) -> None:
    assert indices(loader(shuffle=True), 4, start) == indices(loader(shuffle=True), 4)[start:]


def test_the_blocks_that_batches_are_cut_from_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [(b.index.tolist(), b.input.tolist()) for b in loader(shuffle=True).epoch(1)]
    monkeypatch.setattr(Resident, "block_bytes", 1)
    assert [(b.index.tolist(), b.input.tolist()) for b in loader(shuffle=True).epoch(1)] == whole


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [8, 8, 8, 8, 2]), (True, [8, 8, 8, 8])])
def test_the_last_batch(drop_last: bool, sizes: list[int]) -> None:
    made = loader(drop_last=drop_last)
    assert [len(batch) for batch in made.epoch()] == sizes
    assert len(made) == len(sizes)
    assert made.num_samples == sum(sizes)


def test_the_transform_sees_whole_batches() -> None:
    class Shape(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + len(x)

    made = Resident(INPUTS, TARGETS, PART, Shape(), batch_size=8)
    batch = next(made.epoch())
    assert torch.equal(batch.input, INPUTS[batch.index] + 8)
