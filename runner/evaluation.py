"""What a model says about a part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from runner import metric
from runner.eval_mode import Fitting, eval_mode
from runner.metric import Metric, Predicted
from runner.trainer import nonfinite

if TYPE_CHECKING:  # parts are given to one another, and do not import one another
    from runner.batch import Batch
    from runner.loader import Loader
    from runner.loss import Loss


@dataclass
class Outputs:
    """The outputs of a model for a part. N is its number of samples."""

    loss: float
    """Mean over all samples at once, weighted as the loss weights them."""
    output: Tensor
    """(N, ...) what the model made, on its device."""
    target: Tensor
    """(N, ...)"""
    kept: Tensor
    """(N,) bool: which samples have a target that counts."""
    index: Tensor
    """(N,) int64 on the CPU: each sample's index in its data set."""


@torch.inference_mode()
def predict(model: nn.Module, loss: Loss, loader: Loader, forward: Callable[[Tensor], Tensor] | None = None) -> Outputs:
    """Run a part through the model in eval mode. Every layer is left in the mode it was in. Batches that do not fit
    into the memory of the device are cut.

    Args:
        forward: calls the model, in the precision of the run; by default as it is.
    """
    rows = []
    forward = Fitting(model if forward is None else forward)
    with eval_mode(model):
        for batch in loader.epoch():
            output = forward(batch.input)
            parts = output, batch.target, loss.kept(batch), batch.index
            rows.append((*parts, loss(output, batch), loss.weight(batch)))
    outputs, targets, kept, indices, sums, weights = zip(*rows, strict=True)
    # In float64: a part can have more batches than float32 can add up without losing digits.
    means = torch.stack(sums).cpu().double().sum(0) / torch.stack(weights).cpu().double().sum(0)
    return Outputs(means.sum().item(), *map(torch.cat, (outputs, targets, kept, indices)))


def examine(
    model: nn.Module, loss: Loss, metrics: Mapping[str, Metric], loader: Loader,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> tuple[dict[str, float], Predicted]:  # fmt: skip
    """The loss and every metric on a part, and what they were computed from. Arguments: see `predict`."""
    made = predict(model, loss, loader, forward)
    readout, kept = loss.readout, made.kept
    predicted = Predicted.of(loss.task, readout(made.output[kept]), made.target[kept], readout.gives_probabilities)
    predicted = replace(predicted, index=made.index[kept.cpu()].numpy())
    return {"loss": made.loss, **metric.measure(metrics, predicted)}, predicted


@torch.no_grad()
def norm_gap(model: nn.Module, criterion: Loss, batch: Batch) -> dict[str, float] | None:
    """The loss of one batch with the statistics of BatchNorm, and with the batch's own; None without BatchNorm, or
    where the batch does not fit into the memory as a whole.

    Where training took few updates, the running statistics lag behind the weights, and a model that does well in train
    mode does badly in eval mode. Nothing else differs between the two figures: dropout is off in both.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and len(batch) > 1]
    if not norms:
        return None
    buffers = nonfinite.copies(model)
    losses = []
    with eval_mode(model), suppress(torch.OutOfMemoryError):
        for own in (False, True):
            for norm in norms:
                norm.train(own)
            losses.append(float(criterion.of(model(batch.input), batch)))
    nonfinite.restore(model, buffers)
    return {"eval_mode": losses[0], "batch_statistics": losses[1]} if len(losses) == 2 else None
