"""Frozen parameters: those that training leaves as they are."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from runner.errors import ConfigError, Problem, nearest


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
