"""Streams: data sets that are read from their start, one sample after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from typing import Any

from torch.utils.data import IterableDataset

from runner import debugger
from runner.dataset.samples import Samples, names_of
from runner.draws import seed_of, set_generators
from runner.errors import DataError, Problem, cause_of

HEAD = 1024
"""Samples at the start of a stream from which its facts are taken, and to which transforms are fitted."""


@dataclass
class Stream:
    """The samples of an IterableDataset, for training: endless, or started again whenever it ends.

    Args:
        source, keys, layout, ignore_index, exact: see `Samples`.
    """

    source: IterableDataset[Any]
    keys: Mapping[str, str] | None = None
    layout: str | None = None
    ignore_index: float | None = None
    exact: bool = True

    @cached_property
    def head(self) -> Samples:
        """The first samples, in memory.

        Raises:
            DataError: they cannot be read.
        """
        try:
            head = self._read(list(islice(self._pass(0, 0, 0), HEAD)))
        except DataError:
            raise
        except debugger.foreign() as error:  # whatever a data set of the user's may raise
            what = f"the stream cannot be read: {cause_of(error, kind=True)}"
            raise DataError(Problem("dataset", what)) from error
        if len(head) == 0:
            raise DataError(Problem("dataset", "the stream has no samples", "at least 1 sample"))
        head.names = names_of(self.source)
        return head

    def samples(self, raw: list[Any]) -> Samples:
        """Some of the stream's samples, to be read as those of its head."""
        made = self._read(raw)
        made.usual = self.head.usual
        return made

    def _read(self, raw: list[Any]) -> Samples:
        return Samples(raw, self.keys, self.layout, self.ignore_index, self.exact)

    @property
    def classes(self) -> list[str]:
        """The classes' names: the stream's own ``classes``, else the numbers up to the largest target of its head."""
        return self.head.classes

    @property
    def length(self) -> int | None:
        """Samples from its start to its end, if the data set says so."""
        return len(self.source) if hasattr(self.source, "__len__") else None

    def raw(self, seed: int = 0, shard: int = 0) -> Iterator[Any]:
        """Samples as the data set gives them, without end.

        What it draws from the generators of Python, NumPy and torch follows from the seed, the shard and the position.
        ``set_epoch`` is called before each pass, if the data set has it, so that it can go another way.

        Raises:
            DataError: it ends before its first sample.
        """
        for number in count():
            empty = True
            for sample in self._pass(number, seed, shard):
                empty = False
                yield sample
            if empty:
                raise DataError(Problem("dataset", "the stream has no samples", "at least 1 sample"))

    def _pass(self, number: int, seed: int, shard: int) -> Iterator[Any]:
        """From its start to its end, if it has one."""
        set_generators(seed_of(seed, "pass", shard, number))
        if hasattr(self.source, "set_epoch"):
            self.source.set_epoch(number)
        samples = iter(self.source)
        for position in count():
            set_generators(seed_of(seed, "stream", shard, number, position))
            try:
                sample = next(samples)
            except StopIteration:
                return
            yield sample
