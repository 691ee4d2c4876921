"""Facts of the data, offered by name to what the user's configuration calls; and what is said of arguments then."""

from __future__ import annotations

import fnmatch
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from omegaconf import DictConfig, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from runner import config, hydra_internals, options
from runner.anew import CUSTOM, started
from runner.checks import targets
from runner.errors import ConfigError, Problem, few
from runner.keys import is_below

KNOWN = {
    **dict.fromkeys(("split", "loader"), ("num_classes", "num_outputs", "class_names")),
    **dict.fromkeys(("model", "loss", "optimizer", "scheduler", "metric"), targets.OF_THE_DATA),
}
"""By group, the facts that are known when its target is called."""

BY_KEYWORD = {
    "torchvision.models.*": {"num_classes": "num_outputs"},
    "timm.*create_model": {"num_classes": "num_outputs", "in_chans": "input_shape.0"},
}
"""By pattern of targets that hand on what their signature does not have: arguments, and the facts that they are."""

OURS = ("runner", "torch", "torchvision", "sklearn")
"""Packages whose targets have options that say which facts they take."""


def offer(cfg: DictConfig) -> None:
    """Enter ``${facts.NAME}`` for each required argument that is named like a fact and not given; for a target that was
    typed in place of an option's, also for those that have a default, which would be that of other data."""
    anew = started(cfg)
    found = [
        (place, node) for place, node in _nodes(cfg) if place in anew or node._target_.partition(".")[0] not in OURS
    ]
    if not found or config.check_keys(cfg):  # nothing is imported before the keys are right
        return
    for place, node in found:
        wanted = _asked(cfg, place, node, place in anew)
        with read_write(node), open_dict(node):
            for name, fact in wanted.items():
                is_length = (place, name) == ("scheduler", "total_steps")  # null: what a warm-up leaves of the run
                node[name] = None if is_length else f"${{facts.{fact}}}"


def _nodes(cfg: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """Every group, and every metric, that names a target."""
    tops = [(name, cfg.get(name)) for name in KNOWN if name != "metric"]
    metrics = cfg.get("metric") if isinstance(cfg.get("metric"), DictConfig) else {}
    for place, node in [*tops, *((f"metric.{name}", metrics[name]) for name in metrics)]:
        with suppress(OmegaConfBaseException):  # which the checks say
            if isinstance(node, DictConfig) and isinstance(node.get("_target_"), str):
                yield place, node


def _asked(cfg: DictConfig, place: str, node: DictConfig, anew: bool) -> dict[str, str]:
    """Return the facts that a target has arguments for which are not given, by these; none if it may not be called."""
    group = place.partition(".")[0]
    if {"_args_", "_partial_"} & node.keys():
        return {}
    try:
        targets.check_allowed(config.recorded(node), place, cfg.get("allow_targets") or [])
        parameters = list(inspect.signature(targets.locate(node._target_)).parameters.values())
    except (ConfigError, LookupError, TypeError, ValueError):  # which the checks say, or it has no signature
        return {}
    parameters = parameters[2 if group == "metric" else 0 :]  # what is true and what was said, whatever they are called
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    found = {p.name: p.name for p in named if p.name in KNOWN[group] and (anew or p.default is p.empty)}
    if anew and any(p.kind is p.VAR_KEYWORD for p in parameters):
        known = [facts for pattern, facts in BY_KEYWORD.items() if fnmatch.fnmatchcase(node._target_, pattern)]
        found |= {name: fact for facts in known for name, fact in facts.items()}
    return {name: fact for name, fact in found.items() if name not in node}


def explained(cfg: DictConfig, problems: Iterable[Problem]) -> list[Problem]:
    """Return problems with remedies that fit how the target came to be in its group."""
    anew, found = started(cfg), list(problems)
    for number, problem in enumerate(found):
        remedy = re.sub("^([\"']?)\\+", r"\1", problem.remedy)
        if is_below(remedy.strip("\"'").partition("=")[0], *anew):
            found[number] = replace(problem, remedy=remedy)  # there each key is new
    for group, option in (cfg.hydra.runtime.choices if "hydra" in cfg else {}).items():
        found = _merged(cfg, str(group), str(option), found)
    return found


def _merged(cfg: DictConfig, group: str, option: str, found: Sequence[Problem]) -> list[Problem]:
    """Return problems of which those become one that come from an option's arguments under another target, which only
    a file can have set."""
    tree = options.of(group).get(option, {}) if group in KNOWN or group == "dataset" else {}
    target = tree.get("_target_")
    if option == CUSTOM or target is None or cfg[group].get("_target_") == target:
        return list(found)
    left = {f"{group}.{key}" for key in tree}
    lacking = [each for each in found if each.key in left and " has no argument " in each.what]
    if not lacking:
        return list(found)
    names = few(each.key.partition(".")[2] for each in lacking)
    what = f"{cfg[group]._target_} gets arguments of {group}={option}, over which it was set: {names}"
    remedy = f"override /{group}: {CUSTOM} in the defaults list of that file"
    rest = [each for each in found if each not in lacking]
    return [Problem(f"{group}._target_", what, "its own arguments", remedy), *rest]


@contextmanager
def naming(node: DictConfig) -> Iterator[None]:
    """Say of a target that fails with a fact that the data do not have that this is why.

    Raises:
        ConfigError: it does; or whatever it is that fails otherwise.
    """
    try:
        yield
    except ConfigError as error:
        raise ConfigError(*(_unknown(node) or error.problems)) from error


def _unknown(node: DictConfig) -> list[Problem]:
    group, facts = hydra_internals.path(node), hydra_internals.root(node).get("facts") or {}
    plus = "" if (facts.get("options") or {}).get(group) == CUSTOM else "++"
    found = []
    for key in {"num_classes", "class_names"} & set(node):
        if hydra_internals.written(node, key) == f"${{facts.{key}}}" and node[key] is None:
            what = f"is null, because the targets are values, and {node._target_} fails with it"
            instead = "'${facts.num_outputs}'" if key == "num_classes" else "null"
            found.append(Problem(f"{group}.{key}", what, remedy=f"{plus}{group}.{key}={instead}"))
    return found
