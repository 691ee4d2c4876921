"""References in a configuration: which of them a run folder may have, and which values came from the environment.

A folder may come from anybody, and must not read the environment of whoever opens it. What of it comes back as a
reference is those to its own keys; all others are to be typed again, and say so where they are needed.
"""

from __future__ import annotations

import os
import re
import shlex
from typing import Any
from urllib.parse import quote, unquote

from omegaconf.errors import InterpolationResolutionError
from omegaconf.resolvers import oc

from runner import hydra_internals, project
from runner.errors import ConfigError, Problem
from runner.grammar import parse
from runner.grammar import quote as in_quotes
from runner.visible import hide

WORD = r"[^\\${}()\[\]:,.\s'\"]+"
TO_A_KEY = re.compile(rf"\$\{{\s*\.*{WORD}(?:\.{WORD}|\[{WORD}\])*\s*\}}")
RESOLVER = re.compile(r"\$\{\s*([\w.]+)\s*:")
PURE = {"oc.env", "oc.decode", "oc.select", "oc.create", "oc.dict.keys", "oc.dict.values"}
"""Resolvers that are offered to be typed again: they do nothing, and are OmegaConf's own."""

AGAIN = "typed_again"
"""The resolver that stands in a configuration of a run folder where a value has to be typed again."""

_reads = 0


def reads() -> int:
    """Return how often a configuration asked the environment so far: if it is more after a value was resolved, that
    came from there, by whatever way."""
    return _reads


def of_keys(text: Any) -> bool:
    """Return whether a text has references, and all are to other keys of the run: nothing is called for them."""
    if not isinstance(text, str) or "${" not in text:
        return False
    rest = TO_A_KEY.sub("", text)
    return "$" not in rest and "\\" not in rest and "hydra" not in re.findall(r"[\w-]+", text)


def literal(tree: Any) -> Any:
    """Plain containers in which every text is just that, and no reference, in a configuration."""
    if isinstance(tree, dict):
        return {key: literal(child) for key, child in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [literal(child) for child in tree]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", tree) if isinstance(tree, str) else tree


def to_be_typed(tree: Any, is_mine: bool, path: str = "") -> Any:
    """Return plain containers from a run folder, in which every text that could be a reference stands for one to be
    typed.

    Args:
        is_mine: whether the user wrote them; then those that call nothing but OmegaConf's resolvers are left.
    """
    if isinstance(tree, dict):
        below = f"{path}." if path else ""
        return {key: to_be_typed(child, is_mine, f"{below}{key}") for key, child in tree.items()}
    if isinstance(tree, list):
        return [to_be_typed(child, is_mine, f"{path}.{number}") for number, child in enumerate(tree)]
    if isinstance(tree, str) and "${" in tree and not (is_mine and set(RESOLVER.findall(tree)) <= PURE):
        return f"${{{AGAIN}:'{quote(path, safe='')}','{quote(tree, safe='')}'}}"
    return tree


def is_to_be_typed(text: Any) -> bool:
    """Return whether a value, as it is written, stands for one to be typed, or came from the environment."""
    return isinstance(text, str) and must_be_typed(text)


def must_be_typed(override: str) -> bool:
    """Return whether an override has a reference that is not taken from a folder."""
    texts = {override, re.sub(r"\\(.)", r"\1", override)}  # to Hydra, $\{ is ${
    return any("${" in text and not of_keys(text) for text in texts)


def to_type(key: str, text: str, typed: bool = False) -> str:
    """The override that gives a key its reference, as a shell takes it; a value, if the reference calls other code.

    Args:
        typed: whether the text is as Hydra's grammar has it already.
    """
    if not set(RESOLVER.findall(text)) <= PURE:
        return f"{key}=VALUE"
    if typed:
        parsed = parse(f"{key}={text}")
        if parsed is None or parsed.is_sweep_override() or not isinstance(parsed.value(), str):
            return f"{key}={shlex.quote(text)}"
        text = parsed.value()
    # What Hydra's grammar cannot read is put in quotes for whoever types it, as any other value.
    parsed = parse(f"{key}={text}")
    return f"{key}={shlex.quote(text if parsed is None or parsed.value() == text else in_quotes(text))}"


class Again(Problem):
    """A problem: a value has to be typed again."""


class MustBeTyped(ConfigError, InterpolationResolutionError):
    """A value is needed that a run folder does not hold, because it came from the environment.

    Of both kinds: OmegaConf hands it on as it is, and so does all that hands on a `RunnerError`.
    """

    _initialized = True


def again(key: str, text: str, sweep: str = "") -> Again:
    """Return what is said of a key that was `text` in a run folder, or was typed so for a sweep."""
    what = f"is {text} in {sweep or 'the run folder'}, which does not hold its value and may not read the environment"
    return Again(key, what, "the reference or the value, typed again", to_type(key, text, typed=bool(sweep)))


def _typed_again(key: Any, text: Any) -> Any:
    raise MustBeTyped(again(unquote(key), unquote(text)))


def _env(name: Any, *default: Any, _parent_: Any) -> Any:
    global _reads
    _reads += 1
    value = oc.env(name, *default)
    # Of Hydra's own part are places, which are shown.
    if name in os.environ and not (_parent_ is not None and f"{hydra_internals.path(_parent_)}.".startswith("hydra.")):
        hide(value, f"${{oc.env:{name}}}")
    return value


hydra_internals.resolver("oc.env", _env)
hydra_internals.resolver("runner.outputs", lambda: str(project.current().outputs))  # of conf/entry.yaml
hydra_internals.resolver(AGAIN, _typed_again)
