"""The state of an optimizer, by the names of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def load_optimizer(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Go on from `saved`, the ``state_dict`` of an optimizer over the same parameters.

    torch goes by their position: after two layers of a model changed places each would get the state of the other, and
    nothing would be said where they are of one shape. Here each parameter gets the state of its name.

    Raises:
        ValueError: other parameters, or other groups of them.
    """
    _load(optimizer, saved)
    _lay_out(optimizer)


def _load(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    state = optimizer.state_dict()
    if not all("param_names" in group for group in [*state["param_groups"], *saved["param_groups"]]):
        optimizer.load_state_dict(dict(saved))  # one that does not know the names of its parameters
        return
    here, there = _positions(state), _positions(saved)
    if here.keys() != there.keys():
        differing = ", ".join(sorted(here.keys() ^ there.keys())[:5])
        raise ValueError(f"the parameters of the optimizer differ from the saved ones: {differing}")
    groups = []
    for group in state["param_groups"]:
        same = [other for other in saved["param_groups"] if set(other["param_names"]) == set(group["param_names"])]
        if not same:
            raise ValueError(f"the saved optimizer has no parameter group of {', '.join(group['param_names'][:5])}")
        groups.append({**same[0], "params": group["params"], "param_names": group["param_names"]})
    moved = {here[name]: saved["state"][there[name]] for name in here if there[name] in saved["state"]}
    optimizer.load_state_dict({"state": moved, "param_groups": groups})


def _lay_out(optimizer: Optimizer) -> None:
    """Lay what was loaded out in memory as the parameters are. Another device has another layout of convolutions, and a
    fused optimizer would take the elements in another order than the parameter's, or refuse."""
    for parameter, state in optimizer.state.items():
        if not (isinstance(parameter, Tensor) and isinstance(state, dict)):
            continue  # of an optimizer of the user's, which keeps something else there
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _positions(state: Mapping[str, Any]) -> dict[str, int]:
    """Where torch keeps the state of each parameter, by its name."""
    groups = state["param_groups"]
    return {name: at for group in groups for name, at in zip(group["param_names"], group["params"], strict=True)}
