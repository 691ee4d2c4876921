from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, one_hot
from torchvision.ops import sigmoid_focal_loss

from runner.loss import Focal, LabelSmoothing

LOGITS = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
TARGET = torch.randint(5, (40,), generator=torch.Generator().manual_seed(1))


def test_focal_loss_worked_by_hand() -> None:
    # Two classes with equal logits: p = 1/2, so (1 − 1/2)² · log 2.
    assert Focal(2.0)(torch.zeros(1, 2), torch.tensor([0])).item() == pytest.approx(0.25 * math.log(2))
    weighted = Focal(2.0, torch.tensor([3.0, 1.0]))(torch.zeros(2, 2), torch.tensor([0, 1]))
    assert weighted.tolist() == pytest.approx([0.75 * math.log(2), 0.25 * math.log(2)])


def test_focal_loss_of_two_classes_is_torchvisions() -> None:
    # The softmax of (0, z) is the sigmoid of z.
    z, target = LOGITS[:, 0], TARGET % 2
    expected = sigmoid_focal_loss(z, target.float(), alpha=-1, gamma=1.5)
    torch.testing.assert_close(Focal(1.5)(torch.stack([torch.zeros(40), z], 1), target), expected)


def test_focal_loss_has_gradients_where_the_model_is_sure() -> None:
    output = torch.tensor([[40.0, -40.0], [200.0, -200.0]], requires_grad=True)
    Focal(0.5)(output, torch.tensor([0, 0])).sum().backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()


def test_smoothing_over_the_other_classes_is_a_divergence_by_definition() -> None:
    smooth = one_hot(TARGET, 5).float() * 0.9 + (1 - one_hot(TARGET, 5).float()) * 0.1 / 4
    p = LOGITS.softmax(1)
    by_hand = (smooth * (smooth / p).log()).sum(1)  # D(t ‖ p) = Σ t log (t / p)
    torch.testing.assert_close(LabelSmoothing(0.1)(LOGITS, TARGET), by_hand)
    said_just_that = LabelSmoothing(0.1)(smooth.log(), TARGET)
    assert said_just_that.abs().max() < 1e-6


def test_without_smoothing_it_is_the_cross_entropy() -> None:
    weight = torch.rand(5)
    expected = cross_entropy(LOGITS, TARGET, weight, reduction="none")
    torch.testing.assert_close(LabelSmoothing(0.0, weight)(LOGITS, TARGET), expected)


def test_torchs_kl_div_takes_log_probabilities_first() -> None:
    # D(p ‖ q) with p = (1/2, 1/2) and q = (1/4, 3/4): log 2 / 2 + log (2/3) / 2.
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
    by_hand = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert kl_div(q.log(), p, reduction="batchmean").item() == pytest.approx(by_hand)
