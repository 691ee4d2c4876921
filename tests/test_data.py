from __future__ import annotations

import pytest
import torch

from runner.data import _report_duplicates
from runner.dataset import ArrayDataset, Samples


def test_copies_in_an_official_test_part_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    train = Samples(ArrayDataset(torch.arange(12.0).view(6, 2), torch.zeros(6).long(), ["a"]))
    test = Samples(ArrayDataset(torch.tensor([[0.0, 1.0], [4.0, 5.0], [9.0, 9.0]]), torch.zeros(3).long(), ["a"]))
    indices = {"train": torch.tensor([0, 2, 4]), "val": torch.tensor([1, 3, 5]), "test": torch.arange(3)}
    _report_duplicates({"train": train, "val": train, "test": test}, indices)
    assert caplog.messages == ["2 of 3 test samples are exact copies of train samples"]
