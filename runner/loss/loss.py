"""The seam between model and loss: the right form of output and target in, a sum and a weight out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from runner.batch import Batch
from runner.errors import ConfigError, Problem
from runner.loss.kinds import FORMS, REMEDIES, SEVERAL, WORDS, Readout, convert, takes


class Term(nn.Module):
    """One loss, as the elements that a mean is taken of.

    Args:
        criterion: a torch loss (its ``reduction`` is set to ``none``), or a module of ``(output, target)`` that returns
            (B, ...) elements or their mean. If it has class weights it applies them itself, as torch's do.
        scale: by which it is multiplied where several losses are added up.
        one_hot: compare values with the one-hot form of class indices.
    """

    def __init__(self, criterion: nn.Module, scale: float = 1.0, one_hot: bool = False) -> None:
        super().__init__()
        if hasattr(criterion, "reduction"):
            criterion.reduction = "none"  # type: ignore[assignment]
        self.criterion = criterion
        self.takes = takes(criterion)
        self.log_target = bool(getattr(criterion, "log_target", False))
        self.scale = scale
        self.one_hot = one_hot
        self.returns: str | None = None
        """``elements`` of the targets' shape, one for each of the ``samples``, or their ``mean``; None until seen."""

    @property
    def class_weights(self) -> Tensor | None:
        """(C,) or None for 1 each. The binary losses of torch's have a ``weight`` too, which is not one of classes."""
        by_class = self.takes is not None and {"indices", "distributions"} & set(self.takes.targets)
        return cast("Tensor | None", getattr(self.criterion, "weight", None)) if by_class else None

    def forward(self, output: Tensor, target: Tensor, counted: tuple[int, ...]) -> Tensor:
        """Elements of the shape `counted`; or (B,) one for each sample; or a scalar, their mean.

        Raises:
            ConfigError: the criterion returned anything else.
        """
        elements: Tensor = self.criterion(output, target)
        if not isinstance(elements, Tensor):
            raise ConfigError(self._returns(f"a {type(elements).__name__}", target, counted))
        if self.takes is not None and self.takes.per_class:
            elements = elements.sum(1)
        elif elements.dim() == len(counted) + 1 and elements.shape in (target.shape, (*counted[:1], 1, *counted[1:])):
            elements = elements.mean(1)  # values of each class, or (B, 1)
        if elements.dim() == 2 and elements.shape[1] == 1 and elements.shape != counted:
            elements = elements[:, 0]
        shape = elements.shape
        self.returns = "elements" if shape == counted else "samples" if shape == counted[:1] else "mean"
        if self.returns == "mean" and shape != ():
            raise ConfigError(self._returns(f"shape {tuple(shape)}", target, counted))
        return elements

    def _returns(self, what: str, target: Tensor, counted: tuple[int, ...]) -> Problem:
        """What is said of a criterion that returns nothing that a mean could be taken of."""
        shapes = dict.fromkeys([tuple(target.shape), tuple(counted), tuple(counted[:1])])
        what = f"{type(self.criterion).__name__} returns {what} for targets of shape {tuple(target.shape)}"
        allowed = f"one value per target, one per sample, or their mean: {', '.join(map(str, shapes))} or ()"
        return Problem("loss", what, allowed)


class Loss(nn.Module):
    """One or several losses of a batch, each as a sum and a weight; the loss is the sum of their quotients.

    What counts in a mean, and how much: a class index counts with the weight of its class, and not at all if it is
    ``ignore_index``; a distribution counts with the mean weight of its classes (torch divides by their number instead,
    whatever their weights); a value or a flag counts as 1 and is an element of its own. Each is multiplied by the
    batch's ``mask`` and ``weight``, if its samples have such.

    Args:
        terms: the losses. T is their number.
        task: ``classification``, ``multilabel``, ``soft`` (targets are distributions) or ``regression``.
        num_outputs: classes, or values of a sample.
        emits: the form of what the model makes: ``logits``, ``log_probabilities``, ``probabilities`` or ``values``;
            None for values where there are no classes or no loss that takes another form, else logits.
        ignore_index: a target that does not count.
        scaling: mean and standard deviation of the train targets, in which values are measured, so that a model need
            not grow its bias to their size first; None to take them as they are.

    Raises:
        ConfigError: a loss does not take such targets, or not what the model emits.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, terms: Sequence[Term], task: str = "classification", num_outputs: int = 0, *, emits: str | None = None,
        ignore_index: float | None = None, scaling: tuple[Tensor, Tensor] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.terms = cast("Sequence[Term]", nn.ModuleList(terms))
        self.task, self.num_outputs, self.ignore_index = task, num_outputs, ignore_index
        self.declared = emits is not None
        of_values = all(term.takes is not None and term.takes.output == "values" for term in terms)
        self.emits = emits or ("values" if task == "regression" or of_values else "logits")
        self.standardizes = scaling is not None
        mean, std = scaling or (torch.zeros(()), torch.ones(()))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        problems = [problem for term in terms for problem in self._misfits(term)]
        if problems:
            raise ConfigError(*problems)

    def forward(self, output: Tensor, batch: Batch) -> Tensor:
        """(T,) the sum of each loss over the batch, to be divided by the `weight` of whatever the mean is taken of.

        Args:
            output: what the model made of the batch: (B, C, ...), or the shape of the targets for values.
        """
        target, factor = self._counted(batch)
        sums = [(self._sum(term, output, target, factor), term.scale) for term in self.terms]
        return _joined([total if scale == 1 else total * scale for total, scale in sums])

    def weight(self, batch: Batch) -> Tensor:
        """(T,) float32: by what each sum over the batch has to be divided, or added up with others before."""
        target, factor = self._counted(batch)
        return _joined([self._weight(term, target, factor) for term in self.terms])

    def of(self, output: Tensor, batch: Batch) -> Tensor:
        """The loss of a batch as one number: the sum of the terms' means."""
        mean: Tensor = (self(output, batch) / self.weight(batch)).sum()
        return mean

    @property
    def class_weights(self) -> Tensor | None:
        """(C,) of the first loss that has any."""
        return next((term.class_weights for term in self.terms if term.class_weights is not None), None)

    @property
    def readout(self) -> Readout:
        """What an output says."""
        return Readout(self.task, self.emits, self.mean, self.std)

    def kept(self, batch: Batch) -> Tensor:
        """(B,) bool: which samples are measured: those of which nothing is ignored or masked, whatever they weigh."""
        plain = replace(batch, extra={name: held for name, held in batch.extra.items() if name == "mask"})
        _, factor = self._counted(plain)
        if factor is None:
            return torch.ones(len(batch), dtype=torch.bool, device=batch.target.device)
        return (factor > 0).flatten(1).all(1) if factor.dim() > 1 else factor > 0

    def check(self, output: object, batch: Batch, far: Callable[[], object] | None = None) -> None:
        """That the model's output has a shape and a form that the loss takes.

        Args:
            far: the output for inputs far from these. A few logits may lie between 0 and 1 by chance, and those of a
                sigmoid lie there wherever the inputs are.

        Raises:
            ConfigError: it has not.
        """
        if not isinstance(output, Tensor):
            raise ConfigError(Problem("model", f"returns a {type(output).__name__}", "one tensor"))
        shape, target = tuple(output.shape), tuple(batch.target.shape)
        if self.task != "regression":
            expected = [(target[0], self.num_outputs, *(target[1:] if self.task == "classification" else ()))]
        else:
            expected = [target, (*target, 1)]
        if shape not in expected:
            what = f"returns shape {shape} for targets of shape {target}"
            remedy = "num_outputs: ${facts.num_outputs}, or the argument that sets the width of its last layer"
            raise ConfigError(Problem("model", what, " or ".join(map(str, expected)), remedy))
        if self.task == "regression":  # values have no form
            return
        found = _form(output, self.task == "multilabel")
        if found == "probabilities" and self.task == "multilabel" and not self.declared and far is not None:
            found = _form(cast(Tensor, far()), True)
        if self.emits == "logits" and found == "probabilities" and not self.declared:
            name = "sigmoid" if self.task == "multilabel" else "softmax"
            what = f"its outputs are already probabilities, and the loss would apply {name} again"
            remedy = f"model.output=probabilities, or remove the {name} from the model"
            raise ConfigError(Problem("model", what, "logits", remedy))
        if self.emits in ("probabilities", "log_probabilities") and found != self.emits:
            what = f"{self.emits!r}, but the outputs of the first batch are not {self.emits.replace('_', '-')}"
            raise ConfigError(Problem("model.output", what, remedy=f"model.output={found or 'logits'}"))

    def _misfits(self, term: Term) -> list[Problem]:
        if term.takes is None:
            return []
        name, form = type(term.criterion).__name__, FORMS[self.task]
        if term.one_hot and (form != "indices" or term.takes.output != "values"):
            what = "true needs class indices as targets and a regression loss (mse, mae, huber)"
            return [Problem("loss.one_hot", what, remedy="loss.one_hot=false")]
        if not term.one_hot and form not in term.takes.targets:
            one_hot = ", or loss.one_hot=true" if form == "indices" and term.takes.output == "values" else ""
            taken = " or ".join(WORDS.get(each, each) for each in term.takes.targets)
            what = f"{name} takes {taken}, but the targets are {WORDS[form]}"
            # Who takes such a loss has several classes per sample, as a rule.
            allowed = SEVERAL if form == "indices" and term.takes.targets == ("flags",) else ""
            return [Problem("loss", what, allowed, REMEDIES[form] + one_hot)]
        if "values" in (self.emits, term.takes.output) and self.emits != term.takes.output:
            given = f"{self.emits!r}{'' if self.declared else ' (the default here)'}"
            wants_values = term.takes.output == "values"
            allowed = "values" if wants_values else "logits, log_probabilities, probabilities"
            remedy = f"model.output={'values' if wants_values else 'null'}"
            if len({each.takes.output == "values" for each in self.terms if each.takes is not None}) > 1:
                remedy = "loss.terms that all take values, or none of them"
            return [Problem("model.output", f"{given}, but {name} takes {term.takes.output}", allowed, remedy)]
        return []

    def _counted(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The targets, and how much each counts: (B, ...) float32, or None for 1 each."""
        # Shares are compared with what the model makes; values are not until they are scaled.
        target, factor = batch.target.float() if self.task == "soft" else batch.target, None
        dims = target.dim() - (self.task == "soft")
        if self.ignore_index is not None and self.task != "soft":
            factor = (target != self.ignore_index).float()
        for name in ("mask", "weight"):
            given = batch.extra.get(name)
            if given is not None:
                if given.dim() > 1 and given.shape[1:].numel() == 1:
                    given = given.flatten()
                spread = given.float().reshape(given.shape + (1,) * (dims - given.dim()))
                factor = spread if factor is None else factor * spread
        if factor is not None:
            # What does not count may be anything, NaN included, and must not reach a gradient as 0 times that.
            counts = (factor > 0).reshape(factor.shape + (1,) * (target.dim() - factor.dim()))
            target = torch.where(counts, target, 0)
            factor = factor.expand(target.shape[:dims])
        return target, factor

    def _sum(self, term: Term, output: Tensor, target: Tensor, factor: Tensor | None) -> Tensor:
        given, goal = self._output(term, output, target), self._target(term, target)
        counted = target.shape[: target.dim() - (self.task == "soft")]
        elements = None if term.returns == "mean" and factor is not None else term(given, goal, tuple(counted))
        if term.returns == "mean":
            mean = elements if factor is None else self._mean_of_kept(term, given, goal, factor, counted)
            return cast(Tensor, mean) * self._weight(term, target, factor)
        if factor is not None:
            elements = cast(Tensor, elements) * (factor if term.returns == "elements" else _by_sample(factor))
        # Kept as (1,): a view of a scalar would be a node of its own in the graph of every step.
        return cast(Tensor, elements).flatten().sum(0, keepdim=True)

    def _mean_of_kept(self, term: Term, output: Tensor, target: Tensor, factor: Tensor, counted: torch.Size) -> Tensor:
        """The mean that a criterion returns, over the samples that count."""
        each = _by_sample(factor)
        if bool(((each != 0) & (each != 1)).any()):
            name = type(term.criterion).__name__
            remedy = "return one value per sample (reduction='none')"
            raise ValueError(f"{name} returns a mean, so samples cannot be weighted; {remedy}")
        rows = each > 0
        if not bool(rows.any()):
            return output.sum() * 0
        return cast(Tensor, term(output[rows], target[rows], (int(rows.sum()), *counted[1:])))

    def _weight(self, term: Term, target: Tensor, factor: Tensor | None) -> Tensor:
        weights = term.class_weights
        if weights is not None:
            each = (target * weights).sum(1) if self.task == "soft" else weights[target]
            return (each if factor is None else each * factor).sum()
        by_sample = term.returns in ("samples", "mean") or self.task == "soft"
        if factor is not None:
            return (_by_sample(factor) if by_sample else factor).sum()
        count = len(target) if by_sample else target.numel()
        return torch.full((1,), float(count), device=target.device)

    def _target(self, term: Term, target: Tensor) -> Tensor:
        if self.task == "regression":
            return ((target - self.mean) / self.std).float()
        wants = term.takes.targets if term.takes is not None else ()
        if term.log_target:
            is_soft = self.task == "soft"
            whole = target if is_soft else functional.one_hot(target, self.num_outputs).movedim(-1, 1).float()
            return whole.clamp(min=torch.finfo(whole.dtype).tiny).log()
        if self.task == "classification" and (term.one_hot or wants[:1] == ("distributions",)):
            return functional.one_hot(target, self.num_outputs).movedim(-1, 1).float()
        return target.float() if self.task == "multilabel" else target

    def _output(self, term: Term, output: Tensor, target: Tensor) -> Tensor:
        if self.task == "regression" and output.shape != target.shape:
            return output.reshape(target.shape)  # (B, 1) against (B,) would be broadcast to (B, B)
        if term.takes is None:
            return output
        return convert(output, self.emits, term.takes.output, self.task == "multilabel")


def _joined(values: Sequence[Tensor]) -> Tensor:
    """(T,) what has one element each, side by side. One alone, as a rule, stays the tensor that it is."""
    return values[0] if values[0].shape == (1,) and len(values) == 1 else torch.cat([v.reshape(1) for v in values])


def _by_sample(factor: Tensor) -> Tensor:
    """(B,) how much each sample counts."""
    if factor.dim() == 1:
        return factor
    flat = factor.flatten(1)
    if bool((flat != flat[:, :1]).any()):
        what = "some values of a sample are masked or weighted differently, but this loss gives one value per sample"
        raise ValueError(what)
    return flat[:, 0]


def _form(output: Tensor, flags: bool) -> str | None:
    """What outputs look like: probabilities, log-probabilities or, None, neither."""
    values = output.detach().double()
    if not flags:
        sums = values.sum(1)
        if bool((values >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
            return "probabilities"
        total = values.logsumexp(1)
        return "log_probabilities" if torch.allclose(total, torch.zeros_like(total), atol=1e-4) else None
    if bool(((values >= 0) & (values <= 1)).all()) and values.numel() >= 16:
        return "probabilities"
    return "log_probabilities" if bool((values <= 0).all()) and values.numel() >= 16 else None
