"""Data sets: what an option of the `dataset` group returns, and the facts read off it.

A data set is any map-style `torch.utils.data.Dataset` of ``(input, target)``. What can be held in memory is an
`ArrayDataset`, kept as it is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset


class ArrayDataset(TensorDataset):
    """Samples held in memory as they are stored.

    Args:
        inputs: (N, ...) of any dtype; pictures are (N, C, H, W) and stay uint8.
        targets: (N,) int64 class indices in 0 … len(classes) − 1.
        classes: the name of each class.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, classes: Sequence[str]) -> None:
        super().__init__(inputs, targets)
        self.inputs = inputs
        self.targets = targets
        self.classes = list(classes)


def digits() -> ArrayDataset:
    """scikit-learn's bundled scans of handwritten digits: 1,797 pictures of 1×8×8 with 17 grey levels, 10 classes.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (its test part).
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = torch.from_numpy(bunch.images.astype(np.uint8)).unsqueeze(1)  # (N, 1, 8, 8), grey levels 0 … 16
    return ArrayDataset(inputs, torch.from_numpy(bunch.target).long(), [str(name) for name in bunch.target_names])


def facts(dataset: ArrayDataset) -> dict[str, Any]:
    """What only the data know, for the configuration's `facts`."""
    return {
        "task": "classification",
        "num_samples": len(dataset),
        "num_classes": len(dataset.classes),
        "class_names": dataset.classes,
    }
