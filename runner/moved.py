"""Targets that have moved since an earlier version saved a configuration. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.keys import from_yaml

MOVED: dict[str, str] = {}
"""By the dotted path that an earlier version wrote as ``_target_``: where that is now. Of several that are at one place
now, the first is the oldest. Entries stay for ever, and one whose place moves again gets the new one."""


def read(text: str) -> Any:
    """What a ``config.yaml`` says, in plain containers, with each target where it is now.

    Raises:
        yaml.YAMLError, ValueError: see `from_yaml`.
    """
    return _renamed(from_yaml(text), MOVED)


def as_first_written(tree: Any) -> Any:
    """A tree, which is changed, with each target where it was at first: in every version its hash is the same."""
    return _renamed(tree, {now: then for then, now in reversed(MOVED.items())})


def _renamed(tree: Any, names: Mapping[str, str]) -> Any:
    """A tree in which targets got other names. Aliases may make it larger than memory: each node is seen once."""
    todo, seen = [tree], set()
    while todo:
        node = todo.pop()
        if not isinstance(node, (dict, list)) or id(node) in seen:
            continue
        seen.add(id(node))
        todo += node.values() if isinstance(node, dict) else node
        if isinstance(node, dict) and isinstance(target := node.get("_target_"), str):
            node["_target_"] = names.get(target, target)
    return tree
