"""The gradient of a step: of one batch or several, in the precision of the run, clipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from runner.batch import Batch
from runner.draws import reseed
from runner.trainer import nonfinite, step
from runner.trainer.graphs import SETTLED, Found, Graphs
from runner.trainer.precision import Precision
from runner.visible import log

if TYPE_CHECKING:  # parts are given to one another, and do not import one another
    from runner.loss import Loss


class Gradient:
    """Leaves the gradient of a loss in a model's parameters.

    Args:
        seed: from which the random draws of each step follow.
        compute: the loss of a batch; see `runner.trainer.step`.
        precision: in which the model computes.
        compiled: the model compiled, if it is.
        micro_batch: samples that go through the model together: a batch is cut into parts of so many, which have the
            same gradient (but for BatchNorm, whose statistics are then those of a part). ``auto`` cuts in half, and
            half again, where the memory of the device is too small. None for whole batches.
        clip_norm: upper bound of the gradient's total 2-norm (Pascanu et al., "On the difficulty of training recurrent
            neural networks", 2013), or None.
        clip_value: upper bound of the size of each of its elements, or None.
        graph: whether steps are replayed as CUDA graphs; see `Graphs`. Not with a scaled loss, nor with ``auto``.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer, *, device: torch.device, seed: int,
        compute: Callable[..., Tensor] = step.plain, precision: Precision | None = None,
        compiled: Callable[[Tensor], Tensor] | None = None, micro_batch: int | str | None = None,
        clip_norm: float | None = None, clip_value: float | None = None, graph: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.device, self.seed, self.compute = device, seed, compute
        self.precision = precision or Precision(device)
        self.forward = self.precision.forward(model if compiled is None else compiled)
        self.scaler = torch.amp.GradScaler(device.type) if self.precision.scales_loss else None
        self.micro_batch = None if isinstance(micro_batch, str) else micro_batch
        self._may_cut = micro_batch == "auto"
        self.clip_norm, self.clip_value = clip_norm, clip_value
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.graphs = Graphs(nn.ModuleList([model, loss]), self.parameters) if graph else None
        self._number = 0
        self.observe: Callable[[], None] | None = None
        """Called in each step when the gradients are there, if it is set."""

    def __call__(self, batches: Sequence[Batch], number: int) -> Found:
        """Leave the gradient of the joint mean loss in the parameters.

        Args:
            number: of the step.

        Raises:
            ConfigError: the step cannot be replayed as a graph.
            torch.OutOfMemoryError: a batch does not fit into the memory, and may not be cut any smaller.
        """
        self._number = number
        self._reseed()
        if self.graphs is not None and self.observe is None:
            return self.graphs(self._computed, batches)
        return self._computed(batches)

    @property
    def settled(self) -> int:
        """Steps of a kind after which all that may be wrong with one has been seen."""
        return 1 if self.graphs is None else SETTLED

    def _reseed(self) -> None:
        """Once a step and not once a batch, or every micro-batch would have the same dropout masks."""
        reseed(self.device, self.seed, "step", self._number)

    def _computed(self, batches: Sequence[Batch]) -> Found:
        # Targets alone say by what the terms are divided, so that each batch can be divided by the weight of them all:
        # weighted means are those of one large batch.
        weights = reduce(torch.add, [self.loss.weight(batch) for batch in batches])
        sums = self._sums_that_fit(batches, weights)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.observe is not None:
            self.observe()
        norm = self._norm()  # before anything is clipped, which would make an infinite element finite
        if self.clip_value is not None:
            nn.utils.clip_grad_value_(self.parameters, self.clip_value)
        if self.clip_norm is not None:
            left = norm if self.clip_value is None else self._norm()
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip_norm, left)
        return sums, weights, norm

    def _norm(self) -> Tensor:
        return total_norm([p.grad for p in self.parameters if p.grad is not None])

    def update(self) -> None:
        """The optimizer's step."""
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def skip(self) -> None:
        """To be called in place of `update` for a step that is not taken: a scaler takes note of each, too."""
        if self.scaler is not None:
            self.scaler.update()

    def clear(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:  # what optimizer.zero_grad does, without what that costs beside a small step
            parameter.grad = None

    def _sums_that_fit(self, batches: Sequence[Batch], weights: Tensor) -> Tensor:
        """Add up the gradient over micro-batches, which are made smaller until they fit, if they may be."""
        held = nonfinite.copies(self.model) if self._may_cut else {}
        while True:
            try:
                return self._sums(batches, weights)
            except torch.OutOfMemoryError:
                largest = min(max(map(len, batches)), self.micro_batch or 2**62)
                if not self._may_cut or largest == 1:
                    raise
            # Not in the handler: what the pass had computed is held by the traceback there.
            self.clear()
            nonfinite.restore(self.model, held)
            self._reseed()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.micro_batch = (largest + 1) // 2
            what = "out of memory with %d samples at once: continuing with micro-batches of %d"
            log.info(what, largest, self.micro_batch)

    def _sums(self, batches: Sequence[Batch], weights: Tensor) -> Tensor:
        # The slope of the sum of the quotients. A step whose targets are all ignored has sums of 0 and adds nothing.
        slopes = weights.clamp(min=1e-12).reciprocal()
        if self.scaler is not None:
            slopes = self.scaler.scale(slopes)
        size, losses = self.micro_batch, []
        parts = batches if size is None else [part for batch in batches for part in batch.cut(size)]
        for part in parts:
            sums = self._of_terms(self.compute(self.forward, self.loss, part), part)
            with nonfinite.explained():
                sums.backward(slopes)
            losses.append(sums.detach())
        return reduce(torch.add, losses)

    def _of_terms(self, value: Tensor, batch: Batch) -> Tensor:
        """(T,) sums, of what a step function returned: a scalar is the mean of the batch's first term."""
        if value.dim():
            return value
        sums = torch.zeros(len(self.loss.terms), device=value.device)
        sums[0] = value * self.loss.weight(batch)[0]
        return sums


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all elements. Without what `torch.nn.utils.get_total_norm` takes to sort tensors by device and
    type, which is as long as the norms of a small model."""
    if len({(tensor.device, tensor.dtype) for tensor in tensors}) != 1:
        return nn.utils.get_total_norm(tensors)
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))
    return norm
