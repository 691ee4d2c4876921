"""Reading a data set's samples in one way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from runner import debugger
from runner.batch import sent, stacked
from runner.dataset.tensors import LARGEST, Array, ArrayDataset, as_input, as_target, held_targets
from runner.errors import FOR_THE_TRACEBACK, DataError, Problem, cause_of


@dataclass
class Samples:
    """A map-style data set, read in one way whatever its samples look like.

    Args:
        source: the data set; whatever has a length and gives samples by index.
        keys: for samples that are dicts: which key is the input, which the target, and which else is wanted in the
            batch under what name, as in ``{"input": "xy", "target": "arm", "weight": "w"}``. None for ``input``,
            ``target`` and whatever else are numbers.
        layout: how arrays of pictures are laid out: ``chw`` (as torch wants them), ``hwc``, or ``hwc_bgr`` (OpenCV's);
            None for ``chw``, unless they look as if they were not.
        ignore_index: a target that stands for none.
        exact: whether values keep all of their digits; else they are float32, as earlier versions read them.
    """

    source: Any
    keys: Mapping[str, str] | None = None
    layout: str | None = None
    ignore_index: float | None = None
    exact: bool = True
    _copies: dict[torch.device, ArrayDataset] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def head(self) -> Samples:
        """What can be known of it before it is read, as of a `Stream`: itself."""
        return self

    def raw(self, index: int) -> tuple[Any, Any, dict[str, Any]]:
        """A sample's input, as the data set gives it, its target, and what else it holds by name.

        Raises:
            DataError: the sample has another form than those that are known.
        """
        if isinstance(self.source, ArrayDataset):
            held = self.source
            return held.inputs[index], held.targets[index], {name: tensor[index] for name, tensor in held.extra.items()}
        sample = self.source[index]
        if isinstance(sample, Mapping):
            keys = self.keys or self._alike(index, _usual(sample))
            missing = [key for key in keys.values() if key not in sample]
            if missing:
                what = f"samples have no key {missing[0]!r}"
                remedy = '"+dataset.keys={input: KEY, target: KEY}", with keys from this list'
                raise DataError(Problem("dataset.keys", what, ", ".join(map(str, sample)), remedy))
            named = {name: sample[key] for name, key in keys.items()}
            return named.pop("input"), named.pop("target"), named
        if isinstance(sample, (tuple, list)) and len(sample) in (2, 3):
            return sample[0], sample[1], {}
        size = f" of {len(sample)}" if hasattr(sample, "__len__") else ""
        what = f"sample {index} is a {type(sample).__name__}{size}"
        allowed = "(input, target), (input, target, ANYTHING), or a dict (see dataset.keys)"
        raise DataError(Problem("dataset", what, allowed))

    @cached_property
    def usual(self) -> dict[str, str]:
        """What is taken of samples that are dicts if nothing is said: what the first one holds."""
        first = self.source[0]
        return _usual(first) if isinstance(first, Mapping) else {}

    def _alike(self, index: int, keys: dict[str, str]) -> dict[str, str]:
        if keys != self.usual:
            name = min(keys.keys() ^ self.usual.keys())
            what = f"sample {index} has {name!r}, which the first sample does not have"
            if name in self.usual:
                what = f"sample {index} has no {name!r}, which the first sample has"
            remedy = '"+dataset.keys={input: input, target: target}", to use only these'
            raise DataError(Problem("dataset", what, "the same numeric keys in every sample", remedy))
        return keys

    def read(self, index: int, steps: Sequence[Callable[[Any], Any]] = ()) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """A sample as tensors: pictures are (C, H, W) and keep their dtype.

        Args:
            steps: transforms of the input as the data set gives it, such as a PIL picture.

        Raises:
            DataError: it cannot be read, or holds what makes no tensor.
        """
        with self._reading(index):
            given, target, extra = self.raw(index)
            for step in steps:
                given = step(given)
            read = as_input(given, self.layout, self.exact), as_target(target, self.exact)
            return *read, {name: torch.as_tensor(held) for name, held in extra.items()}

    @contextmanager
    def _reading(self, index: int) -> Iterator[None]:
        """To be entered for reading a sample: whatever a data set or a transform of the user's raises is a problem."""
        try:
            yield
        except DataError:
            raise
        except debugger.foreign() as error:
            what = f"{self.called(index)} cannot be read: {cause_of(error, kind=True)}"
            # Pictures that are held in memory are tensors.
            is_pil = "PIL" in f"{type(error).__name__} {error}"
            own = "torchvision.transforms.ToPILImage as the first transform" if is_pil else ""
            raise DataError(Problem("dataset", what, remedy=own or FOR_THE_TRACEBACK)) from error

    @property
    def targets(self) -> Tensor:
        """(N, ...) every sample's target. Reads the whole data set if it does not have them at hand."""
        return self._labels[0]

    @cached_property
    def _labels(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Every sample's target, and its ``mask`` and ``weight`` if it has such."""
        if isinstance(self.source, ArrayDataset):
            return self.source.targets, {k: v for k, v in self.source.extra.items() if k in ("mask", "weight")}
        held = None if getattr(self.source, "target_transform", None) else held_targets(self.source, self.exact)
        if held is not None and len(held) == len(self) and self._agree(held):
            return held, {}
        rows = [self._label(index) for index in range(len(self))]
        extra = {name: stacked([row[1][name] for row in rows], name, called=self.called) for name in rows[0][1]}
        return stacked([row[0] for row in rows], "target", called=self.called), extra

    def _agree(self, held: Tensor) -> bool:
        """Whether targets that a data set holds are those of its samples: a few of them are compared.

        An attribute ``y`` may be anything, or labels as they stood in a file. torchvision's are known.
        """
        first = self.source.datasets[0] if isinstance(self.source, ConcatDataset) else self.source
        if type(first).__module__.startswith("torchvision.") or type(first).__module__.startswith("runner."):
            return True
        for index in sorted({round(i * (len(self) - 1) / 15) for i in range(16)}):
            target, extra = self._label(index)
            if extra or target.dtype != held.dtype or not torch.equal(target, held[index]):
                return False
        return True

    def _label(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        with self._reading(index):
            _, target, extra = self.raw(index)
            kept = {k: torch.as_tensor(v) for k, v in extra.items() if k in ("mask", "weight")}
            return as_target(target, self.exact), kept

    @cached_property
    def counted(self) -> Tensor | None:
        """(N,) or (N, K) bool: which targets, or values of them, stand for something; None for all.

        Raises:
            DataError: a weight that is negative or no number.
        """
        targets, extra = self._labels
        weight = extra.get("weight", torch.ones(1))
        bad = ~((weight >= 0) & weight.isfinite())
        if bad.any():
            index = int(bad.nonzero()[0, 0])
            problem = Problem("dataset", f"the weight of sample {index} is {weight[index].tolist()}", "numbers >= 0")
            raise DataError(problem)
        counted = None
        if self.ignore_index is not None:
            counted = targets != self.ignore_index
        if "mask" in extra:
            mask = extra["mask"].bool()
            mask = mask.reshape(mask.shape + (1,) * (targets.dim() - mask.dim())).expand(targets.shape)
            counted = mask if counted is None else counted & mask
        return None if counted is None or bool(counted.all()) else counted

    def check(self, num_classes: int, name: str = "{}") -> None:
        """That the targets are class indices, flags of several classes, or finite values.

        Args:
            name: how to call a sample in the message, with ``{}`` for its index.

        Raises:
            DataError: one that counts is not.
        """
        targets, remedy = self.targets, ""
        if targets.is_floating_point():
            bad, allowed = ~(targets.abs() <= LARGEST), f"finite numbers up to {LARGEST:.2g}"
        elif targets.dim() == 1:
            bad, allowed = (targets < 0) | (targets >= num_classes), f"0 … {num_classes - 1}"
            remedy = "an attribute `classes` of the data set, with the names of all classes"
        else:
            bad, allowed = (targets != 0) & (targets != 1), "0 or 1"
        if self.counted is not None:
            bad &= self.counted
        if bad.any():
            first = int(bad.nonzero()[0, 0])
            what = f"the target of sample {name.format(first)} is {targets[first].tolist()}"
            raise DataError(Problem("dataset", what, allowed, remedy if bool((targets[first] > 0).any()) else ""))

    @cached_property
    def task(self) -> str:
        """What the targets ask for: ``classification`` (a class index each), ``multilabel`` (a 0 or 1 for each of
        several classes, as floats too), ``soft`` (a probability for each class: rows that sum to 1), ``regression``."""
        targets = self.targets
        if not targets.is_floating_point():
            return "classification" if targets.dim() == 1 else "multilabel"
        if targets.dim() == 2 and targets.shape[1] > 1:
            known = self.known()
            sums = known.double().sum(1)
            if bool((known >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
                return "soft"
            if bool(((known == 0) | (known == 1)).all()):
                return "multilabel"
        return "regression"

    @property
    def hard_targets(self) -> Tensor:
        """(N, ...) the targets, but the likeliest class where they are distributions."""
        return self.targets.argmax(1) if self.task == "soft" else self.targets

    def known(self, rows: Tensor | None = None) -> Tensor:
        """The targets of some samples, or of all, without those that stand for nothing, in whole or in part.

        Args:
            rows: (n,) indices.
        """
        targets = self.targets if rows is None else self.targets[rows]
        if self.counted is None:
            return targets
        counted = self.counted if rows is None else self.counted[rows]
        return targets[counted.flatten(1).all(1) if counted.dim() > 1 else counted]

    @cached_property
    def names(self) -> list[str]:
        """The classes' names as the data set has them; empty if it has none."""
        return names_of(self.source.datasets[0] if isinstance(self.source, ConcatDataset) else self.source)

    @cached_property
    def classes(self) -> list[str]:
        """The classes' names: the data set's own, else the numbers from 0 to the largest target. Empty for values."""
        if self.task == "regression":
            return []
        names = self.names
        known = self.known()
        count = known.shape[1] if known.dim() > 1 else int(known.max()) + 1 if len(known) else 0
        if not names and count > max(10 * len(known), 100_000):
            what = f"has integer targets up to {count - 1:,} in {len(known):,} samples: these look like continuous"
            what += " values, not classes"
            raise DataError(Problem("dataset", what, "class indices from 0, or floats for regression"))
        if names and len(names) < count:
            what = f"names {len(names)} classes, but has targets up to {count - 1}"
            raise DataError(Problem("dataset", what, "a name for each class"))
        return names or [str(number) for number in range(count)]

    def column(self, name: str) -> Array:
        """(N,) what is known of the samples under `name`: a column of a table, or an attribute of the data set.

        Raises:
            DataError: nothing of that name, or not with a value for each sample.
        """
        held = self.held(name)
        if held is None:
            what = f"the data set has no column {name!r} with a value for each of its {len(self):,} samples"
            raise DataError(Problem("split.column", what, ", ".join(_columns(self.source))))
        # Of what is compared with itself, None alone is equal; pandas' NA says neither.
        gaps = held != held if held.dtype != object else np.array([v is None or str(v != v) != "False" for v in held])
        if gaps.any():
            what = f"column {name!r} has no value for {int(gaps.sum()):,} samples; the first is {int(gaps.argmax())}"
            raise DataError(Problem("split.column", what, "a value for every sample"))
        return held

    def held(self, name: str) -> Array | None:
        """(N,) what is known of the samples under `name`, if anything is: see `column`."""
        held = _columns(self.source).get(name, getattr(self.source, name, None))
        fits = hasattr(held, "__len__") and not isinstance(held, str) and len(held) == len(self)
        return np.asarray(held) if fits else None

    def called(self, index: int) -> str:
        """A sample for a message: its number, and its file if the data set says which one that is."""
        paths = self.held("path")
        return f"sample {index}" if paths is None else f"sample {index} ({paths[index]})"

    @cached_property
    def arrays(self) -> ArrayDataset:
        """The samples in memory; read one by one, once, where they are not there already.

        Raises:
            DataError: a sample has another shape or type than the first.
        """
        if isinstance(self.source, ArrayDataset):
            return self.source
        rows = [self.read(index) for index in range(len(self))]
        inputs = stacked([row[0] for row in rows], "", called=self.called)
        extra = {name: stacked([row[2][name] for row in rows], name, called=self.called) for name in rows[0][2]}
        targets = stacked([row[1] for row in rows], "target", called=self.called)
        return ArrayDataset(inputs, targets, self.classes, extra)

    @property
    def in_memory(self) -> bool:
        """Whether `arrays` is there without reading anything."""
        return isinstance(self.source, ArrayDataset) or "arrays" in vars(self)

    @property
    def nbytes(self) -> int | None:
        """Bytes of the inputs and targets in memory; None for a data set that reads its samples one by one."""
        held = self.source
        return held.inputs.nbytes + held.targets.nbytes if isinstance(held, ArrayDataset) else None

    def as_earlier(self) -> Samples:
        """As earlier versions read them, whose values were float32; see `exact`."""
        source = self.source.as_earlier() if isinstance(self.source, ArrayDataset) else self.source
        return Samples(source, self.keys, self.layout, self.ignore_index, exact=False)

    def on(self, device: torch.device) -> ArrayDataset:
        """The samples in memory on `device`: one copy, however many parts of it are used."""
        if device.type == "cpu":
            return self.arrays
        if device not in self._copies:
            held = self.arrays
            extra = {name: sent(tensor, device) for name, tensor in held.extra.items()}
            inputs, targets = sent(held.inputs, device), sent(held.targets, device)
            self._copies[device] = ArrayDataset(inputs, targets, held.classes, extra)
        return self._copies[device]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 that tells these samples from others: of their bytes if they are in memory; else of their targets,
        and of the names and sizes of their files, where the source says them (``stamps``)."""
        digest = hashlib.sha256(f"{len(self)}".encode())
        held = [self.source.inputs, self.source.targets] if isinstance(self.source, ArrayDataset) else [self.targets]
        for tensor in held:
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(np.ascontiguousarray(tensor.numpy()).data)
        if (stamps := self.held("stamps")) is not None:
            digest.update(repr(stamps.tolist()).encode())
        return digest.hexdigest()


def _usual(sample: Mapping[str, Any]) -> dict[str, str]:
    """What is taken of a sample that is a dict if nothing is said: its input, its target, and all other numbers."""
    numbers = (bool, int, float, Tensor, np.ndarray, np.generic)
    others = [key for key, value in sample.items() if isinstance(value, numbers) and key != "index"]
    return {key: key for key in dict.fromkeys(("input", "target", *others))}


def _columns(source: Any) -> Mapping[str, Any]:
    columns = getattr(source, "columns", None)  # of a data set of the user's, anything
    return columns if isinstance(columns, Mapping) else {}


def names_of(source: Any) -> list[str]:
    """The names that a data set or a stream has for its classes; empty if it has none."""
    given = getattr(source, "classes", None)
    return [", ".join(name) if isinstance(name, tuple) else str(name) for name in (() if given is None else given)]
