"""Optimizers: torch's own, over the parameters that are trained."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn


def build(factory: partial[Any], *modules: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a configuration, over every trainable parameter of `modules`.

    Args:
        factory: an optimizer class with its arguments bound. Where it has a ``fused`` form and the configuration leaves
            the choice open (``fused: null``), the fused one is taken on devices that have it: the same update in fewer
            passes over memory.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    fusable = {"cpu", "cuda", "mps"}.issuperset(p.device.type for p in parameters)
    open_choice = _takes(factory.func, "fused") and factory.keywords.get("fused") is None
    # torch allows only one of the two forms.
    if open_choice and fusable and not factory.keywords.get("foreach") and not factory.keywords.get("differentiable"):
        factory = partial(factory, fused=True)
    made: torch.optim.Optimizer = factory(parameters)
    return made


def _takes(function: Callable[..., object], name: str) -> bool:
    return name in inspect.signature(function).parameters
