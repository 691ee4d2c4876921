"""Targets a configuration may call without the word of whoever types: those that build, not those that load or run.

A folder of a run can come from anybody, and says what is called, and with what. So a name is not enough: the arguments
of some of these count, too.
"""

from __future__ import annotations

import fnmatch
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

PARTS = ("dataset", "split", "transform", "loader", "model", "loss", "optimizer", "scheduler", "metric")

SAMPLERS = ("BruteForceSampler", "GPSampler", "GridSampler", "NSGAIISampler", "NSGAIIISampler", "PartialFixedSampler",
            "QMCSampler", "RandomSampler", "TPESampler")  # fmt: skip
"""Optuna's that keep no pickles in the journal of a search, as CmaEsSampler does."""

PRUNERS = ("HyperbandPruner", "MedianPruner", "NopPruner", "PatientPruner", "PercentilePruner",
           "SuccessiveHalvingPruner", "ThresholdPruner", "WilcoxonPruner")  # fmt: skip

ALLOWED = (
    *(f"runner.{part}.*" for part in (*PARTS, "trainer.step")),
    "torch.nn.*",
    "torch.optim.*",
    "torch.utils.data.*Sampler",
    "torchvision.datasets.*",
    "torchvision.models.*",
    "torchvision.ops.*",
    "torchvision.transforms.*",
    "sklearn.metrics.*",
    "timm.create_model",
    "timm.models.create_model",
    *(f"optuna.samplers.{name}" for name in SAMPLERS),
    "optuna.samplers.nsgaii.*",
    *(f"optuna.pruners.{name}" for name in PRUNERS),
)
"""Targets that a configuration may name. A user adds patterns of their own with ``allow_targets``.

tests/checks/test_allowed.py reads the source of all that these reach, and says why what opens files there is harmless.
"""

NEVER = ("builtins", "os", "posix", "nt", "sys", "subprocess", "pickle", "_pickle", "dill", "cloudpickle", "joblib",
         "marshal", "runpy", "code", "ctypes", "shutil", "importlib", "torch.hub", "torch.load", "torch.serialization",
         "torchvision.datasets.utils")  # fmt: skip
"""Modules whose functions run or load whatever they are given; no pattern allows them."""

Judge = Callable[[Any, Mapping[str, Any]], str]
"""Functions that say why a target with its arguments is not harmless; nothing if it is."""


def _always(why: str) -> Judge:
    return lambda target, given: why


def _of_torchvision(target: Any, given: Mapping[str, Any]) -> str:
    """A builder of torchvision's downloads the weights that it is asked for, and those of a backbone unasked."""
    if target.__name__ == "get_model":
        try:
            target = target.__globals__["get_model_builder"](given.get("name"))
        except (AttributeError, ValueError):  # no text, or there is no such model: it says so itself
            return "" if isinstance(given.get("name"), str) else "needs the name of a model"
    try:
        arguments = {**{p.name: p.default for p in inspect.signature(target).parameters.values()}, **given}
    except ValueError:  # built in C
        return ""
    return _loading(arguments, ("weights", "pretrained"))


def _of_timm(target: Any, given: Mapping[str, Any]) -> str:
    name = given.get("model_name")
    if not isinstance(name, str) or re.search(r"[^\w.-]", name):  # local-dir:FOLDER, hf-hub:OWNER/NAME
        return f"with model_name={name!r} loads a file, or what a server has"
    return _loading(given, ("pretrained", "checkpoint", "cache_dir"))


def _loading(arguments: Mapping[str, Any], beginnings: tuple[str, ...]) -> str:
    """Say which argument, the first that begins like that and is given, loads something; nothing if none does."""
    harmless = (None, False, inspect.Parameter.empty)
    for name, value in arguments.items():
        if str(name).startswith(beginnings) and not any(value is one for one in harmless):
            return f"with {name}={str(value)[:40]} loads a file, or what a server has"
    return ""


JUDGED: Mapping[str, Judge] = {
    "runner.model.weights.*": _always("loads a file, or what a server has, as model.weights does"),
    "sklearn.metrics.*tests.*": _always("is a test"),
    "torchvision.models.feature_extraction.*": _always("writes code and runs it"),
    "torchvision.models.*": _of_torchvision,
    "timm.*": _of_timm,
}
"""By pattern, what decides whether a target that `ALLOWED` has is harmless with the arguments that it gets."""


def unasked(names: Sequence[str], target: Any, given: Mapping[str, Any]) -> str:
    """Why a target is not harmless, though it is on the list; nothing if it is.

    Args:
        names: as it was named, and as it is called where it was defined.
        given: its arguments by name, and under ``_args_`` those by position.
    """
    if not (inspect.isclass(target) or inspect.isroutine(target)) or "." in getattr(target, "__qualname__", "."):
        return "is neither a class nor a function of a module"  # but a method, say: that of WeightsEnum unpickles
    judges = [judge for pattern, judge in JUDGED.items() if matches(names, [pattern])]
    if judges and given.get("_args_"):
        return "takes arguments by position here, whose meaning is not checked"
    return next((why for judge in judges if (why := judge(target, given))), "")


def matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return whether any of `names` fits any of `patterns`."""
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)


def is_forbidden(name: str) -> bool:
    return any(name == module or name.startswith(module + ".") for module in NEVER)
