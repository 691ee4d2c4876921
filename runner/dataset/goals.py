"""The columns of a table that are to be predicted: words that read as gaps, tags, and targets that do not count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from runner.dataset.columns import override, pd
from runner.errors import counted, few, for_shell
from runner.visible import log

IGNORED = -100
"""Stands for a target that does not count, among class indices and flags, as in torch. The number in the file may be
the index of a class, too."""

SEPARATORS = ("|", ";", ",", " ")
"""Separators of tags, the surest first."""


def whole(column: pd.Series[Any]) -> pd.Series[Any]:
    """Whole numbers as such: where there was a gap pandas has read floats, and a class 1 would be named 1.0."""
    is_whole = pd.api.types.is_float_dtype(column) and bool(((column % 1 == 0) & (column.abs() < 2**53)).all())
    return column.astype("int64") if is_whole else column


def with_words(
    column: pd.Series[Any], kept: Sequence[Any], texts: Callable[[], pd.Series[Any] | None]
) -> tuple[pd.Series[Any], Counter[str]]:
    """A column of classes in which some words that read as gaps are classes, and how often each other word is a gap.

    Args:
        kept: these words, in small or capital letters.
        texts: gives the column as it is written in its file; None of a file that says itself which cells are empty.
    """
    gaps = column.isna()
    written = texts() if gaps.any() else None
    there = None if written is None else written.loc[column.index[gaps]].str.strip()
    wanted = {_named(word).strip().casefold(): _named(word) for word in kept}
    found = set() if there is None else set(there.str.casefold())
    if unused := [shown for word, shown in wanted.items() if word not in found]:
        log.warning("dataset.gap_classes: no gap of column %r is written as %s", column.name, few(map(repr, unused)))
    if there is None:
        return column, Counter()
    keeps = there.str.casefold().isin(list(wanted))
    if keeps.any():
        column = whole(column[~gaps]).astype(str).astype(object).reindex(column.index)
        column[there.index[keeps]] = there[keeps]
    return column, Counter(word for word in there[~keeps] if word)


def gaps_said(words: Counter[str], kept: Sequence[Any]) -> str:
    """Say which words were read as gaps, how often, and in a second line what makes classes of them; empty if none.

    Args:
        kept: words that are classes already.
    """
    if not words:
        return ""
    said = few(f"{word!r} was read as a gap in {counted(count, 'row')}" for word, count in words.most_common())
    return f"{said}\n{override('dataset.gap_classes', [*map(_named, kept), *words])}"


def _named(word: Any) -> str:
    """A word as it was typed: None and NaN are what YAML makes of ``null`` and ``nan``."""
    return "null" if word is None else str(word)


def class_indices(column: pd.Series[Any], ignore: float | None) -> tuple[torch.Tensor, list[str]]:
    """(N,) the class of each row and the names of the classes, in order; `IGNORED` where the column holds `ignore`."""
    codes, classes = pd.factorize(column, sort=True)
    numbers = np.arange(len(classes))
    if ignore is not None and not pd.api.types.is_bool_dtype(column):
        counts = np.asarray(pd.to_numeric(pd.Series(classes), errors="coerce") != ignore)
        numbers, classes = np.where(counts, np.cumsum(counts) - 1, IGNORED), classes[counts]
    return torch.from_numpy(numbers[codes].astype(np.int64)), [str(name) for name in classes]


def flags_of(column: pd.Series[Any], separator: str, ignore: float | None) -> tuple[torch.Tensor, list[str]]:
    """(N, K) which tags each row has, and the tags, in order; `IGNORED` where the column holds `ignore`."""
    codes, names = class_indices(whole(column), ignore)
    each = [split(name, separator) for name in names]
    found = sorted({tag for row in each for tag in row})
    flags = np.array([[tag in row for tag in found] for row in each] + [[IGNORED] * len(found)], dtype=np.int64)
    return torch.from_numpy(flags[codes.clamp(min=-1).numpy()]), found


def split(text: str, separator: str) -> set[str]:
    """The tags in a text, without blanks around them."""
    parts = text.split() if separator.isspace() else text.split(separator)
    return {part.strip() for part in parts if part.strip()}


def as_tags(name: object, texts: Sequence[str]) -> tuple[str, str]:
    """Return what to say of a column whose classes are in truth several tags each, and what to type; empty if they
    do not look so.

    Few tags make up many texts, of one tag and of several. Blanks are in names, too, so more is asked of them.
    """
    for separator in SEPARATORS:
        each = [split(text, separator) for text in texts]
        found = {tag for row in each for tag in row}
        fewer = len(found) * (2 if separator == " " else 1) < len(texts)
        if fewer and len(set(map(len, each))) > 1:
            said = f"column {name!r} has {len(texts):,} different texts, made of {counted(len(found), 'tag')}: "
            typed = for_shell(f"dataset.labels_separator='{separator}'")
            return said + few(sorted(found)), f"{typed} loss=bce metric=multilabel split=random"
    return "", ""
