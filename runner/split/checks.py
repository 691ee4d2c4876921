"""Whether a split is one, and what of the data it leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from runner.errors import ConfigError, DataError, Problem, few
from runner.part_names import PARTS
from runner.split.split import Split, Subject
from runner.visible import log


def check(split: Split, subject: Subject) -> None:
    """That a split is one: no part is empty, none overlaps another, and every index is one of a sample.

    Raises:
        InputError: it is not.
    """
    if not isinstance(split, Split):
        raise ConfigError(Problem("split", f"its function returns a {type(split).__name__}", "a runner.split.Split"))
    for name, rows in split.parts.items():
        if not isinstance(rows, np.ndarray) or rows.ndim != 1 or (len(rows) and rows.dtype != np.int64):
            what = f"the {name} part is of type {getattr(rows, 'dtype', type(rows).__name__)}"
            raise ConfigError(Problem("split", what, "an array of int64 indices"))
    empty = [name for name in PARTS if len(split.parts.get(name, ())) == 0]
    if empty:
        sizes = ", ".join(f"{name} {len(split.parts.get(name, ())):,}" for name in PARTS)
        raise DataError(Problem("split", f"the {empty[0]} part is empty ({sizes})", "at least 1 sample in each part"))
    carved = [split.parts[name] for name in PARTS if name not in split.official]
    together = np.concatenate(carved)
    if len(np.unique(together)) < len(together):
        twice = len(together) - len(np.unique(together))
        what = f"{twice:,} samples are in several parts, or several times in one part"
        raise DataError(Problem("split", what, "every sample in at most one part"))
    limits = {name: subject.official.get(name, 0) if name in split.official else len(subject.targets) for name in PARTS}
    beyond = [name for name in PARTS if split.parts[name].min() < 0 or split.parts[name].max() >= limits[name]]
    if beyond:
        rows = split.parts[beyond[0]]
        index = rows.min() if rows.min() < 0 else rows.max()
        what = f"the {beyond[0]} part has index {index}, but there are {limits[beyond[0]]:,} samples"
        raise DataError(Problem("split", what, "indices of samples, counted from 0"))
    for name in subject.official:
        if name not in split.official:
            what = "the data set's own %s part (%s samples) is not used: the split (%s) makes its own"
            log.warning(what, name, f"{subject.official[name]:,}", split.method)


def check_classes(
    counts: Mapping[str, Mapping[str, int]], as_values: str = "", for_rare: str = "", official: Sequence[str] = ()
) -> None:
    """That every class of val and test is in train, too. Classes of train that are not in both are named.

    Args:
        counts: for each part, how many samples each class has.
        as_values: see `Subject`.
        for_rare: what to type to have samples stay in train whose classes have none there; empty if nothing does that.
        official: the parts that came with the data, out of which nothing is taken.
    """
    without = {
        name: (counts["val"][name], counts["test"][name])
        for name, count in counts["train"].items()
        if count == 0 and (counts["val"][name] or counts["test"][name])
    }
    if without:
        (first, (val, test)), *others = without.items()
        what = f"class {first!r} has no train sample ({val:,} in val, {test:,} in test)"
        what += f", nor {'has' if len(others) == 1 else 'have'} {few(repr(n) for n, _ in others)}" if others else ""
        is_given = any(counts[part][name] for part in official for name in without)
        remedy = "" if is_given else for_rare
        remedy = remedy or "samples of these classes in train, or val and test without them"
        remedy = f"{as_values}, if the numbers are values; else {remedy}" if as_values else remedy
        raise DataError(Problem("split", what, "every class in train", remedy))
    absent = {part: [n for n, count in counts["train"].items() if count and not counts[part][n]] for part in PARTS[1:]}
    for part, names in absent.items():
        where = [other for other in absent if absent[other] == names]
        if names and where[0] == part:
            which, that = (f"class {names[0]}", "it") if len(names) == 1 else (f"classes {few(names)}", "them")
            what = "no sample of %s in %s: no metric of that part shows how well the model recognises %s"
            what += "\n  try: more samples of %s, or the data without %s"
            log.warning(what, which, " and ".join(where), that, that, that)
