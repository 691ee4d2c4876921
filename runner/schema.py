"""Every key of the configuration that is ours: its type, what is allowed, and what it means.

Kept free of torch, so that a mistake is reported before anything heavy is imported. Groups marked ``target`` name a
class or function by ``_target_``; the keys that are not listed here are that target's own arguments, and its signature
is what they are checked against (in `runner.targets`).
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from runner.errors import Problem, nearest, shown

NUMBER = r"\d+(\.\d+)?"


def key(
    help: str, *, least: float | None = None, above: float | None = None, below: float | None = None,
    pattern: str = "", allowed: str = "", optional: bool = False, resume: bool = False,
) -> Any:  # fmt: skip
    """One key of the configuration.

    Args:
        help: what it means, in one line.
        least, above, below: bounds of a number, the first included and the others not.
        pattern: regular expression that a text must match; `allowed` says it in words.
        optional: whether it may be left out, because the group's target may have no use for it.
        resume: whether it may differ when a run is resumed. It may where the experiment stays the same.
    """
    return dataclasses.field(metadata=locals())


def target() -> Any:
    """The ``_target_`` of a group: whatever other keys there are belong to what it names."""
    return dataclasses.field(
        metadata={
            "help": "dotted path of the class or function",
            "target": True,
            "allowed": "the dotted path of a class or function",
        }
    )


@dataclasses.dataclass
class Dataset:
    _target_: str = target()
    keys: dict[str, str] | None = key("for samples that are dicts: {input: KEY, target: KEY, NAME: KEY}", optional=True)
    layout: Literal["chw", "hwc", "hwc_bgr"] = key("how arrays of pictures are laid out", optional=True)
    shape: list[int] | None = key(
        "shape of a sample as it is stored, if known: the model is tried on it before data are read",
        least=1,
        optional=True,
    )


@dataclasses.dataclass
class Split:
    _target_: str = target()
    val: float = key("fraction of all samples that choose between epochs", above=0, below=1, optional=True)
    test: float = key("fraction of all samples looked at once, at the end", above=0, below=1, optional=True)
    seed: int = key(
        "decides which sample is in which part; apart from the seed of the training",
        least=0,
        below=2**32,
        allowed="a whole number from 0 to 4294967295",
        optional=True,
    )
    n_splits: int = key("folds", least=2, optional=True)
    fold: int | Literal["all"] = key("the fold that is held out, from 0; all: each once", least=0, optional=True)
    path: str | None = key("use the split of this file (split.json, split.npz or a run folder) again", optional=True)


@dataclasses.dataclass
class Transform:
    train: list[Any] = key("transforms of the train part, one after the other")
    eval: list[Any] = key("transforms of val and test")


@dataclasses.dataclass
class Loader:
    _target_: str = target()
    batch_size: int = key("samples in a batch", least=1)
    eval_batch_size: int | None = key(
        "samples in a batch of val and test; null: batch_size, on a GPU four times that", least=1
    )
    drop_last: bool = key("leave out an epoch's last batch if it is smaller than the others")
    sampler: Literal["shuffle", "sequential", "balanced"] | dict[str, Any] = key("the order of an epoch, or a _target_")
    subset: int | float | None = key("train on this many samples, or this share of them", above=0)
    batch_sampler: dict[str, Any] | None = key(
        "a _target_ that makes the batches, in place of batch_size, sampler and drop_last", optional=True
    )
    epoch_samples: int | None = key("samples in an epoch of a stream; null: its length", least=1, optional=True)
    num_workers: int = key("processes that read samples", least=0, resume=True)


@dataclasses.dataclass
class Model:
    _target_: str = target()
    output: Literal["logits", "log_probabilities", "probabilities", "values"] | None = key(
        "what the model emits; null: values for a loss of values, else logits", optional=True
    )
    init: str | list[Any] | dict[str, Any] | None = key(
        "initial weights: a method, or rules", allowed="null, a method such as kaiming, or rules", optional=True
    )
    weights: str | None = key("weights to start from: a file, run folder, URL or torchvision name", optional=True)
    strict: bool = key("whether their names and shapes must be the model's", optional=True)
    stochastic: bool = key("whether it draws at random in eval mode, too", optional=True)
    freeze: list[str | int] = key(
        "patterns of the parameters that are not trained",
        allowed='a list of texts, as in [features, "4.0"]',
        optional=True,
    )
    unfreeze_at_epoch: int | None = key("the epoch from which on they are", least=1, optional=True)


@dataclasses.dataclass
class Loss:
    _target_: str = target()
    weight: str | list[float] | dict[str, float] | None = key(
        "class weights",
        least=0, pattern="balanced|effective_number", optional=True,
        allowed="null, balanced, effective_number, one number >= 0 per class, or {NAME: NUMBER}",
    )  # fmt: skip
    pos_weight: str | list[float] | dict[str, float] | None = key(
        "weights of the positive samples of each class",
        least=0, pattern="balanced", optional=True,
        allowed="null, balanced, one number >= 0 per class, or {NAME: NUMBER}",
    )  # fmt: skip
    beta: float = key("β of weight=effective_number", least=0, below=1, optional=True)
    ignore_index: int | float | None = key("a target that does not count", optional=True)
    one_hot: bool = key("compare values with the one-hot form of class indices", optional=True)
    standardize: bool = key("measure values in standard deviations of the train targets", optional=True)
    scale: float = key("by which it is multiplied, as one of several terms", optional=True)
    terms: list[Any] | None = key("several losses, which are added up", optional=True)


@dataclasses.dataclass
class Optimizer:
    _target_: str = target()
    lr: float = key("learning rate", least=0, optional=True)
    weight_decay: float = key("weight decay", least=0, optional=True)
    param_groups: list[Any] = key("rules for some of the parameters; the first that fits decides", optional=True)
    decay_norms_and_biases: bool = key("whether weight decay applies to them", optional=True)
    layer_decay: float | None = key(
        "by which the learning rate is multiplied for each layer before the output", above=0, below=1, optional=True
    )
    scale_lr: int | None = key(
        "samples in a step that lr is meant for; it is scaled to those that a step has", least=1, optional=True
    )


@dataclasses.dataclass
class Rule:
    """One of ``optimizer.param_groups``; its other keys are the optimizer's."""

    match: str = key("regular expression that is looked for in the names of parameters", optional=True)
    type: str = key("class of the layers, such as BatchNorm2d", optional=True)
    name: str = key("of the group", optional=True)
    lr: float = key("learning rate", least=0, optional=True)
    lr_scale: float = key("by which the learning rate is multiplied", least=0, optional=True)
    weight_decay: float = key("weight decay", least=0, optional=True)
    scheduler: dict[str, Any] | None = key("a schedule of its own; null: the rate stays as it is", optional=True)


@dataclasses.dataclass
class Scheduler:
    _target_: str = target()
    interval: Literal["step", "epoch"] = key("what the schedule counts in: optimizer steps or epochs")
    warmup: int | str = key(
        "length of a linear warm-up, before the schedule",
        least=0, pattern=r"\s*\d+(\.\d+)?\s*(%|steps?|epochs?)\s*", optional=True,
        allowed="steps, such as 500, or a text: 5 epochs, 3%",
    )  # fmt: skip
    warmup_start: float = key("where the warm-up begins, as a fraction of the rate", above=0, below=1, optional=True)
    monitor: str | None = key(
        "the metric that ReduceLROnPlateau looks at", allowed="val/METRIC, train/loss, or null", optional=True
    )


@dataclasses.dataclass
class EarlyStopping:
    patience: int | None = key("evaluations without anything better after which the run ends", least=1, resume=True)
    min_delta: float = key("by how much a figure has to be better", least=0, resume=True)
    monitor: str | None = key(
        "the figure; null: checkpoint.monitor", allowed="val/METRIC, train/loss, or null", resume=True
    )
    mode: Literal["auto", "min", "max"] = key("whether less or more of it is better", resume=True)


@dataclasses.dataclass
class Trainer:
    max_epochs: int | None = key("length of the run in epochs", least=1, resume=True)
    max_steps: int | None = key(
        "length of the run in optimizer steps; the run ends with the first", least=1, resume=True
    )
    max_time: str | None = key(
        "length of the run in time; the run ends with the first",
        pattern=rf"\s*{NUMBER}\s*(seconds?|minutes?|hours?)\s*", allowed="90 minutes, 1.5 hours", resume=True,
    )  # fmt: skip
    evaluate_every: str = key(
        "how often val is looked at",
        pattern=rf"\s*{NUMBER}\s*(%|steps?|epochs?)\s*", allowed="2 epochs, 500 steps, 10%",
    )  # fmt: skip
    evaluate_train: bool = key("measure the train part again, in eval mode, where val is looked at")
    early_stopping: EarlyStopping = key("end the run when it is not getting better any more")
    accumulate: int = key("batches in one optimizer step", least=1)
    micro_batch: int | Literal["auto"] | None = key("samples that go through the model at once", least=1)
    step: dict[str, Any] | None = key("what the loss of a batch is: a _target_")
    precision: Literal["fp32", "bf16", "fp16"] = key("number format of matrix products and convolutions")
    channels_last: bool | Literal["auto"] = key("layout of pictures")
    compile: bool = key("with torch.compile", resume=True)
    clip_norm: float | None = key("upper bound of the gradient's norm", above=0)
    clip_value: float | None = key("upper bound of the size of each element of the gradient", above=0)
    ema: float | None = key("decay of averaged weights, which then are evaluated", above=0, below=1)
    on_nonfinite: Literal["stop", "skip"] = key("what to do with a step whose loss or gradient is not finite")
    limit_batches: int | None = key("batches of every part", least=1)
    threads: int | Literal["auto"] = key(
        "CPU threads; auto: one for a small model, else every core", least=1, resume=True
    )
    deterministic: bool = key("only operations that give the same bytes every time", resume=True)
    tf32: bool = key("on CUDA: matrix products and convolutions with fewer digits")
    cudnn: bool = key("on CUDA: cuDNN's convolutions", resume=True)
    cudnn_benchmark: bool | None = key("try which of them is the fastest", resume=True)
    profile: bool = key("some steps with torch's profiler", resume=True)
    log_interval: int = key("steps between two updates of the progress bar", least=1, resume=True)


@dataclasses.dataclass
class Checkpoint:
    monitor: str = key("the metric that decides which epoch is best", allowed="val/METRIC, train/loss")
    mode: Literal["auto", "min", "max"] = key("whether less or more of it is better; auto: less of a loss or an error")
    every: str = key(
        "how often the last state is written", pattern=rf"\s*{NUMBER}\s*(%|steps?|epochs?|seconds?|minutes?|hours?)\s*",
        allowed="1 epoch, 500 steps, 10%, 10 minutes", resume=True,
    )  # fmt: skip
    keep: int = key("checkpoints of the best evaluations that are kept", least=1, resume=True)


@dataclasses.dataclass
class TensorBoard:
    enabled: bool = key("write event files", resume=True)
    gradients: bool = key("the norm of each layer's gradient", resume=True)
    feature_maps: list[str | int] = key(
        "layers of which feature maps are drawn at the end",
        allowed='a list of names, as in [conv1, "4.0"]',
        resume=True,
    )
    grad_cam: str | int | None = key(
        "layer of which Grad-CAM is drawn at the end",
        allowed="the name of a layer, in quotes if it has a dot",
        resume=True,
    )
    samples: int | list[int] = key("how many val samples are drawn, or which, from 0", least=0, resume=True)
    pictures: bool = key("samples, mistakes, confusion and curves as pictures", resume=True)
    steps: int | None = key("steps between points of loss and learning rate; null: none", least=1, resume=True)
    histograms: bool = key("weights and gradients of each layer, at each evaluation", resume=True)
    embeddings: str | int | None = key(
        "layer whose outputs on val are put in the projector",
        allowed="the name of a layer, in quotes if it has a dot",
        resume=True,
    )


@dataclasses.dataclass
class Sweep:
    method: Literal["grid", "random", "latin_hypercube", "sobol", "optuna"] = key("where the jobs come from")
    n_jobs: int = key("jobs at a time", least=1, resume=True)
    on_error: Literal["continue", "stop"] = key("what a failed job means for the others", resume=True)
    timeout: str | None = key(
        "time that a job may take",
        pattern=rf"\s*{NUMBER}\s*(seconds?|minutes?|hours?)\s*", allowed="30 minutes, 2 hours", resume=True,
    )  # fmt: skip
    zip: list[str | list[str]] = key(
        "keys whose values go together, the first with the first",
        allowed="a list of keys, or of such lists, as in [optimizer.lr, loader.batch_size]", resume=True,
    )  # fmt: skip
    jobs: str | dict[str, Any] | None = key("jobs by their names, or a YAML file of them", resume=True)
    rank_by: str | None = key(
        "metric that settings are ranked by; null: checkpoint.monitor",
        allowed="val/METRIC, test/METRIC, or null",
        resume=True,
    )
    points: int = key("points that are drawn", least=1, optional=True)
    seed: int = key("decides which points", least=0, optional=True)
    sampler: dict[str, Any] = key("of Optuna: what is tried next", optional=True)
    pruner: dict[str, Any] | None = key("of Optuna: what is given up", optional=True)


@dataclasses.dataclass
class LrFind:
    start: float = key("the first step's learning rate", above=0)
    end: float = key("the last step's learning rate", above=0)
    steps: int = key("optimizer steps", least=10)
    stop: float = key("ends when the smoothed loss is this many times its lowest", above=1)


@dataclasses.dataclass
class Evaluate:
    """Keys of `python -m runner evaluate`, on top of the run's own."""

    run: str = key("folder of the run, or last")
    part: Literal["train", "val", "test"] = key("which part; of other data without such a part, all of them")
    weights: str = key("best (those behind the figures of the run), last, ema (their average), or a file")
    temperature: float | Literal["val"] | None = key(
        "by which logits are divided; val: the one with the least loss on val", above=0
    )
    output: str | None = key("folder for what is found; null: evaluate/<time> in that of the run")


@dataclasses.dataclass
class Predict:
    """Keys of `python -m runner predict`, on top of the run's own."""

    run: str | list[str] = key(
        "folder of the run, or last; several, whose mean is taken; of a cross-validation, all folds"
    )
    weights: str = key("best (those behind the figures of the run), last, ema (their average), or a file")
    temperature: float | Literal["val"] | None = key(
        "by which logits are divided; val: the one with the least loss on val", above=0
    )
    input: str = key(
        "what is to be predicted", allowed="a picture, a folder of them, .csv, .parquet, .npy, train, val, test, -"
    )
    output: str = key(
        "a .csv or .jsonl file, or - for stdout", pattern=r"-|.*\.(csv|jsonl)", allowed="-, NAME.csv, NAME.jsonl"
    )
    top_k: int = key("the likeliest classes of each sample", least=1)
    probabilities: bool = key("those of all classes, too")
    flips: list[Literal["horizontal", "vertical"]] = key(
        "mean over the pictures and their mirror images", allowed="a list of horizontal, vertical"
    )


@dataclasses.dataclass
class Export:
    """Keys of `python -m runner export`, on top of the run's own."""

    run: str = key("folder of the run, or last")
    weights: str = key("best (those behind the figures of the run), last, ema (their average), or a file")
    temperature: float | None = key("by which logits are divided", above=0)
    format: Literal["torch_export", "onnx", "safetensors"] = key("of the file")
    output: str | None = key("the file; null: model.pt2, model.onnx or model.safetensors in the folder of the run")
    input: str = key("samples on which the file is compared with the model: as of predict")
    tolerance: float = key("largest difference of a probability, or of a value as a share of the largest", above=0)


COMMANDS = {"evaluate": Evaluate, "predict": Predict, "export": Export}
"""Commands that begin with a run folder, each with its own keys: see `conf/<command>.yaml`."""


@dataclasses.dataclass
class Config:
    seed: int = key("decides initial weights, order, augmentation and dropout", least=0)
    device: str = key(
        "where to compute",
        pattern=r"auto|cpu|mps|cuda(:\d+)?", allowed="auto, cpu, cuda, cuda:N, mps", resume=True,
    )  # fmt: skip
    resume: str | None = key("run folder to go on in, or last", resume=True)
    debug: Literal["dev_run", "overfit", "anomaly"] | None = key(
        "two batches of everything; one batch again and again; or name the operation that broke a gradient", resume=True
    )
    check: Literal["only"] | None = key("stop when everything was checked", resume=True)
    figures: bool = key("keep the pictures as files, too: figures/*.png", resume=True)
    allow_targets: list[str] = key("patterns of targets that may be called besides the usual ones", resume=True)
    dataset: Dataset = key("the samples")
    split: Split = key("which samples train, which choose, which test")
    transform: Transform = key("what happens to a batch before the model")
    loader: Loader = key("how samples become batches")
    model: Model = key("what is trained")
    loss: Loss = key("what is minimised")
    optimizer: Optimizer = key("how weights are updated")
    scheduler: Scheduler = key("how the learning rate moves")
    metric: dict[str, Any] = key("what is measured on val and test")
    trainer: Trainer = key("length and manner of the training")
    checkpoint: Checkpoint = key("which epoch is kept")
    tensorboard: TensorBoard = key("curves and tables")
    sweep: Sweep = key("how the jobs of a sweep are made and done", resume=True)
    lr_find: LrFind = key("how the learning rate is looked for", optional=True)
    facts: Any = key("what only the data know; filled in by the run", resume=True)


def problems(config: Mapping[str, Any], schema: type = Config, prefix: str = "") -> list[Problem]:
    """Everything in `config` that `schema` does not allow.

    Args:
        config: plain containers; a value of `UNKNOWN` stands for one that the data will give, and passes.
    """
    hints = typing.get_type_hints(schema)
    found = []
    fields = {field.name: field for field in dataclasses.fields(schema)}
    for name in [name for name in fields if name not in config and not fields[name].metadata.get("optional")]:
        found.append(Problem(prefix + name, "is missing", words(hints[name], fields[name].metadata)))
    has_target = any(field.metadata.get("target") for field in fields.values())
    for name, value in config.items():
        if name in fields:
            found += _check(prefix + name, value, hints[name], fields[name].metadata)
        elif not has_target:
            what, allowed = f"there is no such key (value {shown(value)})", ", ".join(sorted(fields))
            found.append(Problem(prefix + name, what, allowed, nearest(str(name), fields, prefix)))
    return found


LENGTH = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.early_stopping")
"""Keys that decide when a run ends: one that is resumed may change them, and with others it is another experiment."""


def resumable(schema: type = Config, prefix: str = "") -> Iterator[str]:
    """The dotted keys that may differ when a run is resumed."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        if field.metadata.get("resume"):
            yield prefix + field.name
        elif dataclasses.is_dataclass(hints[field.name]):
            yield from resumable(hints[field.name], f"{prefix}{field.name}.")


class _Unknown:
    def __repr__(self) -> str:
        return "(given by the data)"


UNKNOWN = _Unknown()


def _check(name: str, value: Any, hint: Any, rules: Mapping[str, Any]) -> list[Problem]:
    if value is UNKNOWN:
        return []
    if value == "???":
        return [Problem(name, "is not set (???)", words(hint, rules), f"{name}=VALUE")]
    if dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            return problems(value, typing.cast(type, hint), name + ".")
        return [Problem(name, f"{value!r} is not a group of keys", f"an option of the group: {name}=NAME")]
    if fits(value, hint) and _in_bounds(value, rules):
        return []
    return [Problem(name, f"{shown(value)} is not allowed", words(hint, rules))]


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` is of the type `hint`. A whole number is a float, too; True and False are no numbers."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or value is UNKNOWN:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin is list:
        return isinstance(value, list) and all(fits(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, Mapping) and all(fits(item, arguments[1]) for item in value.values())
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _in_bounds(value: Any, rules: Mapping[str, Any]) -> bool:
    if isinstance(value, list):
        return all(_in_bounds(item, rules) for item in value)
    if isinstance(value, Mapping):
        return all(_in_bounds(item, rules) for item in value.values())
    if isinstance(value, str):
        return not rules.get("pattern") or re.fullmatch(rules["pattern"], value) is not None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return True
    least, above, below = (rules.get(name) for name in ("least", "above", "below"))
    if not math.isfinite(value):
        return False
    return (least is None or value >= least) and (above is None or value > above) and (below is None or value < below)


def words(hint: Any, rules: Mapping[str, Any]) -> str:
    """What is allowed, in words."""
    if rules.get("allowed"):
        return str(rules["allowed"])
    bounds = [
        f"{sign} {rules[name]:g}"
        for name, sign in (("least", ">="), ("above", ">"), ("below", "<"))
        if rules.get(name) is not None
    ]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    alternatives = arguments if origin in (typing.Union, types.UnionType) else (hint,)
    numbers = " " + " and ".join(bounds) if bounds else ""
    return ", or ".join(describe(kind) + (numbers if kind in (int, float) else "") for kind in alternatives)


def describe(hint: Any) -> str:
    """A type in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is Literal:
        return ", ".join(str(choice) for choice in arguments)
    if origin in (tuple, Sequence):
        return "a list"
    if origin is list:
        return "a list" if arguments == (Any,) else f"a list of {describe(arguments[0]).removeprefix('a ')}s"
    if origin is dict:
        return "a group of keys"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
