"""The parameters of a model by their names: initial weights by rule, each drawn from a seed of its own; and frozen
ones, which training leaves as they are."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from runner.draws import generator
from runner.errors import ConfigError, Problem, few, nearest

Rule = Mapping[str, Any]

METHODS: dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    "xavier": (nn.init.xavier_normal_, ("gain",)),
    "xavier_uniform": (nn.init.xavier_uniform_, ("gain",)),
    "kaiming": (nn.init.kaiming_normal_, ("a", "mode", "nonlinearity")),
    "kaiming_uniform": (nn.init.kaiming_uniform_, ("a", "mode", "nonlinearity")),
    "normal": (nn.init.normal_, ("mean", "std")),
    "truncated_normal": (nn.init.trunc_normal_, ("mean", "std", "a", "b")),
    "uniform": (nn.init.uniform_, ("a", "b")),
    "orthogonal": (nn.init.orthogonal_, ("gain",)),
    "zeros": (nn.init.zeros_, ()),
    "constant": (nn.init.constant_, ("val",)),
}
"""By name: torch's function, and its arguments that a rule may give."""

USUAL = ("Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
"""The layers that a rule is for if it names none."""


def initialise(model: nn.Module, rules: str | Sequence[Rule] | Rule, seed: int) -> None:
    """Draw the weights of `model` anew, by rules of which the last that fits a layer decides.

    Every weight is drawn from a generator of its own, seeded by its name: another layer more or less, or one that is
    initialised otherwise, leaves the others as they are.

    Args:
        rules: the name of a method for all linear and convolutional layers (their biases 0), or a rule or several. A
            rule has a ``method``; ``layers``, the names of the types that it is for; ``names``, patterns of the layers'
            own names; ``bias``, a value (0 if it is left out; null leaves biases as they are); and what the method
            takes: ``gain``, ``std``, ``mean``, ``mode``, ``nonlinearity``, ``a``, ``b``, ``val``.

    Raises:
        ConfigError: an unknown method, layer or argument, or a rule that fits no layer.
    """
    rules = {"method": rules} if isinstance(rules, str) else rules
    listed: list[Rule] = [rules] if isinstance(rules, Mapping) else list(rules)
    for number, rule in enumerate(listed):
        _check(rule, f"model.init.{number}" if len(listed) > 1 else "model.init", model)
    names = {module: name for name, module in model.named_modules()}

    def draw(module: nn.Module) -> None:
        fitting = [rule for rule in listed if _fits(rule, names[module], module)]
        if fitting:
            _apply(fitting[-1], names[module], module, seed)

    model.apply(draw)


def _apply(rule: Rule, name: str, module: nn.Module, seed: int) -> None:
    function, accepted = METHODS[rule["method"]]
    arguments = {key: rule[key] for key in accepted if key in rule}
    for kind, parameter in module.named_parameters(recurse=False):
        full = f"{name}.{kind}" if name else kind
        if kind.startswith("bias"):
            if rule.get("bias", 0.0) is not None:
                nn.init.constant_(parameter, rule.get("bias", 0.0))
        elif function in (nn.init.zeros_, nn.init.constant_):
            function(parameter, **arguments)
        elif parameter.dim() > 1 or function in (nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_):
            function(parameter, **arguments, generator=generator(seed, "init", full))


def _fits(rule: Rule, name: str, module: nn.Module) -> bool:
    types = _list(rule.get("layers")) or (() if "names" in rule else USUAL)
    patterns = _list(rule.get("names"))
    right_type = not types or type(module).__name__ in types
    right_name = not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    return right_type and right_name and any(True for _ in module.parameters(recurse=False))


def _check(rule: Rule, key: str, model: nn.Module) -> None:
    if not isinstance(rule, Mapping) or "method" not in rule:
        raise ConfigError(Problem(key, f"{rule!r} has no method", ", ".join(METHODS)))
    method = rule["method"]
    if method not in METHODS:
        remedy = nearest(str(method), METHODS, f"{key}=" if len(rule) == 1 else f"{key}.method=")
        raise ConfigError(Problem(key, f"{method!r} is not an initialisation method", ", ".join(METHODS), remedy))
    allowed = ("method", "layers", "names", "bias", *METHODS[method][1])
    unknown = [name for name in rule if name not in allowed]
    if unknown:
        what, remedy = f"is not an argument of {method}", nearest(unknown[0], allowed)
        raise ConfigError(Problem(f"{key}.{unknown[0]}", what, ", ".join(allowed), remedy))
    modules = dict(model.named_modules())
    if not any(_fits(rule, name, module) for name, module in modules.items()):
        what, value, there = "layers", _list(rule.get("layers")), sorted({type(m).__name__ for m in modules.values()})
        if rule.get("names"):
            what, value, there = "names", _list(rule.get("names")), [name for name in modules if name]
        near = nearest(value[0] if value else "", there)
        found = f"{value or list(USUAL)} matches no layer of the model"
        raise ConfigError(Problem(f"{key}.{what}", found, few(there, 20), near))


def _list(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


class Frozen:
    """The parts of a model that are not trained, for good or until an epoch.

    A BatchNorm layer all of whose parameters are frozen stays in eval mode: its statistics are weights, too.

    Args:
        patterns: of the names of parameters, such as ``features.*``; or the name of a module, for all that is in it.
        until: the epoch, from 1 as it is shown, from which on everything is trained; None for never.

    Raises:
        ConfigError: a pattern that fits no parameter, or nothing left to train.
    """

    def __init__(self, model: nn.Module, patterns: Sequence[str], until: int | None = None) -> None:
        named = dict(model.named_parameters())
        chosen = {name for pattern in patterns for name in _matching(pattern, model)}
        if named and len(chosen) == len(named) and until is None:
            what = f"{list(patterns)} leaves nothing to train"
            raise ConfigError(Problem("model.freeze", what, "only a part of the model"))
        self.until = until
        self.parameters = [named[name] for name in sorted(chosen)]
        # One without parameters is frozen with all that surrounds it, if that is.
        self.norms = [
            module
            for name, module in model.named_modules()
            if isinstance(module, _BatchNorm) and _all_frozen(name, module, chosen, patterns)
        ]
        if until is None:  # an optimizer need not know of them
            self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Freeze or unfreeze what `epoch`, from 0, needs so. To be called after ``model.train()``."""
        frozen = self.until is None or epoch + 1 < self.until
        for parameter in self.parameters:
            parameter.requires_grad_(not frozen)
        for norm in self.norms:
            norm.train(not frozen)


def _matching(pattern: str, model: nn.Module) -> list[str]:
    names = [name for name, _ in model.named_parameters()]
    found = [name for name in names if _is_meant(name, pattern)]
    if not found:
        modules = [name for name, _ in model.named_modules() if name]
        near = nearest(pattern.removesuffix(".*"), [*modules, *names])
        top = [name for name, _ in model.named_children()]
        what = f"{pattern!r} matches no parameter of the model"
        allowed = [f"names such as {names[0]}"] if names else []
        if top:
            allowed += [f"patterns such as {top[0]}.*", f"or a module: {', '.join(top[:20])}"]
        # In quotes, for a layer's name may be a number.
        remedy = f"'model.freeze=[\"{near}\"]'" if near else ""
        raise ConfigError(Problem("model.freeze", what, ", ".join(allowed), remedy))
    return found


def _is_meant(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")


def _all_frozen(name: str, module: nn.Module, chosen: set[str], patterns: Sequence[str]) -> bool:
    inside = [f"{name}.{parameter}" for parameter, _ in module.named_parameters(recurse=False)]
    return chosen.issuperset(inside) if inside else any(_is_meant(name, pattern) for pattern in patterns)
