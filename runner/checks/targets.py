"""Targets: the classes and functions that a configuration names by ``_target_``, found and checked.

A configuration can name code, and a run folder can come from elsewhere. What may be called is said here, and by the
user.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from runner import debugger, hidden
from runner.checks import schema
from runner.checks.allowed import ALLOWED, is_forbidden, matches, unasked
from runner.checks.values import UNKNOWN, alternatives, choices, fits, words
from runner.errors import MANY, ConfigError, Problem, for_shell, nearest, reason_of, shown
from runner.keys import walk
from runner.signals import Exit

BLOCKED = "is blocked for safety (it can run code or change files); allow_targets cannot allow it"

GIVEN = {
    "split": ("subject",), "loader": ("samples", "order", "transform", "device"),
    "loss": ("weight", "pos_weight", "reduction"), "optimizer": ("params",), "scheduler": ("optimizer",),
    "trainer": ("model", "loss", "batch"), "sweep": ("seed",),
    "metric": ("y_true", "y_pred", "y_score", "y_prob", "y_proba", "y1", "y2"),
}  # fmt: skip
"""By group: the arguments of its target that the run gives, and the configuration need not."""

OURS = {
    name: schema.ours(group)
    for name, group in (
        ("dataset", schema.Dataset), ("split", schema.Split), ("loader", schema.Loader), ("model", schema.Model),
        ("loss", schema.Loss), ("optimizer", schema.Optimizer), ("scheduler", schema.Scheduler),
        ("metric", schema.Metric),
    )
}  # fmt: skip
"""By group: keys that stand beside ``_target_`` and are not the target's."""

OF_THE_DATA = ("input_shape", "num_outputs", "num_classes", "class_names", "total_steps", "steps_per_epoch")
"""Names of arguments that are facts, too."""

TERM = ("scale", "one_hot", "beta")
"""Of the keys of a loss, those that one of several has; the others are for their sum."""

HYDRA_KEYS = ("_target_", "_args_", "_partial_", "_convert_", "_recursive_")
"""Keys beside ``_target_`` that are Hydra's, and no arguments."""

CALLED = r"\w+|metric\.[^.]+|transform\.\w+\.\d+|loss\.terms\.\d+|.*\.scheduler|trainer\.step|loader\.(batch_)?sampler"
"""Places of the targets that the run calls itself; Hydra calls those inside their arguments."""

AS_CALLED = {"_convert_": "all", "_recursive_": True, "_partial_": False}
"""Values of Hydra's keys that fit how the run calls a target. Nothing else would have an effect."""

BOUND = ("split", "loader", "optimizer", "scheduler", "trainer", "metric")
"""Groups whose target is given its first arguments by the run, and so is called the same with ``_partial_``."""


def check(tree: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with the targets of a configuration, at any depth, and with their arguments.

    Args:
        tree: plain containers; see `runner.config.plain`.
    """
    patterns = tree.get("allow_targets")
    own = [pattern for pattern in patterns if isinstance(pattern, str)] if isinstance(patterns, list) else []
    allowed = (*ALLOWED, *own)
    found: list[Problem] = []
    for path, node in nodes(tree):
        wrong = _check_name(f"{path}._target_", node, allowed)
        found += wrong or _check_arguments(path, node, locate(node["_target_"]))
    found = _with_one_remedy(found)
    if tree.get("resume") is not None:  # an earlier version may have started it
        return found
    return found + [problem for path, node in nodes(tree) for problem in _check_idle(path, node)]


def _check_idle(path: str, node: dict[str, Any]) -> list[Problem]:
    """Keys of a target that the run calls which would be ignored, or are arguments that it gives."""
    if not re.fullmatch(CALLED, path):
        return []
    group, found = _group(path), []
    for key, value in AS_CALLED.items():
        if key in node and node[key] != value and not (key == "_partial_" and group in BOUND):
            what = f"{shown(node[key])} has no effect: runner calls {node['_target_']} itself"
            found.append(Problem(f"{path}.{key}", what, shown(value).strip("'"), f"leave out {path}.{key}"))
    of_the_group = {field.name for field in dataclasses.fields(schema.Loss)}
    for key in [key for key in GIVEN.get(group, ()) if key in node and key not in (*of_the_group, "reduction")]:
        what = f"cannot be set (value {shown(node[key])}): runner gives it to {node['_target_']}"
        found.append(Problem(f"{path}.{key}", what, remedy=f"leave out {path}.{key}"))
    return found


def check_allowed(tree: Any, path: str, patterns: Sequence[str]) -> None:
    """That every target in a part of the configuration may be called, whoever built it and however it came here.

    Raises:
        ConfigError: one may not.
    """
    allowed = (*ALLOWED, *patterns)
    found = [
        problem for place, node in nodes(tree, path) for problem in _check_name(f"{place}._target_", node, allowed)
    ]
    if found:
        raise ConfigError(*_with_one_remedy(found))


def nodes(tree: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every group of keys that names a target, at any depth, with its dotted key."""
    for place, node in walk(tree, path):
        target = node.get("_target_", "???") if isinstance(node, dict) else "???"
        if target is UNKNOWN or (isinstance(target, str) and target != "???"):
            yield place, node


def _check_name(key: str, node: dict[str, Any], allowed: Sequence[str]) -> list[Problem]:
    name, own = node["_target_"], allowed[len(ALLOWED) :]
    if name is UNKNOWN:
        return [Problem(key, "must not be a reference to facts", "a dotted path, written out")]
    if "." not in name:
        return [Problem(key, f"{name!r} has no module", "a dotted path, such as my_package.Net")]
    if is_forbidden(name):
        return [Problem(key, f"{name!r} {BLOCKED}")]
    if any(word.startswith("_") for word in name.split(".")):
        return [
            Problem(key, f"{name!r} has a name that begins with _, which means private", "a public class or function")
        ]
    if not matches([name], allowed):
        top = name.partition(".")[0]
        if top.isidentifier() and top not in sys.modules and importlib.util.find_spec(top) is None:
            close = nearest(top, [pattern.partition(".")[0] for pattern in allowed])
            return [Problem(key, f"{name!r} cannot be found: there is no module {top!r}", remedy=close)]
        return [_not_allowed(key, f"{name!r} is not on the list of allowed targets", [name], own)]
    try:
        target = locate(name)
    except LookupError as error:
        return [Problem(key, f"{name!r} cannot be found: {error}", "the dotted path of a class or function")]
    if not callable(target):
        what = "is a module" if inspect.ismodule(target) else f"is of type {type(target).__name__}"
        return [Problem(key, f"{name!r} {what}", "the dotted path of a class or function")]
    return _check_object(key, node, target, allowed)


def _check_object(key: str, node: dict[str, Any], target: Any, allowed: Sequence[str]) -> list[Problem]:
    """The object is judged too, not only its spelling: torch.nn.utils.prune.torch.load is torch.load."""
    name, own = node["_target_"], allowed[len(ALLOWED) :]
    judged = target.func if isinstance(target, functools.partial) else target
    true_name = f"{getattr(judged, '__module__', '')}.{getattr(judged, '__qualname__', '')}"
    if is_forbidden(true_name):
        return [Problem(key, f"{name!r} is {true_name}, which {BLOCKED}")]
    if name not in allowed and not matches([true_name], allowed):  # who names it in full means it, whatever it is
        what = f"{name!r} is {true_name}, which is not on the list of allowed targets"
        return [_not_allowed(key, what, [each for each in (name, true_name) if not matches([each], allowed)], own)]
    given = {argument: value for argument, value in node.items() if argument not in beside(key.rpartition(".")[0])}
    why = "" if matches([name, true_name], own) else unasked([name, true_name], judged, given)
    return [_not_allowed(key, f"{name!r} {why}", [name], own)] if why else []


@dataclasses.dataclass(frozen=True)
class NotAllowed(Problem):
    """Something is named that only the user can allow, by patterns beside those that are given."""

    patterns: tuple[str, ...] = ()


def _not_allowed(key: str, what: str, names: Sequence[str], own: Sequence[str]) -> Problem:
    allowed = "those in docs/checks.md, those that match allow_targets, those of runs that you trained here"
    return NotAllowed(key, what, allowed, patterns=(*own, *(f"{name.rpartition('.')[0]}.*" for name in names)))


def _with_one_remedy(found: Sequence[Problem]) -> list[Problem]:
    """Give all that is not allowed the same line to type, after which all of it is."""
    patterns = ",".join(dict.fromkeys(p for each in found if isinstance(each, NotAllowed) for p in each.patterns))
    remedy = f"{for_shell(f'allow_targets=[{patterns}]')}, if you trust this code"
    return [replace(each, remedy=remedy) if isinstance(each, NotAllowed) else each for each in found]


def _check_arguments(path: str, node: dict[str, Any], target: Callable[..., Any]) -> list[Problem]:
    group, ours = _group(path), beside(path)
    given = GIVEN.get(group, ())
    try:
        signature = inspect.signature(target)
    except ValueError:  # built in C, without a signature
        return []
    keys, hints = {k: v for k, v in node.items() if k not in (*HYDRA_KEYS, *ours)}, _hints(target)
    known = [p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    anything = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    found: list[Problem] = []
    for key, value in keys.items():
        if key not in known and not anything:
            what = f"{node['_target_']} has no argument {key!r} (value {shown(value)})"
            choices = [name for name in known if name not in given]
            close = nearest(str(key), choices, f"{path}.") if len(found) < MANY else ""
            remedy = close if value is UNKNOWN else f"{close}={value}"
            found.append(Problem(f"{path}.{key}", what, ", ".join(choices), remedy if close else ""))
    if not node.get("_args_") and not node.get("_partial_"):
        required = [p.name for p in signature.parameters.values() if p.default is p.empty and p.name in known]
        if group == "metric":
            required = required[2:]  # what is true and what was said, whatever they are called
        for key in [name for name in required if name not in (*keys, *given, *ours)]:
            remedy = for_shell(f"+{path}.{key}={_value_for(hints.get(key))}")
            if key in OF_THE_DATA and group != "dataset":  # which is what says them
                remedy = f"{key}: ${{facts.{key}}}"
            found.append(Problem(f"{path}.{key}", f"is missing: {node['_target_']} needs it", remedy=remedy))
    return found + _check_types(path, keys, target)


def beside(path: str) -> tuple[str, ...]:
    """The keys beside a target that are not the target's: in the group itself, or in one of what it lists.

    Args:
        path: the dotted key of the group, or of one of what it lists: ``loss``, ``loss.terms.0``.
    """
    if re.fullmatch(r"loss\.terms\.\d+", path):
        return TERM
    has_ours = re.fullmatch(r"\w+|metric\.[^.]+|optimizer\.param_groups\.\d+\.scheduler", path)
    return OURS.get(_group(path), ()) if has_ours else ()


def _group(path: str) -> str:
    return "scheduler" if path.endswith(".scheduler") else path.partition(".")[0]


def _check_types(path: str, keys: Mapping[str, Any], target: Callable[..., Any]) -> list[Problem]:
    """Values against the annotations of the target's arguments, where these are made of the simple kinds alone."""
    hints = _hints(target)
    # Lengths may be texts, too (see `runner.scheduler.lengths`), and which way a metric is better follows from it.
    if path.endswith("scheduler"):
        from runner.scheduler import LENGTHS

        keys = {key: value for key, value in keys.items() if key not in LENGTHS and (key, value) != ("mode", "auto")}
    simple = (int, float, bool, str)
    defaults = {p.name: p.default for p in inspect.signature(target).parameters.values()}
    # Many write `width: int = None` and mean that it may be None.
    keys = {key: value for key, value in keys.items() if value is not None or defaults.get(key, 0) is not None}
    found = []
    for key, value in keys.items():
        hint, place = hints.get(key), f"{path}.{key}"
        if (held := _dataclass_of(hint)) is not None and isinstance(value, dict) and "_target_" not in value:
            name = f"{held.__module__}.{held.__qualname__}"
            what = f"{shown(value)} is a mapping, and {path}._target_ takes a {name}"
            found.append(Problem(place, what, f"{{_target_: {name}, …}}", f"{place}._target_={name}"))
            continue
        is_wrong = not fits(value, hint) if _is_simple(hint) else _is_list(hint) and isinstance(value, simple)
        if is_wrong and value != "???":
            close = nearest(str(value), choices(hint, {}), f"{place}=")
            remedy = for_shell(f"{place}=[{value}]") if _is_list(hint) else close
            remedy = remedy or schema.one_by_one(place, value, functools.partial(fits, hint=hint))
            found.append(Problem(place, f"{shown(value)} is not allowed", words(hint, {}), remedy))
    return found


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a target's arguments; none if only a type checker can read them."""
    target = target.func if isinstance(target, functools.partial) else target
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError, AttributeError):
        return {}


def _dataclass_of(hint: Any) -> type | None:
    """Return the dataclass of an annotation, also of one that may be null."""
    return next((kind for kind in alternatives(hint) if inspect.isclass(kind) and dataclasses.is_dataclass(kind)), None)


def _value_for(hint: Any) -> str:
    """Return how an argument that is missing is typed."""
    if (held := _dataclass_of(hint)) is None:
        return "VALUE"
    empty = dataclasses.MISSING
    needed = [f.name for f in dataclasses.fields(held) if f.init and f.default is f.default_factory is empty]
    given = "".join(f",{name}:VALUE" for name in needed)
    return f"{{_target_:{held.__module__}.{held.__qualname__}{given}}}"


def _is_simple(hint: Any) -> bool:
    """Whether an annotation is made of nothing but numbers, texts, true and false, null and choices."""
    simple = (int, float, bool, str, type(None))
    return all(kind in simple or typing.get_origin(kind) is typing.Literal for kind in alternatives(hint))


def _is_list(hint: Any) -> bool:
    """Whether an annotation is of several values, and not of a text."""
    return typing.get_origin(hint) in (list, tuple, Sequence)


def locate(name: str) -> Any:
    """The object that a dotted path names.

    Raises:
        LookupError: there is none; says at which word the path ends, and the nearest right one.
    """
    found: Any = None
    words = name.split(".")
    for number, word in enumerate(words):
        here = ".".join(words[: number + 1])
        if number > 0 and hasattr(found, word):
            found = getattr(found, word)
        elif number == 0 or inspect.ismodule(found):
            found = _import(here, found)
        else:
            raise LookupError(f"{'.'.join(words[:number])} has no {word!r}")
    return found


def _names_of(module: Any) -> list[str]:
    """What a module has to offer: neither what it calls private, nor modules that it imported for itself."""
    held = vars(module)  # getattr could import what is there in name only
    names = [name for name in dir(module) if not name.startswith("_")]
    foreign = [n for n in names if inspect.ismodule(held.get(n)) and f"{module.__name__}.{n}" not in sys.modules]
    return [name for name in names if name not in foreign]


def _import(name: str, parent: Any) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        above, _, word = name.rpartition(".")
        if error.name is not None and error.name != name and error.name != above:
            if debugger.on:
                raise
            raise LookupError(f"importing {name} needs {error.name}, which is not installed") from error
        if not above:
            raise LookupError(f"there is no module {name!r}") from error
        close = nearest(word, _names_of(parent), above + ".")
        near = f"; there is {close}" if close else ""
        if other := hidden.beside(above):
            near = f"; {other} is hidden by the module of that name: {hidden.renamed(other)}"
        raise LookupError(f"{above} has no {word!r}{near}") from error
    except Exit:  # a signal came
        raise
    except debugger.foreign(also=(SystemExit,)) as error:  # the module is there, and fails when it is imported
        raise LookupError(f"importing {name} failed: {type(error).__name__}: {reason_of(error)}") from error
