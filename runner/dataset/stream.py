"""Streams: data sets that are read from their start, one sample after the other; and what only the data know, of a
stream its head, for the configuration's ``facts``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from runner import debugger
from runner.dataset.samples import Samples, names_of
from runner.dataset.tensors import ArrayDataset
from runner.draws import seed_of, set_generators
from runner.errors import DataError, Problem, cause_of, few
from runner.visible import log

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
            head = self.samples(list(islice(self._pass(0, 0, 0), HEAD)), is_head=True)
        except DataError:
            raise
        except debugger.foreign() as error:  # whatever a data set of the user's may raise
            what = f"the stream cannot be read: {cause_of(error, kind=True)}"
            raise DataError(Problem("dataset", what)) from error
        if len(head) == 0:
            raise DataError(Problem("dataset", "the stream has no samples", "at least 1 sample"))
        head.names = names_of(self.source)
        return head

    def samples(self, raw: list[Any], is_head: bool = False) -> Samples:
        """Some of the stream's samples, to be read as those of its head."""
        made = Samples(raw, self.keys, self.layout, self.ignore_index, self.exact)
        if not is_head:
            made.usual = self.head.usual
        return made

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


def facts(parts: Mapping[str, Samples]) -> dict[str, Any]:
    """What only the data know, for the configuration's `facts`.

    Args:
        parts: the samples of each part; of a stream, its head.

    Raises:
        DataError: targets that are neither class indices nor values.
    """
    train = parts["train"]
    targets, classes = train.targets, train.classes
    for name, part in parts.items():
        _check_names(name, part.names, train.names)
        part.check(len(classes), f"{{}} of the {name} part")
        if part.task != train.task:
            what = f"the targets of {name} are for {part.task}, those of train for {train.task}"
            raise DataError(Problem("dataset", what, "targets of the same kind in every part"))
    outputs = len(classes) or (1 if targets.dim() == 1 else targets.shape[1])
    return {
        "task": train.task, "num_samples": sum(len(part) for part in parts.values()),
        "num_classes": len(classes) or None, "class_names": classes, "num_outputs": outputs,
        "features": getattr(train.source, "features", None), "categories": getattr(train.source, "categories", None),
        **_form(train),
    }  # fmt: skip


def check_varied(parts: Mapping[str, Samples]) -> None:
    """Check that there is something to predict: targets of several classes, or values that differ.

    Raises:
        DataError: a single class, or the same values for every sample.
    """
    train = parts["train"]
    known = torch.cat([part.known() for part in parts.values()])
    if train.task == "soft":
        known = known.argmax(1)
    if len(known) == 0:
        return
    same = (known == known[0]).all(0)
    goals = train.source.goals if isinstance(train.source, ArrayDataset) else []
    names = train.classes if train.task == "multilabel" else goals
    if not same.all():
        if same.dim() and same.any():
            fixed = [str(names[n] if names else n) for n in same.flatten().nonzero()[:, 0].tolist()]
            log.warning("every sample has the same target for %s: its metrics say nothing", few(fixed))
        return
    one = f"class {train.classes[int(known[0])]!r}" if train.task in ("classification", "soft") else "target"
    one += "" if train.task in ("classification", "soft") else f" {known[0].tolist()}"
    what = f"all {len(known):,} samples have the same {one}, so there is nothing to predict"
    key, remedy = ("dataset.target", "dataset.target=NAME, of another column") if goals else ("dataset", "other data")
    raise DataError(Problem(key, what, "targets of which some differ", remedy))


def _form(samples: Samples) -> dict[str, Any]:
    """What an input looks like as it is stored: what comes from elsewhere has to look alike."""
    if isinstance(samples.source, ArrayDataset):
        held = samples.source.inputs
        span = [held.min().item(), held.max().item()] if held.dim() == 4 else None
        return {"sample_shape": list(held.shape[1:]), "sample_type": _type(held), "sample_range": span}
    read = samples.read(0)[0]
    shape: list[int | None] = list(read.shape)
    if hasattr(samples.raw(0)[0], "getbands"):  # pictures, which may be of any size
        shape[1:] = [None, None]
    return {"sample_shape": shape, "sample_type": _type(read), "sample_range": None}


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _check_names(part: str, names: Sequence[str], expected: Sequence[str]) -> None:
    """That a part calls its classes what train calls them; it may lack some of the last, or all names."""
    pairs = zip(names, expected, strict=False)
    differing = [(number, mine, theirs) for number, (mine, theirs) in enumerate(pairs) if mine != theirs]
    if differing:
        number, mine, theirs = differing[0]
        what = f"class {number} is {mine!r} in {part} and {theirs!r} in train"
        raise DataError(Problem("dataset", what, "the same classes in the same order in every part"))
