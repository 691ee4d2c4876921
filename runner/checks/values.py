"""What a value may be: its type and its bounds, and both in words. Knows no key."""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal


class _Unknown:
    def __repr__(self) -> str:
        return "(given by the data)"


UNKNOWN = _Unknown()
"""Stands for a value that the data will give."""


LARGEST = 2**63
"""Above the whole numbers of torch. No key has a use for one."""


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union; of any other type that type alone."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` is of the type `hint`. A whole number is a float, too; True and False are no numbers."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or value is UNKNOWN:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin is list:
        return isinstance(value, list) and all(fits(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, Mapping) and all(fits(item, arguments[1]) for item in value.values())
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def in_bounds(value: Any, rules: Mapping[str, Any]) -> bool:
    """Whether `value`, and all that is in it, is within the bounds of a key; see `runner.checks.schema.key`."""
    if isinstance(value, list):
        return all(in_bounds(item, rules) for item in value)
    if isinstance(value, Mapping):
        return all(in_bounds(item, rules) for item in value.values())
    if isinstance(value, str):
        return not rules.get("pattern") or re.fullmatch(rules["pattern"], value) is not None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return True
    least, most, above, below = (rules.get(name) for name in ("least", "most", "above", "below"))
    if not (abs(value) < LARGEST if isinstance(value, int) else math.isfinite(value)):
        return False
    if most is not None and value > most:
        return False
    return (least is None or value >= least) and (above is None or value > above) and (below is None or value < below)


def choices(hint: Any, rules: Mapping[str, Any]) -> list[str]:
    """The words that are allowed, of those there is a list of."""
    listed = [
        str(word) for kind in alternatives(hint) if typing.get_origin(kind) is Literal for word in typing.get_args(kind)
    ]
    pattern = str(rules.get("pattern") or "")
    return listed + (pattern.split("|") if re.fullmatch(r"[\w|]+", pattern) else [])


def words(hint: Any, rules: Mapping[str, Any]) -> str:
    """What is allowed, in words."""
    if rules.get("allowed"):
        return str(rules["allowed"])
    bounds = [
        f"{sign} {rules[name]:g}"
        for name, sign in (("least", ">="), ("above", ">"), ("below", "<"))
        if rules.get(name) is not None
    ]
    bounds = bounds if rules.get("most") is None else [f"from {rules['least']} to {rules['most']:,}"]
    numbers = " " + " and ".join(bounds) if bounds else ""
    return ", or ".join(describe(kind) + (numbers if kind in (int, float) else "") for kind in alternatives(hint))


def describe(hint: Any) -> str:
    """A type in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is Literal:
        return ", ".join(str(choice) for choice in arguments)
    if origin in (list, tuple, Sequence):
        kinds = {kind for kind in arguments if kind not in (Any, ...)}
        plain = len(kinds) == 1 and kinds <= {int, float, str}
        return f"a list of {describe(kinds.pop()).removeprefix('a ')}s" if plain else "a list"
    if origin is dict:
        return "a mapping {KEY: VALUE}"
    names = {int: "a whole number", float: "a number", bool: "true, false", str: "a string", type(None): "null"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
