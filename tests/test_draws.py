from __future__ import annotations

import hashlib

import pytest
import torch

from runner.draws import generator, reseed, seed_of

CPU = torch.device("cpu")


def test_a_seed_is_a_hash_of_everything_that_is_given() -> None:
    digest = hashlib.blake2b(b"(0, 'order', 3)", digest_size=8).digest()
    assert seed_of(0, "order", 3) == int.from_bytes(digest, "big") // 2


def test_a_seed_does_not_change_with_the_process() -> None:
    """As it would by Python's own hashes: the number is of a process long gone."""
    assert seed_of(7, "step", 123) == 7_655_925_349_510_311_426


@pytest.mark.parametrize("other", [(1, "order", 3), (0, "step", 3), (0, "order", 4), (0, "order", 3, 0)])
def test_seed_purpose_and_position_each_count(other: tuple[int, str, int]) -> None:
    assert seed_of(*other) != seed_of(0, "order", 3)


def test_seeds_fit_torch() -> None:
    assert all(0 <= seed_of(seed, "x") < 2**63 for seed in range(1000))


def test_a_draw_depends_on_its_position_alone() -> None:
    first = torch.rand(5, generator=generator(0, "order", 1))
    torch.rand(1000)
    assert torch.equal(torch.rand(5, generator=generator(0, "order", 1)), first)


def test_reseed_sets_the_default_generator() -> None:
    reseed(CPU, 0, "step", 5)
    first = torch.rand(5)
    torch.rand(1000)
    reseed(CPU, 0, "step", 5)
    assert torch.equal(torch.rand(5), first)
    assert torch.equal(torch.rand(5, generator=generator(0, "step", 5)), first)
