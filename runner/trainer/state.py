"""The state of an optimizer, by the names of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer


def load_optimizer(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Go on from `saved`, the ``state_dict`` of an optimizer over the same parameters.

    torch goes by their position: after two layers of a model changed places each would get the state of the other, and
    nothing would be said where they are of one shape. Here each parameter gets the state of its name.

    Raises:
        ValueError: other parameters, or other groups of them.
    """
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


def _positions(state: Mapping[str, Any]) -> dict[str, int]:
    """Where torch keeps the state of each parameter, by its name."""
    groups = state["param_groups"]
    return {name: at for group in groups for name, at in zip(group["param_names"], group["params"], strict=True)}
