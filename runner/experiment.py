"""An experiment: everything a configuration describes up to the loss, built in the order the data flow.

Training starts from here, and so does whatever is done later with what was trained.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from runner import dataset, device, loss, metric
from runner import split as splits
from runner.config import build, build_all, calling, factory, fill
from runner.dataset import Samples
from runner.draws import reseed, seed_of, set_generators
from runner.errors import DataError, Problem
from runner.loader import Loader, Order
from runner.split import Split
from runner.targets import OURS
from runner.trainer import predict
from runner.transform import Pipeline

log = logging.getLogger("runner")


@dataclass
class Experiment:
    """What was built, on its device. `samples` and `loaders` have ``train``, ``val`` and ``test``."""

    device: torch.device
    threads: int
    samples: dict[str, Samples]
    split: Split
    counts: dict[str, dict[str, int]]
    transform: Pipeline
    """Of evaluation: what has to be applied to an input that comes from elsewhere."""
    loaders: dict[str, Loader]
    model: nn.Module
    loss: loss.Loss
    metrics: Mapping[str, Callable[..., float]]

    def evaluate(self, part: str) -> dict[str, float]:
        """The loss and every metric on a part, as ``"<part>/<metric>": value``."""
        said = predict(self.model, self.loss, self.loaders[part])
        values = {"loss": said.loss, **metric.measure(self.metrics, said.output, said.target)}
        return {f"{part}/{name}": value for name, value in values.items()}


def assemble(cfg: DictConfig) -> Experiment:
    """Build what `cfg` describes, and enter into ``cfg.facts`` what the data say on the way.

    Raises:
        InputError: the data are not what the configuration needs.
    """
    where = device.resolve(cfg.device)
    _set_backends(cfg)

    # Data that are drawn when they are built are the same for every seed, as those in a file are.
    set_generators(seed_of(0, "dataset"))
    with calling("dataset"):
        source = factory(cfg.dataset, OURS["dataset"])()
    given = dataset.read(source, _plain(cfg.dataset.get("keys")), cfg.dataset.get("layout", "chw"))
    fill(cfg, dataset.facts(given))

    split = _split(cfg, given)
    # The data set's own part where it has one; else what was carved out of its train part.
    samples = {part: given[part if part in split.official else "train"] for part in splits.PARTS}
    indices = {part: torch.from_numpy(rows) for part, rows in split.parts.items()}
    counts = _counts(samples, indices)
    fill(cfg, {f"{part}_samples": len(rows) for part, rows in indices.items()} | {"split_hash": split.hash})

    _report_duplicates(samples, indices)
    transforms = _fit_transforms(cfg, samples["train"], indices["train"], where)
    loaders = {part: _loader(cfg, part, samples[part], indices[part], transforms, where) for part in splits.PARTS}
    example = next(loaders["train"].epoch()).input  # (B, ...)
    _check_finite(example)
    fill(cfg, {"input_shape": list(example.shape[1:]), **_lengths(cfg, loaders["train"])})

    reseed(where, cfg.seed, "model")
    with calling("model"):
        model: nn.Module = build(cfg.model).to(where)
    threads = device.threads(cfg.trainer.threads, model, example)
    torch.set_num_threads(threads)

    criterion = _loss(cfg, samples["train"].targets[indices["train"]], samples["train"].classes).to(where)
    metrics = {str(name): factory(node) for name, node in cfg.metric.items() if node is not None}
    return Experiment(where, threads, samples, split, counts, transforms["eval"], loaders, model, criterion, metrics)


def _set_backends(cfg: DictConfig) -> None:
    # Not use_deterministic_algorithms, which imports the compiler: 2 s of every start.
    torch.set_deterministic_debug_mode("error" if cfg.trainer.deterministic else "default")
    torch.backends.cudnn.benchmark = not cfg.trainer.deterministic
    # Deterministic mode also fills fresh memory with NaN to expose bugs, at a price in every run.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _split(cfg: DictConfig, given: dict[str, Samples]) -> Split:
    train = given["train"]
    official = {part: len(held) for part, held in given.items() if part != "train"}
    subject = splits.Subject(train.targets.numpy(), train.column, official, train.fingerprint)
    path = cfg.split.get("path")
    if path is not None:
        return splits.load(Path(path).expanduser(), subject)
    with calling("split"):
        made: Split = factory(cfg.split, OURS["split"])(subject)
    return made


def _counts(samples: dict[str, Samples], indices: dict[str, Tensor]) -> dict[str, dict[str, int]]:
    """For each part, how many samples each class has; empty where the targets are values."""
    classes = samples["train"].classes
    if not classes:
        return {part: {} for part in indices}
    rows = {}
    for part, chosen in indices.items():
        targets = samples[part].targets[chosen]
        rows[part] = (targets.bincount(minlength=len(classes)) if targets.dim() == 1 else targets.sum(0)).tolist()
    splits.check_classes(rows, classes)
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
        return (torch.stack([samples.read(i, steps)[0] for i in rows.tolist()]) for rows in train.split(64))

    with calling("transform"):
        made = {kind: Pipeline(build_all(cfg.transform[kind])) for kind in ("train", "eval")}
    return {kind: pipeline.fit(partial(batches, pipeline)).to(where) for kind, pipeline in made.items()}


def _loader(
    cfg: DictConfig, part: str, samples: Samples, indices: Tensor, transforms: dict[str, Pipeline], where: torch.device
) -> Loader:
    options = {name: cfg.loader[name] for name in ("batch_size", "drop_last", "sampler", "subset")}
    if part == "train":
        sampler = build(cfg.loader.sampler) if OmegaConf.is_config(cfg.loader.sampler) else cfg.loader.sampler
        order = Order(indices, targets=samples.targets[indices], seed=cfg.seed, **(options | {"sampler": sampler}))
    else:
        # Without a graph to keep, evaluation has room for larger batches.
        size = cfg.loader.eval_batch_size or 4 * cfg.loader.batch_size
        order = Order(indices, "sequential", batch_size=size, seed=cfg.seed)
    if len(order) == 0:
        what = f"{cfg.loader.batch_size} with drop_last leaves no batch of {len(order.indices)} train samples"
        raise DataError(Problem("loader.batch_size", what, f"at most {len(order.indices)}", "loader.drop_last=false"))
    made: Loader = factory(cfg.loader, OURS["loader"])(
        samples, order, transforms["train" if part == "train" else "eval"], where
    )
    return made


def _lengths(cfg: DictConfig, train: Loader) -> dict[str, int]:
    steps_per_epoch = math.ceil(len(train) / cfg.trainer.accumulate)
    by_epochs = math.inf if cfg.trainer.max_epochs is None else cfg.trainer.max_epochs * steps_per_epoch
    by_steps = math.inf if cfg.trainer.max_steps is None else cfg.trainer.max_steps
    total_steps = int(min(by_epochs, by_steps))
    total_epochs = math.ceil(total_steps / steps_per_epoch)
    return {"steps_per_epoch": steps_per_epoch, "total_steps": total_steps, "total_epochs": total_epochs}


def _check_finite(example: Tensor) -> None:
    bad = ~example.isfinite().flatten(1).all(1) if example.is_floating_point() else torch.zeros(1, dtype=torch.bool)
    if bad.any():
        what = f"{int(bad.sum())} of the first {len(bad)} inputs hold NaN or infinity"
        raise DataError(Problem("dataset", what, "finite numbers", "transform=table, which fills the gaps of a table"))


def _loss(cfg: DictConfig, train_targets: Tensor, classes: list[str]) -> loss.Loss:
    weights = loss.class_weights(_plain(cfg.loss.get("weight")), train_targets.numpy(), classes)
    fill(cfg, {"class_weights": weights})
    with calling("loss"):
        return loss.build(factory(cfg.loss), weights)


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
