"""Which option of each group a configuration has, found by its values: a run folder does not say what was typed."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from runner.checks import schema
from runner.keys import differing, leaves, text

ABOUT_A_START = ("resume", "check", "sweep")
"""Keys and groups that are not about the run."""

Tree = Mapping[str, Any]
"""A group as plain containers; references as they are written."""

Difference = tuple[str, Any, str | None]
"""Dotted key, value, and the default as text; None for a key that has no default."""


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
    """The options that a group has in our own ``conf/``, the default one first."""
    everywhere = _read("keys").get(group, {})
    first = sorted(names(group), key=lambda name: name != default().get(group))
    return {name: everywhere | _option(group, name) for name in first}


def _option(group: str, name: str) -> dict[str, Any]:
    """What an option says, with what it takes over from others of its group."""
    own, taken = _read(f"{group}/{name}"), dict[str, Any]()
    for parent in own.pop("defaults", []):
        taken |= {} if parent == "_self_" else _option(group, parent)
    return taken | own


def _read(name: str) -> dict[str, Any]:
    text = (home() / f"{name}.yaml").read_text(encoding="utf-8")
    content = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    assert isinstance(content, dict)
    return content


def chosen(group: str, tree: Tree) -> str | None:
    """The option that differs least from a group, of those with the same target and some value in common; None for one
    of the user's own.

    Args:
        tree: the group, or its values by their keys.
    """
    keys, target = dict(leaves(tree)).keys(), tree.get("_target_")
    apart = {name: len(differing(each, tree)) for name, each in of(group).items() if each.get("_target_") == target}
    found = {
        name: number for name, number in apart.items() if number < len(keys | dict(leaves(of(group)[name])).keys())
    }
    return min(found, key=found.__getitem__, default=None)


def differences(ours: Tree, theirs: Tree) -> list[Difference]:
    """What of a configuration is not as it would be if nothing had been typed: of a group the name of its option, and
    the values that are not those of that option. Without what the data say.

    Args:
        theirs: the configuration for which nothing was typed.
    """
    # In an order that does not depend on whether the configuration came from the command line or from a run folder.
    names = sorted(ours, key=lambda name: (schema.place(name), name))
    kept = [name for name in names if name not in ("facts", *ABOUT_A_START) and ours[name] != theirs.get(name)]
    return [row for name in kept for row in _differences(name, ours[name], theirs.get(name))]


def _differences(name: str, ours: Any, theirs: Any) -> list[Difference]:
    """Of a group, or of a key that is in none."""
    usual = default().get(name)
    option = None if usual is None else chosen(name, ours)
    before = {name: theirs if option is None else of(name)[option]}
    known = dict(leaves(before))
    rows = [(key, new, text(old) if key in known else None) for key, old, new in differing(before, {name: ours})]
    if option is None:  # what an option of the user's own does not have, nobody took away
        rows = [row for row in rows if row[1] is not None or row[0] == name]
    first: list[Difference] = [] if option in (None, usual) else [(name, option, usual)]
    return first + sorted(rows)
