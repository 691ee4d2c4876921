from __future__ import annotations

import pytest
import torch

from runner.data import _check_finite, _report_duplicates
from runner.dataset import ArrayDataset, Samples
from runner.errors import DataError
from runner.transform import Flip, Float, Pipeline, Table


def test_copies_in_an_official_test_part_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    train = Samples(ArrayDataset(torch.arange(12.0).view(6, 2), torch.zeros(6).long(), ["a"]))
    test = Samples(ArrayDataset(torch.tensor([[0.0, 1.0], [4.0, 5.0], [9.0, 9.0]]), torch.zeros(3).long(), ["a"]))
    indices = {"train": torch.tensor([0, 2, 4]), "val": torch.tensor([1, 3, 5]), "test": torch.arange(3)}
    _report_duplicates({"train": train, "val": train, "test": test}, indices)
    assert caplog.messages == ["2 of 3 test samples are exact copies of train samples"]


def _finite(inputs: torch.Tensor, *transform: object) -> None:
    samples = Samples(ArrayDataset(inputs, torch.zeros(len(inputs)).long(), ["a"]))
    indices = {"train": torch.tensor([0, 2]), "val": torch.tensor([1, 3])}
    batches = Pipeline(transform).fit(lambda: [inputs])  # type: ignore[arg-type]
    _check_finite({"train": samples, "val": samples}, indices, batches, inputs[:1])


def test_every_sample_is_looked_through_for_nan() -> None:
    inputs = torch.zeros(5, 2)
    inputs[3, 1] = float("inf")
    with pytest.raises(DataError, match="1 of 2 inputs of val hold NaN or infinity, the first is sample 3"):
        _finite(inputs, Float())
    inputs[3, 1] = 0
    inputs[4, 0] = float("nan")  # in no part
    _finite(inputs, Float())


def test_gaps_that_a_transform_fills_are_none() -> None:
    _finite(torch.tensor([[1.0], [2.0], [float("nan")], [4.0]]), Table([None]))


def test_gaps_are_found_behind_a_transform_that_draws() -> None:
    inputs = torch.zeros(4, 1, 2, 2)
    inputs[2, 0, 0, 1] = float("nan")
    with pytest.raises(DataError, match="1 of 2 inputs of train hold NaN or infinity, the first is sample 2"):
        _finite(inputs, Flip())
