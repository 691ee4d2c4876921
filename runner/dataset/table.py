"""Tables: a CSV or Parquet file, one sample a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from runner.dataset.columns import Name, columns_of, listed, override, pd, say_class, say_codes, say_header, say_index
from runner.dataset.dialect import Dialect, is_number
from runner.dataset.goals import IGNORED, as_tags, class_indices, flags_of, gaps_said, whole, with_words
from runner.dataset.near_numbers import has_zeros, numbers_of
from runner.dataset.table_file import READERS, as_texts, form_of, is_unnamed, line_of, lines_of, read, settled, texts_of
from runner.dataset.tensors import LARGEST, ArrayDataset
from runner.errors import ConfigError, DataError, Problem, counted
from runner.files import typed
from runner.visible import log

MANY = 20
"""Categories that are no id, though nearly each row has one of its own."""

AS_VALUES = "dataset.task=regression loss=mse metric=regression"
"""What has the numbers of a column predicted as values, and not as classes."""


def look_like_values(classes: Sequence[str]) -> bool:
    """Whether the classes of a column are numbers, and more than one would have as classes."""
    return len(classes) > MANY and all(map(is_number, classes))


def table(
    path: str, target: Name | Sequence[Name] = -1, task: Literal["classification", "regression"] = "classification",
    header: bool | Literal["auto"] = "auto", features: Sequence[Name] | None = None, drop: Sequence[Name] = (),
    duplicates: Literal["keep", "drop"] = "keep", missing_target: Literal["error", "drop"] = "error",
    separator: str | None = None, encoding: str | None = None, decimal: str = ".", thousands: str | None = None,
    missing: Sequence[Any] = (), units: Sequence[Any] = (), categories: Sequence[Name] | None = (),
    numbers: Sequence[Name] = (), gap_classes: Sequence[str | float | None] = (), labels_separator: str | None = None,
    ignore_index: float | None = None,
) -> ArrayDataset:  # fmt: skip
    """A table as numbers: columns of numbers as they are (NaN where there is a gap), categories as codes.

    What has to be learnt from the data (the value that fills a gap, the scale, the categories that there are) is not
    done here but by `runner.transform.Table`, on the train part.

    Args:
        path: a file of texts with separators, compressed or not, of JSON lines, of Excel or of Parquet.
        target: the column to predict, by name or by number from 0 (−1 is the last); or several: of values, or for
            classification a 0 or 1 for each of several classes.
        task: ``classification`` (the target's values, in order, are the classes) or ``regression``.
        header: whether a CSV file's first row names the columns; ``auto``: it does unless it holds a number that is no
            year.
        features: the columns to predict from; None for all but the target and `drop`. Columns that are left out of the
            inputs can still decide the split.
        drop: columns to leave out of the inputs.
        duplicates: ``keep``, or ``drop`` for rows that repeat an earlier row in every column.
        missing_target: ``error``, or ``drop`` for rows without a target.
        separator: what is between the cells of a CSV file; None for the most frequent one of its first line.
        encoding: of a file of texts; None for UTF-8, or what its first bytes say.
        decimal, thousands: the character before the fraction of a number, and the one between thousands.
        missing: texts that are a gap, beside those that pandas takes for one.
        units: texts before or after a number that are no part of it, such as $ and %.
        categories: columns of categories, though they hold numbers; None reads all as versions did before there was
            this argument: columns as categories whatever texts they hold, and no codes with leading zeros.
        numbers: columns of numbers, though some have leading zeros.
        gap_classes: words in the column of classes that are classes though they read as gaps, such as ``None``.
        labels_separator: what separates the classes that a cell of the target has several of, such as ``|``.
        ignore_index: the target of rows that do not count, which is no class.

    Raises:
        ConfigError: a column that is not there, or a value that is not allowed.
        DataError: the file is missing or cannot be read, numbers have a decimal comma or are infinite or too large, or
            a row has no target.
    """
    dialect = Dialect.of(locals())
    frame = read(typed(path), dialect)
    dialect = settled(typed(path), dialect)
    if not listed(target):
        raise ConfigError(Problem("dataset.target", "[] names no column", "a column, or several"))
    goals = columns_of(frame, target, "dataset.target")
    if labels_separator is not None and (task == "regression" or len(goals) > 1 or not labels_separator):
        what = f"{labels_separator!r}: is for a single column, in which each cell has some of several classes"
        raise ConfigError(Problem("dataset.labels_separator", what, "null, or a text of at least one character"))
    has_tags = labels_separator is not None
    left_out = {*goals, *columns_of(frame, drop, "dataset.drop")}
    wanted = frame.columns if features is None else columns_of(frame, features, "dataset.features")
    names = [name for name in wanted if name not in left_out]
    if not names:
        between = next((sign for sign in ":^~#/" if len(frame.columns) == 1 and sign in str(frame.columns[0])), "")
        allowed, remedy = ", ".join(map(str, frame.columns)), override("dataset.separator", between) if between else ""
        raise ConfigError(Problem("dataset.features", "no column is left as an input", allowed, remedy))
    if categories is not None:
        flags = goals if task == "regression" or len(goals) > 1 else []
        _read_anew(frame, typed(path), dialect, names, flags, categories, numbers)
    if duplicates == "drop":
        frame = frame.drop_duplicates().copy()  # with the numbers of the rows that stay
    if categories is not None:
        values = [name for name in goals if not has_tags and (task == "regression" or _are_many(frame[name]))]
        lines = partial(lines_of, typed(path), dialect)
        texts = [*columns_of(frame, categories, "dataset.categories")]
        numbers_of(frame, [*names, *values], goals, texts, dialect, lines)
        if not values and len(goals) == 1:
            say_class(frame[goals[0]], dialect.missing)
        if header == "auto" and is_unnamed(frame):
            say_header(frame)
        say_index(frame, names, drop)
    frame, words = _with_words(frame, goals, task, gap_classes, partial(texts_of, typed(path), dialect))
    line = partial(line_of, typed(path), dialect)
    frame = _with_targets(frame, goals, missing_target, line, words)
    rows, frame = frame.index, frame.reset_index(drop=True)
    codes, named = zip(*(_codes(frame[name]) for name in names), strict=True)
    values = [name for name in goals if not has_tags and (task == "regression" or _are_many(frame[name]))]
    where = partial(_place, rows, line)
    for name, held, texts in zip(names, codes, named, strict=True):
        if texts is None:
            remedy = override("dataset.drop", [*drop, name]) if len(names) > 1 else ""
            _check_size(frame[name], held, where, remedy)
    for name in values:
        if _is_numeric(frame[name]):
            _check_size(frame[name], frame[name].to_numpy(np.float64), where)
    if labels_separator is not None:
        targets, classes = flags_of(frame[goals[0]], labels_separator, ignore_index)
    elif len(goals) == 1:
        targets, classes = _targets(frame[goals[0]], task, ignore_index)
    else:
        targets, classes = _several(frame[goals], task, ignore_index)
    _say_ids(len(frame), {n: len(c) for n, c in zip(names, named, strict=True) if c is not None}, drop)
    # In float64 until they are scaled: a time in milliseconds has more digits than a float32.
    inputs = torch.from_numpy(np.stack(codes, 1))  # (N, F)
    columns = {str(name): frame[name].to_numpy() for name in frame.columns}
    made = ArrayDataset(
        inputs, targets, classes, columns=columns, features=list(map(str, names)), categories=named,
        goals=list(map(str, goals)),
    )  # fmt: skip
    made.was_float32 = True
    made.ignore_index = None if ignore_index is None or task == "regression" else IGNORED
    return made


def _read_anew(
    frame: pd.DataFrame, path: Path, dialect: Dialect, names: Sequence[Any], values: Sequence[Any],
    categories: Sequence[Name], numbers: Sequence[Name],
) -> None:  # fmt: skip
    """Columns that pandas read as numbers, and that are none, as they are written: it drops leading zeros."""
    forced = columns_of(frame, categories, "dataset.categories")
    exempt = {*forced, *values, *columns_of(frame, numbers, "dataset.numbers")}
    is_typed = form_of(path) in READERS  # and codes are texts
    may_be = [name for name in frame.columns if not is_typed and name not in exempt and _are_whole(frame[name])]
    if may_be:
        head = as_texts(path, dialect, frame, may_be, 1000)
        may_be = [name for name in may_be if not _are_plain(head[name], frame[name])]
    again = [name for name in forced if _is_numeric(frame[name])]
    if not may_be and not again:
        return
    texts = as_texts(path, dialect, frame, {*may_be, *again})
    zeros = {name: found[0] for name in may_be if (found := [c for c in texts[name].dropna() if has_zeros(c)])}
    for name in (*again, *zeros):
        frame[name] = texts[name]
    say_codes({name: cell for name, cell in zeros.items() if name in names}, numbers)


def _are_plain(head: pd.Series[Any], column: pd.Series[Any]) -> bool:
    """Return whether whole numbers are no codes: where such are filled up with zeros to one width, the first cells
    show it, unless all of those are large.

    Args:
        head: the first cells, as they are written.
    """
    texts, width = head.dropna(), len(str(int(column.max())))
    if texts.map(has_zeros).any():
        return False
    return bool((texts.str.len() < width).any()) or len(str(int(column.min()))) == width


def _are_whole(column: pd.Series[Any]) -> bool:
    """Return whether numbers may have been codes: none has a fraction, and none is below 0."""
    if pd.api.types.is_integer_dtype(column):
        return bool(column.min() >= 0)
    if not pd.api.types.is_float_dtype(column):
        return False
    if not (column.iloc[:1000].dropna() % 1 == 0).all():
        return False
    known = column.dropna()
    return bool(len(known) and (known % 1 == 0).all() and (known >= 0).all())


def _with_words(
    frame: pd.DataFrame, goals: Sequence[Any], task: str, kept: Sequence[Any], texts: Callable[[int], Any]
) -> tuple[pd.DataFrame, str]:
    """A table in which some words are classes though they read as gaps; and what is said of the others."""
    if task != "classification" or len(goals) > 1:
        if kept:
            what = f"{', '.join(map(str, kept))}: is for a single column of classes"
            raise ConfigError(Problem("dataset.gap_classes", what, "[]"))
        return frame, ""
    goal = goals[0]
    column, words = with_words(frame[goal], kept, partial(texts, list(frame.columns).index(goal)))
    if kept:
        frame = frame.copy()
        frame[goal] = column
    return frame, gaps_said(words, kept)


def _with_targets(
    frame: pd.DataFrame, goals: Sequence[Any], missing: str, line: Callable[[int], str], words: str
) -> pd.DataFrame:
    """The rows of a table that have a target in every column of `goals`."""
    gaps = frame[list(goals)].isna().any(axis=1)
    count = int(gaps.sum())
    if count == 0:
        return frame
    what = f"{counted(count, 'row')} {'has' if count == 1 else 'have'} no target"
    said, _, remedy = words.partition("\n")
    if missing != "drop":
        row = frame.index[int(gaps.to_numpy().argmax())]
        what += f"; the first is row {row} (counted from 0){line(row)}"
        what += f"; {said}" if said else ""
        drop = "dataset.missing_target=drop"
        remedy = f"{remedy}, to keep this as a class, or {drop}, to leave out such rows" if remedy else drop
        raise DataError(Problem("dataset.target", what, "a target in every row", remedy))
    if count == len(frame):
        raise DataError(Problem("dataset.target", f"none of {counted(count, 'row')} has a target", "another column"))
    log.info("dataset.missing_target=drop: %s, and %s", what, f"{len(frame) - count:,} are left")
    if said and not all(_is_numeric(frame[name]) for name in goals):  # among numbers, none of them is a class
        log.warning("column %r: %s\n  try: %s, to keep this as a class", goals[0], said, remedy)
    kept = frame[~gaps].copy()
    for name in goals:
        kept[name] = whole(kept[name])
    return kept


def _place(rows: pd.Index[Any], line: Callable[[int], str], position: int) -> str:
    """Say where in its file a row is that is left."""
    return f"row {rows[position]} (counted from 0){line(rows[position])}"


def _check_size(
    column: pd.Series[Any], values: np.ndarray[Any, Any], where: Callable[[int], str], remedy: str = ""
) -> None:
    """Check that no number is infinite or too large, and say so if whole numbers are too large to be told apart."""
    bad = np.abs(values) > LARGEST
    if bad.any():
        first, others = int(bad.argmax()), int(bad.sum()) - 1
        what = f"column {column.name!r} holds {values[first]:g}, which is too large a number; {where(first)}"
        what += f", and {others:,} more" if others else ""
        raise DataError(Problem("dataset.path", what, f"numbers up to {LARGEST:.2g}, or empty cells", remedy))
    is_whole = column.dtype.kind in "iu"
    if is_whole and np.abs(values).max(initial=0) > 2**53 and (left := len(np.unique(values))) < column.nunique():
        what = f"column %r has {column.nunique():,} different whole numbers, of which float64 tells {left:,} apart"
        log.warning(f"{what}\n  try: {remedy}" if remedy else what, column.name)


def _say_ids(rows: int, counts: dict[Any, int], drop: Sequence[Name]) -> None:
    """Say which columns of texts nearly name the rows."""
    found = {name: count for name, count in counts.items() if count > max(MANY, rows / 2)}
    if found:
        said = [f"column {name!r} has {count:,}" for name, count in found.items()]
        said[0] += f" different values in {rows:,} rows"
        remedy = override("dataset.drop", [*drop, *found])
        log.warning("%s; each of these values becomes a one-hot input\n  try: %s", ", ".join(said), remedy)


def _targets(column: pd.Series[Any], task: str, ignore: float | None = None) -> tuple[torch.Tensor, list[str]]:
    if task == "classification":
        targets, classes = class_indices(column, ignore)
        said, tags = ("", "") if _is_numeric(column) else as_tags(column.name, classes)
        if len(classes) > _most_classes(column):
            what = f"column {column.name!r} has {len(classes):,} different values in {len(column):,} rows"
            what = said or what
            remedy = AS_VALUES if _is_numeric(column) else tags
            raise ConfigError(Problem("dataset.task", what, "a column with few distinct values, the classes", remedy))
        if tags:
            log.warning("%s; each of these texts becomes a class of its own\n  try: %s", said, tags)
        return targets, classes
    if not _is_numeric(column):
        repeats = column.nunique() <= _most_classes(column)
        remedy = "dataset.task=classification loss=cross_entropy metric=classification" if repeats else ""
        raise ConfigError(Problem("dataset.task", _no_number(column), "numbers, for regression", remedy))
    return torch.from_numpy(column.to_numpy(np.float64, copy=True)), []


def _is_numeric(column: pd.Series[Any]) -> bool:
    return pd.api.types.is_numeric_dtype(column)


def _are_many(column: pd.Series[Any]) -> bool:
    """Return whether a column has too many different values for classes."""
    return column.nunique() > _most_classes(column)


def _most_classes(column: pd.Series[Any]) -> int:
    return max(100, len(column) // 2)


def _no_number(column: pd.Series[Any]) -> str:
    """What is said of a column of texts: the first that is no number."""
    bad = pd.to_numeric(column, errors="coerce").isna().to_numpy()
    return f"column {column.name!r} holds {column.iloc[int(bad.argmax())]!r}, which is not a number"


def _several(columns: pd.DataFrame, task: str, ignore: float | None) -> tuple[torch.Tensor, list[str]]:
    """(N, K) targets: values, or flags of the classes that the columns are named after; `IGNORED` in place of `ignore`
    among flags."""
    texts = [name for name in columns if not _is_numeric(columns[name])]
    if texts:
        allowed = "numbers" if task == "regression" else "one column of classes, or several columns of 0 and 1"
        raise ConfigError(Problem("dataset.target", _no_number(columns[texts[0]]), allowed))
    each = [_targets(columns[name], "regression")[0] for name in columns]
    targets = torch.stack(each, 1)
    if task == "regression":
        return targets, []
    ignored = torch.zeros_like(targets, dtype=torch.bool) if ignore is None else targets == ignore
    bad = ((targets != 0) & (targets != 1) & ~ignored).any(0)
    if bad.any():
        name = columns.columns[int(bad.nonzero()[0, 0])]
        what = f"column {name!r} holds values other than 0 and 1"
        raise ConfigError(Problem("dataset.target", what, "one column of classes, or several columns of 0 and 1"))
    return targets.long().masked_fill(ignored, IGNORED), [str(name) for name in columns.columns]


def _codes(column: pd.Series[Any]) -> tuple[np.ndarray[Any, Any], list[str] | None]:
    """A column as floats: numbers as they are, or the code of each category; NaN for a gap."""
    if _is_numeric(column) and not pd.api.types.is_bool_dtype(column):
        return column.to_numpy(np.float64, na_value=np.nan), None
    codes, names = pd.factorize(column.astype("string"), sort=True)
    return np.where(codes < 0, np.nan, codes), [str(name) for name in names]
