"""Trying a model on an input: whether it takes it, and if not, at which layer it breaks."""

from __future__ import annotations

import copy
import logging
import warnings
from contextlib import suppress

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from runner.config import build_all, calling, factory, fill, value
from runner.errors import ConfigError, Problem
from runner.eval_mode import eval_mode
from runner.model import Networks
from runner.targets import OURS
from runner.transform import Pipeline

log = logging.getLogger("runner")


def make_model(options: DictConfig) -> nn.Module:
    """The model of a configuration, as it initialises itself; a dict of networks is made one.

    Raises:
        ConfigError: it cannot be built, or is no module.
    """
    with calling("model"):
        made = factory(options, OURS["model"])()
    model = Networks(made) if isinstance(made, dict) else made
    if not isinstance(model, nn.Module):
        raise ConfigError(Problem("model", f"{options._target_} makes a {type(model).__name__}", "a torch.nn.Module"))
    return model


def try_model(model: nn.Module, example: Tensor) -> object:
    """What the model makes of a first input, (B, ...), in eval mode.

    Raises:
        ConfigError: it cannot take it; says at which layer, and what that got.
    """
    try:
        with torch.inference_mode(), eval_mode(model):
            return model(example)
    except Exception as error:  # whatever a model of the user's may raise
        log.debug("", exc_info=True)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        what = f"cannot take inputs of {_words(example)}{_where(model, example)}: {reason}"
        remedy = "larger pictures (dataset.size of an image folder, or a Resize), or a smaller model"
        if example.dim() == 2:
            remedy = "model=mlp"
        elif "channels" in reason and example.shape[1] == 1:
            remedy = "the transform torchvision.transforms.v2.RGB, or dataset.channels=3 of an image folder"
        raise ConfigError(Problem("model", what, remedy=remedy)) from error


def try_declared(cfg: DictConfig) -> list[Problem]:
    """What keeps the model from taking samples of ``dataset.shape``, where that is declared. Reads no data.

    The model is tried on the meta device, which computes shapes alone. Not all code works there: what fails is tried
    again on the CPU, and that counts.
    """
    example = _declared_example(cfg)
    if example is None:
        return []
    trial = copy.deepcopy(cfg)
    fill(trial, {"input_shape": list(example.shape[1:]), "num_outputs": 2, "num_classes": 2})
    for device in ("meta", "cpu"):
        try:
            with torch.device(device), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pretrained weights, which a model on the meta device cannot hold
                try_model(make_model(trial.model), example.to(device))
            return []
        except ConfigError as error:
            problems = list(error.problems)
        except Exception:  # a reference to a fact that only the data can give
            log.debug("", exc_info=True)
            return []
    return problems


def declared_shape(cfg: DictConfig) -> list[int] | None:
    """The shape of a stored sample, where the configuration says it and no ``dataset.transform`` changes it."""
    shape: list[int] | None = value(cfg.dataset.get("shape")) if cfg.dataset.get("transform") is None else None
    return shape


def _declared_example(cfg: DictConfig) -> Tensor | None:
    """(2, ...) inputs as the model would get them; None if that cannot be said without data."""
    shape = declared_shape(cfg)
    if shape is None:
        return None
    stored = torch.zeros(2, *shape, dtype=torch.uint8 if len(shape) == 3 else torch.float32)
    try:
        pipeline = Pipeline(build_all(cfg.transform.eval)).fit(lambda: iter([stored]))
        example: Tensor = pipeline(stored, torch.full((2, pipeline.draws), 0.5), [0, 0])
    except Exception:  # whatever a transform of the user's may raise; it will be said when there are data
        log.debug("", exc_info=True)
        return None
    return example


def _where(model: nn.Module, example: Tensor) -> str:
    """The innermost layer in which a forward pass ends with an exception, and what it got."""
    entered: list[tuple[str, nn.Module, object]] = []
    handles = []
    for name, module in model.named_modules():
        if name:

            def enter(module: nn.Module, inputs: tuple[object, ...], name: str = name) -> None:
                entered.append((name, module, inputs[0] if inputs else None))

            def leave(module: nn.Module, inputs: object, output: object) -> None:
                entered.pop()

            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    with suppress(Exception), torch.inference_mode(), eval_mode(model):
        model(example)
    for handle in handles:
        handle.remove()
    if not entered:
        return ""
    name, module, given = entered[-1]
    got = f", which gets {_words(given)}" if isinstance(given, Tensor) else ""
    return f", at layer {name} ({type(module).__name__}){got}"


def _words(batch: Tensor) -> str:
    return "×".join(map(str, batch.shape[1:]))
