"""What a model says about samples, as lines of a file: CSV, or JSON."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from runner.errors import ConfigError, NotWritten, Problem, RunnerError
from runner.files import refuse, temporary, typed, writing
from runner.result import to_json
from runner.table import no_formula
from runner.terminal import console
from runner.visible import Spelt

Array = NDArray[Any]

Columns = dict[str, Sequence[Any]]


@dataclass(frozen=True)
class Layout:
    """Which columns there are.

    Args:
        task, classes: of the run.
        keys: what tells samples from one another: ``path``, or ``index``, and the columns that are kept.
        width: of regression, values of a sample.
        target: whether what is right is known.
        top_k: how many of the likeliest classes; 0 where the model gives no probabilities.
        probabilities: whether those of all classes are wanted. Where a sample may have several classes they always are.
        fails: whether samples may be unreadable; then there is a column ``error``.
        exact: whether values that are predicted are in float64, and not in float32.
    """

    task: str
    classes: Sequence[str]
    keys: Sequence[str]
    width: int = 1
    target: bool = False
    top_k: int = 1
    probabilities: bool = False
    fails: bool = False
    exact: bool = True

    @property
    def names(self) -> list[str]:
        """Of the columns, in order, but for the probabilities of all classes and the error."""
        several = self.task == "regression" and self.width > 1
        numbers = [f"_{number}" for number in range(self.width)] if several else [""]
        words = [*(["target"] if self.target else []), "prediction"]
        found = [*self.keys, *(f"{word}{number}" for word in words for number in numbers)]
        if self.ranks:
            found.append("probability")
            found += [f"top_{k}{kind}" for k in range(2, self.top_k + 1) for kind in ("", "_probability")]
        return found

    @property
    def ranks(self) -> bool:
        """Whether one of the classes is the likeliest, and it is known how likely."""
        return self.top_k > 0 and self.task in ("classification", "soft")

    @property
    def lists_all(self) -> bool:
        return self.top_k > 0 and self.task != "regression" and (self.probabilities or self.task == "multilabel")

    @property
    def chances(self) -> list[str]:
        """The columns of the probabilities of all classes."""
        return [f"probability_{name}" for name in self.classes] if self.lists_all else []

    def columns(self, values: Array, chances: Array | None, truth: Array | None = None) -> Columns:
        """The cells of some samples, those of the keys left out.

        Args:
            values, chances: see `runner.trained.run.Predictions`.
            truth: what is right, of the form of `values`.
        """
        made: Columns = {} if truth is None else self._named("target", truth)
        made |= self._named("prediction", values)
        if chances is not None and self.ranks:
            order = np.argsort(-chances, axis=1, kind="stable")[:, : self.top_k]
            best = np.take_along_axis(chances, order, 1).T
            made["probability"] = _rounded(best[0])
            for k in range(2, self.top_k + 1):
                made[f"top_{k}"] = [self.classes[c] for c in order[:, k - 1].tolist()]
                made[f"top_{k}_probability"] = _rounded(best[k - 1])
        return made

    def _named(self, word: str, values: Array) -> Columns:
        if self.task == "multilabel":
            rows = values.astype(bool).tolist()
            return {word: [[n for n, on in zip(self.classes, row, strict=True) if on] for row in rows]}
        if self.task != "regression":
            return {word: [self.classes[c] for c in values.tolist()]}
        kind = values.dtype if word == "target" else np.float64 if self.exact else np.float32
        exact = values.astype(kind).reshape(len(values), self.width)
        # As many digits as it takes to tell a number from the next of its type.
        columns = [[float(str(value)) for value in column] for column in exact.T]
        return {word if self.width == 1 else f"{word}_{number}": column for number, column in enumerate(columns)}


class Writer:
    """Writes lines to a file, which is there when it is whole, and not before; or to stdout.

    Args:
        output: ``NAME.csv`` or ``NAME.jsonl``; ``-`` for stdout, as CSV.
        replace: whether an existing file is replaced.
        formulas: whether texts stay as they are that a spreadsheet would take for formulas; see `no_formula`.

    Raises:
        InputError: the file already exists; or, when this is entered, cannot be written.
    """

    def __init__(self, output: str, layout: Layout, replace: bool = False, formulas: bool = False) -> None:
        self.layout = layout
        self.path = None if output == "-" else typed(output)
        self._json = output.endswith(".jsonl")
        self._cell = (lambda value: value) if formulas else no_formula
        self._file = cast(IO[str], Spelt(sys.stdout)) if sys.stdout.isatty() else sys.stdout
        if self.path is not None:
            if not replace:
                check_output(self.path)
            self._part = temporary(self.path)

    def __enter__(self) -> Writer:
        try:
            if self.path is not None:
                self._file = self._open(self.path)
            if not self._json:
                self._csv = csv.writer(self._file, lineterminator="\n")
                names = [*self.layout.names, *self.layout.chances, *(["error"] if self.layout.fails else [])]
                with self._telling():
                    self._csv.writerow(map(self._cell, names))
                    self._file.flush()
        except BaseException:  # also by a signal, of which `with` does not tell __exit__ here
            self._discard()
            raise
        return self

    def _open(self, path: Path) -> IO[str]:
        try:
            with writing(path):
                return self._part.open("x", newline="", encoding="utf-8")
        except NotWritten as error:
            refuse(error, "output", f"'{path}' cannot be written", "a file in a writable folder")

    def _discard(self) -> None:
        if self.path is not None:
            if self._file is not sys.stdout and not isinstance(self._file, Spelt):
                self._file.close()
            with suppress(OSError):
                self._part.unlink(missing_ok=True)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Say it in words if the disk is full."""
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            if self.path is None:  # or Python would try once more at its end
                console.on_broken_pipe()
            self._discard()
            raise RunnerError(f"{self.path or 'stdout'} could not be written: {error.strerror}") from error

    def write(
        self, keys: Mapping[str, Sequence[Any]], values: Array, chances: Array | None, truth: Array | None = None,
        wrong: Mapping[int, str] | None = None,
    ) -> None:  # fmt: skip
        """Write some samples.

        Args:
            keys: what tells them from one another, by column.
            values, chances, truth: of those that could be read; see `Layout.columns`.
            wrong: by position among all of them, why one could not be read.

        Raises:
            RunnerError: the disk is full.
        """
        count, wrong = len(next(iter(keys.values()))), wrong or {}
        columns = self.layout.columns(values, chances, truth)
        every = [_rounded(column) for column in chances.T] if chances is not None and self.layout.lists_all else []
        if wrong:
            good = [row for row in range(count) if row not in wrong]
            columns = {name: _spread(column, good, count) for name, column in columns.items()}
            every = [_spread(column, good, count) for column in every]
        columns = {**keys, **columns}
        with self._telling():
            (self._write_json if self._json else self._write_csv)(columns, every, wrong, count)
            self._file.flush()

    def _write_csv(
        self, columns: Columns, every: Sequence[Sequence[Any]], wrong: Mapping[int, str], count: int
    ) -> None:
        cells = [columns.get(name, [None] * count) for name in self.layout.names]
        if self.layout.lists_all:
            cells += every or [[None] * count] * len(self.layout.classes)
        if self.layout.fails:
            cells.append([wrong.get(row) for row in range(count)])
        if self.layout.task == "multilabel":
            cells = [[";".join(cell) if isinstance(cell, list) else cell for cell in column] for column in cells]
        # Of numbers there are most, and they are as they are.
        texts = [any(isinstance(cell, str) for cell in column) for column in cells]
        cells = [list(map(self._cell, c)) if is_text else c for c, is_text in zip(cells, texts, strict=True)]
        self._csv.writerows(zip(*cells, strict=True))

    def _write_json(
        self, columns: Columns, every: Sequence[Sequence[Any]], wrong: Mapping[int, str], count: int
    ) -> None:
        classes = self.layout.classes
        chances: Iterator[Any] = zip(*every, strict=True) if every else repeat(None, count)
        for number, (cells, row) in enumerate(zip(zip(*columns.values(), strict=True), chances, strict=True)):
            made: dict[str, Any] = dict(zip(columns, cells, strict=True))
            if row is not None and number not in wrong:
                made["probabilities"] = dict(zip(classes, row, strict=True))
            if self.layout.fails:
                made["error"] = wrong.get(number)
            self._file.write(to_json(made) + "\n")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.path is None:
            if kind is None:
                self._file.flush()
            return
        try:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
                os.replace(self._part, self.path)
        except OSError as full:
            raise RunnerError(f"{self.path} could not be written: {full.strerror}") from full
        finally:
            self._discard()


def check_output(path: Path) -> None:
    """Check that nothing is overwritten, also no link: what it leads to may be anything.

    Raises:
        ConfigError: there is something.
    """
    if os.path.lexists(path):
        raise ConfigError(Problem("output", f"'{path}' already exists", "a new file", f"rm {path}, or another name"))
    if not path.parent.is_dir():
        raise ConfigError(Problem("output", f"there is no folder '{path.parent}'", "a file in an existing folder"))


def _rounded(column: Array) -> list[float]:
    return [float(f"{value:.6g}") for value in column.tolist()]


def _spread(column: Sequence[Any], good: Sequence[int], count: int) -> list[Any]:
    """The cells of samples that could be read among those of all."""
    cells: list[Any] = [None] * count
    for row, cell in zip(good, column, strict=True):
        cells[row] = cell
    return cells
