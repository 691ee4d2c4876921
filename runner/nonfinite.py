"""Where a loss or a gradient became NaN or infinite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from runner.batch import Batch
from runner.errors import RunnerError
from runner.eval_mode import eval_mode

if TYPE_CHECKING:  # parts are given to one another, and do not import one another
    from runner.loss import Loss

SHOWN = 10
"""Samples that are listed."""


class NonFinite(RunnerError):
    """The loss or the gradient of a step is no finite number, and the step was not taken.

    Args:
        what: where it happened.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}\n  try: a smaller optimizer.lr, trainer.clip_norm=1, or trainer.on_nonfinite=skip")


def describe(model: nn.Module, loss: Loss, batches: Sequence[Batch], forward: Callable[[Tensor], Tensor]) -> str:
    """The first layer of which the output, or else the gradient, is not finite, and the samples that make it so.

    To be called when the gradients of the step are there. Every layer is left in the mode it was in.
    """
    found = [(name, samples) for batch in batches for name, samples in [_culprits(model, loss, batch, forward)] if name]
    if found:
        samples = sorted({index for _, indices in found for index in indices})
        listed = ", ".join(map(str, samples[:SHOWN])) + (", …" if len(samples) > SHOWN else "")
        return f"first in {found[0][0]}" + (f"; samples {listed}" if samples else "")
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    # The backward pass comes from the output: the last of them was the first.
    return f"the forward pass is finite, and the gradient of {bad[-1]} is not" if bad else "in the sum over the batch"


@torch.no_grad()
def _culprits(model: nn.Module, loss: Loss, batch: Batch, forward: Callable[[Tensor], Tensor]) -> tuple[str, list[int]]:
    """Where it went wrong, and the data set's indices of the samples. In eval mode: batch statistics mix samples."""
    bad = _rows(batch.input)
    if bad.any():
        return "the input", batch.index[bad.cpu()].tolist()
    with eval_mode(model):
        layer, output = _first_layer(model, batch, forward)
        if layer:
            return layer, batch.index[_rows(output).cpu()].tolist()
        one = [batch.rows(slice(n, n + 1)) for n in range(len(batch))]
        values = torch.stack([loss(output[n : n + 1], each) for n, each in enumerate(one)])
    bad = _rows(values)
    return ("the loss", batch.index[bad.cpu()].tolist()) if bad.any() else ("", [])


def _first_layer(model: nn.Module, batch: Batch, forward: Callable[[Tensor], Tensor]) -> tuple[str, Tensor]:
    """The name of the first layer without layers of its own whose output is not finite, and the model's output."""
    seen: list[str] = []

    def look(name: str, module: nn.Module) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all():
                seen.append(f"layer {name or 'of the model'} ({type(module).__name__})")

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    handles = [module.register_forward_hook(look(name, module)) for name, module in leaves]
    try:
        output = forward(batch.input)
    finally:
        for handle in handles:
            handle.remove()
    return (seen[0] if seen else ""), output


def _rows(values: Tensor) -> Tensor:
    """(B,) whether anything in each row is not finite."""
    return ~values.isfinite().flatten(1).all(1) if values.dim() > 1 else ~values.isfinite()


def copies(model: nn.Module) -> Mapping[str, Tensor]:
    """What a forward pass in train mode changes: BatchNorm's statistics."""
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@torch.no_grad()
def restore(model: nn.Module, held: Mapping[str, Tensor]) -> None:
    """Undo what a forward pass that went wrong left in the model."""
    for name, buffer in model.named_buffers():
        buffer.copy_(held[name])
