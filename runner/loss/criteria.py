"""Losses that torch does not have."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Focal(nn.Module):
    """Focal loss of class indices (Lin et al., "Focal Loss for Dense Object Detection", 2017, eq. 5).

    −α_t (1 − p_t)^γ log p_t, with p_t the probability of the target's class and α_t its weight. With γ = 0 it is the
    weighted cross-entropy; the mean divides by the sum of the targets' weights, as there.

    Args:
        gamma: how much less a sample counts that is right already.
        weight: (C,) of each class, or None for 1 each.
    """

    def __init__(self, gamma: float = 2.0, weight: Tensor | None = None) -> None:
        super().__init__()
        self.gamma = gamma
        self.weight: Tensor | None
        self.register_buffer("weight", weight)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:  # (B, C, ...) logits, (B, ...) int64 -> (B, ...)
        nll = functional.cross_entropy(output, target, reduction="none")
        # 1 − p from the logarithm, which does not round to 0 as soon; and never 0, where a root has no finite slope.
        modulated = (-torch.expm1(-nll)).clamp(min=torch.finfo(nll.dtype).tiny) ** self.gamma * nll
        return modulated if self.weight is None else self.weight[target] * modulated


class LabelSmoothing(nn.Module):
    """Divergence D(t ‖ p) from smoothed targets: 1 − ε on the target's class, ε / (K − 1) on each of the others.

    torch's ``CrossEntropyLoss(label_smoothing=ε)`` spreads ε over all K classes, the target's included (Szegedy et al.,
    "Rethinking the Inception Architecture", 2016, section 7), and is a cross-entropy: it does not go to 0 where the
    model says just t. This one does.

    Args:
        smoothing: ε.
        weight: (C,) of each class, or None for 1 each.
    """

    def __init__(self, smoothing: float = 0.1, weight: Tensor | None = None) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.weight: Tensor | None
        self.register_buffer("weight", weight)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:  # (B, K, ...) logits, (B, ...) int64 -> (B, ...)
        log_p = functional.log_softmax(output, 1)
        smooth = torch.full_like(log_p, self.smoothing / (output.shape[1] - 1))
        smooth.scatter_(1, target.unsqueeze(1), 1 - self.smoothing)
        divergence = functional.kl_div(log_p, smooth, reduction="none").sum(1)
        return divergence if self.weight is None else self.weight[target] * divergence
