"""Inputs and targets, as data sets give them, as tensors; and data sets that hold them in memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, TensorDataset

from runner.batch import by
from runner.errors import DataError, Problem

Array = NDArray[Any]

LARGEST = torch.finfo(torch.float32).max
"""Largest number that a model, which computes in float32, can be given; all beyond it are taken for mistakes."""


def as_input(value: Any, layout: str | None = None, exact: bool = True) -> Tensor:
    """An input as a tensor: a PIL picture as (C, H, W), an array as it is but with its channels first.

    Args:
        exact: whether Python's floats keep all of their digits; see `Samples`.
    """
    if hasattr(value, "getbands"):
        pixels = torch.from_numpy(np.array(value))  # (H, W) or (H, W, C)
        return pixels.reshape(value.height, value.width, -1).permute(2, 0, 1).contiguous()
    tensor = _tensor(value, exact)
    if tensor.dim() != 3:
        return tensor
    if layout in ("hwc", "hwc_bgr"):
        tensor = tensor.permute(2, 0, 1)
        return tensor.flip(0) if layout == "hwc_bgr" else tensor
    if layout is None and tensor.shape[2] in (1, 3, 4) and tensor.shape[0] not in (1, 2, 3, 4):
        what = f"an array of {by(tensor.shape)} looks like height × width × channels"
        remedy = "+dataset.layout=hwc (or layout: hwc in the option's file); +dataset.layout=chw if channels come first"
        raise DataError(Problem("dataset.layout", what, "chw, hwc, hwc_bgr", remedy))
    return tensor


def as_target(value: Any, exact: bool = True) -> Tensor:
    """A target as a tensor: int64 for class indices, floats for values.

    Args:
        exact: whether they are float64, in which a time in seconds has all of its digits; maps of float32 stay so.
    """
    tensor = _tensor(value, exact)
    if not tensor.is_floating_point():
        return tensor.long()
    return tensor.double() if exact and (tensor.dim() < 2 or tensor.dtype == torch.float64) else tensor.float()


def as_targets(values: Any, exact: bool = True) -> Tensor:
    """(N, ...) the targets of many samples, as `as_target` makes each of them."""
    tensor = torch.as_tensor(values)
    return tensor.to(as_target(tensor[:1].squeeze(0), exact).dtype)


def _tensor(value: Any, exact: bool) -> Tensor:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    # torch would make float32 of Python's floats, whatever is lost of them.
    return torch.as_tensor(value, dtype=torch.float64 if exact and _has_floats(value) else None)


def _has_floats(value: Any) -> bool:
    """Return whether any number in nested lists is one of Python's floats."""
    return any(map(_has_floats, value)) if isinstance(value, (list, tuple)) else isinstance(value, float)


def held_targets(source: Any, exact: bool = True) -> Tensor | None:
    """The targets that a data set has at hand under one of the names that torchvision's use."""
    if isinstance(source, ConcatDataset):
        parts = [held_targets(part, exact) for part in source.datasets]
        return None if any(part is None for part in parts) else torch.cat([part for part in parts if part is not None])
    for name in ("targets", "labels", "_labels", "y"):
        held = getattr(source, name, None)
        if held is not None and hasattr(held, "__len__"):
            try:
                return as_targets(held if isinstance(held, Tensor) else np.asarray(held), exact)
            except (TypeError, ValueError):  # texts, or lists of several lengths
                continue
    for name in ("samples", "_samples", "_flat_character_images"):  # pairs of a path and a class
        pairs = getattr(source, name, None)
        if isinstance(pairs, list) and pairs and isinstance(pairs[0], tuple) and isinstance(pairs[0][-1], int):
            return torch.tensor([pair[-1] for pair in pairs])
    return None


class ArrayDataset(TensorDataset):
    """Samples held in memory as they are stored.

    Args:
        inputs: (N, ...) of any dtype; pictures are (N, C, H, W) and stay uint8.
        targets: (N,) int64 class indices in 0 … len(classes) − 1; or values in float32 or float64, (N,) or (N, K).
        classes: the name of each class; empty where targets are values.
        extra: what else belongs to a sample and travels in its batch, by name: (N, ...) tensors such as a mask.
        columns: what else is known of the samples and may decide the split, by name: (N,) arrays such as a group.
        features: of a table: the name of each column of the inputs.
        categories: of a table: for each column of the inputs, the names of its categories, or None if it is a number.
        goals: of a table: the names of the columns that the targets were.

    Attributes:
        ignore_index: what stands for none among the targets, where that is not ``loss.ignore_index`` itself.
        was_float32: whether earlier versions of runner held these numbers in float32.
    """

    ignore_index: float | None = None
    was_float32 = False

    def __init__(
        self, inputs: Tensor, targets: Tensor, classes: Sequence[str] = (), extra: Mapping[str, Tensor] | None = None,
        columns: Mapping[str, Array] | None = None, features: Sequence[str] | None = None,
        categories: Sequence[Sequence[str] | None] | None = None, goals: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__(inputs, targets)
        self.inputs = inputs
        self.targets = targets
        self.classes = [str(name) for name in classes]
        self.extra = dict(extra or {})
        self.columns = dict(columns or {})
        self.features = None if features is None else list(features)
        self.categories = None if categories is None else [None if c is None else list(c) for c in categories]
        self.goals = list(goals)

    def as_earlier(self) -> ArrayDataset:
        """With its numbers in float32, if earlier versions had them so."""
        if not self.was_float32:
            return self
        made = copy.copy(self)
        made.tensors = tuple(each.float() if each.is_floating_point() else each for each in self.tensors)
        made.inputs, made.targets = made.tensors
        return made


@dataclass(frozen=True)
class Parts:
    """A data set that comes with parts of its own: its test part stays the test part."""

    train: Dataset[Any]
    val: Dataset[Any] | None = None
    test: Dataset[Any] | None = None

    def items(self) -> list[tuple[str, Dataset[Any]]]:
        """The parts that are there, by name."""
        return [(name, part) for name, part in vars(self).items() if part is not None]
