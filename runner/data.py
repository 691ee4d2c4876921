"""From the data set to the loaders: all of an experiment that comes before the model, in the order the data flow."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from runner import dataset
from runner import split as splits
from runner.batch import Batch
from runner.config import build, build_all, calling, factory, fill, value
from runner.dataset import Samples, Stream
from runner.draws import seed_of, set_generators
from runner.errors import ConfigError, DataError, Problem
from runner.files import typed
from runner.loader import Loader, Order
from runner.split import Split
from runner.targets import OURS
from runner.transform import Pipeline
from runner.trial import declared_shape

log = logging.getLogger("runner")

Sources = dict[str, dict[str, Samples | Stream]]
"""Data sets that were read, by what the configuration says of them."""


@dataclass
class Data:
    """The data of an experiment. `samples`, `indices` and `loaders` have ``train``, ``val`` and ``test``."""

    samples: dict[str, Samples]
    """Of each part, the data set that its indices count in; of a stream, its head."""
    indices: dict[str, Tensor]
    split: Split
    counts: dict[str, dict[str, int]]
    """For each part, how many samples each class has; empty where the targets are values."""
    transform: Pipeline
    """Of evaluation: what has to be applied to an input that comes from elsewhere."""
    loaders: dict[str, Loader]
    example: Batch
    """The first one of train, as the model gets it."""
    has_ignored: bool
    """Whether any target stands for none, or may; looking at every batch for them takes a part of every step."""


def read(cfg: DictConfig, sources: Sources | None = None) -> dict[str, Samples | Stream]:
    """The parts that the data set of `cfg` comes in, of which ``train`` is always one.

    Args:
        sources: of the jobs of a sweep; what is there already is not read again, and what is not is entered.

    Raises:
        InputError: the data are not what the configuration needs.
    """
    key = repr((value(cfg.dataset), cfg.loss.get("ignore_index")))
    if sources is not None and key in sources:
        return sources[key]
    # Data that are drawn when they are built are the same for every seed, as those in a file are.
    set_generators(seed_of(0, "dataset"))
    with calling("dataset"):
        source = factory(cfg.dataset, OURS["dataset"])()
        keys, layout = value(cfg.dataset.get("keys")), cfg.dataset.get("layout", "chw")
        given = dataset.read(source, keys, layout, cfg.loss.get("ignore_index"))
        for part in given.values():  # so that what is wrong with it is found here
            _ = part.head.classes if isinstance(part, Stream) else part.classes
    if sources is not None:
        sources[key] = given
    return given


def prepare(cfg: DictConfig, where: torch.device, sources: Sources | None = None) -> Data:
    """Read, split, fit and load what `cfg` describes, and enter into ``cfg.facts`` what the data say on the way.

    Args:
        sources: see `read`.

    Raises:
        InputError: the data are not what the configuration needs.
    """
    given = read(cfg, sources)
    # What can be known of a stream before it is read is its head.
    stream = given["train"] if isinstance(given["train"], Stream) else None
    held = {name: part.head if isinstance(part, Stream) else part for name, part in given.items()}
    _check_declared(cfg, held["train"])
    fill(cfg, dataset.facts(held) | ({"num_samples": None} if stream else {}))

    split = _split_stream(held) if stream else make_split(cfg, held)
    # The data set's own part where it has one; else what was carved out of its train part.
    samples = {part: held[part if part in split.official else "train"] for part in splits.PARTS}
    indices = {part: torch.from_numpy(rows) for part, rows in split.parts.items()}
    counts = _counts(samples, indices)
    if stream is None:
        splits.check_classes(counts)
    fill(cfg, {f"{part}_samples": len(rows) for part, rows in indices.items()} | {"split_hash": split.hash})

    _report_duplicates(samples, indices)
    transforms = _fit_transforms(cfg, samples["train"], indices["train"], where)
    loaders = {
        part: evaluation_loader(cfg, samples[part], indices[part], transforms["eval"], where)
        for part in ("val", "test")
    }
    if stream is not None:
        loaders["train"] = _stream_loader(cfg, stream, transforms["train"], where)
    else:
        loaders["train"] = _train_loader(cfg, samples["train"], indices["train"], transforms["train"], where)
    if cfg.trainer.evaluate_train and stream is None:
        loaders["train_eval"] = evaluation_loader(cfg, samples["train"], indices["train"], transforms["eval"], where)
    example = next(loaders["train"].epoch())
    _check_shapes(loaders, example)
    _check_finite(samples, indices, transforms["eval"], example.input)
    fill(cfg, {"input_shape": list(example.input.shape[1:]), **_lengths(cfg, loaders["train"])})
    has_ignored = stream is not None or any(part.counted is not None for part in held.values())
    return Data(samples, indices, split, counts, transforms["eval"], loaders, example, has_ignored)


def _check_declared(cfg: DictConfig, train: Samples) -> None:
    """That samples have the shape with which the model was tried before there were data."""
    declared, found = declared_shape(cfg), list(train.read(0)[0].shape)
    if declared is not None and declared != found:
        raise DataError(Problem("dataset.shape", f"is {declared}, and a sample is {found}", str(found)))


def make_split(cfg: DictConfig, given: dict[str, Samples]) -> Split:
    train = given["train"]
    official = {part: len(held) for part, held in given.items() if part != "train"}
    subject = splits.Subject(train.hard_targets.numpy(), train.column, official, train.fingerprint)
    path = cfg.split.get("path")
    if path is not None:
        return splits.load(typed(path), subject)
    with calling("split"):
        made: Split = factory(cfg.split, OURS["split"])(subject)
    return made


def _split_stream(given: dict[str, Samples]) -> Split:
    """The parts that come with a stream, of which nothing can be carved out; of the stream itself, its head."""
    missing = [part for part in ("val", "test") if part not in given]
    if missing:
        what = f"is a stream, of which no {' and no '.join(missing)} can be carved out"
        remedy = "a function that returns runner.dataset.Parts(train=STREAM, val=…, test=…)"
        raise DataError(Problem("dataset", what, "a stream for train, beside a val and a test part", remedy))
    official = {part: len(held) for part, held in given.items() if part != "train"}
    return splits.predefined(splits.Subject(given["train"].targets.numpy(), official=official))


def _counts(samples: dict[str, Samples], indices: dict[str, Tensor]) -> dict[str, dict[str, int]]:
    """For each part, how many samples each class has; empty where the targets are values."""
    classes = samples["train"].classes
    if not classes:
        return {part: {} for part in indices}
    rows = {}
    for part, chosen in indices.items():
        held = samples[part]
        targets = held.known(chosen)
        if held.task == "multilabel":  # a row with a gap still says what it says
            counted = True if held.counted is None else held.counted[chosen]
            rows[part] = ((held.targets[chosen] == 1) & counted).sum(0).tolist()
        else:
            labels = targets.argmax(1) if held.task == "soft" else targets
            rows[part] = labels.bincount(minlength=len(classes)).tolist()
    return {part: dict(zip(classes, row, strict=True)) for part, row in rows.items()}


def _report_duplicates(samples: dict[str, Samples], indices: dict[str, Tensor]) -> None:
    """Say how many inputs of val and test are also in train, where the data are in memory."""
    if any(part.nbytes is None for part in samples.values()):
        return
    inputs = {
        part: map(samples[part].arrays.inputs.numpy().__getitem__, rows.tolist()) for part, rows in indices.items()
    }
    for part, count in splits.duplicates(inputs).items():
        if count:
            log.warning("%d of %d %s samples are exact copies of train samples", count, len(indices[part]), part)


def _fit_transforms(cfg: DictConfig, samples: Samples, train: Tensor, where: torch.device) -> dict[str, Pipeline]:
    """The transforms for training and for evaluation, both fitted on the train part and nothing else."""

    def batches(pipeline: Pipeline) -> Any:
        if samples.nbytes is not None:
            return (samples.arrays.inputs[rows] for rows in train.split(4096))
        steps, _ = pipeline.stages()
        return (_stacked([samples.read(i, steps)[0] for i in rows.tolist()], rows) for rows in train.split(64))

    with calling("transform"):
        made = {kind: Pipeline(build_all(cfg.transform[kind])) for kind in ("train", "eval")}
    return {kind: pipeline.fit(partial(batches, pipeline)).to(where) for kind, pipeline in made.items()}


def _stacked(inputs: list[Tensor], rows: Tensor) -> Tensor:
    other = next((n for n, each in enumerate(inputs) if each.shape != inputs[0].shape), None)
    if other is not None:
        shapes = [f"sample {int(rows[n])} is {'×'.join(map(str, inputs[n].shape))}" for n in (0, other)]
        remedy = "dataset.size=[HEIGHT,WIDTH] of an image folder, or a Resize that comes first"
        raise DataError(Problem("transform", f"what it gets is not of one size: {' and '.join(shapes)}", remedy=remedy))
    return torch.stack(inputs)


def _train_loader(
    cfg: DictConfig, samples: Samples, indices: Tensor, transform: Pipeline, where: torch.device
) -> Loader:
    keys = ("batch_size", "drop_last", "sampler", "subset", "batch_sampler")
    options = {key: build(cfg.loader[key]) if OmegaConf.is_config(cfg.loader[key]) else cfg.loader[key] for key in keys}
    order = Order(
        indices, targets=samples.hard_targets[indices], seed=cfg.seed, limit=cfg.trainer.limit_batches, **options
    )
    _check_length(order, cfg)
    if cfg.loader.get("epoch_samples") is not None:
        raise ConfigError(Problem("loader.epoch_samples", "is for streams, and the train part is none", "null"))
    made: Loader = factory(cfg.loader, OURS["loader"])(samples, order, transform, where)
    return made


def _check_length(order: Order, cfg: DictConfig) -> None:
    if len(order) == 0:
        what = f"{cfg.loader.batch_size} with drop_last leaves no batch of {len(order.indices)} train samples"
        raise DataError(Problem("loader.batch_size", what, f"at most {len(order.indices)}", "loader.drop_last=false"))


def evaluation_loader(
    cfg: DictConfig, samples: Samples, indices: Tensor, transform: Pipeline, where: torch.device
) -> Loader:
    """The batches of a part in the order of its indices, as evaluation sees them."""
    # Without a graph to keep, evaluation has room for larger batches. On a CPU they are not faster, and memory of that
    # size is given back to the system and cleared anew for each of them, which took a fifth of the time of a CNN.
    size = cfg.loader.eval_batch_size or cfg.loader.batch_size * (1 if where.type == "cpu" else 4)
    order = Order(indices, "sequential", batch_size=size, limit=cfg.trainer.limit_batches, seed=cfg.seed)
    made: Loader = factory(cfg.loader, OURS["loader"])(samples, order, transform, where)
    return made


def _stream_loader(cfg: DictConfig, stream: Stream, transform: Pipeline, where: torch.device) -> Loader:
    loader = cfg.loader
    if "epoch_samples" not in loader:
        raise ConfigError(Problem("loader", "does not read streams, and the train part is one", remedy="loader=auto"))
    length = loader.epoch_samples or stream.length
    if length is None:
        what = "is null, and the stream does not say how long it is"
        raise ConfigError(Problem("loader.epoch_samples", what, "samples in an epoch", "loader.epoch_samples=10000"))
    for key, usual in (("sampler", "shuffle"), ("subset", None), ("batch_sampler", None)):
        if loader[key] != usual:
            raise ConfigError(
                Problem(f"loader.{key}", f"{loader[key]!r}: a stream has an order of its own", str(usual))
            )
    log.info(
        "the train part is a stream: %d samples are an epoch; what is learnt from the train part (classes, their "
        "weights, transforms) is learnt from its first %d", length, len(stream.head),
    )  # fmt: skip
    order = Order(
        torch.arange(length), "sequential", batch_size=loader.batch_size, drop_last=loader.drop_last,
        limit=cfg.trainer.limit_batches, seed=cfg.seed,
    )  # fmt: skip
    _check_length(order, cfg)
    made: Loader = factory(loader, OURS["loader"])(stream, order, transform, where)
    return made


def _lengths(cfg: DictConfig, train: Loader) -> dict[str, int]:
    if cfg.trainer.accumulate > len(train):
        what = f"{cfg.trainer.accumulate} is more than the {len(train)} batches of an epoch"
        raise DataError(Problem("trainer.accumulate", what, f"at most {len(train)}"))
    steps_per_epoch = math.ceil(len(train) / cfg.trainer.accumulate)
    by_epochs = math.inf if cfg.trainer.max_epochs is None else cfg.trainer.max_epochs * steps_per_epoch
    by_steps = math.inf if cfg.trainer.max_steps is None else cfg.trainer.max_steps
    total_steps = int(min(by_epochs, by_steps))
    total_epochs = math.ceil(total_steps / steps_per_epoch)
    return {"steps_per_epoch": steps_per_epoch, "total_steps": total_steps, "total_epochs": total_epochs}


def _check_shapes(loaders: dict[str, Loader], example: Batch) -> None:
    """That the inputs of all parts have one shape and type, as far as it costs little to see."""
    for part in ("val", "test"):
        if getattr(getattr(loaders[part], "loader", None), "num_workers", 0) == 0:
            first = next(loaders[part].epoch())
            mine, theirs = ((b.input.shape[1:], b.input.dtype) for b in (first, example))
            if mine != theirs:
                what = f"inputs of {part} are {tuple(mine[0])} {mine[1]}, those of train {tuple(theirs[0])} {theirs[1]}"
                raise DataError(Problem("dataset", what, "one shape and type after the transforms"))


def _check_finite(
    samples: dict[str, Samples], indices: dict[str, Tensor], transform: Pipeline, example: Tensor
) -> None:
    """That the model gets finite numbers: of data in memory from every sample, else from the first batch."""
    if samples["train"].nbytes is None and "arrays" not in vars(samples["train"]):  # not in memory
        _raise_at(~_finite(example), "of the first batch of train", len(example))
        return
    for part, rows in indices.items():
        inputs = samples[part].arrays.inputs
        if not inputs.is_floating_point():
            continue
        # In pieces, for picking the rows of a part copies them.
        gaps = torch.cat([some[~_finite(inputs[some])] for some in rows.split(4096)])
        if len(gaps):  # which a transform may fill
            drawn = torch.full((len(gaps), transform.draws), 0.5, device=example.device)
            made = transform(inputs[gaps].to(example.device), drawn, range(len(gaps)))
            _raise_at(~_finite(made).cpu(), f"of {part}", len(rows), gaps)


def _finite(inputs: Tensor) -> Tensor:
    """(B,) whether each input is finite."""
    if not inputs.is_floating_point():
        return torch.ones(len(inputs), dtype=torch.bool)
    return inputs.isfinite().reshape(len(inputs), -1).all(1)


def _raise_at(bad: Tensor, where: str, total: int, index: Tensor | None = None) -> None:
    if bad.any():
        first = "" if index is None else f", the first is sample {int(index[bad][0])}"
        what = f"{int(bad.sum())} of {total} inputs {where} hold NaN or infinity{first}"
        raise DataError(Problem("dataset", what, "finite numbers", "transform=table, which fills the gaps of a table"))
