"""The recipe trains, and the parts do what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from my_project.data import TwoMoons
from my_project.loss import Poly1
from torch.nn import functional

from runner.__main__ import main


def test_the_recipe_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    assert main(["experiment=first", "device=cpu", "debug=dev_run"]) == 0  # two batches of each part; nothing is kept


def test_the_classes_alternate_and_lie_on_their_circles() -> None:
    data = TwoMoons(size=100, noise=0.0)
    centres = torch.tensor([[0.0, 0.0], [1.0, 0.5]])[data.targets]
    torch.testing.assert_close((data.points - centres).norm(dim=1), torch.ones(100))
    assert data[3][1] == 1


def test_the_loss_is_cross_entropy_and_a_share_of_what_the_target_lacks() -> None:
    logits, target = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    cross_entropy = functional.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(Poly1(epsilon=0.0)(logits, target), cross_entropy)
    lacking = 1 - functional.softmax(logits, 1)[torch.arange(8), target]
    torch.testing.assert_close(Poly1(epsilon=2.0)(logits, target), cross_entropy + 2 * lacking)
