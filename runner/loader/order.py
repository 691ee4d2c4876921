"""The order in which an epoch visits the samples of a part: a function of the seed and the epoch."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from runner.batch import Batch
from runner.draws import generator, seed_of, set_generators
from runner.errors import ConfigError, DataError, Problem, counted

if TYPE_CHECKING:
    from runner.transform import Pipeline


class Order:
    """Which sample is at which position of an epoch, which batch it is in, and what is drawn for it there.

    Args:
        indices: (n,) int64 the part's samples, by their index in the data set.
        sampler: ``shuffle``: a new order every epoch; ``sequential``: the order of `indices`; ``balanced``: drawn with
            replacement, such that every class is drawn equally often on average; or a sampler of one's own, that yields
            positions in `indices`.
        targets: (n,) the class of each sample, for ``balanced``.
        counted: (n,) which of them stand for something; the others are not drawn there. None for all.
        subset: use this many of the samples (a whole number) or this share of them, the same in every epoch.
        batch_size: samples in a batch; the last of an epoch is smaller where they do not divide.
        drop_last: leave out a last batch that is smaller than the others.
        batch_sampler: yields lists of positions in `indices`, each a batch; in place of `batch_size` and `drop_last`.
        limit: batches in an epoch, if there are more.
        seed: from which all orders follow.

    Raises:
        ConfigError: ``balanced`` without classes, a subset of none or of more samples than there are, or a batch
            sampler beside what it excludes.
    """

    def __init__(
        self, indices: Tensor, sampler: str | Collection[int] = "shuffle", targets: Tensor | None = None,
        counted: Tensor | None = None, *, batch_size: int, subset: float | None = None, drop_last: bool = False,
        batch_sampler: Collection[Sequence[int]] | None = None, limit: int | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        chosen = _subset(len(indices), subset, seed)
        self.indices = indices[chosen]
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.batch_sampler = batch_sampler
        self.limit = limit
        self.seed = seed
        self._batches: tuple[int, list[Tensor]] = -1, []
        if batch_sampler is not None and (drop_last or sampler != "shuffle"):
            name = sampler if isinstance(sampler, str) else type(sampler).__name__
            excluded = "drop_last=true" if drop_last else f"sampler={name}"
            what = f"cannot be combined with loader.{excluded}: it decides order and batches itself"
            remedy = "loader.drop_last=false" if drop_last else "loader.sampler=shuffle"
            raise ConfigError(Problem("loader.batch_sampler", what, remedy=remedy))
        if sampler == "balanced":
            if targets is None or targets.is_floating_point() or targets.dim() > 1:
                problem = Problem("loader.sampler", "'balanced' needs one class per sample", "shuffle, sequential")
                raise ConfigError(problem)
            _, which, counts = targets[chosen].unique(return_inverse=True, return_counts=True)
            self._weights = 1.0 / counts.double()[which]
            if counted is not None:
                self._weights[~counted[chosen]] = 0

    def __len__(self) -> int:
        """Batches in one epoch."""
        return self.unlimited if self.limit is None else min(self.unlimited, self.limit)

    @property
    def unlimited(self) -> int:
        """Batches that one epoch would have without the limit."""
        if self.batch_sampler is not None:
            return len(self.batch_sampler)
        visited = len(self.indices) if isinstance(self.sampler, str) else len(self.sampler)
        return (math.floor if self.drop_last else math.ceil)(visited / self.batch_size)

    def batches(self, epoch: int) -> list[Tensor]:
        """For each batch of `epoch`, (B,) int64 on the CPU: the data set's index of each of its samples.

        Raises:
            DataError: a sampler of the user's does not keep to its length, or names samples that are not there.
        """
        if self._batches[0] != epoch:
            self._batches = epoch, self._draw(epoch)
        return self._batches[1]

    def _draw(self, epoch: int) -> list[Tensor]:
        if self.sampler == "sequential":
            drawn = torch.arange(len(self.indices))
        elif self.batch_sampler is not None or not isinstance(self.sampler, str):
            return self._own(epoch)
        elif self.sampler == "balanced":
            draw = generator(self.seed, "order", epoch)
            drawn = torch.multinomial(self._weights, len(self.indices), replacement=True, generator=draw)
        else:
            drawn = torch.randperm(len(self.indices), generator=generator(self.seed, "order", epoch))
        return list(self.indices[drawn].split(self.batch_size))[: len(self)]

    def _own(self, epoch: int) -> list[Tensor]:
        """The batches of a sampler of the user's, its draws made a function of the epoch."""
        own, key = (self.sampler, "sampler") if self.batch_sampler is None else (self.batch_sampler, "batch_sampler")
        set_generators(seed_of(self.seed, "order", epoch))
        if hasattr(own, "set_epoch"):
            own.set_epoch(epoch)
        listed: list[Any] = list(own)
        positions = torch.tensor([p for batch in listed for p in batch] if self.batch_sampler is not None else listed)
        bad = (positions < 0) | (positions >= len(self.indices))
        if bad.any() or len(listed) != len(own):
            what = f"yields {counted(len(listed), 'item')} in epoch {epoch}, but its length is {len(own):,}"
            if bad.any():
                what = f"yields position {int(positions[bad][0])}"
            kind = "positions" if self.batch_sampler is None else "batches of positions"
            allowed = f"{kind} from 0 to {len(self.indices) - 1:,}, as many as its length says"
            raise DataError(Problem(f"loader.{key}", f"{type(own).__name__} {what}", allowed))
        sizes = self.batch_size if self.batch_sampler is None else [len(batch) for batch in listed]
        return list(self.indices[positions].split(sizes))[: len(self)]

    def uniform(self, epoch: int, count: int) -> Tensor:
        """(n, count) float32 on the CPU: the uniform numbers at each position of `epoch`."""
        positions = sum(map(len, self.batches(epoch)))
        return torch.rand(positions, count, generator=generator(self.seed, "transform", epoch))

    def seeds(self, epoch: int, positions: range) -> list[int]:
        """A seed for each of `positions` of `epoch`.

        For its position and not its index: a sample that is drawn twice must not be augmented twice alike.
        """
        return [seed_of(self.seed, "sample", epoch, position) for position in positions]


class Ordered:
    """Batches in the order of an `Order`, transformed on the device of the model if that can be done there."""

    def __init__(self, order: Order, transform: Pipeline, device: torch.device) -> None:
        self.order, self.device, self.place = order, device, transform.place(device)
        self.transform = transform.to(self.place)

    def __len__(self) -> int:
        """Batches in one epoch."""
        return len(self.order)

    def _made(self, batch: Batch, drawn: Tensor, epoch: int, first: int) -> Batch:
        """A batch as the model gets it, by (B, draws) uniform numbers; its first sample is at `first` of the epoch."""
        positions = range(first, first + len(batch))
        seeds = self.order.seeds(epoch, positions) if self.transform.needs_seeds else None
        batch.input = self.transform(batch.input, drawn.to(self.place), seeds)
        return batch if self.place == self.device else batch.to(self.device)


def _subset(total: int, subset: float | None, seed: int) -> Tensor:
    if subset is None:
        return torch.arange(total)
    count = subset if isinstance(subset, int) else round(subset * total)
    if not 1 <= count <= total:
        what = f"{subset} gives {count:,} of {total:,} samples"
        raise ConfigError(Problem("loader.subset", what, f"1 … {total:,}, or a fraction"))
    return torch.randperm(total, generator=generator(seed, "subset"))[:count].sort().values
