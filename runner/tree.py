"""A configuration as plain containers: with its values, or as it may be written down."""

from __future__ import annotations

import re
import typing
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from runner import hydra_internals, references
from runner.checks.values import UNKNOWN
from runner.errors import Problem, reason_of
from runner.keys import texts
from runner.references import MustBeTyped, reads
from runner.visible import hide


def plain(config: DictConfig, hidden: bool = False) -> tuple[dict[str, Any], list[Problem]]:
    """The configuration without Hydra's part as plain containers, before the facts are known.

    Args:
        hidden: whether what came from the environment is left as it is written.

    Returns:
        The tree, with `UNKNOWN` where a value will come from ``facts``, and the references that lead nowhere.
    """
    found: list[Problem] = []
    names = [name for name in config if name not in ("facts", "hydra")]
    return {str(name): _plain(config, name, str(name), found, hidden) for name in names}, found


def children(node: DictConfig | ListConfig, path: str, found: list[Problem], hidden: bool = False) -> Any:
    """The values of a node, as `_plain` has them."""
    below = f"{path}." if path else ""
    if isinstance(node, ListConfig):
        return [_plain(node, number, f"{below}{number}", found, hidden) for number in range(len(node))]
    return {str(name): _plain(node, name, f"{below}{name!s}", found, hidden) for name in node}


def _plain(parent: DictConfig | ListConfig, key: Any, path: str, found: list[Problem], hidden: bool) -> Any:
    if OmegaConf.is_missing(parent, key) and not OmegaConf.is_interpolation(parent, key):
        return "???"
    if OmegaConf.is_config(node := hydra_internals.node(parent, key)):
        tree = OmegaConf.to_container(node, resolve=False)
        if not _has_references(tree):  # which is most of it, and needs not be gone through node by node
            return tree
    before = reads()
    try:
        value = parent[key]
    except InterpolationToMissingValueError:
        return UNKNOWN
    except MustBeTyped as error:  # of another key, if this one refers to it
        found.extend(problem for problem in error.problems if problem not in found)
        return UNKNOWN
    except OmegaConfBaseException as error:
        text = str(hydra_internals.written(parent, key))
        remedy = "the name of an existing key, as in ${seed}"
        if "oc.env" in text:
            remedy = "export NAME=VALUE, or '${oc.env:NAME,DEFAULT}'"
        found.append(Problem(path, f"{text!r} cannot be resolved ({reason_of(error)})", remedy=remedy))
        return UNKNOWN
    text = str(hydra_internals.written(parent, key)) if OmegaConf.is_interpolation(parent, key) else ""
    if value is None and (early := re.search(r"hydra:(runtime\.output_dir|job\.(num|id))", text)):
        what = f"${{hydra:{early[1]}}} has no value yet when the configuration is checked"
        remedy = "a fixed path, such as my_folder" if "output_dir" in early[1] else "a fixed value"
        found.append(Problem(path, what, remedy=remedy))
        return UNKNOWN
    if reads() > before:
        hide(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value, text)
        if hidden:
            return text
    return children(value, path, found, hidden) if isinstance(value, (DictConfig, ListConfig)) else value


def _has_references(tree: Any) -> bool:
    """Return whether anything in plain containers may be a reference, as it is written."""
    if isinstance(tree, dict):
        return any(map(_has_references, tree.values()))
    return any(map(_has_references, tree)) if isinstance(tree, list) else isinstance(tree, str) and "${" in tree


def recorded(node: DictConfig) -> dict[str, Any]:
    """The configuration, or a group of it, as it may be written anywhere: with its values, but with the reference where
    one came from the environment."""
    return typing.cast(dict[str, Any], known(children(node, hydra_internals.path(node), [], hidden=True)))


def to_type(config: DictConfig) -> list[str]:
    """The overrides that are to be typed again when the run is resumed, as a shell takes them."""
    held = known(plain(config, hidden=True)[0])
    return [references.to_type(key, text) for key, text in texts(held) if references.must_be_typed(text)]


def entered(node: DictConfig, key: str) -> Any:
    """The value of one key, as `recorded` has it; None if there is no such key."""
    return known(_plain(node, key, key, [], hidden=True)) if key in node else None


def known(tree: Any) -> Any:
    """A tree with ``???`` for what the data have not said yet."""
    if isinstance(tree, dict):
        return {name: known(child) for name, child in tree.items()}
    return [known(child) for child in tree] if isinstance(tree, list) else "???" if tree is UNKNOWN else tree
