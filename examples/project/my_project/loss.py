from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Poly1(nn.Module):
    """Cross-entropy with another weight for the first term of its series in 1 - p, where p is the probability of the
    target (Leng et al., "PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions", 2022, eq. 7).

    Args:
        epsilon: added to the weight of that term, which is 1 in cross-entropy.
    """

    def __init__(self, epsilon: float = 1.0) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:  # (B, C) and (B,) to (B,): one value per sample
        cross_entropy = functional.cross_entropy(logits, target, reduction="none")
        return cross_entropy + self.epsilon * (1 - (-cross_entropy).exp())
