"""Losses: torch's own, and a few that it does not have, behind a seam that returns a sum and a weight.

A weighted mean is exact only if its two halves are carried apart: the sum of the weighted losses, and the sum of the
weights. `Loss` gives both for one batch; whoever wants the mean over a step, a part or an epoch adds up each and
divides once.
"""

from runner.loss.kinds import Focal, LabelSmoothing, Readout, Takes, class_weights, positive_weights
from runner.loss.loss import Loss, Term

__all__ = ["Focal", "LabelSmoothing", "Loss", "Readout", "Takes", "Term", "class_weights", "positive_weights"]
