"""From the data set to the loaders: all of an experiment that comes before the model, in the order the data flow."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from runner import dataset, debugger, numbers
from runner import split as splits
from runner.batch import Batch, by, stacked
from runner.config import build, build_all, calling, factory, fill, is_exact, mention_earlier, read_as, value
from runner.dataset import Samples, Stream
from runner.dataset.table import AS_VALUES, look_like_values
from runner.draws import seed_of, set_generators
from runner.errors import ConfigError, DataError, Problem, shown
from runner.files import typed
from runner.loader import Loader, Order, Workers
from runner.part_names import PARTS
from runner.split import Split
from runner.transform import Pipeline
from runner.visible import log

BLOCK_BYTES = 16 * 2**20
"""Of the inputs from which transforms are fitted, at a time."""

Sources = dict[str, dict[str, Samples | Stream]]
"""Data sets that were read, by what the configuration says of them."""


@dataclass
class Data:
    """The data of an experiment. `samples`, `indices` and `loaders` have ``train``, ``val`` and ``test``; `loaders` may
    have ``train_eval`` too, which is train as evaluation sees it."""

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
    exact = is_exact(cfg)
    key = repr((value(cfg.dataset), cfg.loss.get("ignore_index"), exact))
    if sources is not None and key in sources:
        return sources[key]
    # Data that are drawn when they are built are the same for every seed, as those in a file are.
    set_generators(seed_of(0, "dataset"))
    with calling("dataset"):
        source = factory(cfg.dataset)(**read_as(cfg))
        keys, layout = value(cfg.dataset.get("keys")), cfg.dataset.get("layout")
        given = dataset.read(source, keys, layout, cfg.loss.get("ignore_index"), exact)
        for part in given.values():  # so that what is wrong with it is found here
            _ = part.head.classes
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
    held = {name: part.head for name, part in given.items()}
    fill(cfg, dataset.facts(held) | ({"num_samples": None} if stream else {}))

    mention_earlier(cfg)
    split = _split_stream(cfg, held) if stream else make_split(cfg, held)
    # The data set's own part where it has one; else what was carved out of its train part.
    samples = {part: held[part if part in split.official else "train"] for part in PARTS}
    indices = {part: torch.from_numpy(rows) for part, rows in split.parts.items()}
    counts = _counts(samples, indices)
    if stream is None:
        dataset.check_varied(held)
        is_drawn = cfg.split.get("path") is None and split.method not in ("predefined", "time_ordered")
        for_rare = "split.rare=train" if is_drawn and "rare" in cfg.split else ""
        splits.check_classes(counts, _as_values(cfg, held["train"].classes), for_rare, split.official)
    fill(cfg, {f"{part}_samples": len(rows) for part, rows in indices.items()} | {"split_hash": split.hash})

    drop = "dataset.duplicates=drop, for rows that are equal in every column"
    _report_duplicates(samples, indices, drop if cfg.dataset.get("duplicates") == "keep" else "")
    transforms = _fit_transforms(cfg, samples["train"], indices["train"])
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
    with calling("transform", "cannot be applied"):
        example = next(loaders["train"].epoch())
        _check_shapes(loaders, example)
        numbers.check_finite(samples, indices, transforms["eval"], example.input)
    numbers.mention_lost(samples, indices, transforms["eval"], where)
    fill(cfg, {"input_shape": list(example.input.shape[1:]), **_lengths(cfg, loaders["train"])})
    has_ignored = stream is not None or any(part.counted is not None for part in held.values())
    return Data(samples, indices, split, counts, transforms["eval"], loaders, example, has_ignored)


def make_split(cfg: DictConfig, given: dict[str, Samples]) -> Split:
    train = given["train"]
    official = {part: len(held) for part, held in given.items() if part != "train"}
    counted = None if train.counted is None else train.counted.numpy()
    targets = train.hard_targets.numpy()
    subject = splits.Subject(
        targets, train.column, official, train.fingerprint, counted, train.classes, _as_values(cfg, train.classes),
        lambda: train.as_earlier().fingerprint,
    )  # fmt: skip
    path = cfg.split.get("path")
    with calling("split"):
        make = factory(cfg.split) if path is None else partial(splits.load, typed(path))
        made: Split = make(subject)
        splits.check(made, subject)
    return made


def _as_values(cfg: DictConfig, classes: Sequence[str]) -> str:
    """See `runner.split.Subject`."""
    is_ours = cfg.dataset.get("_target_") == "runner.dataset.table"
    return AS_VALUES if is_ours and look_like_values(classes) else ""


def _split_stream(cfg: DictConfig, given: dict[str, Samples]) -> Split:
    """The parts that come with a stream, of which nothing can be carved out; of the stream itself, its head."""
    for key in ("fold", "path", "column"):
        if cfg.split.get(key) is not None:
            what = f"{shown(cfg.split[key])}: a stream (IterableDataset) comes with its own parts and is not split"
            raise ConfigError(Problem(f"split.{key}", what, remedy="split=predefined"))
    missing = [part for part in ("val", "test") if part not in given]
    if missing:
        what = f"is a stream (IterableDataset), from which no {' or '.join(missing)} part can be split off"
        remedy = "a function that returns runner.dataset.Parts(train=STREAM, val=…, test=…)"
        raise DataError(Problem("dataset", what, "a stream for train, together with val and test data sets", remedy))
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


def _report_duplicates(samples: dict[str, Samples], indices: dict[str, Tensor], remedy: str = "") -> None:
    """Say how many inputs of val and test are, to the byte, also in train, where the data are in memory."""
    if not all(part.in_memory for part in samples.values()):
        return

    def digests(part: str) -> Iterator[bytes]:  # one by one, so that large data are not held twice
        held = samples[part].arrays.inputs.numpy()
        return (hashlib.blake2b(held[row].tobytes(), digest_size=16).digest() for row in indices[part].tolist())

    seen = set(digests("train"))
    for part in ("val", "test"):
        if count := sum(digest in seen for digest in digests(part)):
            what = "%s of %s %s samples have exactly the inputs of a train sample"
            what += f"\n  try: {remedy}" if remedy else ""
            log.warning(what, f"{count:,}", f"{len(indices[part]):,}", part)


def _fit_transforms(cfg: DictConfig, samples: Samples, train: Tensor) -> dict[str, Pipeline]:
    """The transforms for training and for evaluation, both fitted on the train part and nothing else."""

    exact = is_exact(cfg)
    with calling("transform"):
        made = {"train": Pipeline(build_all(cfg.transform.train), exact)}
        alike = value(cfg.transform.eval) == value(cfg.transform.train)  # then it is read and fitted once
        made["eval"] = made["train"] if alike else Pipeline(build_all(cfg.transform.eval), exact)
    for pipeline in dict.fromkeys(made.values()):
        # Of what is read one by one, the sample stage is applied where it is read; whether another job of a sweep has
        # held it in memory since must not show.
        steps, rest = pipeline.stages() if samples.nbytes is None else ([], pipeline)
        with calling("transform", "cannot be fitted"):
            rest.fit(partial(_batches, samples, train, steps))
    return made


def _batches(samples: Samples, rows: Tensor, steps: Sequence[Callable[[Any], Any]]) -> Iterator[Tensor]:
    """The inputs of some samples, the same ones each time: what is drawn at random follows from the sample alone."""
    if samples.nbytes is not None:
        inputs = samples.arrays.inputs
        # What is computed from a block takes some ten times its bytes.
        size = max(1, BLOCK_BYTES // max(inputs[:1].nbytes, 1))
        yield from (inputs[some] for some in rows.split(size))
        return
    for some in rows.split(64):
        read = []
        for index in some.tolist():
            set_generators(seed_of(0, "fit", index))
            read.append(samples.read(index, steps)[0])
        yield stacked(read, "", some.tolist(), samples.called)


def _loader(
    cfg: DictConfig, samples: Samples | Stream, indices: Tensor, transform: Pipeline, where: torch.device, **how: Any
) -> Loader:
    order = Order(indices, seed=cfg.seed, limit=cfg.trainer.limit_batches, **how)
    with calling("loader"):
        if len(order) == 0:
            count = len(order.indices if isinstance(order.sampler, str) else order.sampler)
            what = f"{cfg.loader.batch_size:,} is more than the {count:,} samples, and drop_last=true leaves no batch"
            raise DataError(Problem("loader.batch_size", what, f"at most {count:,}", "loader.drop_last=false"))
        order.batches(0)  # which a sampler of the user's may not give
        here = {"num_workers": 0} if debugger.on and "num_workers" in cfg.loader else {}
        made: Loader = factory(cfg.loader)(samples, order, transform, where, **here)
    return made


def _train_loader(
    cfg: DictConfig, samples: Samples, indices: Tensor, transform: Pipeline, where: torch.device
) -> Loader:
    if cfg.loader.get("epoch_samples") is not None:
        what = "only applies to an IterableDataset, and the train part is not one"
        raise ConfigError(Problem("loader.epoch_samples", what, "null"))
    keys = ("batch_size", "drop_last", "sampler", "subset", "batch_sampler")
    with calling("loader"):
        options = {key: build(node) if OmegaConf.is_config(node := cfg.loader[key]) else node for key in keys}
    options["counted"] = None if samples.counted is None else samples.counted[indices]
    return _loader(cfg, samples, indices, transform, where, targets=samples.hard_targets[indices], **options)


def evaluation_loader(
    cfg: DictConfig, samples: Samples, indices: Tensor, transform: Pipeline, where: torch.device
) -> Loader:
    """The batches of a part in the order of its indices, as evaluation sees them."""
    # Without a graph to keep, evaluation has room for larger batches. On a CPU they are not faster, and memory of that
    # size is given back to the system and cleared anew for each of them, which took a fifth of the time of a CNN.
    size = cfg.loader.eval_batch_size or cfg.loader.batch_size * (1 if where.type == "cpu" else 4)
    return _loader(cfg, samples, indices, transform, where, sampler="sequential", batch_size=size)


def _stream_loader(cfg: DictConfig, stream: Stream, transform: Pipeline, where: torch.device) -> Loader:
    loader = cfg.loader
    if "epoch_samples" not in loader:
        what = "cannot read an IterableDataset, and the train part is one"
        raise ConfigError(Problem("loader", what, remedy="loader=auto"))
    length = loader.epoch_samples or stream.length
    if length is None:
        what = "is null, and the stream has no length (__len__)"
        raise ConfigError(Problem("loader.epoch_samples", what, "a number of samples", "loader.epoch_samples=10000"))
    if debugger.on and loader.num_workers > 1:
        what = f"{loader.num_workers}: without workers (debug=ide) the stream is read in another order"
        raise ConfigError(Problem("loader.num_workers", what, "0, 1", "loader.num_workers=0"))
    for key, usual in (("sampler", "shuffle"), ("subset", None), ("batch_sampler", None)):
        if loader[key] != usual:
            what = f"{shown(value(loader[key]))} cannot be used with a stream, which is read in its own order"
            raise ConfigError(Problem(f"loader.{key}", what, usual or "null"))
    log.info(
        "the train part is a stream: one epoch is %s samples; classes, class weights and fitted transforms come from "
        "its first %s samples", f"{length:,}", f"{len(stream.head):,}",
    )  # fmt: skip
    how = {"sampler": "sequential", "batch_size": loader.batch_size, "drop_last": loader.drop_last}
    return _loader(cfg, stream, torch.arange(length), transform, where, **how)


def _lengths(cfg: DictConfig, train: Loader) -> dict[str, int]:
    if cfg.trainer.accumulate > len(train):
        what = f"{cfg.trainer.accumulate} is more than the {len(train)} batches of an epoch"
        raise DataError(Problem("trainer.accumulate", what, f"at most {len(train)}"))
    # What is only tried for two batches has the lengths of the real run, or its schedule might not fit in.
    batches = train.order.unlimited if cfg.debug == "dev_run" else len(train)
    steps_per_epoch = math.ceil(batches / cfg.trainer.accumulate)
    by_epochs = math.inf if cfg.trainer.max_epochs is None else cfg.trainer.max_epochs * steps_per_epoch
    by_steps = math.inf if cfg.trainer.max_steps is None else cfg.trainer.max_steps
    total_steps = int(min(by_epochs, by_steps))
    total_epochs = math.ceil(total_steps / steps_per_epoch)
    return {
        "epoch_samples": sum(map(len, train.order.batches(0))),
        "steps_per_epoch": steps_per_epoch, "total_steps": total_steps, "total_epochs": total_epochs,
    }  # fmt: skip


def _check_shapes(loaders: dict[str, Loader], example: Batch) -> None:
    """That the inputs of all parts have one shape and type."""
    theirs = _kind(example.input)
    for part in ("val", "test"):
        loader = loaders[part]
        mine = _kind(loader.example() if isinstance(loader, Workers) else next(loader.epoch()).input)
        if mine != theirs:
            what = f"inputs of {part} are {mine}, those of train {theirs}"
            raise DataError(Problem("dataset", what, "the same shape and dtype in all parts, after the transforms"))


def _kind(inputs: Tensor) -> str:
    return f"{by(inputs.shape[1:])} {str(inputs.dtype).removeprefix('torch.')}"
