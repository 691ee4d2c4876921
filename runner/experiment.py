"""An experiment: everything a configuration describes up to the loss, built in the order the data flow.

Training starts from here, and so does whatever is done later with what was trained.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from runner import device, loss, metric
from runner.config import build, calling, factory, fill, value
from runner.data import Data, prepare
from runner.draws import reseed
from runner.errors import ConfigError, Problem
from runner.trainer import predict

log = logging.getLogger("runner")


@dataclass
class Experiment:
    """What was built, on its device."""

    device: torch.device
    threads: int
    data: Data
    model: nn.Module
    loss: loss.Loss
    metrics: Mapping[str, Callable[..., float]]

    def evaluate(self, part: str) -> dict[str, float]:
        """The loss and every metric on a part, as ``"<part>/<metric>": value``."""
        said = predict(self.model, self.loss, self.data.loaders[part])
        values = {"loss": said.loss, **metric.measure(self.metrics, said.output, said.target)}
        return {f"{part}/{name}": value for name, value in values.items()}


def assemble(cfg: DictConfig) -> Experiment:
    """Build what `cfg` describes, and enter into ``cfg.facts`` what the data say on the way.

    Raises:
        InputError: the data are not what the configuration needs.
    """
    where = device.resolve(cfg.device)
    _set_backends(cfg)
    data = prepare(cfg, where)

    reseed(where, cfg.seed, "model")
    with calling("model"):
        model: nn.Module = build(cfg.model).to(where)
    _check_model(model, data.example)
    threads = device.threads(cfg.trainer.threads, model, data.example)
    torch.set_num_threads(threads)

    criterion = _loss(cfg, data).to(where)
    metrics = {str(name): factory(node) for name, node in cfg.metric.items() if node is not None}
    return Experiment(where, threads, data, model, criterion, metrics)


def _set_backends(cfg: DictConfig) -> None:
    # Not use_deterministic_algorithms, which imports the compiler: 2 s of every start.
    torch.set_deterministic_debug_mode("error" if cfg.trainer.deterministic else "default")
    torch.backends.cudnn.benchmark = not cfg.trainer.deterministic
    # Deterministic mode also fills fresh memory with NaN to expose bugs, at a price in every run.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _check_model(model: nn.Module, example: Tensor) -> None:
    """That the model takes such an input."""
    try:
        with torch.inference_mode():
            model.eval()(example)
    except Exception as error:  # whatever a model of the user's may raise
        log.debug("", exc_info=True)
        shape = "×".join(map(str, example.shape[1:]))
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        grey = example.dim() == 4 and example.shape[1] == 1
        remedy = "the transform torchvision.transforms.v2.RGB, or dataset.channels=3 of an image folder" if grey else ""
        problem = Problem("model", f"cannot take inputs of {shape}: {reason}", remedy=remedy)
        raise ConfigError(problem) from error
    finally:
        model.train()


def _loss(cfg: DictConfig, data: Data) -> loss.Loss:
    train = data.samples["train"]
    targets = train.targets[data.indices["train"]].numpy()
    weights = loss.class_weights(value(cfg.loss.get("weight")), targets, train.classes)
    fill(cfg, {"class_weights": weights})
    with calling("loss"):
        return loss.build(factory(cfg.loss), weights)
