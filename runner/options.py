"""The options of groups: what each of ours says, and what of a configuration differs from them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from runner.checks import schema
from runner.keys import from_yaml, leaves, text

ABOUT_A_START = ("resume", "check", "sweep", "allow_targets")
"""Keys and groups that are not about the run."""

Tree = Mapping[str, Any]
"""A configuration or a group as plain containers; references as they are written."""

ABSENT = object()
"""In place of the value of a key that is not there."""


class Difference(NamedTuple):
    key: str
    """Dotted; of an option, its group."""
    value: Any
    default: Any


def home() -> Path:
    """The folder of the groups: beside the package in a checkout, inside it when installed."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


def names(group: str) -> list[str]:
    """Of the options that a group has in our own ``conf/``; none if there is no such group."""
    return sorted(path.stem for path in (home() / group).glob("*.yaml"))


@functools.cache
def default() -> dict[str, str]:
    """By group, the option that is used if no other one is typed."""
    lines = _read("config")["defaults"]
    return {group: option for line in lines if isinstance(line, dict) for group, option in line.items() if option}


@functools.cache
def of(group: str) -> dict[str, Tree]:
    """The options that a group has in our own ``conf/``, by their names."""
    return {name: _everywhere(group) | _option(group, name) for name in names(group)}


def _everywhere(group: str) -> dict[str, Any]:
    """The keys that every option of a group has."""
    found: dict[str, Any] = _read("keys").get(group, {})
    return found


def _option(group: str, name: str) -> dict[str, Any]:
    """What an option says, with what it takes over from others of its group."""
    own, taken = dict(_read(f"{group}/{name}")), dict[str, Any]()
    for parent in own.pop("defaults", []):
        if isinstance(parent, str) and parent != "_self_":  # a recipe overrides other groups, which are not in it
            taken |= _option(group, parent)
    return taken | own


@functools.cache
def _read(name: str) -> dict[str, Any]:
    content = from_yaml((home() / f"{name}.yaml").read_text(encoding="utf-8")) or {}
    assert isinstance(content, dict)
    return content


def named(group: str, values: Tree) -> str | None:
    """The option that says just this; None if none does.

    Args:
        values: by their keys below the group.
    """
    return next((name for name, tree in of(group).items() if dict(leaves(tree)) == values), None)


def differences(ours: Tree, theirs: Tree, chosen: Mapping[str, str]) -> list[Difference]:
    """What of a configuration is not as it would be if nothing had been typed: of a group the name of its option, and
    the values that are not those of that option; of an option of the user's own, all that it says. Without the facts.

    Args:
        theirs: the configuration for which nothing was typed.
        chosen: by group, the option; the default one where it is not known.
    """
    # In an order that does not depend on whether the configuration came from the command line or from a run folder.
    groups = [name for name in ours if name not in ("facts", *ABOUT_A_START)]
    found: list[Difference] = []
    for name in sorted({*groups, *chosen} - set(ABOUT_A_START), key=lambda name: (schema.place(name), name)):
        usual, option = default().get(name, ABSENT), chosen.get(name)
        if option is not None and option != usual:
            found.append(Difference(name, option, usual))
        if name in ours:
            before = theirs.get(name, {}) if option in (None, usual) else of(name).get(option, _everywhere(name))
            found += _values(name, ours[name], before)
    return found


def _values(name: str, ours: Any, theirs: Any) -> list[Difference]:
    here, there = dict(leaves({name: ours})), dict(leaves({name: theirs}))
    found = [Difference(key, here.get(key, ABSENT), there.get(key, ABSENT)) for key in sorted(here | there)]
    return [each for each in found if each.value is ABSENT or each.default is ABSENT or each.value != each.default]


def idle(ours: Tree, found: Iterable[Difference]) -> Iterator[tuple[Difference, str]]:
    """The values that were typed and do nothing as long as another key has the value it has; and why.

    Args:
        found: see `differences`.
    """
    values = dict(leaves(ours))
    for each in found:
        for keys, other, does_nothing in IDLE:
            value = values.get(other)
            if each.value not in (ABSENT, None) and re.fullmatch(keys, each.key) and does_nothing(value):
                yield each, f"{other}={text(value)}"


IDLE: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    (r"trainer\.early_stopping\.(monitor|mode|min_delta)", "trainer.early_stopping.patience", lambda at: at is None),
    (r"loss\.beta", "loss.weight", lambda at: at != "effective_number"),
    (r"scheduler\.warmup_start", "scheduler.warmup", lambda at: str(at).startswith("0")),
    (r"model\.unfreeze_at_epoch", "model.freeze", lambda at: at == []),
    (r"model\.strict", "model.weights", lambda at: at is None),
    (r"loader\.(prefetch_factor|persistent_workers|timeout|worker_init_fn.*)", "loader.num_workers", lambda at: not at),
    (r"loader\.(sampler|drop_last)", "loader.batch_sampler._target_", lambda at: at is not None),
    (r"loss\.standardize|split\.bins", "facts.task", lambda at: at not in (None, "???", "regression")),
    (r"optimizer\.decay_norms_and_biases", "optimizer.weight_decay", lambda at: at == 0),
    (r"split\.(val|test|seed|fold|n_splits)", "split.path", lambda at: at is not None),
)  # fmt: skip
"""Keys, as a pattern, that do nothing depending on another key: such a sweep or recipe may well be meant."""
