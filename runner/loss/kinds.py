"""What losses take: in which form the model's output, and in which form the target.

The forms of an output: ``logits``, ``log_probabilities``, ``probabilities``, ``values``.
The forms of a target: ``indices`` (of classes), ``flags`` (0 or 1 for each of several classes), ``distributions`` (a
probability for each class), ``values``. Which form a data set's targets have follows from its task.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from runner.errors import ConfigError, Problem
from runner.loss.criteria import Focal, LabelSmoothing

FORMS = {"classification": "indices", "multilabel": "flags", "soft": "distributions", "regression": "values"}
"""The form of the targets, by task."""

REMEDIES = {
    "indices": "loss=cross_entropy",
    "flags": "loss=bce metric=multilabel",
    "distributions": "loss=kl_div",
    "values": "loss=mse metric=regression",
}
"""By the form of the targets: a loss that takes it."""


@dataclass(frozen=True)
class Takes:
    """What a loss takes: the form of output, the forms of target, and whether its elements are still to be summed over
    the classes to be those of samples."""

    output: str
    targets: tuple[str, ...]
    per_class: bool = False


KNOWN: dict[type[nn.Module], Takes] = {
    nn.CrossEntropyLoss: Takes("logits", ("indices", "distributions")),
    nn.NLLLoss: Takes("log_probabilities", ("indices",)),
    Focal: Takes("logits", ("indices",)),
    LabelSmoothing: Takes("logits", ("indices",)),
    nn.KLDivLoss: Takes("log_probabilities", ("distributions", "indices"), per_class=True),
    nn.BCEWithLogitsLoss: Takes("logits", ("flags",)),
    nn.BCELoss: Takes("probabilities", ("flags",)),
    nn.MultiLabelSoftMarginLoss: Takes("logits", ("flags",)),
    nn.MultiMarginLoss: Takes("values", ("indices",)),
    nn.MSELoss: Takes("values", ("values", "distributions")),
    nn.L1Loss: Takes("values", ("values", "distributions")),
    nn.HuberLoss: Takes("values", ("values", "distributions")),
    nn.SmoothL1Loss: Takes("values", ("values", "distributions")),
}
"""What torch's losses and ours take. A loss of the user's may say so by an attribute ``takes``."""


def takes(criterion: nn.Module) -> Takes | None:
    """What `criterion` takes; None for a loss of the user's that does not say."""
    own = getattr(criterion, "takes", None)
    if own is not None and not isinstance(own, Takes):
        what = f"the attribute `takes` of {type(criterion).__name__} is {own!r}"
        raise ConfigError(Problem("loss", what, "a runner.loss.Takes"))
    return own or next((KNOWN[kind] for kind in type(criterion).__mro__ if kind in KNOWN), None)


def convert(output: Tensor, have: str, want: str, flags: bool = False) -> Tensor:
    """An output in another form.

    Args:
        output: (B, C, ...)
        have, want: forms. Log-probabilities pass as logits: the log-softmax of them is what they are.
        flags: whether each class has a probability of its own (a sigmoid), and not all of them one (a softmax).

    Raises:
        ValueError: there is no way from the one to the other.
    """
    if have == want or (have, want) == ("log_probabilities", "logits"):
        return output
    tiny = torch.finfo(output.dtype).tiny
    if (have, want) == ("logits", "probabilities"):
        return output.sigmoid() if flags else output.softmax(1)
    if (have, want) == ("logits", "log_probabilities"):
        return functional.logsigmoid(output) if flags else output.log_softmax(1)
    if (have, want) == ("log_probabilities", "probabilities"):
        return output.exp()
    if (have, want) == ("probabilities", "log_probabilities"):
        return output.clamp(min=tiny).log()
    if (have, want) == ("probabilities", "logits"):
        return output.logit(torch.finfo(output.dtype).eps) if flags else output.clamp(min=tiny).log()
    raise ValueError(f"the model emits {have} and the loss takes {want}")
