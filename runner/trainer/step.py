"""Step functions: what the loss of a batch is.

One is named by ``trainer.step``. It gets the model, the loss and a batch, and returns the loss's (T,) sums over the
batch, which the trainer divides by the weight of the whole step; or a scalar of your own, which counts as the mean of
its micro-batch. It draws from torch's default generators, which are set anew for each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from runner.batch import Batch, by
from runner.errors import ConfigError, Problem

if TYPE_CHECKING:  # parts are given to one another, and do not import one another
    from runner.loss import Loss

Model = Callable[[Tensor], Tensor]


def plain(model: Model, loss: Loss, batch: Batch) -> Tensor:
    """The loss of what the model makes of the batch."""
    sums: Tensor = loss(model(batch.input), batch)
    return sums


def mixup(model: Model, loss: Loss, batch: Batch, alpha: float = 0.2) -> Tensor:
    """Mixtures of two samples, and of their losses (Zhang et al., "mixup", 2018, section 2).

    Args:
        alpha: of the Beta distribution that the share of the first sample is drawn from.
    """
    share, other = _share(alpha), _rolled(batch)
    mixed = share * batch.input + (1 - share) * other.input
    return _mixture(model(mixed), loss, batch, other, share)


def cutmix(model: Model, loss: Loss, batch: Batch, alpha: float = 1.0) -> Tensor:
    """Pictures with a rectangle of another one, and their losses by area (Yun et al., "CutMix", 2019, eq. 1 and 2).

    Args:
        alpha: of the Beta distribution that the share of the first picture is drawn from.
    """
    if batch.input.dim() != 4:  # of a table the rectangle would cover samples
        what = f"cutmix needs images, but the inputs have shape {by(batch.input.shape[1:])}"
        raise ConfigError(Problem("trainer.step", what))
    other = _rolled(batch)
    height, width = batch.input.shape[-2:]
    rows, columns = _rectangle(height, width, math.sqrt(1 - _share(alpha)))
    mixed = batch.input.clone()
    mixed[..., rows, columns] = other.input[..., rows, columns]
    share = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    return _mixture(model(mixed), loss, batch, other, share)


def noisy(model: Model, loss: Loss, batch: Batch, std: float = 0.1, scale: float = 1.0) -> Tensor:
    """Two losses on one graph: of the inputs as they are, and with Gaussian noise.

    An example of a step of one's own: their sum has one backward pass, and no graph has to be retained.

    Args:
        std: of the noise, in the units of what the transform makes.
        scale: of the second loss.
    """
    disturbed = batch.input + std * torch.randn_like(batch.input)
    sums: Tensor = loss(model(batch.input), batch) + scale * loss(model(disturbed), batch)
    return sums


def _share(alpha: float) -> float:
    # On the CPU, whose generator is set for each step as the device's is: no wait for the device.
    return float(torch.distributions.Beta(alpha, alpha).sample())


def _rolled(batch: Batch) -> Batch:
    """Each sample's partner: the one before it."""
    extra = {name: held.roll(1, 0) for name, held in batch.extra.items()}
    return replace(batch, input=batch.input.roll(1, 0), target=batch.target.roll(1, 0), extra=extra)


def _mixture(output: Tensor, loss: Loss, batch: Batch, other: Batch, share: float) -> Tensor:
    # The partners are the batch in another order, so that the weight of the mixture is that of the batch.
    sums: Tensor = share * loss(output, batch) + (1 - share) * loss(output, other)
    return sums


def _rectangle(height: int, width: int, side: float) -> tuple[slice, slice]:
    """A rectangle with sides of this share of the picture's around a random pixel, cut off at the edges."""
    found = []
    for length in (height, width):
        centre, half = int(torch.randint(length, ())), int(length * side) // 2
        found.append(slice(max(centre - half, 0), min(centre + half, length)))
    return found[0], found[1]
