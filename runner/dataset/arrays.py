"""Data sets in memory, and data sets that come with parts of their own."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

Array = NDArray[Any]


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
        named = {"train": self.train, "val": self.val, "test": self.test}
        return [(name, part) for name, part in named.items() if part is not None]
