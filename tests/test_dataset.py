from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from runner import dataset


def test_digits_are_scikit_learns() -> None:
    data, source = dataset.digits(), load_digits()
    assert data.inputs.dtype == torch.uint8
    assert data.inputs.shape == (1797, 1, 8, 8)
    assert (data.inputs.squeeze(1).numpy() == source.images).all()
    assert (data.targets.numpy() == source.target).all()
    assert data.targets.dtype == torch.int64
    assert data.classes == [str(digit) for digit in range(10)]


def test_a_sample_is_its_input_and_target() -> None:
    data = dataset.digits()
    pixels, target = data[5]
    assert torch.equal(pixels, data.inputs[5])
    assert target == data.targets[5]


def test_facts_come_from_the_data() -> None:
    data = dataset.ArrayDataset(torch.zeros(4, 2), torch.tensor([0, 1, 2, 1]), ["a", "b", "c"])
    assert dataset.facts(data) == {
        "task": "classification",
        "num_samples": 4,
        "num_classes": 3,
        "class_names": ["a", "b", "c"],
    }
