"""Where a loss or a gradient became NaN or infinite, and with `debug=anomaly` which operation broke the gradient."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from runner.batch import Batch
from runner.errors import RunnerError, few
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
        return f"first in {found[0][0]}" + (f"; samples {few(samples, SHOWN)}" if samples else "")
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
        output, seen = _watched(model, batch, forward)
        if seen:
            layer, bad = seen[0]
            return layer, batch.index[(bad if len(bad) == len(batch) else _rows(output)).cpu()].tolist()
        one = [batch.rows(slice(n, n + 1)) for n in range(len(batch))]
        values = torch.stack([loss(output[n : n + 1], each) for n, each in enumerate(one)])
    bad = _rows(values)
    return ("the loss", batch.index[bad.cpu()].tolist()) if bad.any() else ("", [])


def _watched(
    model: nn.Module, batch: Batch, forward: Callable[[Tensor], Tensor]
) -> tuple[Tensor, list[tuple[str, Tensor]]]:
    """The model's output; and the layers without layers of their own whose output is not finite, with its rows that are
    not: in later layers a BatchNorm may have spread them over the batch."""
    seen: list[tuple[str, Tensor]] = []

    def look(name: str, module: nn.Module) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all():
                seen.append((f"layer {name or 'of the model'} ({type(module).__name__})", _rows(output)))

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    with ExitStack() as hooks:
        for name, module in leaves:
            hooks.enter_context(module.register_forward_hook(look(name, module)))
        return forward(batch.input), seen


def _rows(values: Tensor) -> Tensor:
    """(B,) whether anything in each row is not finite."""
    return ~values.isfinite().flatten(1).all(1) if values.dim() > 1 else ~values.isfinite()


class Latch:
    """Looks at steps without waiting for the device, and lets no update through from the first bad one on.

    Fused optimizers leave out an update that ``found_inf`` says to leave out. `torch.amp.GradScaler` has them do so;
    here as there, torch's kernel that unscales gradients sets it: one, in place of the ten and more that a look of our
    own would take, and on a card launching kernels is what a small step costs.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._bad = torch.zeros((), device=device)  # 1 from the first bad step on: the kernel never sets it back
        self._scale = torch.ones((), device=device)
        self._count = torch.zeros((), dtype=torch.float64, device=device)  # of bad steps
        self._last = -1
        optimizer.found_inf = self._bad  # type: ignore[attr-defined]

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer, device: torch.device) -> Latch | None:
        """None for an optimizer that cannot leave out an update by itself."""
        return cls(optimizer, device) if getattr(optimizer, "_step_supports_amp_scaling", False) else None

    def look(self, tensors: Sequence[Tensor], step: int) -> None:
        """To be called before the update of `step`, with what has to be finite."""
        # In float32, for on CUDA the kernel has no bfloat16.
        torch._amp_foreach_non_finite_check_and_unscale_([t.float() for t in tensors], self._bad, self._scale)
        self._count += self._bad
        self._last = step

    def first(self) -> int | None:
        """The first step that was not taken. Waits for the device."""
        count = int(self._count)
        return self._last - count + 1 if count else None


def copies(model: nn.Module) -> Mapping[str, Tensor]:
    """What a forward pass in train mode changes: BatchNorm's statistics."""
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@torch.no_grad()
def restore(model: nn.Module, held: Mapping[str, Tensor]) -> None:
    """Undo what a forward pass that went wrong left in the model."""
    for name, buffer in model.named_buffers():
        buffer.copy_(held[name])


FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.+)\n(?:    (?P<code>[^\n]*))?')
NOT_ASKED_FOR = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
"""Code between the call that somebody wrote and the operation, or before it."""


class BrokenGradient(RunnerError):
    """The backward pass failed, or made a gradient that is NaN."""


@contextmanager
def explained() -> Iterator[None]:
    """Turn what torch's anomaly detection finds in a backward pass into an error that says where it came from.

    Raises:
        BrokenGradient: it found something.
    """
    if not torch.is_anomaly_enabled():
        yield
        return
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            yield
        except torch.OutOfMemoryError:  # a RuntimeError too, and one that a smaller micro-batch may cure
            raise
        except RuntimeError as error:
            raise BrokenGradient(_explanation(str(error), "\n".join(str(w.message) for w in seen))) from error


def _explanation(error: str, trace: str) -> str:
    """What went wrong, and the line that called the operation."""
    found = re.search(r"Error detected in (\w+?)(Backward\d*)?\.", trace)
    if found is None:  # not an anomaly of a gradient
        return error
    if "inplace operation" in error:
        what = f"the result of {found[1]}, or what it was computed from, was changed in place before its gradient was"
        what += " computed"
        remedy = "\n  try: an operation that makes a new tensor: x = x + y for x += y, x.relu() for x.relu_()"
    else:
        what, remedy = f"the gradient of {found[1]} is NaN", ""
    frames = list(FRAME.finditer(trace))
    asked_for = [frame for frame in frames if not frame["file"].startswith(NOT_ASKED_FOR)] or frames
    if asked_for:
        last = asked_for[-1]
        what += f"\n  called in {last['file']}, line {last['line']}, in {last['function']}: {last['code'] or ''}"
        what = what.rstrip()
    return what + remedy
