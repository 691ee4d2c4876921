"""The order in which an epoch visits the samples of a part: a function of the seed and the epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from runner.draws import generator, seed_of, set_generators
from runner.errors import ConfigError, Problem


class Order:
    """Which sample is at which position of an epoch, and what is drawn for it there.

    Args:
        indices: (n,) int64 the part's samples, by their index in the data set.
        sampler: ``shuffle``: a new order every epoch; ``sequential``: the order of `indices`; ``balanced``: drawn with
            replacement, such that every class is drawn equally often on average; or a sampler of one's own, that yields
            positions in `indices`.
        targets: (n,) the class of each sample, for ``balanced``.
        subset: use this many of the samples (a whole number) or this share of them, the same in every epoch.
        batch_size: samples in a batch; the last of an epoch is smaller where they do not divide.
        drop_last: leave out a last batch that is smaller than the others.
        seed: from which all orders follow.

    Raises:
        ConfigError: ``balanced`` without classes, or a subset of none or of more samples than there are.
    """

    def __init__(
        self,
        indices: Tensor,
        sampler: str | Iterable[int] = "shuffle",
        targets: Tensor | None = None,
        *,
        batch_size: int,
        subset: float | None = None,
        drop_last: bool = False,
        seed: int = 0,
    ) -> None:
        chosen = _subset(len(indices), subset, seed)
        self.indices = indices[chosen]
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.seed = seed
        if sampler == "balanced":
            if targets is None or targets.is_floating_point() or targets.dim() > 1:
                raise ConfigError(
                    Problem("loader.sampler", "'balanced' needs one class per sample", "shuffle, sequential")
                )
            self._weights = 1.0 / targets[chosen].bincount().double()[targets[chosen]]

    @property
    def num_samples(self) -> int:
        """Samples in one epoch."""
        return len(self) * self.batch_size if self.drop_last else self._visited

    @property
    def _visited(self) -> int:
        return len(self.indices) if isinstance(self.sampler, str) else len(self.sampler)  # type: ignore[arg-type]

    def __len__(self) -> int:
        """Batches in one epoch."""
        batches = self._visited / self.batch_size
        return math.floor(batches) if self.drop_last else math.ceil(batches)

    def epoch(self, epoch: int) -> Tensor:
        """(num_samples,) int64 on the CPU: the data set's index at each position of `epoch`."""
        if self.sampler == "sequential":
            return self.indices[: self.num_samples]
        if not isinstance(self.sampler, str):
            return self.indices[self._own(epoch)][: self.num_samples]
        draw = generator(self.seed, "order", epoch)
        if self.sampler == "balanced":
            drawn = torch.multinomial(self._weights, len(self.indices), replacement=True, generator=draw)
        else:
            drawn = torch.randperm(len(self.indices), generator=draw)
        return self.indices[drawn][: self.num_samples]

    def _own(self, epoch: int) -> Tensor:
        """The positions that a sampler of the user's yields, its draws made a function of the epoch."""
        set_generators(seed_of(self.seed, "order", epoch))
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
        return torch.tensor(list(self.sampler))

    def uniform(self, epoch: int, count: int) -> Tensor:
        """(num_samples, count) float32 on the CPU: the uniform numbers at each position of `epoch`."""
        return torch.rand(self.num_samples, count, generator=generator(self.seed, "transform", epoch))

    def seeds(self, epoch: int, positions: range) -> list[int]:
        """A seed for each of `positions` of `epoch`.

        For its position and not its index: a sample that is drawn twice must not be augmented twice alike.
        """
        return [seed_of(self.seed, "sample", epoch, position) for position in positions]


def _subset(total: int, subset: float | None, seed: int) -> Tensor:
    if subset is None:
        return torch.arange(total)
    count = subset if isinstance(subset, int) else round(subset * total)
    if not 1 <= count <= total:
        raise ConfigError(
            Problem("loader.subset", f"{subset} is {count} samples of {total}", f"1 … {total}, or a fraction")
        )
    return torch.randperm(total, generator=generator(seed, "subset"))[:count].sort().values
