"""Targets that have moved, and keys that came, since an earlier version saved a configuration. Free of torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runner.keys import from_yaml

MOVED: dict[str, str] = {}
"""By the dotted path that an earlier version wrote as ``_target_``: where that is now. Of several that are at one place
now, the first is the oldest. Entries stay for ever, and one whose place moves again gets the new one."""


ADDED: dict[str, dict[str, tuple[Any, Any]]] = {
    "runner.dataset.image_folder": {"reading": (1, 2), "parts": (True, True), "value_range": (None, None)},
    "runner.dataset.table": {  # how it is read in runs of before follows from their numbers, see `config.read_as`
        **dict.fromkeys(("separator", "encoding", "thousands", "labels_separator"), (None, None)),
        **dict.fromkeys(("missing", "units", "categories", "numbers", "gap_classes"), ([], [])),
        "decimal": (".", "."),
    },
    **{
        f"runner.split.{name}": {"rare": ("error", "error")}
        for name in ("random", "stratified", "kfold", "stratified_kfold", "group_kfold", "stratified_group_kfold")
    },
    "runner.transform.Crop": {"padding_mode": ("constant", "constant")},
}
"""By target, as it is named now: keys that earlier versions did not have, each with the value that does what they did,
and with the one that it has today where a configuration does not give it. Entries stay for ever."""


def read(text: str) -> Any:
    """Read a ``config.yaml`` into plain containers, with each target where it is now, and with what it did then.

    Raises:
        yaml.YAMLError, ValueError: see `from_yaml`.
    """
    tree = _renamed(from_yaml(text), MOVED)
    for node, keys in _with_added(tree):
        node.update({key: then for key, (then, _) in keys.items() if key not in node})
    return tree


def completed(tree: Any) -> Any:
    """A tree, which is changed, with the keys of `ADDED` that a configuration did not give, before it is written."""
    for node, keys in _with_added(tree):
        node.update({key: now for key, (_, now) in keys.items() if key not in node})
    return tree


def as_first_written(tree: Any) -> Any:
    """A tree, which is changed, with each target where it was at first, and without keys that say what was done then:
    in every version its hash is the same."""
    for node, keys in _with_added(completed(tree)):
        for key in [key for key, (then, _) in keys.items() if node[key] == then]:
            del node[key]
    return _renamed(tree, {now: then for then, now in reversed(MOVED.items())})


def _with_added(tree: Any) -> Iterator[tuple[dict[str, Any], Mapping[str, tuple[Any, Any]]]]:
    """Each node whose target has keys that were added, with these."""
    for node in _nodes(tree):
        if isinstance(node, dict) and isinstance(target := node.get("_target_"), str) and target in ADDED:
            yield node, ADDED[target]


def _renamed(tree: Any, names: Mapping[str, str]) -> Any:
    """A tree in which targets got other names."""
    for node in _nodes(tree):
        if isinstance(node, dict) and isinstance(target := node.get("_target_"), str):
            node["_target_"] = names.get(target, target)
    return tree


def _nodes(tree: Any) -> Iterator[dict[str, Any] | list[Any]]:
    """Each mapping and list of a tree. Aliases may make it larger than memory: each is seen once."""
    todo, seen = [tree], set()
    while todo:
        node = todo.pop()
        if isinstance(node, (dict, list)) and id(node) not in seen:
            seen.add(id(node))
            todo += node.values() if isinstance(node, dict) else node
            yield node
