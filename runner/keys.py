"""The keys of configurations as a tree of plain containers has them: read from YAML, their values, and those values as
text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from runner.errors import shown


def from_yaml(text: str) -> Any:
    """What a text in YAML says, in plain containers.

    Raises:
        yaml.YAMLError, ValueError: it is not YAML, or a value in it is none, such as a date 2020-13-45.
    """
    # The loader of libyaml takes a seventh of the time, and is not there on every machine.
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a tree by its dotted key; a list is one value."""
    if not isinstance(tree, dict):
        yield path, tree
        return
    for name, child in tree.items():
        yield from leaves(child, f"{path}.{name}" if path else str(name))


def texts(tree: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a tree by its dotted key, with numbers for what is in a list."""
    if isinstance(tree, str):
        yield path, tree
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, child in children:
        yield from texts(child, f"{path}.{name}" if path else str(name))


def differing(old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """Dotted key and both values of what is not the same in two trees; None where one of them has no such key."""
    before, after = dict(leaves(old)), dict(leaves(new))
    both = [(key, before.get(key), after.get(key)) for key in dict.fromkeys([*before, *after])]
    return [row for row in both if row[1] != row[2]]


def is_below(key: str, *names: str) -> bool:
    """Whether a dotted key is one of `names`, or in one of the groups that they name."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def text(value: Any) -> str:
    """A value as one would write it in a file, on one line."""
    if isinstance(value, (list, dict)):
        return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).strip()
    return value if isinstance(value, str) else shown(value)


def short(target: Any) -> str:
    """What a ``_target_`` names, without where it is."""
    return str(target).rpartition(".")[2]


def spelt(value: Any, arguments: bool = False) -> str:
    """A value with each target in it by its short name alone, or with its `arguments`."""
    if isinstance(value, dict) and "_target_" in value:
        given = [f"{name}={spelt(child, True)}" for name, child in value.items() if name != "_target_"]
        return short(value["_target_"]) + (f"({', '.join(given)})" if arguments and given else "")
    if isinstance(value, list):
        return f"[{', '.join(spelt(child, arguments) for child in value)}]"
    return text(value)
