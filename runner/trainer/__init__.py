"""The training loop, in `runner.trainer.trainer`, and what a step of it is made of."""

from runner.trainer.gradient import Gradient
from runner.trainer.nonfinite import NonFinite
from runner.trainer.precision import Precision, wants_channels_last
from runner.trainer.progress import Limits, Progress, early_stopping
from runner.trainer.step import plain
from runner.trainer.trainer import Trainer, searches

__all__ = [
    "Gradient", "Limits", "NonFinite", "Precision", "Progress", "Trainer", "early_stopping", "plain", "searches",
    "wants_channels_last",
]  # fmt: skip
