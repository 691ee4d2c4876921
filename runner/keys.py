"""The keys of configurations as a tree of plain containers has them: read from YAML, their values, and those values as
text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import yaml

from runner.errors import reason_of, shown

VALUES = 1_000_000
"""In a text in YAML, with what its aliases stand for each time: some lines can stand for billions."""

DEPTH = 30
"""Levels of containers inside one another; OmegaConf reaches Python's limit at twice as many."""

DIGITS = 1_000
"""Digits of a whole number, at most; Python refuses to print one of 4,300."""

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The loader of YAML: that of libyaml takes a seventh of the time, and is not there on every machine."""


class Unusable(yaml.MarkedYAMLError):
    """A text in YAML that is none of ours, or stands for more than anybody would write."""


def from_yaml(text: str) -> Any:
    """What a text in YAML says, in plain containers.

    Raises:
        yaml.YAMLError, ValueError: it is not YAML, or a value in it is none, such as a date 2020-13-45; or it stands
            for more than anybody would write.
    """
    loader = LOADER(text)
    try:
        node = _nodes(loader, text)
        return None if node is None else loader.construct_document(node)
    except (LookupError, AttributeError, TypeError, ArithmeticError) as error:  # !!bool x, !!int '', 1:…:1.0
        raise ValueError(f"has a value that is none ({reason_of(error)})") from error
    finally:
        loader.dispose()


def check_yaml(text: str, name: str) -> None:
    """Check that a text for others to read, if YAML, maps keys to values, no more of them than anybody would write.

    Raises:
        Unusable: it does not; with `name` as that of its file.
    """
    loader = LOADER(text)
    try:
        node = _nodes(loader, text)
        if isinstance(node, yaml.ScalarNode) and not node.tag.endswith((":str", ":null")):
            what = "contains a single value, not a mapping of keys to values"
            raise Unusable(problem=what, problem_mark=node.start_mark)
    except Unusable as error:
        mark = error.problem_mark or yaml.Mark("", 0, 0, 0, None, 0)  # that of libyaml cannot be changed
        error.problem_mark = yaml.Mark(name, mark.index, mark.line, mark.column, None, 0)
        raise
    except yaml.YAMLError:
        return  # and whoever reads it says so
    finally:
        loader.dispose()


def _nodes(loader: Any, text: str) -> Any:
    """Return what a text in YAML consists of, if it is not too much; None if it is empty."""
    start = yaml.Mark("", 0, 0, 0, None, 0)
    # Each character may be a value, which takes a kilobyte; what the parser meets takes none.
    if len(text) > VALUES // 10 and next(islice(yaml.parse(text, LOADER), VALUES, None), None) is not None:
        raise Unusable(problem=f"more than {VALUES:,} values", problem_mark=start)
    try:
        node = loader.get_single_node()
        if node is not None:
            _weigh(node, 1, {})
    except RecursionError as error:  # of the loader that is not libyaml's
        raise Unusable(problem=f"nested more than {DEPTH} levels deep", problem_mark=start) from error
    return node


def _weigh(node: yaml.Node, depth: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Count the values that a node of YAML stands for, and the levels of them.

    Args:
        depth: the level that it is at.
        known: both by the identity of the containers that were looked at: an alias is its node once more. Of one that
            is not done yet they are 0.
    """
    if isinstance(node, yaml.ScalarNode):
        if len(node.value) > DIGITS and node.tag.endswith(":int"):
            raise Unusable(problem=f"a whole number of more than {DIGITS:,} digits", problem_mark=node.start_mark)
        if "${" in node.value and nesting(node.value) > DEPTH:
            raise Unusable(problem=f"nested more than {DEPTH} levels deep", problem_mark=node.start_mark)
        return 1 + len(node.value) // DIGITS, 0
    size, height = known.get(id(node), (None, 0))
    if size == 0:
        raise Unusable(problem="a value that contains itself", problem_mark=node.start_mark)
    if depth + height > DEPTH:
        raise Unusable(problem=f"nested more than {DEPTH} levels deep", problem_mark=node.start_mark)
    if size is None:
        known[id(node)] = 0, 0
        pairs = node.value if isinstance(node, yaml.SequenceNode) else [each for pair in node.value for each in pair]
        inside = [_weigh(child, depth + 1, known) for child in pairs]
        size, height = 1 + sum(size for size, _ in inside), 1 + max((height for _, height in inside), default=0)
        if size > VALUES:
            raise Unusable(problem=f"more than {VALUES:,} values", problem_mark=node.start_mark)
        known[id(node)] = size, height
    return size, height


def nesting(text: str) -> int:
    """Count the brackets that are open at a time, at most."""
    depth = most = 0
    for bracket in re.findall(r"[\[\]{}()]", text):
        depth = depth + 1 if bracket in "[{(" else max(depth - 1, 0)
        most = max(most, depth)
    return most


def parse_json(text: str) -> Any:
    """Return what a text in JSON says.

    Raises:
        ValueError: it is not JSON, or nested deeper than anybody would.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a tree by its dotted key; a list is one value."""
    if not isinstance(tree, dict):
        yield path, tree
        return
    for name, child in tree.items():
        yield from leaves(child, f"{path}.{name}" if path else str(name))


def walk(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a tree, and the tree itself, by its dotted key, with numbers for what is in a list."""
    yield path, tree
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, child in children:
        yield from walk(child, f"{path}.{name}" if path else str(name))


def texts(tree: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a tree by its dotted key."""
    return ((key, held) for key, held in walk(tree, path) if isinstance(held, str))


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
