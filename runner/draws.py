"""Randomness as a function: every draw comes from a hash of the seed, its purpose and its position.

Nothing here has a state that a checkpoint would have to save. The order of epoch 7 or the dropout masks of step 1,234
are the same in an uninterrupted run and in one that was stopped and resumed just before.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def seed_of(seed: int, purpose: str, *position: int | str) -> int:
    """A 63-bit seed for one purpose at one position, for example ``seed_of(0, "order", epoch)``.

    Python's own ``hash`` is salted anew in every process, so the hash is BLAKE2b's.
    """
    text = repr((seed, purpose, *position)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def generator(seed: int, purpose: str, *position: int | str) -> torch.Generator:
    """A CPU generator that draws what belongs to one purpose at one position."""
    return torch.Generator().manual_seed(seed_of(seed, purpose, *position))


def set_generators(seed: int) -> None:
    """Set Python's, NumPy's and torch's default generators, for draws of code that we cannot hand one to."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


def reseed(device: torch.device, seed: int, purpose: str, *position: int | str) -> None:
    """Set torch's default generators (of the CPU and of `device`) for one purpose at one position.

    For draws that we cannot hand a generator to: the initial weights, and dropout masks.
    ``torch.manual_seed`` visits every kind of device and costs a hundred times as much, which shows at every step.
    """
    value = seed_of(seed, purpose, *position)
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(value)
    elif device.type == "mps":
        torch.mps.manual_seed(value)
