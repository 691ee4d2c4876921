from __future__ import annotations

import torch
from sklearn.metrics import accuracy_score, f1_score

from runner.metric import measure


def test_the_highest_score_is_the_prediction() -> None:
    output = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    found = measure({"accuracy": accuracy_score, "f1": f1_score}, output, torch.tensor([1, 0, 0, 0]))
    # 3 of 4 right; for class 1: precision 1/2, recall 1, F1 = 2/3.
    assert found == {"accuracy": 0.75, "f1": 2 / 3}
    assert all(type(value) is float for value in found.values())
