"""Trying a model on an input: whether it takes it, and if not, at which layer it breaks."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterable
from contextlib import ExitStack, suppress

import torch
from omegaconf import MISSING, DictConfig
from torch import Tensor, nn

from runner import debugger
from runner.batch import Batch, by
from runner.config import build_all, fill, value
from runner.errors import FOR_THE_TRACEBACK, ConfigError, DataError, Problem, RunnerError, cause_of, reason_of
from runner.eval_mode import Fitting, eval_mode
from runner.network import make_model
from runner.trainer import Gradient
from runner.transform import Pipeline
from runner.visible import log


def try_model(model: nn.Module, example: Tensor) -> object:
    """What the model makes of a first input, (B, ...), in eval mode.

    Raises:
        ConfigError: it cannot take it; says at which layer, and what that got.
        torch.OutOfMemoryError: not even one sample fits.
    """
    try:
        with torch.inference_mode(), eval_mode(model):
            return Fitting(model)(example)
    except torch.OutOfMemoryError:
        raise
    except debugger.foreign() as error:  # whatever a model of the user's may raise
        log.debug("", exc_info=True)
        reason = cause_of(error)
        what = f"cannot take inputs of shape {by(example.shape[1:])}{_where(model, example)}: {reason}"
        raise ConfigError(Problem("model", what, remedy=_remedy(reason, example))) from error


def _remedy(reason: str, example: Tensor) -> str:
    """What to do about an input that a model does not take, as far as torch's reason says it."""
    if example.dim() == 2 and re.search(r"Expected .*input to conv|must be 3D|4D", reason):
        return "model=mlp"
    if "Byte" in reason:
        return "transform=normalize, or transform=none, which converts inputs to float32, in place of transform.eval"
    if "channels" in reason and example.shape[1] == 1:
        return "dataset.channels=3 for an image folder, or torchvision.transforms.v2.RGB as the first transform"
    if re.search(r"(?i)too small|kernel size|output size|less than|not divisible", reason):
        return "larger images (dataset.size for an image folder, or a Resize transform), or a smaller model"
    return FOR_THE_TRACEBACK


def check_repeatable(model: nn.Module, example: Tensor, output: object) -> None:
    """That a model in eval mode makes the same of the same input twice.

    Args:
        output: what it made of it the first time.

    Raises:
        ConfigError: it draws at random there, as ``functional.dropout(x)`` does, which is switched on by default.
    """
    again = try_model(model, example)
    if not (isinstance(output, Tensor) and isinstance(again, Tensor)):
        return
    if not torch.allclose(output, again, rtol=1e-3, atol=1e-5, equal_nan=True):
        what = "gives two different outputs for the same input in eval mode: something in it is random"
        remedy = "functional.dropout(x, p, training=self.training); or model.stochastic=true, if this is intended"
        raise ConfigError(Problem("model", what, remedy=remedy))


def try_step(gradient: Gradient, batch: Batch, sizes: Iterable[int]) -> None:
    """Forward, loss and backward of one batch, in a throwaway copy of model and loss.

    Args:
        sizes: of the batches that will come, each of which is tried: BatchNorm cannot train on one sample.

    Raises:
        ConfigError: it breaks.
    """
    if debugger.on:
        return  # for what is stopped in would not be what is trained
    try:
        model, loss = copy.deepcopy((gradient.model, gradient.loss))
    except Exception as error:  # whatever a model of the user's may hold
        log.info("skipped the trial batch: the model cannot be copied (%s)", reason_of(error))
        return
    parameters = [p for p in (*model.parameters(), *loss.parameters()) if p.requires_grad]
    trial = Gradient(
        model, loss, torch.optim.SGD(parameters, lr=0.0), device=gradient.device, seed=gradient.seed,
        compute=gradient.compute, precision=gradient.precision, micro_batch=gradient.micro_batch,
        graph=gradient.graphs is not None,
    )  # fmt: skip
    model.train()
    for size in sizes:
        part = batch.rows(slice(0, size))
        try:
            for number in range(trial.settled):
                trial.clear()
                trial([part], number)
        except torch.OutOfMemoryError:
            return  # which the run itself has a message for
        except RunnerError:
            raise
        except Exception as error:  # whatever code of the user's may raise
            log.debug("", exc_info=True)
            raise ConfigError(_untrainable(error, size)) from error


def _untrainable(error: Exception, size: int) -> Problem:
    reason = cause_of(error)
    what = f"cannot be trained on a batch of {size}: {reason}"
    if "inplace operation" in reason:
        return Problem("model", what, remedy="debug=anomaly, to find the operation")
    if size == 1:
        return Problem("loader.drop_last", f"false, but the model {what}", "true", "loader.drop_last=true")
    return Problem("model", what, remedy=FOR_THE_TRACEBACK)


def try_declared(cfg: DictConfig) -> list[Problem]:
    """What keeps the model from taking samples of ``dataset.shape``, where that is declared. Reads no data.

    The model is tried on the meta device, which computes shapes alone. Not all code works there: what fails is tried
    again on the CPU, and that counts.

    Args:
        cfg: the facts that such a model needs are entered for as long as it is tried.
    """
    example = None if debugger.on else _declared_example(cfg)
    if example is None:
        return []
    facts = {"input_shape": list(example.shape[1:]), "num_outputs": 2, "num_classes": 2}
    fill(cfg, facts)
    try:
        return _try_without_data(cfg.model, example)
    finally:
        fill(cfg, dict.fromkeys(facts, MISSING))


def _try_without_data(options: DictConfig, example: Tensor) -> list[Problem]:
    problems: list[Problem] = []
    for device in ("meta", "cpu"):
        try:
            with torch.device(device), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pretrained weights, which a model on the meta device cannot hold
                try_model(make_model(options), example.to(device))
            if problems:
                log.info("the model does not run on the meta device, so it was tried on the CPU: %s", problems[0].what)
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


def check_declared(cfg: DictConfig, found: list[int]) -> None:
    """That samples have the shape with which the model was tried before there were data.

    Raises:
        DataError: they have another.
    """
    declared = declared_shape(cfg)
    if declared is not None and declared != found:
        raise DataError(Problem("dataset.shape", f"{declared}, but a sample has shape {found}", str(found)))


def _declared_example(cfg: DictConfig) -> Tensor | None:
    """(2, ...) inputs as the model would get them; None if that cannot be said without data."""
    shape = declared_shape(cfg)
    if shape is None:
        return None
    try:
        stored = torch.zeros(2, *shape, dtype=torch.uint8 if len(shape) == 3 else torch.float32)
        pipeline = Pipeline(build_all(cfg.transform.eval)).fit(lambda: iter([stored]))
        example: Tensor = pipeline(stored, torch.full((2, pipeline.draws), 0.5), [0, 0])
    except Exception:  # whatever a transform of the user's may raise; it will be said when there are data
        log.debug("", exc_info=True)
        return None
    return example


def _where(model: nn.Module, example: Tensor) -> str:
    """The innermost layer in which a forward pass ends with an exception, and what it got."""
    entered: list[tuple[str, nn.Module, object]] = []
    names = {module: name for name, module in model.named_modules() if name}

    def enter(module: nn.Module, inputs: tuple[object, ...]) -> None:
        entered.append((names[module], module, inputs[0] if inputs else None))

    def leave(module: nn.Module, inputs: object, output: object) -> None:
        entered.pop()

    with ExitStack() as hooks, suppress(Exception), torch.inference_mode(), eval_mode(model):
        for module in names:
            hooks.enter_context(module.register_forward_pre_hook(enter))
            hooks.enter_context(module.register_forward_hook(leave))
        model(example)
    if not entered:
        return ""
    name, module, given = entered[-1]
    got = f" gets shape {by(given.shape[1:])}" if isinstance(given, Tensor) else " fails"
    return f"; layer {name} ({type(module).__name__}){got}"
