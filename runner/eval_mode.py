"""A model in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from runner.visible import log


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode while the context is open. Afterwards each layer is in the mode it was in: frozen ones never train."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class Fitting:
    """Calls a model in eval mode, where samples have nothing to do with one another, on as many of them at once as fit
    into the memory of the device.

    Args:
        forward: (B, ...) inputs to outputs, of which the first dimension is the batch's.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        self.forward = forward
        self.size: int | None = None
        """Samples that go through the model together; None for whole batches, as long as they fit."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Raises torch.OutOfMemoryError: not even one sample fits."""
        while True:
            size = min(self.size or len(inputs), len(inputs))
            try:
                if size == len(inputs):
                    return self.forward(inputs)
                outputs = [self.forward(part) for part in inputs.split(size)]
                if not (isinstance(outputs[0], Tensor) and outputs[0].dim()):
                    return outputs[0]  # no output of samples, which whoever gets it will say
                return torch.cat(outputs)
            except torch.OutOfMemoryError:
                if size <= 1:
                    raise
            # Not in the handler: what the pass had computed is held by the traceback there.
            if inputs.is_cuda:
                torch.cuda.empty_cache()
            self.size = (size + 1) // 2
            log.debug("out of memory with %d samples at once in eval mode: continuing with %d", size, self.size)
