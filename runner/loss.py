"""Losses: torch's own, behind a seam that returns a sum and a weight.

A weighted mean is exact only if its two halves are carried apart: the sum of the weighted losses, and the sum of the
weights. `Loss` returns both for one batch; whoever wants the mean over a step, a part or an epoch adds up each and
divides once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn

from runner.batch import Batch
from runner.errors import ConfigError, DataError, Problem


class Loss(nn.Module):
    """A loss of class indices, as a sum and a weight.

    Args:
        criterion: a torch loss built with ``reduction="none"``, such as `torch.nn.CrossEntropyLoss`. If it has class
            weights it must apply them itself, as torch's do.
    """

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The batch's loss.

        Args:
            output: (B, C) what the model made of the batch.

        Returns:
            Two scalars: the sum of the samples' (weighted) losses, and the sum of their weights: the weight of each
            one's target class, or 1; 0 for a target that equals ``ignore_index``. torch's mean is their quotient.
        """
        return self.criterion(output, batch.target).sum(), self.weight_of(batch.target)

    @property
    def class_weights(self) -> Tensor | None:
        """(C,) or None for 1 each."""
        return cast("Tensor | None", self.criterion.weight)

    def weight_of(self, target: Tensor) -> Tensor:
        """The scalar by which a sum over the samples with this (B,) `target` has to be divided."""
        kept = target != cast(int, self.criterion.ignore_index)
        if self.class_weights is None:
            return kept.sum(dtype=torch.float32)
        return (self.class_weights[torch.where(kept, target, 0)] * kept).sum()


def build(factory: Callable[..., nn.Module], weight: Sequence[float] | None) -> Loss:
    """The loss of a configuration: `factory` is torch's class with its other arguments bound.

    Args:
        weight: the weight of each class, or None for 1 each.
    """
    return Loss(factory(weight=None if weight is None else torch.tensor(weight), reduction="none"))


def class_weights(
    rule: str | Sequence[float] | None, targets: NDArray[np.int64], classes: Sequence[str]
) -> list[float] | None:
    """The weight of each class, from the configuration's ``loss.weight``.

    Args:
        rule: ``balanced``, for N / (C · n_c) as scikit-learn has it (King and Zeng, "Logistic Regression in Rare
            Events Data", 2001); or one number per class; or None for no weights.
        targets: class indices of the *train part*, and of nothing else.

    Raises:
        ConfigError: not as many numbers as classes, or one that is negative or no number.
        DataError: a class without a train sample, under ``balanced``.
    """
    if rule is None:
        return None
    if rule == "balanced":
        absent = [name for name, n in zip(classes, np.bincount(targets, minlength=len(classes)), strict=True) if n == 0]
        if absent:
            what = f"'balanced' has no weight for classes without a train sample: {', '.join(absent)}"
            raise DataError(Problem("loss.weight", what, remedy="loss.weight=[one number per class]"))
        weights: list[float] = compute_class_weight("balanced", classes=np.arange(len(classes)), y=targets).tolist()
        return weights
    numbers = [] if isinstance(rule, str) else list(rule)
    finite = all(0 <= number < float("inf") for number in numbers)
    if len(numbers) != len(classes) or not finite or not any(numbers):
        allowed = f"null, balanced, or {len(classes)} numbers >= 0, one per class and not all 0"
        raise ConfigError(Problem("loss.weight", f"{rule!r} does not give a weight for each class", allowed))
    return [float(number) for number in numbers]
