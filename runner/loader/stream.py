"""Streams of samples, as whole batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from runner import debugger
from runner.batch import Batch
from runner.draws import set_generators
from runner.errors import DataError, Problem, cause_of
from runner.loader import limits
from runner.loader.order import Order, Ordered
from runner.loader.workers import begun, collate, options, probe, receive

if TYPE_CHECKING:
    from runner.dataset import Stream
    from runner.transform import Pipeline


class Streaming(Ordered):
    """The samples of a stream, in its own order.

    An epoch is a number of samples; the next one goes on where it ended. To enter an epoch in its middle, as a resumed
    run does, the stream is read again from its start.

    Args:
        stream: the data set.
        order: how many samples an epoch has, and how many a batch.
        num_workers: processes that read; of several, each must yield samples of its own.
        transform, device, pin_memory, prefetch_factor, timeout, collate_fn, worker_init_fn: see `Workers`.

    Raises:
        DataError: each worker would yield the whole stream.
    """

    def __init__(
        self, stream: Stream, order: Order, transform: Pipeline, device: torch.device, *, num_workers: int = 0,
        prefetch_factor: int | None = None, collate_fn: Callable[..., Any] | None = None, **others: Any,
    ) -> None:  # fmt: skip
        steps, rest = transform.stages()
        super().__init__(order, rest, device)
        first = probe(lambda: stream.samples([next(stream.raw())]).read(0, steps)[0], num_workers)
        limits.check(first.nbytes * order.batch_size, num_workers, num_workers * (prefetch_factor or 2))
        if num_workers > 1:
            _check_shards(stream)
        self.reading = _Reading(stream, steps, order, collate_fn)
        how = options(device, num_workers, prefetch_factor, **others)
        self.loader: DataLoader[Batch | Problem] = DataLoader(self.reading, batch_size=None, **how)
        self._batches: Iterator[Batch | Problem] = iter(())
        self._at = -1

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch`, from batch `start` on."""
        uniform = self.order.uniform(epoch, self.transform.draws)
        self._go_to(epoch * len(self) + start)
        for number in range(start, len(self)):
            batch = receive(self._batches, self.loader.num_workers, f"batch {self._at} of the stream").to(self.place)
            self._at += 1
            first = number * self.order.batch_size
            yield self._made(batch, uniform[first : first + len(batch)], epoch, first)

    def _go_to(self, number: int) -> None:
        if self._at == number:
            return
        # Which worker makes a batch follows from the batch's number; the one after the start must be the first one's.
        beyond = number % max(self.loader.num_workers, 1)
        self.reading.start = number - beyond
        self._batches, self._at = begun(self.loader), number
        for _ in range(beyond):
            receive(self._batches, self.loader.num_workers, f"the stream up to batch {number}")


class _Reading(IterableDataset[Any]):
    """Makes whole batches of a stream without end: worker w of n makes the batches w, w + n, w + 2n, …"""

    def __init__(
        self, stream: Stream, steps: Sequence[Callable[[Any], Any]], order: Order, own: Callable[..., Any] | None
    ) -> None:
        self.stream, self.steps, self.order, self.own = stream, steps, order, own
        self.num_classes = len(stream.classes)
        self.start = 0
        """The first batch that is wanted; those before are read and dropped."""

    def __iter__(self) -> Iterator[Batch | Problem]:
        worker = get_worker_info()
        shard, shards = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        samples = self.stream.raw(self.order.seed, shard)
        sizes = [len(batch) for batch in self.order.batches(0)]
        for number in count(shard, shards):
            try:
                raw = list(islice(samples, sizes[number % len(sizes)]))
                if number >= self.start:
                    yield self._batch(raw, *divmod(number, len(sizes)))
            except DataError as error:
                yield error.problems[0]
            except debugger.foreign() as error:  # whatever a data set or a transform of the user's may raise
                reason = cause_of(error, kind=True)
                yield Problem("dataset", f"batch {number} of the stream cannot be read: {reason}")

    def _batch(self, raw: list[Any], epoch: int, number: int) -> Batch | Problem:
        samples = self.stream.samples(raw)
        first = number * self.order.batch_size
        positions = range(first, first + len(raw))
        rows = []
        for i, (position, seed) in enumerate(zip(positions, self.order.seeds(epoch, positions), strict=True)):
            set_generators(seed)
            rows.append((*samples.read(i, self.steps), epoch * len(self.order.indices) + position))
        # Those of map-style data are all checked before the run; of a stream only the head's are known then.
        samples.check(self.num_classes, f"{{}} of batch {number} of epoch {epoch} of the stream")
        return collate(self.own, "sample {}".format, rows)


class _Beginning(IterableDataset[Any]):
    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[list[bytes]]:
        samples = self.stream.samples(list(islice(self.stream.raw(), 8)))
        inputs = [samples.read(i)[0] for i in range(len(samples))]
        yield [each.detach().cpu().numpy().tobytes() for each in inputs]  # not values: a NaN is not equal


def _check_shards(stream: Stream) -> None:
    """That two workers yield different samples."""
    first, second = begun(DataLoader(_Beginning(stream), batch_size=None, num_workers=2))
    if first == second:
        what = "each worker yields the whole stream, so every sample would appear once per worker"
        remedy = "loader.num_workers=1, or an __iter__ that uses torch.utils.data.get_worker_info() to yield its share"
        raise DataError(Problem("loader.num_workers", what, "0, 1", remedy))
