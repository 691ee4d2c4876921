"""Every key of the configuration that is ours: its type, what is allowed, and what it means.

Kept free of torch, so that a mistake is reported before anything heavy is imported. Groups marked ``target`` name a
class or function by ``_target_``; the keys that are not listed here are that target's own arguments, and its signature
is what they are checked against (in `runner.checks.targets`).
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from runner.checks.values import UNKNOWN, choices, fits, in_bounds, words
from runner.errors import MANY, Problem, few, for_shell, is_slip, nearest, shown

NUMBER = r"\d{1,12}(\.\d+)?"
TIME = rf"\s*(?=[0.]*[1-9]){NUMBER}\s*(seconds?|minutes?|hours?)\s*"  # more than 0 of it
SPAN = rf"\s*{NUMBER}\s*(%|steps?|epochs?)\s*"

LAYER = "null, or the name of a layer; one like 4.2 needs both kinds of quotes: '\"4.2\"'"
LIMIT = "the run ends at whichever limit is reached first"
WEIGHTS = "best (the checkpoint behind the reported metrics), last, ema (averaged weights of last.pt), or a file"
TEMPERATURE = "softmax temperature, which divides the logits"


def key(
    help: str, *, least: float | None = None, most: int | None = None, above: float | None = None,
    below: float | None = None, pattern: str = "", allowed: str = "", optional: bool = False, resume: bool = False,
    ours: bool = False, target: bool = False,
) -> Any:  # fmt: skip
    """One key of the configuration.

    Args:
        help: what it means, in one line.
        least, most, above, below: bounds of a number, the first two included and the others not.
        pattern: regular expression that a text must match; `allowed` says it in words.
        optional: whether it may be left out, because the group's target may have no use for it.
        resume: whether it may differ when a run is resumed. It may where the experiment stays the same.
        ours: whether it stands beside ``_target_`` and is no argument of what that names.
        target: whether it is ``_target_``.
    """
    return dataclasses.field(metadata=locals())


def own(help: str, **rules: Any) -> Any:
    """Return a key that stands beside ``_target_``, and may be left out; see `key`."""
    return key(help, optional=True, ours=True, **rules)


def later(help: str, **rules: Any) -> Any:
    """Return a key that may differ when a run is resumed; see `key`."""
    return key(help, resume=True, **rules)


def target() -> Any:
    """The ``_target_`` of a group: whatever other keys there are belong to what it names."""
    where = "dotted path of the class or function"
    return key(where, allowed="the dotted path of a class or function", target=True)


@dataclasses.dataclass
class Dataset:
    _target_: str = target()
    keys: dict[str, str] | None = own("for samples that are dicts: {input: KEY, target: KEY, NAME: KEY}")
    layout: Literal["chw", "hwc", "hwc_bgr"] = own("memory layout of image arrays")
    shape: list[int] | None = own("shape of a stored sample, if known: to try the model before data are read", least=1)


@dataclasses.dataclass
class Split:
    _target_: str = target()
    val: float = key(
        "fraction of all samples for val, by which the best epoch is chosen", above=0, below=1, optional=True
    )
    test: float = key("fraction of all samples for test, evaluated once at the end", above=0, below=1, optional=True)
    seed: int = key("decides which sample is in which part; not the run's seed", least=0, most=2**32 - 1, optional=True)
    n_splits: int = key("number of folds", least=2, most=1_000, optional=True)
    fold: int | Literal["all"] = key("the fold that is held out, from 0; all: each once", least=0, optional=True)
    path: str | None = own("reuse the split of this file (split.json, split.npz) or run folder")


@dataclasses.dataclass
class Transform:
    train: list[Any] = key("transforms of the train part, one after the other")
    eval: list[Any] = key("transforms of val and test")


@dataclasses.dataclass
class Loader:
    _target_: str = target()
    batch_size: int = key("samples in a batch", least=1, ours=True)
    eval_batch_size: int | None = key(
        "samples in a batch of val and test; null: batch_size, or four times that on a GPU", least=1, ours=True
    )
    drop_last: bool = key("leave out an epoch's last batch if it is smaller than the others", ours=True)
    sampler: Literal["shuffle", "sequential", "balanced"] | dict[str, Any] = key(
        "the order of samples in an epoch", allowed="shuffle, sequential, balanced, or {_target_: PATH, …}", ours=True
    )
    subset: int | float | None = key("train on this many samples, or this share of them", above=0, ours=True)
    batch_sampler: dict[str, Any] | None = own(
        "what makes the batches, in place of batch_size, sampler and drop_last", allowed="null, or {_target_: PATH, …}"
    )
    epoch_samples: int | None = own("samples in an epoch of a stream (IterableDataset); null: its length", least=1)
    num_workers: int = later("worker processes that read samples; 0: the main process", least=0, most=1_024)
    prefetch_factor: int | None = later("batches that each worker reads ahead", least=1, most=10_000, optional=True)


@dataclasses.dataclass
class Model:
    _target_: str = target()
    output: Literal["logits", "log_probabilities", "probabilities", "values"] | None = own(
        "what the model returns; null: values for a regression loss, else logits"
    )
    init: str | list[Any] | dict[str, Any] | None = own(
        "initial weights: a method, or rules", allowed="null, a method such as kaiming, or a list of rules"
    )
    weights: str | None = own("weights to start from: a file, run folder, URL or torchvision name")
    strict: bool = own("require that all names and shapes match; false loads what matches")
    stochastic: bool = own("true if the model is random in eval mode on purpose; skips the check for it")
    freeze: list[str | int] = own(
        "patterns of the parameters that are not trained",
        allowed="a list of name patterns; one like 4.0 needs both kinds of quotes: 'model.freeze=[\"4.0\"]'",
    )
    unfreeze_at_epoch: int | None = own("epoch from which frozen parameters are trained, too", least=1)


@dataclasses.dataclass
class Loss:
    _target_: str = target()
    weight: str | list[float] | dict[str, float] | None = key(
        "class weights", least=0, pattern="balanced|effective_number", optional=True,
        allowed="null, balanced, effective_number, one number >= 0 per class, or {NAME: NUMBER}",
    )  # fmt: skip
    pos_weight: str | list[float] | dict[str, float] | None = key(
        "weights of the positive samples of each class", least=0, pattern="balanced", optional=True,
        allowed="null, balanced, one number >= 0 per class, or {NAME: NUMBER}",
    )  # fmt: skip
    beta: float = own("β of weight=effective_number", least=0, below=1)
    ignore_index: int | float | None = own("target value to ignore")
    one_hot: bool = own("with a regression loss: compare with the one-hot form of class indices")
    standardize: bool = own(
        "standardise regression targets with mean and std of the train part; metrics stay in original units"
    )
    scale: float = own("factor of this loss in a sum of losses")
    terms: list[Any] | None = own("several losses, which are added up")


@dataclasses.dataclass
class Optimizer:
    _target_: str = target()
    lr: float = key("learning rate", least=0, optional=True)
    weight_decay: float = key("weight decay", least=0, optional=True)
    param_groups: list[Any] = own("rules for parameter groups; the first that matches a parameter decides")
    decay_norms_and_biases: bool = own("whether weight decay applies to normalisation layers and biases")
    layer_decay: float | None = own("factor of lr for each layer below the output", above=0, below=1)
    scale_lr: int | None = own("samples per step that lr was chosen for; it is scaled to those of a step", least=1)


@dataclasses.dataclass
class Rule:
    """One of ``optimizer.param_groups``; its other keys are the optimizer's."""

    match: str = own("regular expression, searched for in the names of parameters")
    type: str = own("class of the layers, such as BatchNorm2d")
    name: str = own("name of the group")
    lr: float = key("learning rate", least=0, optional=True)
    lr_scale: float = own("factor of the learning rate", least=0)
    weight_decay: float = key("weight decay", least=0, optional=True)
    scheduler: dict[str, Any] | None = own("its own schedule; null: constant learning rate")


@dataclasses.dataclass
class Scheduler:
    _target_: str = target()
    interval: Literal["step", "epoch"] = key("what the schedule counts in: optimizer steps or epochs", ours=True)
    warmup: int | str = own(
        "length of a linear warm-up, before the schedule",
        least=0,
        pattern=SPAN,
        allowed="a length such as 500 (steps), 5 epochs or 3%",
    )
    warmup_start: float = own("start of the warm-up, as a fraction of the learning rate", above=0, below=1)
    monitor: str | None = own("the metric that ReduceLROnPlateau follows", allowed="val/METRIC, train/loss, or null")


@dataclasses.dataclass
class Metric:
    _target_: str = target()
    takes: Literal["predictions", "probabilities"] = own("what the metric is computed from")


@dataclasses.dataclass
class EarlyStopping:
    patience: int | None = later("evaluations without improvement before the run stops", least=1)
    min_delta: float = later("smallest change that counts as an improvement", least=0)
    monitor: str | None = later("the metric; null: checkpoint.monitor", allowed="val/METRIC, train/loss, or null")
    mode: Literal["auto", "min", "max"] = later(
        "whether lower (min) or higher (max) is better; auto: by its name, as for checkpoint.mode"
    )


@dataclasses.dataclass
class Trainer:
    max_epochs: int | None = later("length of the run in epochs", least=1)
    max_steps: int | None = later(f"length of the run in optimizer steps; {LIMIT}", least=1)
    max_time: str | None = later(
        f"length of the run in time; {LIMIT}", pattern=TIME, allowed="a time such as 90 minutes or 1.5 hours, or null"
    )
    evaluate_every: str = key(
        "how often val is evaluated", pattern=SPAN, allowed="a length such as 2 epochs, 500 steps or 10%"
    )
    evaluate_train: bool = key("evaluate the train part, too, in eval mode, whenever val is evaluated")
    early_stopping: EarlyStopping = key("stop when there is no more improvement")
    accumulate: int = key("batches in one optimizer step", least=1, most=1_000_000)
    micro_batch: int | Literal["auto"] | None = key("samples that go through the model at once", least=1)
    step: dict[str, Any] | None = key(
        "function that computes the loss of a batch",
        allowed="null, or {_target_: PATH, …} such as runner.trainer.step.mixup",
    )
    precision: Literal["fp32", "bf16", "fp16"] = key("number format of matrix products and convolutions")
    channels_last: bool | Literal["auto"] = key("channels_last memory format for images")
    compile: bool = later("use torch.compile")
    cuda_graph: bool = later("on CUDA: replay a step as one CUDA graph; faster for small models")
    clip_norm: float | None = key("upper bound of the gradient's norm", above=0)
    clip_value: float | None = key("upper bound of the size of each element of the gradient", above=0)
    ema: float | None = key("decay of averaged weights, which are then evaluated", above=0, below=1)
    on_nonfinite: Literal["stop", "skip"] = key("what to do with a step whose loss or gradient is not finite")
    limit_batches: int | None = key("use at most this many batches of each part, for a quick try", least=1)
    threads: int | Literal["auto"] = later(
        "CPU threads; auto: one for a small model, else all cores", least=1, most=1_024
    )
    deterministic: bool = later("use only deterministic operations")
    tf32: bool = key("on CUDA: allow TF32 (faster, less precise matrix products and convolutions)")
    cudnn: bool = later("on CUDA: use cuDNN")
    cudnn_benchmark: bool | None = later("benchmark cuDNN's convolution algorithms, and use the fastest")
    profile: bool = later("profile some steps with torch's profiler")
    log_interval: int = later("steps between two updates of the progress bar", least=1)


@dataclasses.dataclass
class Checkpoint:
    monitor: str = key("the metric that decides which epoch is best", allowed="val/METRIC, train/loss")
    mode: Literal["auto", "min", "max"] = key(
        "whether lower (min) or higher (max) is better; auto: min for names such as loss, error, mse (losses.md)"
    )
    every: str = later(
        "how often last.pt is written",
        pattern=rf"{SPAN}|{TIME}",
        allowed="a length such as 1 epoch, 500 steps, 10% or 10 minutes",
    )
    keep: int = later("how many checkpoints of the best evaluations are kept", least=1)


@dataclasses.dataclass
class TensorBoard:
    enabled: bool = later("write event files")
    gradients: bool = later("the norm of each layer's gradient")
    feature_maps: list[str | int] = later(
        "layers whose feature maps are drawn at the end",
        allowed="a list of layer names; one like 4.2 needs both kinds of quotes: '[conv1,\"4.2\"]'",
    )
    grad_cam: str | int | None = later("layer for Grad-CAM, which is drawn at the end", allowed=LAYER)
    samples: int | list[int] = later("how many val samples are drawn, or a list of their indices", least=0)
    pictures: bool = later("images of samples, mistakes, confusion matrix and curves")
    steps: int | None = later(
        "also log training loss and learning rate every so many steps; null: only at evaluations", least=1
    )
    histograms: bool = later("weights and gradients of each layer, at each evaluation")
    embeddings: str | int | None = later("layer whose outputs on val are shown in the projector", allowed=LAYER)


@dataclasses.dataclass
class Sweep:
    method: Literal["grid", "random", "latin_hypercube", "sobol", "optuna"] = key(
        "grid, or the search that draws the jobs"
    )
    n_jobs: int = later("jobs, or folds of a cross-validation, at a time", least=1, most=1_024)
    on_error: Literal["continue", "stop"] = later("after a failed job: continue with the others, or stop")
    timeout: str | None = later(
        "time limit of a job", pattern=TIME, allowed="a time such as 30 minutes or 2 hours, or null"
    )
    zip: list[str | list[str]] = later(
        "keys whose values are paired: the first with the first, and so on",
        allowed="a list of keys, or of such lists, as in [optimizer.lr, loader.batch_size]",
    )
    jobs: str | dict[str, Any] | None = later("named jobs, or a YAML file of them")
    rank_by: str | None = later(
        "metric that settings are ranked by; null: checkpoint.monitor", allowed="val/METRIC, test/METRIC, or null"
    )
    points: int = key("how many points are drawn", least=1, most=1_000_000, optional=True)
    seed: int = key("decides which points are drawn", least=0, optional=True)
    sampler: dict[str, Any] = key("Optuna sampler", optional=True)
    pruner: dict[str, Any] | None = key("Optuna pruner, which stops unpromising trials", optional=True)


@dataclasses.dataclass
class LrFind:
    start: float = key("the first step's learning rate", above=0)
    end: float = key("the last step's learning rate", above=0)
    steps: int = key("optimizer steps of the search", least=10)
    stop: float = key("stop when the smoothed loss is this many times its minimum", above=1)


@dataclasses.dataclass
class Evaluate:
    """Keys of `runner evaluate`, on top of the run's own."""

    run: str = key("run folder, or last")
    part: Literal["train", "val", "test"] = key("which part; other data that are not divided into parts are used whole")
    weights: str = key(WEIGHTS)
    temperature: float | Literal["val"] | None = key(f"{TEMPERATURE}; val: fitted on val (minimum log loss)", above=0)
    output: str | None = key("output folder; null: evaluate/<time> in the run folder")
    figures: bool = key("draw the plots: figures/*.png")


@dataclasses.dataclass
class Predict:
    """Keys of `runner predict`, on top of the run's own."""

    run: str | list[str] = key(
        "run folder, or last; of several, the mean; of a cross-validation, the mean of its folds"
    )
    weights: str = key(WEIGHTS)
    temperature: float | Literal["val"] | None = key(f"{TEMPERATURE}; val: fitted on val (minimum log loss)", above=0)
    input: str = key(
        "what to predict", allowed="an image, a folder of images, a .csv, .parquet or .npy file, train, val, test, -"
    )
    output: str = key(
        "a .csv or .jsonl file, or - for stdout", pattern=r"-|.*\.(csv|jsonl)", allowed="-, NAME.csv, NAME.jsonl"
    )
    top_k: int = key("how many of the most probable classes are written", least=1)
    probabilities: bool = key("write the probabilities of all classes")
    keep: list[str | int] = key("columns of a table that are copied, such as an id", allowed="a list of column names")
    formulas: bool = key("texts that begin with = + - @ stay as they are; else a ' is put in front, for spreadsheets")
    flips: list[Literal["horizontal", "vertical"]] = key(
        "average over each image and its mirror images", allowed="a list of horizontal, vertical"
    )


@dataclasses.dataclass
class Export:
    """Keys of `runner export`, on top of the run's own."""

    run: str = key("run folder, or last")
    weights: str = key(WEIGHTS)
    temperature: float | None = key(TEMPERATURE, above=0)
    format: Literal["torch_export", "onnx", "safetensors"] = key("format of the file")
    output: str | None = key("output file; null: model.pt2, model.onnx or model.safetensors in the run folder")
    input: str = key("samples on which the file is compared with the model: as input of predict")
    tolerance: float = key(
        "largest accepted difference between file and model (regression: relative to the largest output)", above=0
    )


COMMANDS = {"evaluate": Evaluate, "predict": Predict, "export": Export}
"""Commands that begin with a run folder, each with its own keys: see `conf/<command>.yaml`."""


@dataclasses.dataclass
class Config:
    seed: int = key("decides initial weights, order, augmentation and dropout", least=0)
    device: str = later("where to compute", pattern=r"auto|cpu|mps|cuda(:\d+)?", allowed="auto, cpu, cuda, cuda:N, mps")
    resume: str | None = later("run folder to resume, or last")
    debug: Literal["dev_run", "overfit", "anomaly", "ide"] | None = later(
        "dev_run: two batches of every part; overfit: train on one batch only; anomaly: find the operation with a NaN "
        "gradient; ide: everything in one process and thread, for a debugger"
    )
    check: Literal["only"] | None = later("only: check everything, try one batch, and stop")
    figures: bool = later("save the plots as files, too: figures/*.png")
    allow_targets: list[str] = later(
        "patterns of code that a run folder of somebody else may have called",
        allowed="a list of patterns, such as [my_package.*]",
    )
    dataset: Dataset = key("the samples")
    split: Split = key("how the data are divided into train, val and test")
    transform: Transform = key("what happens to a batch before the model")
    loader: Loader = key("how samples become batches")
    model: Model = key("what is trained")
    loss: Loss = key("what is minimised")
    optimizer: Optimizer = key("how weights are updated")
    scheduler: Scheduler = key("learning-rate schedule")
    metric: dict[str, Any] = key("what is measured on val and test")
    trainer: Trainer = key("training loop: length, evaluation, precision and more")
    checkpoint: Checkpoint = key("which epoch is kept")
    tensorboard: TensorBoard = key("curves and tables")
    sweep: Sweep = later("sweeps and searches: which jobs, how many at a time, ranking")
    lr_find: LrFind = key("learning-rate search of lr_find", optional=True)
    facts: Any = later("what only the data know; filled in by the run")


_hints = functools.cache(typing.get_type_hints)
"""The types of the keys of a group: evaluated once, for they are written as texts."""


FACTS: Mapping[str, Any] = {
    "task": str, "num_samples": int | None, "num_classes": int | None, "class_names": list[Any] | None,
    "num_outputs": int, "features": list[Any] | None, "categories": list[Any] | None, "sample_type": str,
    "sample_shape": list[int | None], "sample_range": list[float] | None, "input_shape": list[int],
    "train_samples": int, "val_samples": int, "test_samples": int, "split_hash": str, "output": str,
    "class_weights": list[float] | None, "param_groups": list[dict[str, Any]], "options": dict[str, Any],
    "steps_per_epoch": int | None, "total_steps": int | None, "total_epochs": int | None, "epoch_samples": int | None,
}  # fmt: skip
"""Types that a ``config.yaml`` may hold for each fact that is read again."""


def problems_of_saved(config: Mapping[str, Any]) -> list[Problem]:
    """Return what no run writes into its ``config.yaml``. Another version may lack keys of ours, and have others.

    Raises:
        ValueError: whole groups are not there, so that nothing of it is what a run wrote.
    """
    hints, facts = _hints(Config), typing.cast(Mapping[str, Any], config.get("facts"))
    groups = [name for name, hint in hints.items() if dataclasses.is_dataclass(hint) and name != "lr_find"]
    if lacking := [name for name in (*groups, "metric", "facts") if not isinstance(config.get(name), Mapping)]:
        raise ValueError(f"no group of keys {few(lacking)}")
    found = problems({name: value for name, value in config.items() if name != "facts"}, exact=False)
    given = {name: (facts[name], hint) for name, hint in FACTS.items() if not _is_unknown(facts.get(name, UNKNOWN))}
    wrong = [name for name, (value, hint) in given.items() if not (fits(value, hint) and in_bounds(value, {}))]
    return found + [Problem(f"facts.{name}", "has a value that no run writes") for name in wrong]


def _is_unknown(value: Any) -> bool:
    """Return whether a saved value is left for something else to say."""
    return value is UNKNOWN or (isinstance(value, str) and (value == "???" or "${" in value))


def problems(config: Mapping[str, Any], schema: type = Config, prefix: str = "", exact: bool = True) -> list[Problem]:
    """Everything in `config` that `schema` does not allow.

    Args:
        config: plain containers; a value of `UNKNOWN` stands for one that the data will give, and passes.
        exact: whether a key that is not there, and one that there is not, are mistakes.
    """
    hints = _hints(schema)
    found: list[Problem] = []
    fields = {field.name: field for field in dataclasses.fields(schema)}
    for name in [name for name in fields if name not in config and exact and not fields[name].metadata.get("optional")]:
        found.append(Problem(prefix + name, "is missing", words(hints[name], fields[name].metadata)))
    has_target = any(field.metadata.get("target") for field in fields.values())
    for name, value in config.items():
        if name in fields:
            found += _check(prefix + name, value, hints[name], fields[name].metadata, exact)
        elif not has_target and exact:
            names = sorted(set(fields) - {"facts"})  # which are not for anyone to set
            what = f"there is no such key (value {shown(value)})"
            close = nearest(str(name), names) if len(found) < MANY else ""
            if dataclasses.is_dataclass(hints.get(close)) and not (isinstance(value, Mapping) or is_slip(name, close)):
                close = ""  # a group, of which the value is hardly an option
            close = prefix + close if close else ""
            found.append(Problem(prefix + name, what, ", ".join(names), f"{close}={value}" if close else ""))
    return found


LENGTH = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.early_stopping")
"""Keys that decide when a run ends. They may change when a run is resumed, and make two jobs of a sweep two runs."""


def ours(schema: type) -> tuple[str, ...]:
    """The keys of a group, or of one of its entries, that are no arguments of its target."""
    return tuple(field.name for field in dataclasses.fields(schema) if field.metadata.get("ours"))


def resumable(schema: type = Config, prefix: str = "") -> Iterator[str]:
    """The dotted keys that may differ when a run is resumed."""
    hints = _hints(schema)
    for field in dataclasses.fields(schema):
        if field.metadata.get("resume"):
            yield prefix + field.name
        elif dataclasses.is_dataclass(hints[field.name]):
            yield from resumable(hints[field.name], f"{prefix}{field.name}.")


def placeholder(name: str) -> str:
    """What stands for a value that is to be given for a key."""
    return {"_target_": "MODULE.NAME", "path": "FILE", "root": "FOLDER", "column": "COLUMN", "groups": "COLUMN"}.get(
        name.rpartition(".")[2], "VALUE"
    )


def _check(name: str, value: Any, hint: Any, rules: Mapping[str, Any], exact: bool = True) -> list[Problem]:
    if value is UNKNOWN or (_is_unknown(value) and not exact):
        return []
    if value == "???":
        return [Problem(name, "is not given", words(hint, rules), f"{name}={placeholder(name)}")]
    if dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            return problems(value, typing.cast(type, hint), name + ".", exact)
        if "." in name:
            return [Problem(name, f"{shown(value)} is not a mapping", "a mapping {KEY: VALUE}", f"{name}.KEY=VALUE")]
        what, remedy = f"{shown(value)} is a value, not an option", f"{name}.KEY=VALUE for one of its keys"
        return [Problem(name, what, f"{name}=OPTION", remedy)]
    if fits(value, hint) and in_bounds(value, rules):
        return []
    close = nearest(value, choices(hint, rules), f"{name}=") if isinstance(value, str) else ""
    remedy = close or one_by_one(name, value, lambda item: fits(item, hint) and in_bounds(item, rules))
    return [Problem(name, f"{shown(value)} is not allowed", words(hint, rules), remedy)]


def one_by_one(name: str, value: Any, is_allowed: Callable[[Any], bool]) -> str:
    """What to type for a sweep over values that were given as a list, if each by itself is allowed; or nothing."""
    if not isinstance(value, list) or not value or not all(map(is_allowed, value)):
        return ""
    override = for_shell(f"{name}={','.join(item if isinstance(item, str) else shown(item) for item in value)}")
    return f"-m {override}" if len(value) > 1 else override


def place(name: Any) -> int:
    """Where a reader looks for a key: in the order of the schema, keys of their own last."""
    names = [field.name for field in dataclasses.fields(Config)]
    return names.index(name) if name in names else len(names)
