"""Losses that torch does not have; class weights, from the train part alone; and what losses
take: in which form the model's output, and in which form the target.

The forms of an output: ``logits``, ``log_probabilities``, ``probabilities``, ``values``.
The forms of a target: ``indices`` (of classes), ``flags`` (0 or 1 for each of several classes), ``distributions`` (a
probability for each class), ``values``. Which form a data set's targets have follows from its task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from runner.errors import ConfigError, DataError, Problem, nearest

FORMS = {"classification": "indices", "multilabel": "flags", "soft": "distributions", "regression": "values"}
"""The form of the targets, by task."""

WORDS = {
    "indices": "class indices",
    "flags": "0/1 per class (multi-label)",
    "distributions": "class probabilities",
    "values": "continuous values",
}
"""What to call the form of the targets."""

REMEDIES = {
    "indices": "loss=cross_entropy",
    "flags": "loss=bce metric=multilabel",
    "distributions": "loss=kl_div",
    "values": "loss=mse metric=regression",
}
"""By the form of the targets: a loss that takes it."""

SEVERAL = "several classes per sample: of a table, columns of 0 and 1 as dataset.target, or dataset.labels_separator"
"""Advice on how to have flags."""


@dataclass(frozen=True)
class Takes:
    """What a loss takes: the form of output, the forms of target, and whether its elements are still to be summed over
    the classes to be those of samples."""

    output: str
    targets: tuple[str, ...]
    per_class: bool = False


class _OfClasses(nn.Module):
    def __init__(self, weight: Tensor | None) -> None:
        super().__init__()
        self.weight: Tensor | None
        self.register_buffer("weight", weight)

    def _weighted(self, losses: Tensor, target: Tensor) -> Tensor:
        return losses if self.weight is None else self.weight[target] * losses


class Focal(_OfClasses):
    """Focal loss of class indices (Lin et al., "Focal Loss for Dense Object Detection", 2017, eq. 5).

    −α_t (1 − p_t)^γ log p_t, with p_t the probability of the target's class and α_t its weight. With γ = 0 it is the
    weighted cross-entropy; the mean divides by the sum of the targets' weights, as there.

    Args:
        gamma: how much less a sample counts that is right already.
        weight: (C,) of each class, or None for 1 each.
    """

    def __init__(self, gamma: float = 2.0, weight: Tensor | None = None) -> None:
        super().__init__(weight)
        self.gamma = gamma

    def forward(self, output: Tensor, target: Tensor) -> Tensor:  # (B, C, ...) logits, (B, ...) int64 -> (B, ...)
        nll = functional.cross_entropy(output, target, reduction="none")
        # 1 − p from the logarithm, which does not round to 0 as soon; and never 0, where a root has no finite slope.
        modulated = (-torch.expm1(-nll)).clamp(min=torch.finfo(nll.dtype).tiny) ** self.gamma * nll
        return self._weighted(modulated, target)


class LabelSmoothing(_OfClasses):
    """Divergence D(t ‖ p) from smoothed targets: 1 − ε on the target's class, ε / (K − 1) on each of the others.

    torch's ``CrossEntropyLoss(label_smoothing=ε)`` spreads ε over all K classes, the target's included (Szegedy et al.,
    "Rethinking the Inception Architecture", 2016, section 7), and is a cross-entropy: it does not go to 0 where the
    model says just t. This one does.

    Args:
        smoothing: ε.
        weight: (C,) of each class, or None for 1 each.
    """

    def __init__(self, smoothing: float = 0.1, weight: Tensor | None = None) -> None:
        super().__init__(weight)
        self.smoothing = smoothing

    def forward(self, output: Tensor, target: Tensor) -> Tensor:  # (B, K, ...) logits, (B, ...) int64 -> (B, ...)
        log_p = functional.log_softmax(output, 1)
        smooth = torch.full_like(log_p, self.smoothing / (output.shape[1] - 1))
        smooth.scatter_(1, target.unsqueeze(1), 1 - self.smoothing)
        return self._weighted(functional.kl_div(log_p, smooth, reduction="none").sum(1), target)


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
    **dict.fromkeys(
        (nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.SmoothL1Loss), Takes("values", ("values", "distributions"))
    ),
}
"""What torch's losses and ours take. A loss of the user's may say so by an attribute ``takes``."""


@dataclass(frozen=True)
class Readout:
    """What the outputs of a model say.

    Args:
        task: see `runner.dataset.Samples.task`.
        emits: their form.
        mean, std: of the values of regression, in whose units they are.
        temperature: by which logits are divided (Guo et al., "On Calibration of Modern Neural Networks", 2017, eq. 9).
    """

    task: str
    emits: str
    mean: Tensor
    std: Tensor
    temperature: float = 1.0

    @property
    def gives_probabilities(self) -> bool:
        """Whether outputs say how likely the classes are. Scores that were trained by a loss of values do not."""
        return self.task != "regression" and self.emits != "values"

    def __call__(self, output: Tensor) -> Tensor:
        """Probabilities of the classes, (N, C); or scores of which the highest counts; or values in the units of the
        targets."""
        # In float64, in which probabilities sum to 1 closely enough for whoever checks.
        exact = self.gives_probabilities and output.device.type != "mps"
        return self.read(output.double() if exact else output)

    def read(self, output: Tensor) -> Tensor:
        """The same, in the type of the output; values in that of the targets."""
        if self.task == "regression":
            return output.to(self.std.dtype) * self.std + self.mean
        if self.emits == "values":
            return output
        return convert(self.cooled(output), self.emits, "probabilities", self.task == "multilabel")

    def cooled(self, output: Tensor) -> Tensor:
        """Outputs of the same form as those of a model whose logits are divided by the temperature."""
        if self.temperature == 1.0:
            return output
        flags = self.task == "multilabel"
        return convert(convert(output, self.emits, "logits", flags) / self.temperature, "logits", self.emits, flags)


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
        flags: whether each class has a probability of its own (a sigmoid), and not all of them one (a softmax). Their
            log-probabilities are no logits.

    Raises:
        ValueError: there is no way from the one to the other.
    """
    if have == want:
        return output
    tiny = torch.finfo(output.dtype).tiny
    if (have, want) == ("log_probabilities", "logits"):
        return output - torch.log1p(-output.exp().clamp(max=1 - torch.finfo(output.dtype).eps)) if flags else output
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
    raise ValueError(f"the model returns {have}, but the loss takes {want}")


Rule = str | Sequence[float] | Mapping[str, float] | None


def class_weights(
    rule: Rule, counts: Mapping[str, int], beta: float = 0.999, key: str = "loss.weight"
) -> list[float] | None:
    """The weight of each class, from the configuration's ``loss.weight``.

    Args:
        rule: one of

            - ``balanced``: N / (C · n_c), as scikit-learn has it (King and Zeng, "Logistic Regression in Rare Events
              Data", 2001);
            - ``effective_number``: (1 − β) / (1 − β^n_c), scaled to a sum of C (Cui et al., "Class-Balanced Loss Based
              on Effective Number of Samples", 2019, section 3 and eq. 2);
            - one number per class, in the order of the classes or by name; or None for no weights.
        counts: how many samples of the *train part*, and of nothing else, each class has.
        beta: β of the effective number, below 1.
        key: where the rule stands in the configuration.

    Raises:
        ConfigError: not a number for each class, or one that is negative or no number.
        DataError: a class without a train sample, under a rule that divides by its count.
    """
    if rule is None:
        return None
    if not isinstance(rule, str):
        return _given(rule, list(counts), key, "null, balanced, effective_number")
    if rule not in ("balanced", "effective_number"):
        remedy = nearest(rule, ("balanced", "effective_number"), f"{key}=")
        allowed = "null, balanced, effective_number, or one number per class"
        raise ConfigError(Problem(key, f"{rule!r} is not allowed", allowed, remedy))
    _all_present(counts, rule, key)
    n = np.array(list(counts.values()), dtype=np.float64)
    inverse = 1 / n if rule == "balanced" else (1 - beta) / -np.expm1(n * np.log(beta)) if beta else np.ones_like(n)
    weights: list[float] = (inverse * (n.sum() / len(n) if rule == "balanced" else len(n) / inverse.sum())).tolist()
    return weights


def positive_weights(
    rule: Rule, counts: Mapping[str, int], known: Sequence[int], key: str = "loss.pos_weight"
) -> list[float] | None:
    """The weight of each class's positive samples, from ``loss.pos_weight``: for several classes per sample.

    Args:
        rule: ``balanced``: negatives / positives, as `torch.nn.BCEWithLogitsLoss` advises; or as `class_weights`.
        counts: the positive samples of each class in the train part.
        known: for each class, how many samples of the train part say whether they are of it.
        key: where the rule stands in the configuration.

    Raises:
        as `class_weights`.
    """
    if rule is None:
        return None
    if isinstance(rule, str):
        if rule != "balanced":
            raise ConfigError(Problem(key, f"{rule!r} is not allowed", "null, balanced, or one number per class"))
        _all_present(counts, rule, key)
        return [(total - count) / count for total, count in zip(known, counts.values(), strict=True)]
    return _given(rule, list(counts), key, "null, balanced")


def _all_present(counts: Mapping[str, int], rule: str, key: str) -> None:
    absent = [name for name, count in counts.items() if count == 0]
    if absent:
        what = f"{rule!r} cannot be computed for classes without a train sample: {', '.join(absent)}"
        raise DataError(Problem(key, what, remedy=f'{key}=null, or one number per class, as in "{key}=[1,1,2]"'))


def _given(rule: Sequence[float] | Mapping[str, float], classes: Sequence[str], key: str, rules: str) -> list[float]:
    numbers = dict(zip(classes, rule, strict=False)) if not isinstance(rule, Mapping) else {}
    if isinstance(rule, Mapping):
        numbers = {str(name): number for name, number in rule.items()}
        unknown = [name for name in numbers if name not in classes]
        if unknown:
            what = f"there is no class {unknown[0]!r}"
            raise ConfigError(Problem(key, what, ", ".join(classes), nearest(unknown[0], classes)))
    missing = [name for name in classes if name not in numbers]
    finite = all(0 <= number < float("inf") for number in numbers.values())
    if missing or len(rule) != len(classes) or not finite or not any(numbers.values()):
        given = dict(rule) if isinstance(rule, Mapping) else list(rule)
        allowed = f"{rules}, {len(classes)} numbers >= 0 (one per class, not all 0), or {{NAME: NUMBER}}"
        raise ConfigError(Problem(key, f"{given} does not give a weight for each class", allowed))
    return [float(numbers[name]) for name in classes]
