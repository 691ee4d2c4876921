"""What is to be predicted: pictures, tables, arrays, or a part of the data of a run, piece by piece.

A piece is read while the one before it is predicted, and none is kept: 100,000 files need no more memory than 100.
"""

from __future__ import annotations

import csv
import os
import re
import sys
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from gzip import BadGzipFile
from io import TextIOWrapper
from itertools import chain, islice
from lzma import LZMAError
from pathlib import Path
from typing import IO, Any, TypeVar
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from runner.dataset import image_files
from runner.dataset.decoding import AS_EARLIER
from runner.dataset.dialect import BLANKS, Dialect
from runner.dataset.table_file import COMPRESSED, READERS, encoding_of, first_two, form_of, unique, unpacked
from runner.dataset.table_file import read as read_table
from runner.device import cores
from runner.errors import ConfigError, DataError, Problem, for_shell, nearest, reason_of
from runner.files import typed
from runner.part_names import PARTS
from runner.trained.opened import Opened
from runner.trained.reading import batched
from runner.trained.run import Run
from runner.visible import log

ALLOWED = "an image, a folder of images, a .csv, .parquet or .npy file, train, val, test, -"
TABLES = (".csv", ".tsv", ".txt", ".data", *READERS)

T = TypeVar("T")


@dataclass
class Piece:
    """Some of the samples. B is their number.

    Args:
        keys: what tells them from one another, by column: (B,) each.
        samples: for each run, (b, ...) those that could be read.
        wrong: by position, why one could not be read.
        truth: (B, ...) what is right, if that is known.
        prepared: whether the transforms have been applied: the loader of a part does that.
    """

    keys: Mapping[str, Sequence[Any]]
    samples: list[Tensor]
    wrong: dict[int, str] = field(default_factory=dict)
    truth: np.ndarray[Any, Any] | None = None
    prepared: bool = False


def pieces(given: str, opened: Sequence[Opened], runs: Sequence[Run], keep: Sequence[str] = ()) -> Iterator[Piece]:
    """The samples that ``input=`` names.

    Args:
        keep: columns of a table that become keys, too.

    Raises:
        InputError: there are none, or they are not such as the runs were trained on.
    """
    size = opened[0].cfg.loader.eval_batch_size or opened[0].cfg.loader.batch_size
    tables = runs[0].reader.codes is not None
    if keep and (given in PARTS or not tables):
        other = f"input={given} is a part of the data" if tables else f"the run was trained on {runs[0].reader.words}"
        what = f"{list(keep)} are columns of a table, but {other}"
        raise ConfigError(Problem("keep", what, "[], or columns of a .csv or .parquet file"))
    if given in PARTS:
        return _of_part(given, opened, runs)
    if given == "-":
        if tables:
            return _of_text(_stdin(_dialect(runs).encoding), "stdin", runs, size, keep)
        return _of_files(_lines(_stdin()), runs, size)
    path = typed(given)
    if not path.exists():
        remedy = nearest(path.name, (p.name for p in path.parent.glob("*")), "input=" + given.removesuffix(path.name))
        raise ConfigError(Problem("input", f"there is no file or folder {given!r}", ALLOWED, remedy))
    if not os.access(path, os.R_OK):
        raise ConfigError(Problem("input", f"{given!r} cannot be read (permission denied)", "a readable file"))
    if path.is_dir():
        if tables:
            what = f"{given!r} is a folder, but the run was trained on a table"
            raise ConfigError(Problem("input", what, "a .csv or .parquet file"))
        return _of_files(_inside(path), runs, size)
    if not path.is_file():
        raise ConfigError(Problem("input", f"{given!r} is not a regular file", ALLOWED))
    if path.suffix.lower() == ".npy":
        return _of_array(path, runs, size)
    if form_of(path) == ".parquet":
        return _of_parquet(path, runs, size, keep)
    if form_of(path) in READERS:
        return _of_objects(path, runs, size, keep)
    if form_of(path) in TABLES or path.suffix.lower() in COMPRESSED or tables:
        return _of_csv(path, runs, size, keep)
    return _of_files(iter([str(path)]), runs, size)


def _dialect(runs: Sequence[Run]) -> Dialect:
    """Return how the cells of a table are written that the runs were trained on."""
    codes = runs[0].reader.codes
    return Dialect() if codes is None else codes.dialect


def _stdin(encoding: str | None = None) -> IO[str]:
    """Bytes that are none of the encoding become surrogates, which are told in the row that they are in."""
    if sys.stdin is None or sys.stdin.closed:
        raise ConfigError(Problem("input", "- is stdin, which is closed", ALLOWED))
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(encoding=encoding or "utf-8", errors="surrogateescape")
    return sys.stdin


def _lines(stream: Iterable[str]) -> Iterator[str]:
    """Paths, one a line."""
    return (line.rstrip("\r\n") for line in stream if line.strip())


def _inside(folder: Path) -> Iterator[str]:
    """The pictures in a folder and the folders in it, by name."""
    found = image_files.find(folder, "input")
    if not found.paths:
        allowed = f"files in {', '.join(image_files.suffixes())}"
        left_out = f" (left out: {image_files.words(found.left_out)})" if found.left_out else ""
        raise DataError(Problem("input", f"there are no images in '{folder}'{left_out}", allowed))
    image_files.say_left_out(found.left_out)
    return iter(found.paths)


def _of_files(paths: Iterator[str], runs: Sequence[Run], size: int) -> Iterator[Piece]:
    """Pictures, decoded by as many threads as there are cores."""
    pool, first = ThreadPoolExecutor(len(cores())), True
    if any(run.reader.reading == 1 for run in runs):
        log.info("%s", AS_EARLIER)
    try:

        def begin(paths: list[str]) -> tuple[list[str], list[list[Future[Tensor]]]]:
            return paths, [[pool.submit(run.reader.picture, path) for path in paths] for run in runs]

        for chunk, futures in _ahead(map(begin, _batched(paths, size))):
            read: list[list[Tensor | Exception]] = [list(map(_outcome, each)) for each in futures]
            misfits = [found for row in read for found in row if isinstance(found, DataError)]
            wrong = {i: _said(found) for row in read for i, found in enumerate(row) if isinstance(found, Exception)}
            if first and len(wrong) == len(chunk) and misfits:
                raise misfits[0]  # not a broken file among others: nothing here is what the run was trained on
            first = False
            yield Piece({"path": chunk}, _readable(read, wrong), wrong)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # whoever stops does not wait for a disk that does not answer
    if first:
        raise DataError(Problem("input", "stdin is empty", "one path per line"))


def _readable(read: list[list[Tensor | Exception]], wrong: dict[int, str]) -> list[Tensor]:
    """For each run, what could be read; a picture of another size than the first is wrong, too."""
    shape = next((f.shape for i, f in enumerate(read[0]) if isinstance(f, Tensor) and i not in wrong), None)
    for i, found in enumerate(read[0]):
        if isinstance(found, Tensor) and i not in wrong and found.shape != shape:
            wrong[i] = f"has shape {tuple(found.shape)}, but others have shape {tuple(shape or ())}"
    good = [[f for i, f in enumerate(row) if isinstance(f, Tensor) and i not in wrong] for row in read]
    return [batched(row) for row in good] if good[0] else []


def _outcome(future: Future[Tensor]) -> Tensor | Exception:
    try:
        return future.result()
    except Exception as error:  # whatever a damaged file makes of PIL, or a transform of the user's of a picture
        return error


def _said(error: Exception) -> str:
    return error.problems[0].what if isinstance(error, DataError) else f"cannot be decoded ({reason_of(error)})"


def _of_csv(path: Path, runs: Sequence[Run], size: int, keep: Sequence[str]) -> Iterator[Piece]:
    try:
        encoding = encoding_of(path, _dialect(runs))
    except DataError as error:
        reason, allowed = error.problems[0].what.partition(" as a table: ")[2], error.problems[0].allowed
        raise DataError(Problem("input", f"{str(path)!r} is not a CSV table ({reason})", allowed)) from error
    except (ValueError, ImportError, *DAMAGED) as error:
        raise DataError(Problem("input", f"'{path}' cannot be read as a table: {reason_of(error)}")) from error
    try:
        with unpacked(path) as file, TextIOWrapper(file, encoding, "surrogateescape", newline="") as lines:
            yield from _of_text(lines, repr(str(path)), runs, size, keep)
    except DAMAGED as error:
        raise DataError(Problem("input", f"'{path}' cannot be read to its end: {reason_of(error)}")) from error


DAMAGED = (EOFError, BadGzipFile, BadZipFile, LZMAError, zlib.error)
"""Errors that are raised of a compressed file that is none, or not whole."""


def _of_objects(path: Path, runs: Sequence[Run], size: int, keep: Sequence[str]) -> Iterator[Piece]:
    """The rows of a file that is no text with separators, which is read as a whole."""
    try:
        frame = read_table(path, _dialect(runs))
    except DataError as error:
        raise DataError(*(replace(problem, key="input", remedy="") for problem in error.problems)) from error
    rows = (list(row) for row in frame.itertuples(index=False, name=None))
    named = isinstance(frame.columns[0], str)
    return _of_rows(rows, [str(name) for name in frame.columns], runs, size, keep, named)


def _of_text(stream: IO[str], name: str, runs: Sequence[Run], size: int, keep: Sequence[str]) -> Iterator[Piece]:
    """The rows of a CSV file, which has a name in messages."""
    dialect = _dialect(runs)
    try:
        head = first_two(stream)
        head[0] = head[0].removeprefix("\ufeff")
        separator, named = dialect.first_lines(head)
        codes = runs[0].reader.codes
        if separator == BLANKS and dialect.separator is None and codes and head[0].strip() in codes.features:
            separator = ","  # a single column, of a name with blanks
        rows = dialect.rows(chain(head, stream), separator)
        columns = next(rows)
    except (StopIteration, csv.Error) as error:
        reason = reason_of(error) if str(error) else "it is empty"
        raise DataError(Problem("input", f"{name} is not a CSV table ({reason})")) from error
    if BROKEN.search("".join(columns)):
        raise DataError(Problem("input", f"{name} is not a CSV table (its first line is not {_text(dialect)})"))
    names = unique(columns) if named else [str(number) for number in range(len(columns))]
    return _of_rows(_rows(rows if named else chain([columns], rows), dialect), names, runs, size, keep, named)


def _text(dialect: Dialect) -> str:
    return f"{dialect.encoding or 'UTF-8'} text"


BROKEN = re.compile("[\ud800-\udfff]")
"""What stands for bytes that are not UTF-8."""


def _places(keep: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """Where the columns are that are kept."""
    missing = [name for name in keep if name not in names]
    if missing:
        close = nearest(missing[0], names)
        remedy = for_shell(f"keep=[{close}]") if close else ""
        raise ConfigError(Problem("keep", f"the table has no column {missing[0]!r}", ", ".join(names), remedy))
    return {name: names.index(name) for name in keep}


def _rows(reader: Iterator[list[str]], dialect: Dialect) -> Iterator[list[str] | str]:
    """Rows; of one that cannot be read, what is wrong with it."""
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"cannot be read ({reason_of(error)})"
            continue
        if len(row) <= 1 and not "".join(row).strip():
            continue  # pandas leaves out blank lines, too
        yield f"contains bytes that are not {_text(dialect)}" if BROKEN.search("".join(row)) else row


def _of_parquet(path: Path, runs: Sequence[Run], size: int, keep: Sequence[str]) -> Iterator[Piece]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise DataError(Problem("input", "Parquet files need pyarrow", remedy="uv pip install pyarrow")) from error
    try:
        file = parquet.ParquetFile(path)
    except (ArrowInvalid, OSError) as error:
        raise DataError(Problem("input", f"'{path}' cannot be read as a table: {reason_of(error)}")) from error
    rows = (list(row) for batch in file.iter_batches(size) for row in zip(*batch.to_pydict().values(), strict=True))
    return _of_rows(rows, [str(name) for name in file.schema_arrow.names], runs, size, keep)


def _of_rows(
    rows: Iterator[list[Any] | str], names: Sequence[str], runs: Sequence[Run], size: int, keep: Sequence[str],
    named: bool = True,
) -> Iterator[Piece]:  # fmt: skip
    """Rows of a table with columns of some names, its own or numbers; some rows may be wrong."""
    where, width, position = [run.reader.columns(names, named) for run in runs], len(names), 0
    places = _places(keep, names)
    for chunk in _batched(rows, size):
        wrong = {i: row for i, row in enumerate(chunk) if isinstance(row, str)}
        wrong |= {
            i: f"has {len(row)} cells, but the table has {width} columns"
            for i, row in enumerate(chunk)
            if i not in wrong and len(row) != width
        }
        whole = [None if i in wrong else row for i, row in enumerate(chunk)]
        stored = []
        for run, columns in zip(runs, where, strict=True):
            blank: list[Any] = [None] * len(columns)
            cells = [blank if row is None else [row[c] for c in columns] for row in whole]
            read, unreadable = run.reader.table(cells)
            wrong |= unreadable
            stored.append(read)
        good = [i for i in range(len(chunk)) if i not in wrong]
        keys: dict[str, Sequence[Any]] = {"index": range(position, position + len(chunk))}
        keys |= {name: [None if row is None else _written(row[c]) for row in whole] for name, c in places.items()}
        yield Piece(keys, [each[good] for each in stored] if good else [], wrong)
        position += len(chunk)
    if position == 0:
        raise DataError(Problem("input", "the table has no rows", "at least 1"))


def _written(cell: Any) -> Any:
    """A cell as JSON can have it: a date of a Parquet file becomes text."""
    return cell if cell is None or isinstance(cell, (str, int, float)) else str(cell)


def _of_array(path: Path, runs: Sequence[Run], size: int) -> Iterator[Piece]:
    """Samples of an ``.npy`` file, read as they are needed."""
    try:
        held = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(Problem("input", f"'{path}' cannot be read as an array: {reason_of(error)}")) from error
    if held.ndim == 0 or len(held) == 0:
        raise DataError(Problem("input", f"'{path}' holds no samples", "an array with at least 1"))
    for first in range(0, len(held), size):
        rows = range(first, min(first + size, len(held)))
        yield Piece({"index": rows}, [run.reader.array(np.array(held[first : first + size])) for run in runs])


def _of_part(name: str, opened: Sequence[Opened], runs: Sequence[Run]) -> Iterator[Piece]:
    """A part of the data of the runs, which is the same one in all of them."""
    from runner.trained.part import part_of  # scikit-learn comes with it

    parts = [part_of(each, run, name) for each, run in zip(opened, runs, strict=True)]
    targets = [part.samples.targets[part.indices] for part in parts]
    for each, part, target in zip(opened, parts, targets, strict=True):
        if not (torch.equal(part.indices, parts[0].indices) and torch.equal(target, targets[0])):
            what = f"the {name} parts of {opened[0].folder} and {each.folder} are not the same samples"
            made = each.folder.parent / "out_of_fold.csv"
            remedy = f"{made}, which has the prediction of every held-out sample"
            remedy = remedy if name == "test" and made.is_file() else ""
            raise DataError(Problem("input", what, "runs with the same data and split, or files", remedy))
    paths = parts[0].samples.held("path")
    soft = runs[0].task == "soft"
    for batches in zip(*(part.loader.epoch() for part in parts), strict=True):
        index, target = batches[0].index.tolist(), batches[0].target
        keys: dict[str, Sequence[Any]] = {"index": index}
        if paths is not None:
            keys["path"] = [str(paths[i]) for i in index]
        truth = (target.argmax(1) if soft else target).cpu().numpy()
        yield Piece(keys, [batch.input for batch in batches], truth=truth, prepared=True)


def _batched(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while chunk := list(islice(items, size)):
        yield chunk


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same, with the next one begun before this one is handed over."""
    waiting = deque(islice(items, 1))
    while waiting:
        waiting.extend(islice(items, 1))
        yield waiting.popleft()
