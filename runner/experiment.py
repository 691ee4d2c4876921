"""An experiment: everything a configuration describes up to the loss, built in the order the data flow.

Training starts from here, and so does whatever is done later with what was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from runner import debugger, device, loss, metric
from runner.batch import Batch
from runner.checks import offers
from runner.checks.before_data import monitors
from runner.config import calling, factory, fill, value
from runner.data import Data, Sources, prepare
from runner.dataset import Samples
from runner.draws import reseed
from runner.errors import FOR_THE_TRACEBACK, ConfigError, DataError, Problem, RunnerError, cause_of
from runner.evaluation import examine
from runner.loss import Loss
from runner.metric import Metric, Predicted
from runner.model import Frozen, initialise, load
from runner.network import make_model, make_precision, set_backends
from runner.terminal import show
from runner.trainer import Precision
from runner.trial import check_declared, check_repeatable, try_model
from runner.visible import log


@dataclass
class Experiment:
    """What was built, on its device."""

    device: torch.device
    threads: int
    data: Data
    model: nn.Module
    precision: Precision
    frozen: Frozen
    loss: Loss
    metrics: Mapping[str, Metric]
    baseline: Mapping[str, float]
    """Every metric on val and test of what one would say without looking at the inputs."""
    gap: AbstractContextManager[None] = field(default_factory=nullcontext)
    """Entered for an evaluation, which leaves everything as it was; it may stop that by raising."""

    def evaluate(self, part: str, model: nn.Module | None = None) -> dict[str, float]:
        """The loss and every metric on a part, as ``"<part>/<metric>": value``."""
        return self.examine(part, model)[0]

    def examine(self, part: str, model: nn.Module | None = None) -> tuple[dict[str, float], Predicted]:
        """The loss and every metric on a part, and what they were computed from.

        Args:
            model: with other weights than the experiment's own: their average.
        """
        model = self.model if model is None else model  # one with a length of 0 is false
        forward, loader = self.precision.forward(model), self.data.loaders[part]
        with self.gap:
            values, predicted = examine(model, self.loss, self.metrics, loader, forward)
        return {f"{part}/{name}": value for name, value in values.items()}, predicted


def assemble(cfg: DictConfig, resumed: bool = False, sources: Sources | None = None) -> Experiment:
    """Build what `cfg` describes, and enter into ``cfg.facts`` what the data say on the way.

    Args:
        resumed: whether the model's weights will come from a checkpoint of this run.
        sources: data sets that were read for other jobs of a sweep; see `runner.data.read`.

    Raises:
        InputError: the data are not what the configuration needs.
    """
    where = device.resolve(cfg.device)
    device.check(where, cfg.trainer.cudnn)
    set_backends(cfg)
    data = prepare(cfg, where, sources)
    check_declared(cfg, list(data.samples["train"].read(0)[0].shape))

    model, frozen = _model(cfg, resumed)
    precision = make_precision(cfg, where, model, data.example.input)
    model = precision.place(model)
    output = try_model(model, data.example.input)
    if not cfg.model.get("stochastic"):
        check_repeatable(model, data.example.input, output)
    threads = device.threads(cfg.trainer.threads, model, data.example.input)
    torch.set_num_threads(threads)

    criterion = on_device(_loss(cfg, data, new=cfg.resume is None), where)
    _check_loss(criterion, model, output, data.example)
    metrics = make_metrics(cfg, criterion)
    baseline = _baseline(metrics, data, criterion)
    return Experiment(where, threads, data, model, precision, frozen, criterion, metrics, baseline)


def _model(cfg: DictConfig, resumed: bool) -> tuple[nn.Module, Frozen]:
    """The model with its first weights, on the CPU: the same on every device."""
    options = cfg.model
    reseed(torch.device("cpu"), cfg.seed, "model")
    model = make_model(options)
    if not resumed:
        _check_widths(model)
    if options.get("init") is not None:
        initialise(model, value(options.init), cfg.seed)
    if options.get("weights") is not None and not resumed:
        show(load(model, options.weights, options.get("strict", True)))
    patterns = [str(pattern) for pattern in options.get("freeze") or []]  # a layer's name may be a number
    return model, Frozen(model, patterns, options.get("unfreeze_at_epoch"))


def _check_widths(model: nn.Module) -> None:
    """Check that no layer is of width 0, whose output would be the same for every sample."""
    empty = next((name for name, each in model.named_parameters() if not is_lazy(each) and each.numel() == 0), None)
    if empty is not None:
        what = f"its parameter {empty} has shape {tuple(model.get_parameter(empty).shape)}, so nothing of it is trained"
        raise ConfigError(Problem("model", what, "layers of width 1 or more"))


def make_loss(
    cfg: DictConfig, weights: Callable[[DictConfig, int], Mapping[str, Tensor | None]], **options: Any
) -> Loss:
    """The loss of a configuration.

    Args:
        weights: gives the class weights of one of its terms, by the names of the arguments that they are.
        options: of `Loss`.
    """
    terms = []
    for number, node in enumerate(cfg.loss.get("terms") or [cfg.loss]):
        given = weights(node, number)
        with offers.naming(node), calling("loss"):
            criterion = factory(node, WEIGHTS)(**given)
        terms.append(loss.Term(criterion, node.get("scale", 1.0), node.get("one_hot", False)))
    return Loss(terms, cfg.facts.task, cfg.facts.num_outputs, emits=cfg.model.get("output"), **options)


def on_device(criterion: Loss, where: torch.device) -> Loss:
    """A loss where the model is. On MPS, which has no float64, targets are scaled in float32: that is said."""
    if where.type == "mps" and criterion.standardizes and criterion.mean.dtype == torch.float64:
        log.warning("mps has no float64: digits of large targets are lost\n  try: device=cpu")
    return (criterion.float() if where.type == "mps" else criterion).to(where)


WEIGHTS = ("weight", "pos_weight")
"""Arguments of a criterion that are computed from the train part."""


REDUCTION = ("reduction", "reduce", "size_average")
"""Arguments by which criteria make one number of a batch, which `Loss` does itself."""


def _check_reduction(terms: Sequence[loss.Term], nodes: Sequence[DictConfig]) -> None:
    for number, (term, node) in enumerate(zip(terms, nodes, strict=True)):
        for key in REDUCTION if hasattr(term.criterion, "reduction") else ():
            if (given := node.get(key)) not in (None, "none"):
                place = f"loss.terms.{number}.{key}" if len(nodes) > 1 else f"loss.{key}"
                what = f"{given!r} has no effect: the loss is always the (weighted) mean over what counts"
                raise ConfigError(Problem(place, what, "none", f"leave out {place}"))


def _loss(cfg: DictConfig, data: Data, new: bool) -> Loss:
    """The loss, its weights computed from the train part.

    Args:
        new: whether no earlier version may have started the run, for which more was allowed.
    """
    train, counts = data.samples["train"], data.counts["train"]
    found: list[list[float]] = []

    def weights(node: DictConfig, number: int) -> dict[str, Tensor | None]:
        place = f"loss.terms.{number}" if cfg.loss.get("terms") else "loss"
        given: dict[str, list[float] | None] = {}
        if "weight" in node:
            rule, beta = value(node.weight), node.get("beta", 0.999)
            given["weight"] = loss.class_weights(rule, counts, beta, f"{place}.weight")
        if "pos_weight" in node:
            rule, rows = value(node.pos_weight), data.indices["train"]
            # For each class, how many samples say whether they are of it.
            known = [len(rows)] * len(train.classes) if train.counted is None else train.counted[rows].sum(0).tolist()
            given["pos_weight"] = loss.positive_weights(rule, counts, known, f"{place}.pos_weight")
        found.extend(each for each in given.values() if each is not None)
        return {key: None if each is None else torch.tensor(each) for key, each in given.items()}

    scaled = cfg.facts.task == "regression" and cfg.loss.get("standardize", False)
    made = make_loss(
        cfg, weights,
        ignore_index=train.ignore_index if data.has_ignored else None,
        scaling=_moments(train, data.indices["train"]) if scaled else None,
    )  # fmt: skip
    if new:
        _check_reduction(made.terms, cfg.loss.get("terms") or [cfg.loss])
    fill(cfg, {"class_weights": next(iter(found), None), "output": made.emits})
    return made


def _moments(train: Samples, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the values of some samples, (K,) or scalars, in the type of these."""
    targets = train.targets[rows]
    kind, values = torch.promote_types(targets.dtype, torch.float32), targets.double()
    known = values if train.counted is None else torch.where(train.counted[rows], values, torch.nan)
    mean = known.nanmean(0)
    std = (known - mean).square().nanmean(0).sqrt()
    # The mean of many times 0.1 is not quite 0.1.
    least = 8 * torch.finfo(torch.float64).eps * mean.abs() if kind == torch.float64 else torch.zeros(())
    return mean.to(kind), torch.where(std > least, std, 1.0).to(kind)


def metrics_of(cfg: DictConfig) -> dict[str, Metric]:
    """The metrics that a configuration names."""
    nodes = {str(name): node for name, node in cfg.metric.items() if node is not None}
    return {name: Metric(factory(node), node.get("takes")) for name, node in nodes.items()}


def make_metrics(cfg: DictConfig, criterion: Loss) -> dict[str, Metric]:
    """Of these, the ones that can be computed from what the model says."""
    made = metrics_of(cfg)
    # One of them may be meant: the mean absolute error of classes that have an order.
    functions = [entry.function.func for entry in made.values()]
    if made and criterion.task != "regression" and all(map(metric.is_of_values, functions)):
        kind = "is a regression metric" if len(made) == 1 else "are regression metrics"
        what = f"{', '.join(made)} {kind}, but the targets are classes"
        raise ConfigError(Problem("metric", what, remedy=f"metric={_option(criterion.task)}"))
    left_out = [name for name in made if made[name].wants_probabilities and not criterion.readout.gives_probabilities]
    if left_out:
        log.info("metrics skipped, because they need probabilities and this loss has none: %s", ", ".join(left_out))
    lost = {key: monitor for key, monitor in monitors(cfg).items() if monitor.removeprefix("val/") in left_out}
    if lost:
        what = "needs probabilities, which this loss does not provide"
        raise ConfigError(*(Problem(k, f"{monitor!r} {what}", remedy=f"{k}=val/loss") for k, monitor in lost.items()))
    return {name: entry for name, entry in made.items() if name not in left_out}


def _option(task: str) -> str:
    return "classification" if task == "soft" else task


def _baseline(metrics: Mapping[str, Metric], data: Data, criterion: Loss) -> dict[str, float]:
    """Each metric of the majority class or the mean; a metric that does not fit the targets fails here, and not after
    the first epoch."""
    found: dict[str, float] = {}
    problems: dict[str, Problem] = {}
    train = data.samples["train"]
    targets = train.known(data.indices["train"])
    for part in ("val", "test"):
        truth = data.samples[part].known(data.indices[part])
        if len(truth) == 0 or len(targets) == 0:
            where = part if len(targets) else "train"
            what = f"every target of the {where} part is ignored or masked, at least in part"
            raise DataError(Problem("dataset", what, "some targets that are neither ignored nor masked"))
        predicted = metric.baseline(criterion.task, targets, truth, criterion.num_outputs)
        for name, entry in metrics.items():
            try:
                found[f"{part}/{name}"] = metric.measure({name: entry}, predicted)[name]
            except debugger.foreign(also=(metric.NoNumber,)) as error:  # of scikit-learn, or a metric of the user's
                log.debug("", exc_info=True)
                problems[name] = _uncomputable(f"metric.{name}", entry, error, criterion.task)
    if problems:
        raise ConfigError(*problems.values())
    return found


def _uncomputable(key: str, entry: Metric, error: BaseException, task: str) -> Problem:
    if isinstance(error, metric.NoNumber):
        return Problem(key, str(error), "one number")
    # Of scikit-learn's and ours, others fit the targets; one of the user's was chosen for them, and has a mistake.
    remedy = FOR_THE_TRACEBACK if entry.is_of_the_user else f"metric={_option(task)}"
    return Problem(key, f"cannot be computed: {cause_of(error)}", remedy=remedy)


FAR = 1000.0
"""By what inputs are multiplied to see where outputs go."""


def _check_loss(criterion: Loss, model: nn.Module, output: object, batch: Batch) -> None:
    """That the loss takes what the model makes."""
    is_number = batch.input.is_floating_point()  # and not, say, the index of a word
    criterion.check(output, batch, (lambda: try_model(model, FAR * batch.input)) if is_number else None)
    try:
        with torch.inference_mode():
            criterion(cast(Tensor, output), batch)
    except RunnerError:  # says what it is about
        raise
    except debugger.foreign() as error:  # whatever a loss of the user's may raise
        log.debug("", exc_info=True)
        names = " + ".join(type(term.criterion).__name__ for term in criterion.terms)
        what = f"{names} fails on the first batch: {cause_of(error)}"
        raise ConfigError(Problem("loss", what, remedy=FOR_THE_TRACEBACK)) from error
