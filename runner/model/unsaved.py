"""What of a model a checkpoint does not hold."""

from __future__ import annotations

from torch import Tensor, nn


def unsaved(model: nn.Module) -> list[str]:
    """Names of plain tensor attributes and of buffers that are not persistent: ``state_dict`` has neither."""
    found = []
    for path, module in model.named_modules():
        plain = [name for name, value in vars(module).items() if isinstance(value, Tensor)]
        for name in [*plain, *sorted(module._non_persistent_buffers_set)]:
            found.append(f"{path}.{name}" if path else name)
    return found
