"""Data held in memory, on the device, fetched and transformed by the batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from runner.batch import Batch
from runner.errors import ConfigError, Problem
from runner.loader.order import Order, Ordered

if TYPE_CHECKING:  # parts are given to one another, and do not import one another
    from runner.dataset import Samples
    from runner.transform import Pipeline


class Resident(Ordered):
    """The samples of one part, held on the device as they are stored.

    Args:
        samples: the data set; what is not in memory is read once.
        order: which of its samples, in which order.
        transform: applied to the inputs of each batch, on `device` if that can.

    Raises:
        ConfigError: workers were asked for.
    """

    # Batches are cut from blocks of about this many bytes, gathered at once: one gather per batch costs more, and
    # gathering a whole epoch would double the memory.
    block_bytes = 16 * 2**20

    def __init__(
        self, samples: Samples, order: Order, transform: Pipeline, device: torch.device, num_workers: int = 0
    ) -> None:
        if num_workers > 0:
            what = f"{num_workers}: this loader keeps the data in memory and uses no workers"
            raise ConfigError(Problem("loader.num_workers", what, "0", "loader=workers"))
        super().__init__(order, transform, device)
        self.held = samples.on(self.place)

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch`, from batch `start` on."""
        batches = self.order.batches(epoch)
        uniform = self.order.uniform(epoch, self.transform.draws)
        step = max(self.block_bytes // max(self.held.inputs[:1].nbytes * self.order.batch_size, 1), 1)
        first = sum(map(len, batches[:start]))
        for number in range(start, len(batches), step):
            sizes = [len(index) for index in batches[number : number + step]]
            block = self._gather(torch.cat(batches[number : number + step]))
            drawn = self._sent(uniform[first : first + len(block)])
            row = 0
            for size in sizes:
                rows = slice(row, row + size)
                yield self._made(block.rows(rows), drawn[rows], epoch, first + row)
                row += size
            first += len(block)

    def _gather(self, index: Tensor) -> Batch:
        where = self._sent(index)
        # Not tensor[where], which on a CPU copies pictures of bytes ten times as slowly.
        extra = {name: tensor.index_select(0, where) for name, tensor in self.held.extra.items()}
        return Batch(self.held.inputs.index_select(0, where), self.held.targets.index_select(0, where), index, extra)

    def _sent(self, tensor: Tensor) -> Tensor:
        """On the device, without waiting for it, which a copy from memory that is not page-locked would."""
        if self.place.type != "cuda":
            return tensor.to(self.place)
        return tensor.pin_memory().to(self.place, non_blocking=True)
