"""What comes from elsewhere, read as the data of a run were read: pictures, tables, arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor

from runner.batch import by
from runner.config import build, calling, read_as, value
from runner.dataset.decoding import MODES, READING, UNDECODABLE, Fit, decode
from runner.dataset.dialect import KEYS, Codes, Dialect
from runner.dataset.tensors import as_input
from runner.errors import ConfigError, DataError, Problem, counted, few, nearest, reason_of
from runner.transform import Pipeline, is_random, seeded
from runner.visible import log

Array = NDArray[Any]

SAMPLES = "images or their paths, an array of stored samples, a DataFrame"

SHOWN = 20
"""Columns that a message names."""


@dataclass
class Reader:
    """Makes stored samples such as a run was trained on.

    Args:
        shape: of a sample; None in place of what differs from picture to picture.
        type: its dtype.
        layout: of arrays of pictures; see `runner.dataset.Samples`.
        size: (height, width) that pictures were brought to.
        fit, value_range, reading: how; see `runner.dataset.image_folder`.
        own: the transform that the data set itself applied to each picture.
        steps: the transforms of the run that came next, also to each picture.
        rest: the transforms of batches that come after.
        codes: of a table.
        span: least and largest value of the pictures it was trained on, if that is known.
    """

    shape: tuple[int | None, ...]
    type: str
    layout: str
    size: tuple[int, int] | None
    fit: Fit
    own: Callable[[Any], Any] | None
    steps: Sequence[Callable[[Any], Any]]
    rest: Pipeline
    codes: Codes | None
    span: tuple[float, float] | None
    value_range: tuple[float, float] | None = None
    reading: int = READING
    _warned: bool = field(default=False, repr=False)

    @classmethod
    def of(cls, cfg: DictConfig, transform: Pipeline) -> Reader:
        """That of a run.

        Args:
            cfg: with its facts.
            transform: that of evaluation.
        """
        facts, data = cfg.facts, cfg.dataset
        shape = tuple(facts.sample_shape)
        # What is not held in memory is a picture of PIL's, to which the first transforms are applied.
        steps, rest = transform.stages() if None in shape else ([], transform)
        with calling("dataset.transform"):
            own = None if data.get("transform") is None else build(data.transform)
        # One by one: where the data of training were is not asked for.
        sized = str(data._target_) == "runner.dataset.image_folder"
        names = ("size", "fit", "value_range", "reading") if sized else (*KEYS, "categories")
        ours = {name: value(data[name]) for name in names if name in data}
        size = (int(data.size[0]), int(data.size[1])) if ours.get("size") is not None else None
        fit: Fit = ours.get("fit", "cut")  # which runs of before have not
        ends = None if ours.get("value_range") is None else (ours["value_range"][0], ours["value_range"][1])
        features, categories = value(facts.features), value(facts.categories)
        codes = None if features is None else Codes(features, categories, Dialect.of(ours | read_as(cfg)))
        span = None if facts.sample_range is None else (facts.sample_range[0], facts.sample_range[1])
        layout, reading = data.get("layout") or "chw", ours.get("reading", READING)
        return cls(shape, facts.sample_type, layout, size, fit, own, steps, rest, codes, span, ends, reading)

    @property
    def mode(self) -> str | None:
        """Of PIL's pictures; None if the samples were none that a file of a picture could be."""
        picture = len(self.shape) == 3 and self.type == "uint8" and self.shape[0] in MODES
        return MODES[self.shape[0]] if picture and self.shape[0] is not None else None

    @property
    def words(self) -> str:
        """What the run was trained on."""
        if self.codes is not None:
            return f"tables with the columns {few(self.codes.features, SHOWN)}"
        return f"{'images' if self.mode else 'arrays'} of {by(self.shape)} ({self.type})"

    def picture(self, given: Any) -> Tensor:
        """A picture, or the path of one, as the run had its pictures: in their mode, and brought to their size if they
        were.

        Raises:
            DataError: it has another size, or the run was trained on other things.
            OSError: it cannot be decoded.
        """
        if self.mode is None:
            what = f"{_name(given)} is taken for an image, but the run was trained on {self.words}"
            allowed = "" if self.codes is None else "a pandas DataFrame, such as pandas.read_csv(...)"
            raise DataError(Problem("input", what, allowed))
        if isinstance(given, (str, Path)) and not Path(given).is_file():
            raise FileNotFoundError(f"there is no file {str(given)!r}")  # nor a pipe, which might never end
        made: Any = decode(given, self.mode, self.size, self.fit, self.value_range, self.reading)
        for number, step in enumerate([*([] if self.own is None else [self.own]), *self.steps]):
            made = seeded(step, made, number) if is_random(step) else step(made)
        tensor = as_input(made, self.layout)
        if None not in self.shape and tuple(tensor.shape) != self.shape:
            remedy = 'images of that size; or train with "dataset.size=[HEIGHT,WIDTH]", which brings all to one size'
            what = f"{_name(given)} is {by(tensor.shape)}, but the run was trained on {self.words}"
            raise DataError(Problem("input", what, remedy=remedy))
        self._look(tensor)
        return tensor

    def array(self, given: Array | Tensor) -> Tensor:
        """(N, ...) samples.

        Raises:
            DataError: of another shape, or another kind of numbers.
        """
        if isinstance(given, np.ndarray) and given.dtype.kind not in "biuf":
            what = f"an array of {given.dtype} cannot hold samples"
            raise DataError(Problem("input", what, f"numbers, N×{by(self.shape)}"))
        tensor = given if isinstance(given, Tensor) else torch.from_numpy(np.ascontiguousarray(given))
        if self.layout.startswith("hwc") and tensor.dim() == 4:
            tensor = tensor.permute(0, 3, 1, 2)
            tensor = tensor.flip(1) if self.layout == "hwc_bgr" else tensor
        wanted: torch.dtype = getattr(torch, self.type)
        fits = len(tensor.shape) == len(self.shape) + 1 and all(
            length is None or length == found for length, found in zip(self.shape, tensor.shape[1:], strict=True)
        )
        if not fits:
            what = f"samples of {by(tensor.shape[1:])}, but the run was trained on {self.words}"
            raise DataError(Problem("input", what, f"N×{by(self.shape)}"))
        if tensor.is_floating_point() and not wanted.is_floating_point:
            what = f"samples in {str(tensor.dtype).removeprefix('torch.')}, but the run was trained on {self.words}"
            raise DataError(Problem("input", what, f"samples as they are stored, in {self.type}"))
        self._look(tensor)
        return tensor.to(wanted) if wanted.is_floating_point else tensor

    def table(self, rows: Sequence[Sequence[Any]]) -> tuple[Tensor, dict[int, str]]:
        """Rows with a cell for each column that the run was trained on: see `runner.dataset.dialect.Codes`."""
        if self.codes is None:
            raise DataError(Problem("input", f"is a table, but the run was trained on {self.words}"))
        inputs, wrong = self.codes.read(rows)
        return inputs.to(getattr(torch, self.type)), wrong

    def columns(self, names: Sequence[str], named: bool = True) -> list[int]:
        """Where in the rows of another table the columns are that the run was trained on.

        Args:
            names: of its columns.
            named: whether the table itself names them; else it goes by their position.

        Raises:
            DataError: it lacks some.
        """
        wanted = self.codes.features if self.codes is not None else []
        if self.codes is None:
            raise DataError(Problem("input", f"is a table, but the run was trained on {self.words}"))
        if not named and len(names) == len(wanted):  # without the target
            return list(range(len(names)))
        missing = [name for name in wanted if name not in names]
        if missing:
            word = "column" if len(missing) == 1 else "columns"
            there = f"its columns are {few(names, SHOWN)}" if named else f"its rows have {counted(len(names), 'cell')}"
            what = f"the table has no {word} {few(map(repr, missing), SHOWN)}, which the run was trained on; {there}"
            others = [name for name in names if name not in wanted]
            remedy = nearest(missing[0], others, f"{missing[0]!r} in place of ") if named else ""
            raise DataError(Problem("input", what, self.words, remedy))
        return [list(names).index(name) for name in wanted]

    def pieces(self, given: Any, size: int) -> Iterator[Tensor]:
        """Batches of stored samples of whatever one may hand over: see `runner.trained.run.Run.predict`.

        Raises:
            DataError: it is nothing that the run could have been trained on.
        """
        if size < 1:
            raise ConfigError(Problem("batch_size", f"{size} is not allowed", "a whole number >= 1"))
        if isinstance(given, (str, Path)) or hasattr(given, "getbands"):
            given = [given]
        if hasattr(given, "itertuples"):
            where = self.columns([str(name) for name in given.columns])
            rows = [[row[i] for i in where] for row in given.itertuples(index=False, name=None)]
            inputs, wrong = self.table(rows)
            if wrong:
                raise DataError(Problem("input", f"row {min(wrong)}: {wrong[min(wrong)]}"))
            yield from inputs.split(size)
        elif isinstance(given, (Tensor, np.ndarray)):
            one = given.ndim == len(self.shape)
            yield from self.array(given[None] if one else given).split(size)
        elif isinstance(given, Iterable):
            items = iter(given)
            while some := list(islice(items, size)):
                yield batched([self._one(each) for each in some])
        else:
            what = f"an object of type {type(given).__name__} does not hold samples"
            raise DataError(Problem("input", what, SAMPLES))

    def _one(self, given: Any) -> Tensor:
        """A picture, its path, or a sample."""
        if isinstance(given, (Tensor, np.ndarray)):
            return self.array(given[None])[0]
        if not (isinstance(given, (str, Path)) or hasattr(given, "getbands")):
            raise DataError(Problem("input", f"an object of type {type(given).__name__} is not a sample", SAMPLES))
        try:
            return self.picture(given)
        except UNDECODABLE as error:
            raise DataError(Problem("input", f"{_name(given)} cannot be decoded ({reason_of(error)})")) from error

    def _look(self, tensor: Tensor) -> None:
        """Say so, once, if values are far from what the run was trained on: 0 … 255 in place of 0 … 1."""
        if self._warned or self.span is None or not tensor.numel():
            return
        low, high, margin = *self.span, (self.span[1] - self.span[0]) / 2
        least, most = float(tensor.min()), float(tensor.max())
        if least < low - margin or most > high + margin:
            self._warned = True
            log.warning("inputs range from %g to %g, but those of training from %g to %g", least, most, low, high)


def say_unknown(codes: Codes) -> None:
    """Say which categories a table had not."""
    for feature, count in codes.unknown.items():
        what = "with a category that is not in the training data, treated as missing"
        log.warning("column %s: %s %s", feature, counted(count, "cell"), what)


def batched(samples: Sequence[Tensor]) -> Tensor:
    """(B, ...) of samples of one shape.

    Raises:
        DataError: they are of several.
    """
    other = next((each for each in samples if each.shape != samples[0].shape), None)
    if other is not None:
        what = f"images of {by(samples[0].shape)} and of {by(other.shape)} cannot be in the same batch"
        raise DataError(Problem("input", what, remedy="loader.batch_size=1; in Python run.predict(…, batch_size=1)"))
    return torch.stack(list(samples))


def _name(given: Any) -> str:
    return str(given) if isinstance(given, (str, Path)) else "the input"
