"""What is wrong with entries: groups of keys inside the lists and mappings of the configuration.

Metrics, transforms, several losses, rules for parameter groups; and the places of data, which have to be there.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Mapping
from typing import Any

from runner.checks import schema
from runner.checks.targets import locate
from runner.errors import Problem, nearest, shown
from runner.files import absent, typed

OF_THE_SUM = ("ignore_index", "standardize")
"""Keys of a loss of several terms that are for all of them."""

PLACES = {
    "runner.dataset.image_folder": ("root", "a folder with one subfolder per class", True),
    "runner.dataset.table": ("path", "a .csv, .txt, .jsonl, .parquet or .xlsx file", False),
}
"""By data set: the key with the place of its data, what that has to be, and whether it is a folder."""

RULE = schema.ours(schema.Rule)
"""Keys of a rule for parameter groups that are not the optimizer's."""


def check_places(tree: Mapping[str, Any]) -> list[Problem]:
    """That the data are there, where they cannot be downloaded. Needs no torch; who reads them looks again.

    Args:
        tree: plain containers; see `runner.config.plain`.
    """
    node = tree["dataset"] if isinstance(tree.get("dataset"), Mapping) else {}
    key, allowed, is_folder = PLACES.get(str(node.get("_target_")), ("", "", False))
    value = node.get(key)
    if not isinstance(value, str) or value in ("", "???"):
        return []
    problem = absent(f"dataset.{key}", typed(value), allowed, is_folder)
    return [] if problem is None else [problem]


def check_entries(tree: Mapping[str, Any]) -> list[Problem]:
    """That each metric, transform, loss and rule for parameter groups is what it has to be.

    Args:
        tree: plain containers; see `runner.config.plain`.
    """
    metrics = tree["metric"] if isinstance(tree.get("metric"), Mapping) else {}
    entries = {f"metric.{name}": node for name, node in metrics.items() if node is not None}
    transforms = tree["transform"] if isinstance(tree.get("transform"), Mapping) else {}
    for kind, steps in transforms.items():
        entries |= {f"transform.{kind}.{i}": step for i, step in enumerate(steps)} if isinstance(steps, list) else {}
    found = [
        Problem(key, f"{node!r} is not a mapping with a _target_", "{_target_: PATH OF A CLASS OR FUNCTION, …}")
        for key, node in entries.items()
        if not (isinstance(node, Mapping) and "_target_" in node)
    ]
    for key, node in entries.items():
        if key.startswith("metric.") and isinstance(node, Mapping):
            found += schema.problems(node, schema.Metric, f"{key}.")
    found += _check_terms(tree["loss"]) if isinstance(tree.get("loss"), Mapping) and "terms" in tree["loss"] else []
    if isinstance(tree.get("optimizer"), Mapping):
        found += _check_rules(tree["optimizer"])
    if "loss" in metrics:
        what = "this name is reserved for the loss, which is always reported"
        found.append(Problem("metric.loss", what, "another name"))
    return found


def _check_terms(node: Mapping[str, Any]) -> list[Problem]:
    """That each of several losses is one, with values that are allowed, and that nothing stands beside them in vain."""
    terms = node["terms"]
    if not isinstance(terms, list) or not terms:
        return [Problem("loss.terms", f"{terms!r} is not a list of losses", "[{_target_: …, scale: 1.0}, …]")]
    found = []
    for number, term in enumerate(terms):
        key = f"loss.terms.{number}"
        if isinstance(term, Mapping) and "_target_" in term:
            found += schema.problems(term, schema.Loss, key + ".")
            for name in [name for name in OF_THE_SUM if name in term]:
                what, plus = "applies to all terms, and is set on the loss", "" if name in node else "+"
                found.append(Problem(f"{key}.{name}", what, remedy=f"{plus}loss.{name}={shown(term[name])}"))
        else:
            what = f"{term!r} is not a mapping with a _target_"
            found.append(Problem(key, what, "{_target_: PATH OF A CLASS OR FUNCTION, …}"))
    idle = [key for key in node if key not in ("_target_", "terms", *OF_THE_SUM)]
    what, allowed = "has no effect together with loss.terms", ", ".join(("terms", *OF_THE_SUM))
    first = terms[0] if isinstance(terms[0], Mapping) else {}
    typed = {key: f"{'' if key in first else '+'}loss.terms.0.{key}=VALUE" for key in idle}
    return found + [Problem(f"loss.{key}", what, allowed, remedy) for key, remedy in typed.items()]


def _check_rules(node: Mapping[str, Any]) -> list[Problem]:
    """That each rule for parameter groups says which parameters it is for, and what the optimizer can do about them."""
    rules = node.get("param_groups")
    if node.get("differentiable") is True:
        what = "true is not supported: runner does not backpropagate through optimizer steps"
        return [Problem("optimizer.differentiable", what, "false")]
    if str(node.get("_target_")).endswith(".LBFGS"):
        usual = {"param_groups": [], "decay_norms_and_biases": True, "layer_decay": None}
        return [
            Problem(
                f"optimizer.{key}",
                f"is {shown(node[key])}, but LBFGS supports only a single parameter group",
                json.dumps(value),
            )
            for key, value in usual.items()
            if key in node and node[key] != value
        ]
    if not isinstance(rules, list):  # the schema says so
        return []
    found = []
    for number, rule in enumerate(rules):
        key = f"optimizer.param_groups.{number}"
        if not isinstance(rule, Mapping) or not ("match" in rule or "type" in rule):
            example = "{match: REGULAR EXPRESSION, type: LAYER, lr: 0.01, …}"
            found.append(Problem(key, f"{rule!r} has neither match nor type, so it selects no parameters", example))
            continue
        ours = {field.name for field in dataclasses.fields(schema.Rule)}
        found += schema.problems({k: v for k, v in rule.items() if k in ours}, schema.Rule, key + ".")
        found += _check_pattern(rule.get("match"), f"{key}.match")
        found += _check_settings(rule, node, key)
        if isinstance(rule.get("scheduler"), Mapping):
            found += schema.problems(rule["scheduler"], schema.Scheduler, f"{key}.scheduler.")
    return found


def _check_pattern(pattern: Any, key: str) -> list[Problem]:
    try:
        re.compile(pattern if isinstance(pattern, str) else "")
    except (re.error, OverflowError) as error:
        what = f"{pattern!r} is not a valid regular expression: {error}"
        return [Problem(key, what, r"a Python regular expression, such as ^features\. or bias$, in single quotes")]
    return []


def _check_settings(rule: Mapping[str, Any], node: Mapping[str, Any], key: str) -> list[Problem]:
    """That the optimizer has the settings that a rule gives."""
    given = [name for name in rule if name not in RULE]
    try:
        optimizer = locate(str(node.get("_target_")))
        known = [name for name in inspect.signature(optimizer).parameters if name != "params"]
    except (LookupError, TypeError, ValueError):  # said of the target
        return []
    name = node["_target_"]
    return [
        Problem(f"{key}.{each}", f"{name} has no argument {each!r} (value {rule[each]!r})",
                ", ".join([*RULE, *known]), nearest(str(each), [*RULE, *known], f"{key}."))
        for each in given if each not in known
    ]  # fmt: skip
