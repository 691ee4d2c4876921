"""From the `optimizer` group of a configuration to an optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from runner import debugger
from runner.errors import ConfigError, Problem, reason_of
from runner.optimizer.groups import Rule, groups


def build(
    factory: partial[Any], modules: Mapping[str, nn.Module], rules: Sequence[Rule] = (), *,
    decay_norms_and_biases: bool = True, layer_decay: float | None = None, scale: float = 1.0,
) -> torch.optim.Optimizer:  # fmt: skip
    """The optimizer of a configuration, over every trainable parameter of `modules`.

    Args:
        factory: an optimizer class with its arguments bound. Where it has a ``fused`` form and the configuration leaves
            the choice open (``fused: null``), the fused one is taken on devices that have it: the same update in fewer
            passes over memory.
        modules: by the prefix of their parameters' names; the model has none, ``""``.
        rules: which parameters have other settings. Each parameter goes to the first that fits it.
        decay_norms_and_biases: whether weight decay applies to normalisation layers and biases.
        layer_decay: by which the learning rate is multiplied for each layer between a parameter and the output.
        scale: of every learning rate.

    Raises:
        ConfigError: a rule that decides nothing, or a setting that the optimizer does not have.
    """
    parameters = inspect.signature(factory).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty} | factory.keywords
    found = groups(
        modules, rules, defaults,
        decay_norms_and_biases=decay_norms_and_biases, layer_decay=layer_decay, scale=scale,
    )  # fmt: skip
    devices = {p.device.type for group in found for _, p in group["params"]}
    open_choice = _takes(factory.func, "fused") and factory.keywords.get("fused") is None
    # torch allows only one of the two forms.
    if open_choice and devices <= FUSED and not any(factory.keywords.get(key) for key in ("foreach", "differentiable")):
        factory = partial(factory, fused=True)
    for rule in rules:
        _check_values(factory, rule)
    made: torch.optim.Optimizer = factory(found)
    for rule in rules:
        if missing := [key for key in rule.settings if key not in made.defaults]:
            what = f"is not an option of {type(made).__name__}'s parameter groups"
            raise ConfigError(Problem(f"{rule.key}.{missing[0]}", what, ", ".join(made.defaults)))
    return made


FUSED = {"cpu", "cuda", "mps"}
"""Types of devices for which torch's fused optimizers are written."""


def _check_values(factory: partial[Any], rule: Rule) -> None:
    """That an optimizer of a rule's settings alone could be made: torch looks at those of groups only in a step."""
    settings = {key: value for key, value in rule.settings.items() if _takes(factory.func, key)}
    try:
        factory([torch.zeros(1, 1)], **settings)
    except debugger.foreign(TypeError, ValueError, IndexError, RuntimeError) as error:
        reason = reason_of(error)
        raise ConfigError(Problem(rule.key, f"{dict(rule.settings)} is not allowed: {reason}")) from error


def form(optimizer: torch.optim.Optimizer) -> str | None:
    """In which of torch's three forms an optimizer takes its steps, ``fused``, ``foreach`` or ``tensor by tensor``;
    None where it has one form alone."""
    group = optimizer.param_groups[0]
    if group.get("fused"):
        return "fused"
    on_cuda = all(p.device.type == "cuda" for g in optimizer.param_groups for p in g["params"])
    chosen = group.get("foreach")
    if "foreach" not in group:
        return None
    return "foreach" if (on_cuda if chosen is None else chosen) else "tensor by tensor"


def _takes(function: Callable[..., object], name: str) -> bool:
    return name in inspect.signature(function).parameters
