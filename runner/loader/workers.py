"""Data read sample by sample through torch's DataLoader, in this process or in workers; streams too."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, islice
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from runner import debugger
from runner.batch import Batch, Called, stacked
from runner.draws import set_generators
from runner.errors import DataError, Problem, cause_of, few, reason_of
from runner.loader import limits
from runner.loader.order import Order, Ordered
from runner.visible import log

if TYPE_CHECKING:
    from runner.dataset import Samples, Stream
    from runner.transform import Pipeline


Key = tuple[int, int, int]
"""Epoch, position in it, and the sample's index in its data set."""


class Workers(Ordered):
    """The samples of one part, read one by one.

    Every draw that reading a sample makes, in the data set or in a transform, follows from (seed, epoch, position): the
    generators of Python, NumPy and torch are set for each sample. It makes no difference which worker reads it.

    Args:
        samples: the data set.
        order: which of its samples, in which order.
        transform: its sample stage is applied where the sample is read, the rest to whole batches on `device`.
        num_workers: processes that read; 0 for this one.
        pin_memory: copy batches to page-locked memory first; None for yes if the device is CUDA.
        persistent_workers, prefetch_factor, timeout, worker_init_fn: see torch's `DataLoader`.
        collate_fn: makes ``(inputs, targets)`` of a list of ``(input, target)``; None to stack them.
    """

    def __init__(
        self, samples: Samples, order: Order, transform: Pipeline, device: torch.device, *, num_workers: int = 0,
        pin_memory: bool | None = None, persistent_workers: bool = False, prefetch_factor: int | None = None,
        timeout: float = 0, collate_fn: Callable[[list[tuple[Tensor, Tensor]]], tuple[Tensor, Tensor]] | None = None,
        worker_init_fn: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        steps, rest = transform.stages()
        super().__init__(order, rest, device)
        self.keys = _Keys(order)
        self.fetch = Fetch(samples, steps, order)
        self.collate = partial(collate, collate_fn, samples.called)
        ready = min(num_workers * (prefetch_factor or 2), len(order))
        limits.check(probe(lambda: self._read()[0][0], num_workers).nbytes * order.batch_size, num_workers, ready)
        self.loader: DataLoader[Batch | Problem] = DataLoader(
            self.fetch,
            batch_sampler=self.keys,
            collate_fn=self.collate,
            persistent_workers=persistent_workers and num_workers > 0,
            **options(device, num_workers, prefetch_factor, pin_memory, timeout, worker_init_fn),
        )

    def _read(self) -> list[Any]:
        read = self.fetch.__getitems__([(0, 0, int(self.order.indices[0]))])
        if isinstance(read, Problem):
            raise DataError(read)
        return read

    def example(self) -> Tensor:
        """(1, ...) an input as the model gets it, read in this process: workers take a while to start."""
        batch = self.collate(self._read())
        if isinstance(batch, Problem):
            raise DataError(batch)
        return self._made(batch.to(self.place), self.order.uniform(0, self.transform.draws)[:1], 0, 0).input

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch`, from batch `start` on."""
        order = self.order.batches(epoch)
        uniform = self.order.uniform(epoch, self.transform.draws)
        self.keys.at = epoch, start
        batches, first = begun(self.loader), sum(map(len, order[:start]))
        for index in order[start:]:
            what = f"samples {few(index.tolist())}"
            batch = receive(batches, self.loader.num_workers, what).to(self.place)
            yield self._made(batch, uniform[first : first + len(index)], epoch, first)
            first += len(index)


class Fetch(Dataset[Any]):
    """Reads samples by (epoch, position, index), each with its own draws, and applies the sample stage.

    Args:
        steps: transforms of one sample.
    """

    def __init__(self, samples: Samples, steps: Sequence[Callable[[Any], Any]], order: Order) -> None:
        self.samples = samples
        self.steps = steps
        self.order = order

    def __getitems__(self, keys: Sequence[Key]) -> list[Any] | Problem:
        read = []
        for epoch, position, index in keys:
            set_generators(*self.order.seeds(epoch, range(position, position + 1)))
            try:
                read.append((*self.samples.read(index, self.steps), index))
            except DataError as error:
                return error.problems[0]
        return read


def options(
    device: torch.device, num_workers: int, prefetch_factor: int | None, pin_memory: bool | None = None,
    timeout: float = 0, worker_init_fn: Callable[[int], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Arguments of torch's `DataLoader`, without those that it refuses where there are no workers."""
    return {
        "num_workers": num_workers,
        "pin_memory": device.type == "cuda" if pin_memory is None else pin_memory,
        "prefetch_factor": prefetch_factor if num_workers > 0 else None,
        "timeout": timeout if num_workers > 0 else 0,
        "worker_init_fn": partial(_begin, worker_init_fn) if num_workers > 0 else None,
    }


def begun(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of a loader, of which no worker outlives the run.

    One that hangs in a sample is ended by torch with SIGTERM, which workers ignore (`_begin`), and would be waited
    for: each for some seconds, and at the end of the process without limit.
    """
    before = signal.getsignal(signal.SIGCHLD)
    with limits.starting(loader.num_workers):
        batches = iter(loader)
    if callable(theirs := signal.getsignal(signal.SIGCHLD)) and theirs is not before:
        signal.signal(signal.SIGCHLD, partial(_died, theirs))
    for worker in getattr(batches, "_workers", ()):
        worker.terminate = worker.kill
        worker.join = partial(_join, worker)
    return batches


def _died(theirs: Callable[[int, FrameType | None], object], signum: int, frame: FrameType | None) -> None:
    """Have torch say that a worker has died where it is waited for, and not wherever this process just is, such as in
    the middle of a step."""
    at = frame
    while at is not None and at.f_code is not _awaited.__code__:
        at = at.f_back
    if at is not None:
        theirs(signum, frame)


def _join(worker: BaseProcess, timeout: float | None = None) -> None:
    """Wait for a worker, but not for long."""
    BaseProcess.join(worker, min(timeout or 0.2, 0.2))


def _awaited(batches: Iterator[Batch | Problem]) -> Batch | Problem:
    return next(batches)


def receive(batches: Iterator[Batch | Problem], num_workers: int, what: str) -> Batch:
    """The next batch; what went wrong on the way names `what` was being read."""
    try:
        batch = _awaited(batches)
    except (RuntimeError, OSError, EOFError) as error:
        short = limits.lacking(batches, error) if num_workers > 0 else None
        is_theirs = isinstance(error, (ConnectionError, EOFError)) or re.search("worker|timed out", str(error))
        if short is None and (num_workers == 0 or not is_theirs):
            raise
        reason, remedy = short or (reason_of(error), "loader.num_workers=0, to see the error itself")
        what = f"{num_workers}: reading {what} failed: {reason}"
        raise DataError(Problem("loader.num_workers", what, remedy=remedy)) from error
    if isinstance(batch, Problem):
        raise DataError(batch)
    return batch


def probe(read: Callable[[], Tensor], num_workers: int) -> Tensor:
    """Read the input of a sample twice: what differs, with all generators set alike, no resumed run could repeat.
    Returns it.

    Raises:
        DataError: it cannot be handed over by a worker.
    """
    first, second = read(), read()
    if num_workers > 0 and (first.is_cuda or first.requires_grad):
        what = f"samples are on {first.device}" if first.is_cuda else "samples require gradients"
        what += ", so they cannot come from a worker process"
        raise DataError(Problem("dataset", what, remedy="loader.num_workers=0"))
    if first.shape == second.shape and not torch.equal(first.nan_to_num(), second.nan_to_num()):
        log.warning(
            "the first sample differs each time it is read: the data set uses its own random generator, so this run is "
            "not reproducible and cannot be resumed exactly"
        )
    return first


class _Keys:
    """The batches of keys of an epoch, for DataLoader's `batch_sampler`; set before each epoch, for workers persist."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.at = 0, 0

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, start = self.at
        batches = self.order.batches(epoch)
        first = sum(map(len, batches[:start]))
        for index in batches[start:]:
            yield [(epoch, position, i) for position, i in enumerate(index.tolist(), first)]
            first += len(index)

    def __len__(self) -> int:
        return len(self.order) - self.at[1]


def collate(own: Callable[..., Any] | None, called: Called, read: list[Any] | Problem) -> Batch | Problem:
    """Make a `Batch` of what was read, or hand on what went wrong.

    Args:
        own: makes ``(inputs, targets)`` of a list of ``(input, target)``; None to stack them.
        called: the name of a sample in a message, by its index.
    """
    if isinstance(read, Problem):
        return read
    inputs, targets, extras, index = zip(*read, strict=True)
    try:
        extra = {name: stacked([each[name] for each in extras], name, index, called) for name in extras[0]}
        if own is not None:
            made = own(list(zip(inputs, targets, strict=True)))
        else:
            made = stacked(inputs, "", index, called), stacked(targets, "target", index, called)
        return Batch(made[0], made[1], torch.tensor(index), extra)
    except DataError as error:
        return error.problems[0]


def _begin(own: Callable[[int], None] | None, number: int) -> None:
    """A signal that stops a run goes to its whole process group: a worker that died of it would take the run along."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_IGN)
    limits.end_with_the_run()
    if own is not None:
        own(number)


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
