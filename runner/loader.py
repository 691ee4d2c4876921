"""Loaders: samples in the order of the epoch, as whole batches."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from runner.batch import Batch
from runner.draws import generator


class Resident:
    """The samples of one part, held on the device as they are stored, fetched and transformed by the batch.

    The order of an epoch is a function of (`seed`, epoch): an epoch can be entered at any batch, and no state is kept.

    Args:
        inputs: (N, ...) all samples of the data set, as stored.
        targets: (N,) or (N, ...) their targets.
        indices: (n,) int64 which of them belong to this part.
        transform: takes the (B, ...) inputs of a batch on `device`.
        batch_size: samples in a batch; the last one of an epoch is smaller when they do not divide.
        shuffle: a new order every epoch; else the order of `indices`.
        drop_last: leave out a last batch that is smaller than the others.
    """

    # Batches are cut from blocks of about this many bytes, gathered at once: one gather per batch costs more, and
    # gathering a whole epoch would double the memory.
    block_bytes = 16 * 2**20

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        indices: Tensor,
        transform: nn.Module,
        *,
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.inputs = inputs.to(device)
        self.targets = targets.to(device)
        self.indices = indices
        self.transform = transform.to(device)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed

    @property
    def num_samples(self) -> int:
        """Samples in one epoch."""
        return len(self) * self.batch_size if self.drop_last else len(self.indices)

    def __len__(self) -> int:
        """Batches in one epoch."""
        batches = len(self.indices) / self.batch_size
        return math.floor(batches) if self.drop_last else math.ceil(batches)

    def order(self, epoch: int) -> Tensor:
        """(n,) int64 on the CPU: the data set's indices in the order in which `epoch` visits them."""
        if not self.shuffle:
            return self.indices
        return self.indices[torch.randperm(len(self.indices), generator=generator(self.seed, "order", epoch))]

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch`, from batch `start` on."""
        order = self.order(epoch)[start * self.batch_size : self.num_samples]
        batch_bytes = self.inputs[:1].nbytes * self.batch_size
        step = max(self.block_bytes // max(batch_bytes, 1), 1) * self.batch_size
        for first in range(0, len(order), step):
            index = order[first : first + step]
            where = index.to(self.inputs.device)
            block = zip(
                self.inputs[where].split(self.batch_size), self.targets[where].split(self.batch_size), strict=True
            )
            for (inputs, targets), indices in zip(block, index.split(self.batch_size), strict=True):
                yield Batch(self.transform(inputs), targets, indices)
