"""Every key of the configuration that is ours: its type, what is allowed, and what it means.

Kept free of torch, so that a mistake is reported before anything heavy is imported. Groups marked ``target`` name a
class or function by ``_target_``; the keys that are not listed here are that target's own arguments, and its signature
is what they are checked against (in `runner.checks.targets`).
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from runner.checks.values import UNKNOWN, choices, fits, in_bounds, words
from runner.errors import Problem, nearest, shown

NUMBER = r"\d+(\.\d+)?"


def key(
    help: str, *, least: float | None = None, above: float | None = None, below: float | None = None,
    pattern: str = "", allowed: str = "", optional: bool = False, resume: bool = False, ours: bool = False,
) -> Any:  # fmt: skip
    """One key of the configuration.

    Args:
        help: what it means, in one line.
        least, above, below: bounds of a number, the first included and the others not.
        pattern: regular expression that a text must match; `allowed` says it in words.
        optional: whether it may be left out, because the group's target may have no use for it.
        resume: whether it may differ when a run is resumed. It may where the experiment stays the same.
        ours: whether it stands beside ``_target_`` and is no argument of what that names.
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
    keys: dict[str, str] | None = key(
        "for samples that are dicts: {input: KEY, target: KEY, NAME: KEY}", optional=True, ours=True
    )
    layout: Literal["chw", "hwc", "hwc_bgr"] = key("how arrays of pictures are laid out", optional=True, ours=True)
    shape: list[int] | None = key(
        "shape of a sample as it is stored, if known: the model is tried on it before data are read",
        least=1,
        optional=True,
        ours=True,
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
    path: str | None = key(
        "use the split of this file (split.json, split.npz or a run folder) again", optional=True, ours=True
    )


@dataclasses.dataclass
class Transform:
    train: list[Any] = key("transforms of the train part, one after the other")
    eval: list[Any] = key("transforms of val and test")


@dataclasses.dataclass
class Loader:
    _target_: str = target()
    batch_size: int = key("samples in a batch", least=1, ours=True)
    eval_batch_size: int | None = key(
        "samples in a batch of val and test; null: batch_size, on a GPU four times that",
        least=1,
        ours=True,
    )
    drop_last: bool = key("leave out an epoch's last batch if it is smaller than the others", ours=True)
    sampler: Literal["shuffle", "sequential", "balanced"] | dict[str, Any] = key(
        "the order of an epoch, or a _target_", ours=True
    )
    subset: int | float | None = key("train on this many samples, or this share of them", above=0, ours=True)
    batch_sampler: dict[str, Any] | None = key(
        "a _target_ that makes the batches, in place of batch_size, sampler and drop_last",
        optional=True,
        ours=True,
    )
    epoch_samples: int | None = key(
        "samples in an epoch of a stream; null: its length", least=1, optional=True, ours=True
    )
    num_workers: int = key("processes that read samples", least=0, resume=True)


@dataclasses.dataclass
class Model:
    _target_: str = target()
    output: Literal["logits", "log_probabilities", "probabilities", "values"] | None = key(
        "what the model emits; null: values for a loss of values, else logits",
        optional=True,
        ours=True,
    )
    init: str | list[Any] | dict[str, Any] | None = key(
        "initial weights: a method, or rules",
        allowed="null, a method such as kaiming, or a list of rules",
        optional=True,
        ours=True,
    )
    weights: str | None = key(
        "weights to start from: a file, run folder, URL or torchvision name", optional=True, ours=True
    )
    strict: bool = key("whether names and shapes of the weights must be the model's", optional=True, ours=True)
    stochastic: bool = key("whether it draws at random in eval mode, too", optional=True, ours=True)
    freeze: list[str | int] = key(
        "patterns of the parameters that are not trained",
        allowed="a list of patterns; one that is a number needs quotes, and the shell more: 'model.freeze=[\"4.0\"]'",
        optional=True,
        ours=True,
    )
    unfreeze_at_epoch: int | None = key(
        "from this epoch on, frozen parameters are trained, too", least=1, optional=True, ours=True
    )


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
    beta: float = key("β of weight=effective_number", least=0, below=1, optional=True, ours=True)
    ignore_index: int | float | None = key("a target that does not count", optional=True, ours=True)
    one_hot: bool = key("compare values with the one-hot form of class indices", optional=True, ours=True)
    standardize: bool = key("measure values in standard deviations of the train targets", optional=True, ours=True)
    scale: float = key("factor of this loss in a sum of losses", optional=True, ours=True)
    terms: list[Any] | None = key("several losses, which are added up", optional=True, ours=True)


@dataclasses.dataclass
class Optimizer:
    _target_: str = target()
    lr: float = key("learning rate", least=0, optional=True)
    weight_decay: float = key("weight decay", least=0, optional=True)
    param_groups: list[Any] = key(
        "rules for some of the parameters; the first that fits decides", optional=True, ours=True
    )
    decay_norms_and_biases: bool = key(
        "whether weight decay applies to normalisation layers and biases", optional=True, ours=True
    )
    layer_decay: float | None = key(
        "factor of the learning rate for each layer before the output",
        above=0,
        below=1,
        optional=True,
        ours=True,
    )
    scale_lr: int | None = key(
        "samples in a step for which lr was chosen; lr is scaled to the samples that a step has",
        least=1,
        optional=True,
        ours=True,
    )


@dataclasses.dataclass
class Rule:
    """One of ``optimizer.param_groups``; its other keys are the optimizer's."""

    match: str = key("regular expression that is looked for in the names of parameters", optional=True, ours=True)
    type: str = key("class of the layers, such as BatchNorm2d", optional=True, ours=True)
    name: str = key("of the group", optional=True, ours=True)
    lr: float = key("learning rate", least=0, optional=True)
    lr_scale: float = key("factor of the learning rate", least=0, optional=True, ours=True)
    weight_decay: float = key("weight decay", least=0, optional=True)
    scheduler: dict[str, Any] | None = key(
        "a schedule of its own; null: the rate stays as it is", optional=True, ours=True
    )


@dataclasses.dataclass
class Scheduler:
    _target_: str = target()
    interval: Literal["step", "epoch"] = key("what the schedule counts in: optimizer steps or epochs", ours=True)
    warmup: int | str = key(
        "length of a linear warm-up, before the schedule",
        least=0, pattern=rf"\s*{NUMBER}\s*(%|steps?|epochs?)\s*", optional=True,
        allowed="a length such as 500 (steps), 5 epochs or 3%", ours=True,
    )  # fmt: skip
    warmup_start: float = key(
        "where the warm-up begins, as a fraction of the rate", above=0, below=1, optional=True, ours=True
    )
    monitor: str | None = key(
        "the metric that ReduceLROnPlateau looks at",
        allowed="val/METRIC, train/loss, or null",
        optional=True,
        ours=True,
    )


@dataclasses.dataclass
class Metric:
    _target_: str = target()
    takes: Literal["predictions", "probabilities"] = key("what of the model's outputs", optional=True, ours=True)


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
        pattern=rf"\s*{NUMBER}\s*(seconds?|minutes?|hours?)\s*",
        allowed="a time such as 90 minutes or 1.5 hours, or null", resume=True,
    )  # fmt: skip
    evaluate_every: str = key(
        "how often val is looked at",
        pattern=rf"\s*{NUMBER}\s*(%|steps?|epochs?)\s*", allowed="a length such as 2 epochs, 500 steps or 10%",
    )  # fmt: skip
    evaluate_train: bool = key("measure the train part again, in eval mode, where val is looked at")
    early_stopping: EarlyStopping = key("end the run when it is not getting better any more")
    accumulate: int = key("batches in one optimizer step", least=1)
    micro_batch: int | Literal["auto"] | None = key("samples that go through the model at once", least=1)
    step: dict[str, Any] | None = key(
        "what the loss of a batch is", allowed="null, or {_target_: PATH, …} such as runner.trainer.step.mixup"
    )
    precision: Literal["fp32", "bf16", "fp16"] = key("number format of matrix products and convolutions")
    channels_last: bool | Literal["auto"] = key("layout of pictures")
    compile: bool = key("use torch.compile", resume=True)
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
    cudnn_benchmark: bool | None = key("try which cuDNN convolution is the fastest", resume=True)
    profile: bool = key("profile some steps with torch's profiler", resume=True)
    log_interval: int = key("steps between two updates of the progress bar", least=1, resume=True)


@dataclasses.dataclass
class Checkpoint:
    monitor: str = key("the metric that decides which epoch is best", allowed="val/METRIC, train/loss")
    mode: Literal["auto", "min", "max"] = key("whether less or more of it is better; auto: less of a loss or an error")
    every: str = key(
        "how often the last state is written", pattern=rf"\s*{NUMBER}\s*(%|steps?|epochs?|seconds?|minutes?|hours?)\s*",
        allowed="a length such as 1 epoch, 500 steps, 10% or 10 minutes", resume=True,
    )  # fmt: skip
    keep: int = key("checkpoints of the best evaluations that are kept", least=1, resume=True)


@dataclasses.dataclass
class TensorBoard:
    enabled: bool = key("write event files", resume=True)
    gradients: bool = key("the norm of each layer's gradient", resume=True)
    feature_maps: list[str | int] = key(
        "layers of which feature maps are drawn at the end",
        allowed="a list of layers; a name with a dot needs both quotes: '[conv1,\"4.2\"]'",
        resume=True,
    )
    grad_cam: str | int | None = key(
        "layer of which Grad-CAM is drawn at the end",
        allowed="null, or a layer; a name with a dot needs both quotes: '\"4.2\"'",
        resume=True,
    )
    samples: int | list[int] = key("how many val samples are drawn, or which, from 0", least=0, resume=True)
    pictures: bool = key("samples, mistakes, confusion and curves as pictures", resume=True)
    steps: int | None = key("steps between points of loss and learning rate; null: none", least=1, resume=True)
    histograms: bool = key("weights and gradients of each layer, at each evaluation", resume=True)
    embeddings: str | int | None = key(
        "layer whose outputs on val are put in the projector",
        allowed="null, or a layer; a name with a dot needs both quotes: '\"4.2\"'",
        resume=True,
    )


@dataclasses.dataclass
class Sweep:
    method: Literal["grid", "random", "latin_hypercube", "sobol", "optuna"] = key("where the jobs come from")
    n_jobs: int = key("jobs at a time", least=1, resume=True)
    on_error: Literal["continue", "stop"] = key("what a failed job means for the others", resume=True)
    timeout: str | None = key(
        "time that a job may take",
        pattern=rf"\s*{NUMBER}\s*(seconds?|minutes?|hours?)\s*",
        allowed="a time such as 30 minutes or 2 hours, or null", resume=True,
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
        "number that logits are divided by; val: the one with the least loss on val", above=0
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
        "number that logits are divided by; val: the one with the least loss on val", above=0
    )
    input: str = key(
        "what is to be predicted",
        allowed="a picture, a folder of pictures, a .csv, .parquet or .npy file, train, val, test, -",
    )
    output: str = key(
        "a .csv or .jsonl file, or - for stdout", pattern=r"-|.*\.(csv|jsonl)", allowed="-, NAME.csv, NAME.jsonl"
    )
    top_k: int = key("how many of the likeliest classes are written", least=1)
    probabilities: bool = key("write the probabilities of all classes")
    keep: list[str | int] = key(
        "columns of a table that are copied, such as an id", allowed="a list of names of columns"
    )
    flips: list[Literal["horizontal", "vertical"]] = key(
        "average over each picture and its mirror images", allowed="a list of horizontal, vertical"
    )


@dataclasses.dataclass
class Export:
    """Keys of `python -m runner export`, on top of the run's own."""

    run: str = key("folder of the run, or last")
    weights: str = key("best (those behind the figures of the run), last, ema (their average), or a file")
    temperature: float | None = key("number that logits are divided by", above=0)
    format: Literal["torch_export", "onnx", "safetensors"] = key("format of the file")
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
    allow_targets: list[str] = key(
        "patterns of code of your own that may be called",
        allowed="a list of patterns, such as [my_package.*]",
        resume=True,
    )
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
            close = nearest(str(name), fields, prefix)
            found.append(Problem(prefix + name, what, allowed, f"{close}={value}" if close else ""))
    return found


LENGTH = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.early_stopping")
"""Keys that decide when a run ends: one that is resumed may change them, and with others it is another experiment."""


def ours(schema: type) -> tuple[str, ...]:
    """The keys of a group, or of one of its entries, that are no arguments of its target."""
    return tuple(field.name for field in dataclasses.fields(schema) if field.metadata.get("ours"))


def resumable(schema: type = Config, prefix: str = "") -> Iterator[str]:
    """The dotted keys that may differ when a run is resumed."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        if field.metadata.get("resume"):
            yield prefix + field.name
        elif dataclasses.is_dataclass(hints[field.name]):
            yield from resumable(hints[field.name], f"{prefix}{field.name}.")


def placeholder(name: str) -> str:
    """What stands for a value that is to be given for a key."""
    return {"path": "FILE", "root": "FOLDER", "column": "COLUMN", "groups": "COLUMN"}.get(
        name.rpartition(".")[2], "VALUE"
    )


def _check(name: str, value: Any, hint: Any, rules: Mapping[str, Any]) -> list[Problem]:
    if value is UNKNOWN:
        return []
    if value == "???":
        return [Problem(name, "is not given", words(hint, rules), f"{name}={placeholder(name)}")]
    if dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            return problems(value, typing.cast(type, hint), name + ".")
        return [Problem(name, f"{value!r} is not a group of keys", f"an option of the group: {name}=NAME")]
    if fits(value, hint) and in_bounds(value, rules):
        return []
    close = nearest(value, choices(hint, rules), f"{name}=") if isinstance(value, str) else ""
    return [Problem(name, f"{shown(value)} is not allowed", words(hint, rules), close)]
