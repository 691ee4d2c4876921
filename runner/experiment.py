"""An experiment: everything a configuration describes up to the loss, built in the order the data flow.

Training starts from here, and so does whatever is done later with what was trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf, read_write
from torch import Tensor, nn

from runner import dataset, device, loss, metric
from runner.config import OURS, build, build_all, factory, fill
from runner.draws import reseed
from runner.errors import DataError, Problem
from runner.loader import Resident
from runner.split import Split
from runner.trainer import predict
from runner.transform import Pipeline


@dataclass
class Experiment:
    """What was built, on its device. `loaders` has ``train``, ``val`` and ``test``."""

    device: torch.device
    threads: int
    data: dataset.ArrayDataset
    split: Split
    loaders: dict[str, Resident]
    model: nn.Module
    loss: loss.Loss
    metrics: Mapping[str, Callable[..., float]]

    @property
    def counts(self) -> dict[str, list[int]]:
        """For each part, how many samples each class has."""
        return self.split.counts(self.data.targets.numpy(), len(self.data.classes))

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

    data = build(cfg.dataset)
    fill(cfg, dataset.facts(data))

    split: Split = build(cfg.split, targets=data.targets.numpy())
    fill(cfg, {f"{part}_samples": len(indices) for part, indices in split.parts.items()} | {"split_hash": split.hash})

    inputs, targets = data.inputs.to(where), data.targets.to(where)
    indices = {part: torch.from_numpy(rows) for part, rows in split.parts.items()}
    transforms = _fit_transforms(cfg, inputs, indices["train"])
    loaders = _loaders(cfg, inputs, targets, indices, transforms, where)
    example = next(loaders["train"].epoch()).input  # (B, ...)
    fill(cfg, {"input_shape": list(example.shape[1:]), **_lengths(cfg, loaders["train"])})

    reseed(where, cfg.seed, "model")
    model: nn.Module = build(cfg.model).to(where)
    threads = device.threads(cfg.trainer.threads, model, example)
    torch.set_num_threads(threads)

    criterion = _loss(cfg, data.targets.numpy()[split.parts["train"]], data.classes).to(where)
    metrics = {str(name): factory(node) for name, node in cfg.metric.items()}
    return Experiment(where, threads, data, split, loaders, model, criterion, metrics)


def _set_backends(cfg: DictConfig) -> None:
    # Not use_deterministic_algorithms, which imports the compiler: 2 s of every start.
    torch.set_deterministic_debug_mode("error" if cfg.trainer.deterministic else "default")
    torch.backends.cudnn.benchmark = not cfg.trainer.deterministic
    # Deterministic mode also fills fresh memory with NaN to expose bugs, at a price in every run.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _fit_transforms(cfg: DictConfig, inputs: Tensor, train: Tensor) -> dict[str, Pipeline]:
    """The transforms for training and for evaluation, both fitted on the train part and nothing else."""

    def batches() -> Any:
        return (inputs[rows.to(inputs.device)] for rows in train.split(4096))

    return {
        kind: Pipeline(*build_all(cfg.transform[kind])).fit(batches).to(inputs.device) for kind in ("train", "eval")
    }


def _loaders(
    cfg: DictConfig, inputs: Tensor, targets: Tensor, indices: dict[str, Tensor], transforms: dict[str, Pipeline],
    where: torch.device,
) -> dict[str, Resident]:  # fmt: skip
    loader = partial(factory(cfg.loader, OURS["loader"]), inputs, targets, seed=cfg.seed, device=where)
    # Without a graph to keep, evaluation has room for larger batches.
    size = cfg.loader.eval_batch_size or 4 * cfg.loader.batch_size
    train = loader(indices["train"], transforms["train"], shuffle=True)
    if len(train) == 0:
        what = f"{cfg.loader.batch_size} with drop_last leaves no batch of {len(indices['train'])} train samples"
        raise DataError(
            Problem("loader.batch_size", what, f"at most {len(indices['train'])}", "loader.drop_last=false")
        )
    rest = {
        part: loader(indices[part], transforms["eval"], batch_size=size, drop_last=False) for part in ("val", "test")
    }
    return {"train": train, **rest}


def _lengths(cfg: DictConfig, train: Resident) -> dict[str, int]:
    steps_per_epoch = math.ceil(len(train) / cfg.trainer.accumulate)
    by_epochs = math.inf if cfg.trainer.max_epochs is None else cfg.trainer.max_epochs * steps_per_epoch
    by_steps = math.inf if cfg.trainer.max_steps is None else cfg.trainer.max_steps
    total_steps = int(min(by_epochs, by_steps))
    total_epochs = math.ceil(total_steps / steps_per_epoch)
    return {"steps_per_epoch": steps_per_epoch, "total_steps": total_steps, "total_epochs": total_epochs}


def _loss(cfg: DictConfig, train_targets: NDArray[np.int64], classes: list[str]) -> loss.Loss:
    given = cfg.loss.get("weight")
    rule: Any = OmegaConf.to_container(given) if OmegaConf.is_config(given) else given
    weights = loss.class_weights(rule, train_targets, classes)
    if weights is not None:
        # What the train part gave is what a resumed run and an evaluation use again.
        with read_write(cfg):
            cfg.loss.weight = weights
    return loss.build(factory(cfg.loss), weights)
