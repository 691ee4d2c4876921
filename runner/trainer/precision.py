"""In which number format and memory layout a model computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """How a model's forward pass is computed. Weights, loss and optimizer are in float32 whatever it is.

    Args:
        name: ``fp32``; ``bf16`` or ``fp16`` for torch's autocast, in which matrix products and convolutions are of that
            type and sums of many numbers are not (Micikevicius et al., "Mixed Precision Training", 2018).
        channels_last: whether pictures are laid out with the channel as their last dimension, which convolutions are
            faster with.
    """

    device: torch.device
    name: str = "fp32"
    channels_last: bool = False

    @property
    def scales_loss(self) -> bool:
        """Whether gradients would vanish without a scaled loss: half precision has no number below 6e-8."""
        return self.name == "fp16"

    def place(self, model: nn.Module) -> nn.Module:
        """The model on its device, in its layout."""
        if self.channels_last:
            return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
        return model.to(self.device)

    def forward(self, model: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """A function that calls the model and returns float32."""
        if self.name == "fp32" and not self.channels_last:
            return model
        kind, autocast = TYPES[self.name], self.name != "fp32"

        def call(x: Tensor) -> Tensor:
            if self.channels_last and x.dim() == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, kind, enabled=autocast):
                output = model(x)
            return output.float() if autocast else output

        return call


def wants_channels_last(choice: bool | str, device: torch.device, name: str, model: nn.Module, example: Tensor) -> bool:
    """Whether pictures are laid out channels last.

    Args:
        choice: true, false, or ``auto``: for a model with convolutions over pictures, on a CPU and in half precision on
            CUDA, where it is faster; in float32 on CUDA it as a rule is not.
    """
    if not any(isinstance(layer, nn.Conv2d) for layer in model.modules()) or example.dim() != 4:
        return False
    return bool(choice) if choice != "auto" else device.type == "cpu" or (device.type == "cuda" and name != "fp32")
