"""What tells runs apart: the keys of their configurations that say another experiment, and differ."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from runner import options
from runner.checks import schema
from runner.keys import is_below, short, spelt
from runner.runs import Run

NOT_OF_THE_RESULT = (
    "metric", "lr_find", "dataset.download", "dataset.cache", "loader.memory_limit", "loader.pin_memory",
    "loader.persistent_workers", "loader.prefetch_factor", "loader.timeout", "loader.eval_batch_size",
    "trainer.evaluate_train",
)  # fmt: skip
"""Keys that a resumed run may not change, and that decide nothing about what a run reaches."""

FOLD = "split.fold"

TARGET = "._target_"

MISSING = object()


def keys(runs: Sequence[Run], exact: bool = False) -> list[dict[str, str]]:
    """For each of `runs`, the keys in which they differ, with their values as text.

    Left out is what a resumed run may change, for the experiment stays the same (device, resume, check, debug, figures,
    allow_targets, sweep, tensorboard, ``trainer.threads``, ``trainer.compile``, ``trainer.deterministic``,
    ``loader.num_workers``, ``checkpoint.keep``, … as `runner.checks.schema` has it), but not what decides when the
    training ends (`runner.checks.schema.LENGTH`); and `NOT_OF_THE_RESULT`. ``split.fold`` is no key but the fold of a
    run. A reference to another key says nothing that the other one does not.

    What has a ``_target_`` goes by its short name: ``model`` is ``CNN`` or ``MLP``; a group without one, such as
    ``transform``, by that of its option where all runs have one of ours, unchanged. The arguments of targets that
    differ are compared among the runs with the same target alone.

    Args:
        exact: whether numbers have all their digits, and not six where those tell them apart.
    """
    values = _values(runs)
    names = [name for name in dict.fromkeys(key.removesuffix(TARGET) for key in values) if _differs(name, values, runs)]
    columns = {name: _texts(name, values, runs, exact) for name in names}
    return [
        {name: text for name, column in columns.items() if (text := column[number]) is not None}
        for number in range(len(runs))
    ]


Values = Mapping[str, Sequence[Any]]


def _values(runs: Sequence[Run]) -> Values:
    """By key, the value of each run, or `MISSING`."""
    names = dict.fromkeys(name for run in runs for name in run.config)
    kept = [name for name in names if name != FOLD and not is_below(name, *_left_out())]
    values = {name: [run.config.get(name, MISSING) for run in runs] for name in kept}
    differ = [group for group in _by_option() if any(is_below(name, group) for name in kept if not _same(values[name]))]
    named = {group + TARGET: [_option(group, run) for run in runs] for group in differ}
    found = {name: column for name, column in named.items() if None not in column} | values
    return {name: found[name] for name in sorted(found, key=lambda name: schema.place(name.partition(".")[0]))}


@functools.cache
def _by_option() -> list[str]:
    """The groups that have several options and no target: ``transform``."""
    groups = [group for group in options.default() if not is_below(group, *_left_out()) and len(options.of(group)) > 1]
    return [group for group in groups if not any("_target_" in tree for tree in options.of(group).values())]


def _option(group: str, run: Run) -> str | None:
    start = len(group) + 1
    values = {key[start:]: value for key, value in run.config.items() if key != group and is_below(key, group)}
    # With references as they were, also inside lists.
    return options.named(group, {k: _with_references(v, f"{group}.{k}", run.references) for k, v in values.items()})


@functools.cache
def _left_out() -> tuple[str, ...]:
    return *(name for name in schema.resumable() if not is_below(name, *schema.LENGTH)), *NOT_OF_THE_RESULT


def _differs(name: str, values: Values, runs: Sequence[Run]) -> bool:
    """Whether the value of a key, or its target, is not the same in all runs; of an argument, in all with the same
    target."""
    key = name + TARGET if name + TARGET in values else name
    if key not in values or _same(values[key]):
        return False
    found: dict[str, set[str]] = {}
    for number, (run, targets) in enumerate(zip(runs, _targets(key, values, len(runs)), strict=True)):
        found.setdefault(targets, set()).add(_written(key, values[key][number], run))
    return any(len(each) > 1 for each in found.values())


def _same(found: Sequence[Any]) -> bool:
    return all(value is found[0] or value == found[0] for value in found)


def _targets(key: str, values: Values, number: int) -> list[str]:
    """Of each run, the targets that a key belongs to: its group's, and those that this one is in."""
    words = key.removesuffix(TARGET).split(".")
    groups = [".".join(words[:end]) + TARGET for end in range(1, len(words))]
    columns = [values[group] for group in groups if group in values]
    return [str([column[place] for column in columns]) for place in range(number)]


def _written(key: str, value: Any, run: Run) -> str:
    """A value, with references to other keys as they were written. A whole number is the same with a point."""
    for name, reference in run.references.items():
        if is_below(key, name):
            return str(reference)
    value = _with_references(value, key, run.references)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, default=repr, sort_keys=True)


def _with_references(value: Any, path: str, references: Mapping[str, str]) -> Any:
    if path in references:
        return references[path]
    if isinstance(value, dict):
        return {name: _with_references(child, f"{path}.{name}", references) for name, child in value.items()}
    if isinstance(value, list):
        return [_with_references(child, f"{path}.{number}", references) for number, child in enumerate(value)]
    return value


def _texts(name: str, values: Values, runs: Sequence[Run], exact: bool) -> list[str | None]:
    """A key as it stands in a table: targets by their names, without modules and arguments where they tell enough."""
    missing = [MISSING] * len(runs)
    targets = values.get(name + TARGET, missing)
    named = _names([target for target in targets if target is not MISSING])
    found = [
        _spelt(name, value, run) if target is MISSING else named[str(target)]
        for target, value, run in zip(targets, values.get(name, missing), runs, strict=True)
    ]
    arguments = len({spelt(value) for value in found}) < len({spelt(value, True) for value in found})
    texts = [spelt(_whole(value), arguments) for value in found]
    rounded = [f"{value:.6g}" if isinstance(value, float) else text for value, text in zip(found, texts, strict=True)]
    shown = texts if exact or len(set(rounded)) < len(set(texts)) else rounded
    return [None if value is MISSING else text for value, text in zip(found, shown, strict=True)]


def _spelt(name: str, value: Any, run: Run) -> Any:
    """A value; what in a list came from elsewhere, as the categories of a table do from the data, as it was written."""
    return _with_references(value, name, run.references) if isinstance(value, list) else value


def _names(targets: Sequence[Any]) -> dict[str, str]:
    paths = {str(target) for target in targets}
    brief = len({short(path) for path in paths}) == len(paths)
    return {path: short(path) if brief else path for path in paths}


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value
