"""Data that need no download: scikit-learn's bundled sets, and random pictures."""

from __future__ import annotations

import numpy as np
import torch

from runner.dataset.tensors import ArrayDataset, as_input, as_targets


def digits() -> ArrayDataset:
    """scikit-learn's bundled scans of handwritten digits: 1,797 pictures of 1×8×8 with 17 grey levels, 10 classes.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (its test part).
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = torch.from_numpy(bunch.images.astype(np.uint8)).unsqueeze(1)  # (N, 1, 8, 8), grey levels 0 … 16
    return ArrayDataset(inputs, torch.from_numpy(bunch.target).long(), bunch.target_names)


def iris() -> ArrayDataset:
    """150 irises, 4 measures in cm, 3 species (Fisher, 1936)."""
    return _table("iris")


def wine() -> ArrayDataset:
    """178 wines, 13 chemical measures, 3 cultivars (Aeberhard and Forina, UCI, 1991)."""
    return _table("wine")


def breast_cancer() -> ArrayDataset:
    """569 breast masses, 30 measures of cell nuclei, malignant or benign (Wolberg et al., UCI, 1995)."""
    return _table("breast_cancer")


def diabetes() -> ArrayDataset:
    """442 patients, 10 standardised measures; the target is the disease's progression after a year, a value from 25 to
    346 (Efron et al., 2004)."""
    return _table("diabetes")


def synthetic(
    size: int = 1000, image_size: tuple[int, int, int] = (3, 32, 32), num_classes: int = 10, seed: int = 0
) -> ArrayDataset:
    """Random pictures with random classes, by torchvision's `FakeData`: nothing to learn, everything to try.

    Args:
        image_size: (C, H, W).
        seed: which pictures; `FakeData`'s ``random_offset``.
    """
    from torchvision.datasets import FakeData

    fake = FakeData(size, tuple(image_size), num_classes, random_offset=seed)
    pictures, targets = zip(*((as_input(picture), int(target)) for picture, target in fake), strict=True)
    return ArrayDataset(torch.stack(pictures), torch.tensor(targets), [str(n) for n in range(num_classes)])


def _table(name: str) -> ArrayDataset:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    made = ArrayDataset(torch.from_numpy(bunch.data), as_targets(bunch.target), bunch.get("target_names", ()))
    made.was_float32 = True
    return made
