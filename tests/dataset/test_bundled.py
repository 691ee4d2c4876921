from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sklearn.datasets
import torch
from torchvision.datasets import FakeData

from runner import dataset
from runner.dataset import ArrayDataset


def test_digits_are_scikit_learns() -> None:
    data, source = dataset.digits(), sklearn.datasets.load_digits()
    assert data.inputs.dtype == torch.uint8
    assert data.inputs.shape == (1797, 1, 8, 8)
    assert (data.inputs.squeeze(1).numpy() == source.images).all()
    assert (data.targets.numpy() == source.target).all()
    assert data.targets.dtype == torch.int64
    assert data.classes == [str(digit) for digit in range(10)]


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "diabetes"])
def test_tables_are_scikit_learns(name: str) -> None:
    make: Callable[[], ArrayDataset] = getattr(dataset, name)
    data, source = make(), getattr(sklearn.datasets, f"load_{name}")()
    assert data.inputs.dtype == torch.float64
    assert data.inputs.tolist() == source.data.tolist()
    assert data.targets.tolist() == source.target.tolist()
    assert data.classes == [str(text) for text in source.get("target_names", ())]
    assert data.targets.is_floating_point() == (name == "diabetes")


@pytest.mark.parametrize("shape", [(3, 8, 6), (1, 8, 6)])
def test_synthetic_pictures_are_torchvisions(shape: tuple[int, int, int]) -> None:
    data = dataset.synthetic(20, shape, 4, seed=3)
    picture, target = FakeData(20, shape, 4, random_offset=3)[7]
    assert data.inputs.shape == (20, *shape)
    assert data.inputs.dtype == torch.uint8
    assert bytes(data.inputs[7].permute(1, 2, 0).contiguous().numpy()) == picture.tobytes()
    assert data.targets[7] == target
    assert data.classes == ["0", "1", "2", "3"]
    assert not torch.equal(data.inputs, dataset.synthetic(20, shape, 4, seed=4).inputs)


def test_a_sample_of_a_dataset_in_memory_is_its_input_and_target() -> None:
    data: Any = dataset.digits()
    pixels, target = data[5]
    assert torch.equal(pixels, data.inputs[5])
    assert target == data.targets[5]
