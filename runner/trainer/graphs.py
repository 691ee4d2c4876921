"""The gradient of a step as a CUDA graph: one launch in place of one for each of its kernels.

A card computes the step of a small model in less time than Python takes to ask for its kernels. A graph is recorded
once for each size of batches, and replayed on those that follow (NVIDIA, "CUDA C++ Programming Guide", CUDA Graphs).
"""

from __future__ import annotations

import pickle
import random
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
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
    """Computes steps to the same bits as `compute` does, by replaying them.

    Steps of which there have been few, or of too many kinds, are left to `compute`.

    Args:
        modules: whose buffers computing a step may change.
        parameters: of which `compute` leaves the gradient.
    """

    def __init__(self, modules: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
        self.modules, self.parameters = modules, parameters
        device = parameters[0].device
        self._place = Place(device) if device.type == "cuda" else None
        self._calls = Counter[Hashable]()
        self._recorded: dict[Hashable, Recording] = {}

    def __call__(self, compute: Compute, batches: Sequence[Batch]) -> Found:
        """Leave the gradient in the parameters. What is returned is overwritten by the next call.

        Raises:
            ConfigError: the step cannot be recorded, or a replay of it is another step.
        """
        kind = self._kind(batches)
        calls = self._calls[kind]
        self._calls[kind] += 1
        if calls < WARM_UP or (kind not in self._recorded and len(self._recorded) == MOST):
            return compute(batches)
        if calls < SETTLED:
            return self._checked(compute, kind, batches)
        return self._recorded[kind](batches)

    def _kind(self, batches: Sequence[Batch]) -> Hashable:
        """What a recording holds for. Layers thaw in the middle of a run."""
        thawed = sum(parameter.requires_grad for parameter in self.parameters)
        return thawed, *((name, t.shape, t.stride(), t.dtype) for batch in batches for name, t in _named(batch))

    def _checked(self, compute: Compute, kind: Hashable, batches: Sequence[Batch]) -> Found:
        """Compute a step, compute it again by replaying it, and compare."""
        before, drawn = nonfinite.copies(self.modules), _drawn_on_the_host()
        with torch.random.fork_rng([] if self._place is None else [self._place.device]):
            found = compute(batches)
            if _drawn_on_the_host() != drawn:
                raise _refused("a step draws random numbers on the CPU, and a graph would repeat them")
            computed = [each.clone() for each in (*found, *self._left())]
        nonfinite.restore(self.modules, before)
        if kind not in self._recorded:
            self._recorded[kind] = self._record(compute, batches)
        found = self._recorded[kind](batches)
        if not _agree(computed, [*found, *self._left()]):
            what = "a step that is replayed is another one than when it is computed"
            raise _refused(f"{what}: it depends on more than the batch and what is drawn on the device")
        return found

    def _left(self) -> list[Tensor]:
        """What computing a step changes."""
        return [*(p.grad for p in self.parameters if p.grad is not None), *self.modules.buffers()]

    def _record(self, compute: Compute, batches: Sequence[Batch]) -> Recording:
        before = _held_by(self.modules)
        places = [t.data_ptr() for t in _state(self.modules)]
        try:
            made = Recording(compute, batches, self.parameters, self._place)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a model does that no graph can hold, such as waiting for the device
            broken_off = "previous error" in str(error)  # of which the recording complains when it ends
            cause = error.__context__ if broken_off and error.__context__ is not None else error
            _let_draw_again(self._place)
            raise _refused(f"a step cannot be recorded: {cause_of(cause)}") from error
        if places != [t.data_ptr() for t in _state(self.modules)]:
            what = "a step puts new tensors in the place of parameters or buffers"
            raise _refused(f"{what}, and a graph goes on with those that were there")
        # A model may hold tensors that it makes anew for another size of batches: the graph goes on to read these.
        made.reads = before + _held_by(self.modules)
        return made


def _drawn_on_the_host() -> object:
    """Where the generators of the CPU are."""
    return random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state().tolist()


def _state(modules: nn.Module) -> list[Tensor]:
    return [*modules.parameters(), *modules.buffers()]


def _held_by(modules: nn.Module) -> list[Tensor]:
    """Every tensor that a module holds, also as an attribute like any other."""
    others = [value for module in modules.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    return [*_state(modules), *others]


def _agree(computed: Sequence[Tensor], replayed: Sequence[Tensor]) -> bool:
    """Whether two steps are the same: to the last bit, or where the device does not compute so, by loss and norm."""
    if torch.are_deterministic_algorithms_enabled():
        pairs, tolerance = zip(computed, replayed, strict=True), 0.0
    else:
        pairs, tolerance = zip(computed[:3], replayed[:3], strict=True), 1e-2
    return all(torch.allclose(a, b, rtol=tolerance, atol=0, equal_nan=True) for a, b in pairs)


def _refused(what: str) -> ConfigError:
    return ConfigError(Problem("trainer.cuda_graph", f"true, but {what}", "false", "trainer.cuda_graph=false"))


class Place:
    """Where graphs are recorded: all on one stream of a device, in the same memory, for no two run at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.memory: Any = torch.cuda.graph_pool_handle()


class Recording:
    """A step on the memory that it was recorded with, into which each batch is copied."""

    reads: Sequence[Tensor] = ()
    """What must not be freed."""

    def __init__(
        self, compute: Compute, batches: Sequence[Batch], parameters: Sequence[nn.Parameter], place: Place | None
    ) -> None:
        self.batches = [batch.map(torch.clone) for batch in batches]
        self.parameters = parameters
        for parameter in parameters:
            parameter.grad = None  # or the gradient would be added to this one
        self.graph = torch.cuda.CUDAGraph()
        with _recording(self.graph, place):
            self.found = compute(self.batches)
        self.gradients = [parameter.grad for parameter in parameters]

    def __call__(self, batches: Sequence[Batch]) -> Found:
        for held, batch in zip(self.batches, batches, strict=True):
            for (_, to), (_, given) in zip(_named(held), _named(batch), strict=True):
                to.copy_(given)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.found


@contextmanager
def _recording(graph: torch.cuda.CUDAGraph, place: Place | None) -> Iterator[None]:
    """While entered, kernels are taken down in a graph, and not run."""
    assert place is not None, "there are graphs on CUDA alone"
    # cuBLAS keeps the memory that it works in for every stream, and libraries have it freed: Lightning at the end of a
    # fit. A graph would go on to write there; without any that is kept, it takes some of its own.
    torch._C._cuda_clearCublasWorkspaces()
    # What is recorded is of the current device, which need not be that of the run. Other threads go on: they fetch
    # batches and write checkpoints.
    how: dict[str, Any] = {"pool": place.memory, "stream": place.stream, "capture_error_mode": "thread_local"}
    with torch.cuda.device(place.device), torch.cuda.graph(graph, **how):
        yield
    torch._C._cuda_clearCublasWorkspaces()


def _let_draw_again(place: Place | None) -> None:
    """After a recording that was broken off: until one has come to its end, torch refuses every draw on the device."""
    if place is None:
        return
    with warnings.catch_warnings(), torch.cuda.device(place.device):
        warnings.simplefilter("ignore")  # that it is empty
        with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=torch.cuda.Stream(place.device)):
            pass


def _named(batch: Batch) -> list[tuple[str, Tensor]]:
    return [("input", batch.input), ("target", batch.target), *batch.extra.items()]
