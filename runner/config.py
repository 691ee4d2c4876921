"""The configuration: from the composed tree to built parts, and to the record in the run folder.

The one module that knows Hydra's and OmegaConf's ways; parts get plain values.
"""

from __future__ import annotations

import copy
import fnmatch
import importlib
import inspect
import logging
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import InterpolationResolutionError, InterpolationToMissingValueError, OmegaConfBaseException

from runner import schema
from runner.errors import ConfigError, Problem, nearest
from runner.files import write

PARTS = ("dataset", "split", "transform", "loader", "model", "loss", "optimizer", "scheduler", "metric")
ALLOWED = (
    *(f"runner.{part}.*" for part in PARTS),
    "torch.nn.*",
    "torch.optim.*",
    "torchvision.*",
    "sklearn.*",
    "timm.*",
)
"""Targets that a configuration may name. A user adds patterns of their own with ``allow_targets``."""

NEVER = ("builtins", "os", "posix", "nt", "sys", "subprocess", "pickle", "shutil", "importlib", "torch.hub",
         "torch.load", "torch.serialization")  # fmt: skip
"""Modules whose functions run or load whatever they are given; no pattern allows them."""

GIVEN = {
    "split": ("subject",),
    "loader": ("samples", "order", "transform", "device"),
    "loss": ("weight", "reduction"),
    "optimizer": ("params",),
    "scheduler": ("optimizer",),
    "metric": ("y_true", "y_pred"),
}
"""By group: the arguments of its target that the run gives, and the configuration need not."""

OURS = {
    "dataset": ("keys", "layout"),
    "split": ("path",),
    "loader": ("batch_size", "eval_batch_size", "drop_last", "sampler", "subset"),
    "scheduler": ("interval",),
}
"""By group: keys that stand beside ``_target_`` and are not the target's."""

log = logging.getLogger("runner")

_HYDRA_KEYS = ("_target_", "_args_", "_partial_", "_convert_", "_recursive_")


def folder() -> Path:
    """The folder of the groups: beside the package in a checkout, inside it when installed."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


def factory(node: DictConfig, ours: Sequence[str] = ()) -> partial[Any]:
    """What a group's ``_target_`` names, with the group's other keys bound as its arguments.

    Targets inside the arguments are built. This is the only place where the configuration calls anything.

    Args:
        ours: keys of the group that are not the target's.
    """
    from hydra.utils import instantiate

    arguments = copy.deepcopy(node)
    arguments._set_parent(node._get_parent())  # where references to other groups are looked up
    with read_write(arguments), open_dict(arguments):
        for key in (*_HYDRA_KEYS, *ours):
            arguments.pop(key, None)
    positional = instantiate(node.get("_args_", []), _convert_="all")
    return partial(locate(node._target_), *positional, **instantiate(arguments, _convert_="all"))


@contextmanager
def calling(key: str) -> Iterator[None]:
    """Tell what a target of the group `key` says of its arguments as a mistake in the configuration."""
    try:
        yield
    except (TypeError, ValueError) as error:
        log.debug("", exc_info=True)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        what = f"cannot be built: {reason}"
        raise ConfigError(Problem(key, what, remedy="hydra.verbose=true, to see where")) from error


def build(node: DictConfig, **given: Any) -> Any:
    """Call what `node` names, with what only the run can give."""
    return factory(node)(**given)


def build_all(nodes: ListConfig) -> list[Any]:
    """Call what each of `nodes` names."""
    return [build(node) for node in nodes]


def fill(config: DictConfig, facts: Mapping[str, Any]) -> None:
    """Enter what became known into ``facts``, for the parts that are built from here on."""
    with read_write(config), open_dict(config):
        for name, value in facts.items():
            config.facts[name] = value


def job(config: DictConfig) -> DictConfig:
    """The configuration without Hydra's own part."""
    ours = config.copy()
    with read_write(ours), open_dict(ours):
        ours.pop("hydra", None)
    return ours


def plain(config: DictConfig) -> tuple[dict[str, Any], list[Problem]]:
    """The configuration as plain containers, before the facts are known.

    Returns:
        The tree, with `schema.UNKNOWN` where a value will come from ``facts``, and the references that lead nowhere.
    """
    found: list[Problem] = []
    return {str(name): _plain(config, name, str(name), found) for name in config if name != "facts"}, found


def _plain(parent: DictConfig | ListConfig, key: Any, path: str, found: list[Problem]) -> Any:
    if OmegaConf.is_missing(parent, key) and not OmegaConf.is_interpolation(parent, key):
        return "???"
    try:
        value = parent[key]
    except InterpolationToMissingValueError:
        return schema.UNKNOWN
    except (InterpolationResolutionError, OmegaConfBaseException) as error:
        raw = parent._get_node(key)
        what = f"{getattr(raw, '_value', lambda: raw)()!r} leads nowhere ({str(error).splitlines()[0]})"
        found.append(Problem(path, what, remedy="the name of a key, as in ${facts.num_classes}"))
        return schema.UNKNOWN
    if isinstance(value, DictConfig):
        return {name: _plain(value, name, f"{path}.{name}", found) for name in value}  # type: ignore[str-bytes-safe]
    if isinstance(value, ListConfig):
        return [_plain(value, number, f"{path}.{number}", found) for number in range(len(value))]
    return value


def check(config: DictConfig) -> list[Problem]:
    """Everything that can be found wrong without looking at the data."""
    return check_keys(config) + check_targets(config)


def check_keys(config: DictConfig) -> list[Problem]:
    """What is wrong with keys of ours, and references that lead nowhere. Imports nothing heavy."""
    tree, found = plain(config)
    return schema.problems({**tree, "facts": None}) + found


def check_targets(config: DictConfig) -> list[Problem]:
    """What is wrong with the targets, at any depth, and with their arguments."""
    tree, _ = plain(config)
    patterns = tree.get("allow_targets")
    allowed = (*ALLOWED, *(patterns if isinstance(patterns, list) else ()))
    found = [problem for path, node in _targets(tree, "") for problem in _check_target(path, node, allowed)]
    return found + _check_entries(tree)


def _check_entries(tree: Mapping[str, Any]) -> list[Problem]:
    """That each metric and each transform is a group of keys with a target."""
    metrics = tree["metric"] if isinstance(tree.get("metric"), Mapping) else {}
    entries = {f"metric.{name}": node for name, node in metrics.items() if node is not None}
    transforms = tree["transform"] if isinstance(tree.get("transform"), Mapping) else {}
    for kind, steps in transforms.items():
        entries |= {f"transform.{kind}.{i}": step for i, step in enumerate(steps)} if isinstance(steps, list) else {}
    found = [
        Problem(key, f"{node!r} names nothing to call", "a group of keys with a _target_")
        for key, node in entries.items()
        if not (isinstance(node, Mapping) and "_target_" in node)
    ]
    if "loss" in metrics:
        found.append(Problem("metric.loss", "is the name of the loss itself, which is always measured", "another name"))
    return found


def _targets(tree: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every group of keys that names a target, at any depth, with its dotted key."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    if isinstance(tree, dict) and isinstance(tree.get("_target_"), str) and tree["_target_"] != "???":
        yield path, tree
    for name, child in children:
        yield from _targets(child, f"{path}.{name}" if path else str(name))


def _check_target(path: str, node: dict[str, Any], allowed: Sequence[str]) -> list[Problem]:
    name, key = node["_target_"], f"{path}._target_"
    if _forbidden(name):
        return [Problem(key, f"{name!r} may not be called: it runs or loads whatever it is given")]
    if not _matches(name, allowed) or any(word.startswith("_") for word in name.split(".")):
        what = f"{name!r} is not among the targets that may be called"
        return [Problem(key, what, ", ".join(allowed), f"allow_targets=[{name.rpartition('.')[0]}.*]")]
    try:
        target = locate(name)
    except LookupError as error:
        return [Problem(key, f"{name!r} cannot be found: {error}", "the dotted path of a class or function")]
    # The object is judged too, not only its spelling: torch.nn.utils.prune.torch.load is torch.load.
    true_name = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"
    if not callable(target) or not _matches(true_name, allowed):
        what = f"{name!r} is {true_name if callable(target) else 'not callable'}"
        return [Problem(key, what, ", ".join(allowed))]
    return _check_arguments(path, node, target)


def _matches(name: str, allowed: Sequence[str]) -> bool:
    return not _forbidden(name) and any(fnmatch.fnmatchcase(name, pattern) for pattern in allowed)


def _forbidden(name: str) -> bool:
    return any(name == module or name.startswith(module + ".") for module in NEVER)


def _check_arguments(path: str, node: dict[str, Any], target: Callable[..., Any]) -> list[Problem]:
    group = path.partition(".")[0]
    given, ours = GIVEN.get(group, ()), OURS.get(group, ()) if path == group else ()
    try:
        signature = inspect.signature(target)
    except ValueError:  # built in C, without a signature
        return []
    keys = {key: value for key, value in node.items() if key not in (*_HYDRA_KEYS, *ours)}
    known = [p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    anything = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    found = []
    for key, value in keys.items():
        if key not in known and not anything:
            what = f"{node['_target_']} has no argument {key!r} (value {value!r})"
            choices = [name for name in known if name not in given]
            found.append(Problem(f"{path}.{key}", what, ", ".join(choices), nearest(str(key), choices, f"{path}.")))
    if not node.get("_args_") and not node.get("_partial_"):
        required = [p.name for p in signature.parameters.values() if p.default is p.empty and p.name in known]
        for key in [name for name in required if name not in keys and name not in given]:
            found.append(
                Problem(f"{path}.{key}", f"is missing: {node['_target_']} needs it", remedy=f"+{path}.{key}=VALUE")
            )
    return found + _check_types(path, keys, target)


def _check_types(path: str, keys: Mapping[str, Any], target: Callable[..., Any]) -> list[Problem]:
    """Values against the annotations of the target's arguments, where these are of the simple kinds."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # annotations that only a type checker can read
        return []
    simple = (int, float, bool, str)
    return [
        Problem(f"{path}.{key}", f"{value!r} is not allowed", schema.describe(hints[key]))
        for key, value in keys.items()
        if hints.get(key) in simple and value != "???" and not schema.fits(value, hints[key])
    ]


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


def _import(name: str, parent: Any) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        above, _, word = name.rpartition(".")
        if error.name is not None and error.name != name and error.name != above:
            raise LookupError(f"importing {name} needs {error.name}, which is not installed") from error
        if not above:
            raise LookupError(f"there is no module {name!r}") from error
        close = nearest(word, dir(parent), above + ".")
        raise LookupError(f"{above} has no {word!r}" + (f"; there is {close}" if close else "")) from error
    except Exception as error:  # the module is there, and fails when it is imported
        raise LookupError(f"importing {name} failed: {type(error).__name__}: {error}") from error


def save(config: DictConfig, path: Path) -> None:
    """Write the configuration with every reference resolved.

    A value that was a reference to another key is entered twice: as the value it became, and under
    ``interpolations`` as the reference it was, so that a resumed run with more epochs gets a longer schedule.
    """
    tree = OmegaConf.to_container(config, resolve=True)
    assert isinstance(tree, dict)
    tree["interpolations"] = dict(_references(config, ""))
    write(path, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120).encode())


def load(path: Path) -> dict[str, Any]:
    """What `save` wrote, with its references again in their places and without facts: ready to be run.

    Raises:
        ConfigError: the file is not what `save` wrote.
    """
    try:
        saved = yaml.safe_load(path.read_text())
        references = saved.pop("interpolations")
        tree = OmegaConf.create(saved)
        for key, reference in references.items():
            OmegaConf.update(tree, key, reference, merge=False)
        for name in tree.facts:
            tree.facts[name] = "???"
    except (OSError, yaml.YAMLError, OmegaConfBaseException, AttributeError, KeyError, TypeError) as error:
        what = f"is not the configuration of a run ({str(error).splitlines()[0]})"
        raise ConfigError(Problem(str(path), what)) from error
    plain_tree = OmegaConf.to_container(tree, resolve=False)
    assert isinstance(plain_tree, dict)
    return typing.cast(dict[str, Any], plain_tree)


def _references(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Dotted key and text of every value that is nothing but references to other keys.

    A resolver (``${now:…}``, ``${oc.env:…}``) is not among them: a run that goes on keeps the value it started with.
    """
    if not isinstance(node, (DictConfig, ListConfig)) or node._is_none():
        return
    keys: list[Any] = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    for key in keys:
        name = f"{path}.{key}" if path else str(key)
        child = node._get_node(key)
        if OmegaConf.is_interpolation(node, key):
            text = str(child._value())  # type: ignore[union-attr]
            if ":" not in text:
                yield name, text
        else:
            yield from _references(child, name)
