"""The gradient of a step as a CUDA graph: one launch in place of one for each of its kernels.

A card computes the step of a small model in less time than Python takes to ask for its kernels. A graph is recorded
once for each size of batches, and replayed on those that follow (NVIDIA, "CUDA C++ Programming Guide", CUDA Graphs).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from runner.batch import Batch
from runner.errors import ConfigError, Problem, cause_of
from runner.trainer import nonfinite

Found = tuple[Tensor, Tensor, Tensor]
"""Of a step: the (T,) sums of the loss's terms, their (T,) weights, and the norm of the gradient before clipping."""

Compute = Callable[[Sequence[Batch]], Found]
"""Leaves the gradient of a step in the parameters. Given the same batches, it may differ only by what it draws."""

WARM_UP = 2
"""Steps of a kind that are computed kernel by kernel before one is recorded: libraries prepare what a graph cannot."""

CHECKED = 2
"""Steps of a kind after these that are computed in both ways: the one that was recorded, and one with other draws."""

MOST = 8
"""Kinds that have a graph, each with memory of its own for its batches and gradients."""

SETTLED = WARM_UP + CHECKED
"""Steps of a kind after which its graph is relied on."""


class Graphs:
    """Computes steps as `compute` does, to the same bits, by replaying them.

    Steps of which there have been few, or of too many kinds, are left to `compute`.

    Args:
        model: whose buffers a forward pass changes.
        parameters: of which `compute` leaves the gradient.
    """

    def __init__(self, compute: Compute, model: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
        self.compute, self.model, self.parameters = compute, model, parameters
        device = parameters[0].device
        self._draws_on = [device] if device.type == "cuda" else []
        # All graphs work in the same memory, for there is never one that runs beside another.
        self._memory: Any = torch.cuda.graph_pool_handle() if self._draws_on else None
        self._calls = Counter[Hashable]()
        self._recorded: dict[Hashable, Recording] = {}

    def __call__(self, batches: Sequence[Batch]) -> Found:
        """Leave the gradient in the parameters. What is returned is overwritten by the next call.

        Raises:
            ConfigError: the step cannot be recorded, or a replay of it is another step.
        """
        kind = self._kind(batches)
        calls = self._calls[kind]
        self._calls[kind] += 1
        if calls < WARM_UP or (kind not in self._recorded and len(self._recorded) == MOST):
            return self.compute(batches)
        if calls < SETTLED:
            return self._checked(kind, batches)
        return self._recorded[kind](batches)

    def _kind(self, batches: Sequence[Batch]) -> Hashable:
        """What a recording holds for. Layers thaw in the middle of a run."""
        thawed = sum(parameter.requires_grad for parameter in self.parameters)
        return thawed, *((name, t.shape, t.stride(), t.dtype) for batch in batches for name, t in _named(batch))

    def _checked(self, kind: Hashable, batches: Sequence[Batch]) -> Found:
        """Compute a step, compute it again by replaying it, and compare."""
        before = nonfinite.copies(self.model)
        with torch.random.fork_rng(self._draws_on):
            found = self.compute(batches)
            computed = [each.clone() for each in (*found, *self._left())]
        nonfinite.restore(self.model, before)
        if kind not in self._recorded:
            self._recorded[kind] = self._record(batches)
        found = self._recorded[kind](batches)
        if not _agree(computed, [*found, *self._left()]):
            what = "true, but a step that is replayed is another one than when it is computed"
            raise _refused(f"{what}: it depends on more than the batch and what is drawn on the device")
        return found

    def _left(self) -> list[Tensor]:
        """What computing a step changes in the model."""
        return [*(p.grad for p in self.parameters if p.grad is not None), *self.model.buffers()]

    def _record(self, batches: Sequence[Batch]) -> Recording:
        try:
            return Recording(self.compute, batches, self.parameters, self._memory)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a model does that no graph can hold, such as waiting for the device
            broken_off = "previous error" in str(error)  # of which the recording complains when it ends
            cause = error.__context__ if broken_off and error.__context__ is not None else error
            what = f"true, but a step cannot be recorded: {cause_of(cause)}"
            raise _refused(what) from error


def _agree(computed: Sequence[Tensor], replayed: Sequence[Tensor]) -> bool:
    """Whether two steps are the same: to the last bit, or where the device does not compute so, by loss and norm."""
    if torch.are_deterministic_algorithms_enabled():
        pairs, tolerance = zip(computed, replayed, strict=True), 0.0
    else:
        pairs, tolerance = zip(computed[:3], replayed[:3], strict=True), 1e-2
    return all(torch.allclose(a, b, rtol=tolerance, atol=0, equal_nan=True) for a, b in pairs)


def _refused(what: str) -> ConfigError:
    return ConfigError(Problem("trainer.cuda_graph", what, "false", "trainer.cuda_graph=false"))


class Recording:
    """A step on the memory that it was recorded with, into which each batch is copied."""

    def __init__(
        self, compute: Compute, batches: Sequence[Batch], parameters: Sequence[nn.Parameter], memory: Any
    ) -> None:
        self.batches = [batch.map(torch.clone) for batch in batches]
        self.parameters = parameters
        for parameter in parameters:
            parameter.grad = None  # or the gradient would be added to this one
        self.graph = torch.cuda.CUDAGraph()
        # cuBLAS keeps the memory that it works in for every stream, and libraries have it freed: Lightning at the end
        # of a fit. A graph would go on to write there; without any that is kept, it takes some of its own.
        torch._C._cuda_clearCublasWorkspaces()
        # Other threads go on: they fetch batches and write checkpoints.
        with torch.cuda.graph(self.graph, pool=memory, capture_error_mode="thread_local"):
            self.found = compute(self.batches)
        torch._C._cuda_clearCublasWorkspaces()
        self.gradients = [parameter.grad for parameter in parameters]

    def __call__(self, batches: Sequence[Batch]) -> Found:
        for held, batch in zip(self.batches, batches, strict=True):
            for (_, to), (_, given) in zip(_named(held), _named(batch), strict=True):
                to.copy_(given)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.found


def _named(batch: Batch) -> list[tuple[str, Tensor]]:
    return [("input", batch.input), ("target", batch.target), *batch.extra.items()]
