"""How weights are updated: the optimizer, the schedule and the trainer that a configuration describes."""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections.abc import Callable
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn
from torch.optim.lr_scheduler import ConstantLR

from runner import debugger, metric, optimizer
from runner.checkpoint import Every
from runner.checks.entries import RULE
from runner.config import calling, factory, value
from runner.direction import direction
from runner.errors import ConfigError, Problem
from runner.experiment import Experiment
from runner.optimizer import Rule
from runner.scheduler import Lengths, Plan, Schedule
from runner.trainer import Limits, Trainer, early_stopping, plain, searches
from runner.visible import log


def limits_of(cfg: DictConfig, seconds: float = 0.0) -> Limits:
    """When the run ends, and how often val is looked at.

    Args:
        seconds: that the run has taken before.
    """
    options, stopping = cfg.trainer, cfg.trainer.early_stopping
    epochs, steps = _every(cfg, options.evaluate_every, "trainer.evaluate_every")
    monitor, mode = stopping.monitor or cfg.checkpoint.monitor, stopping.mode
    if stopping.monitor is None and mode == "auto":
        mode = cfg.checkpoint.mode
    left = None if options.max_time is None else (seconds_of(options.max_time) or 0.0) - seconds
    epochs_in_all, steps_in_all = (1, None) if cfg.debug == "dev_run" else (options.max_epochs, options.max_steps)
    return Limits(
        epochs_in_all, steps_in_all, left,
        early_stopping(stopping.patience, metric.better(monitor, mode, stopping.min_delta)),
        evaluate_epochs=epochs, evaluate_steps=steps,
    )  # fmt: skip


def checkpoint_every(cfg: DictConfig) -> Every:
    """How often the last state is written."""
    if (seconds := seconds_of(cfg.checkpoint.every)) is not None:
        return Every(seconds=seconds)
    return Every(*_every(cfg, cfg.checkpoint.every, "checkpoint.every"))


def _every(cfg: DictConfig, text: str, key: str) -> tuple[int | None, int | None]:
    """Epochs or steps, of which the other is None."""
    lengths = Lengths(cfg.facts.steps_per_epoch, cfg.facts.total_steps)
    by_epochs = re.fullmatch(r"\s*\d+(\.0*)?\s*epochs?\s*", text) is not None  # a part of one is so many steps
    every = lengths.read(text, "epoch" if by_epochs else "step", key)
    if every == 0:
        raise ConfigError(Problem(key, f"{text!r} is 0 {'epochs' if by_epochs else 'steps'} in this run", "at least 1"))
    return (every, None) if by_epochs else (None, every)


def seconds_of(text: str | None) -> float | None:
    """A length of time such as ``2 hours``; None if there is none, or the text is in another unit."""
    match = re.fullmatch(r"\s*([\d.]+)\s*(second|minute|hour)s?\s*", text or "")
    return float(match[1]) * {"second": 1, "minute": 60, "hour": 3600}[match[2]] if match else None


def make_trainer(
    cfg: DictConfig, experiment: Experiment, opt: torch.optim.Optimizer, schedule: Schedule, limits: Limits,
    evaluate: Callable[[nn.Module], dict[str, float]] = lambda model: {}, **changes: Any,
) -> Trainer:  # fmt: skip
    """A trainer that trains as the configuration says.

    Args:
        evaluate: see `Trainer`; by default nothing is evaluated.
        changes: arguments of `Trainer` that are to be others.

    Raises:
        ConfigError: an optimizer that searches is to leave out steps, or to search with a scaled loss.
    """
    e, options, monitor = experiment, cfg.trainer, cfg.checkpoint
    if searches(opt) and options.on_nonfinite == "skip":
        what = f"'skip' is not possible with {type(opt).__name__}, which evaluates the loss several times per step"
        raise ConfigError(Problem("trainer.on_nonfinite", what, "stop"))
    if searches(opt) and e.precision.scales_loss:
        what = f"'fp16' is not possible with {type(opt).__name__}: loss scaling needs exactly one gradient per step"
        raise ConfigError(Problem("trainer.precision", what, "fp32, bf16"))
    given = {
        "frozen": e.frozen, "precision": e.precision,
        "compute": plain if options.step is None else factory(options.step),
        "compiled": _compiled(e.model) if options.compile and not debugger.on else None,
        # Anomaly detection looks at each value, for which it waits.
        "graph": options.cuda_graph and e.device.type == "cuda" and cfg.debug not in ("anomaly", "ide"),
        "skip_nonfinite": options.on_nonfinite == "skip",
        **{name: options[name] for name in ("accumulate", "micro_batch", "clip_norm", "clip_value", "ema")},
        **changes,
    }  # fmt: skip
    return Trainer(
        e.model, e.loss, opt, schedule, e.data.loaders["train"], evaluate,
        metric.better(monitor.monitor, monitor.mode), limits, device=e.device, seed=cfg.seed, **given,
    )  # fmt: skip


def _compiled(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")  # that they could be used: trainer.tf32 says it
    # For each size of batches anew, of which there are few: once compiled for any size, a batch takes other kernels
    # than before, and a resumed run that is not yet there would have other bits.
    return torch.compile(model, dynamic=False)


def make_optimizer(cfg: DictConfig, model: nn.Module, loss: nn.Module) -> torch.optim.Optimizer:
    """The optimizer, over what is trained of the model and of the loss.

    Raises:
        ConfigError: a rule for parameter groups that decides nothing, or arguments that the optimizer does not take.
    """
    options = cfg.optimizer
    with calling("optimizer"):
        return optimizer.build(
            factory(options),
            {"": model, "loss": loss},
            [_rule(number, node) for number, node in enumerate(options.get("param_groups") or [])],
            decay_norms_and_biases=options.get("decay_norms_and_biases", True),
            layer_decay=options.get("layer_decay"),
            scale=rate_scale(cfg),
        )


def _rule(number: int, node: DictConfig) -> Rule:
    settings = {str(key): value(node[key]) for key in node if key not in RULE}
    own = {key: node[key] for key in ("match", "type", "name") if node.get(key) is not None}
    return Rule(number, **own, lr_scale=node.get("lr_scale", 1.0), settings=settings)


def rate_scale(cfg: DictConfig) -> float:
    """By what learning rates are multiplied because a step sees another number of samples than they were found with.

    In proportion (Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 2.1).
    """
    found_with = cfg.optimizer.get("scale_lr")
    return 1.0 if found_with is None else samples_in_a_step(cfg) / found_with


def samples_in_a_step(cfg: DictConfig) -> int:
    """As many as the configuration asks for, and an epoch has.

    Raises:
        ConfigError: a batch sampler decides.
    """
    if cfg.loader.get("batch_sampler") is not None:
        what = "needs a fixed batch size, and loader.batch_sampler decides it here"
        raise ConfigError(Problem("optimizer.scale_lr", what, "null"))
    return min(int(cfg.loader.batch_size * cfg.trainer.accumulate), int(cfg.facts.epoch_samples))


def make_schedule(cfg: DictConfig, opt: torch.optim.Optimizer) -> Schedule:
    """The schedule of the optimizer's groups.

    Raises:
        ConfigError: one that cannot be meant in a run of this length.
    """
    own: dict[int, Plan | None] = {}
    plans: dict[int, Plan | None] = {}  # by rule
    for number, group in enumerate(opt.param_groups):
        rule = group["rule"]
        if rule is not None and "scheduler" in (node := cfg.optimizer.param_groups[rule]):
            if rule not in plans:
                plans[rule] = _plan(cfg, node.scheduler, f"optimizer.param_groups.{rule}.scheduler")
            own[number] = plans[rule]
    plan = _plan(cfg, cfg.scheduler, "scheduler")
    assert plan is not None
    rate = opt.defaults.get("lr")
    if rate is None:  # an optimizer of the user's
        if plan.factory.func is not ConstantLR or own:
            what = f"{cfg.optimizer._target_} has no learning rate for a schedule to change"
            raise ConfigError(Problem("scheduler", what, remedy="scheduler=constant"))
        return Schedule(opt, None, 1.0)
    for each in (plan, *plans.values()):
        for said in [] if each is None else each.check():
            log.warning("%s", said)
    with calling("scheduler"):
        schedule = Schedule(opt, plan, rate, own)
        schedule.preview()  # a curve that breaks on its way is found now
        _check_state(schedule)
        return schedule


def _check_state(schedule: Schedule) -> None:
    """That a checkpoint can hold where the schedule is: tensors and plain containers, and no NumPy arrays."""
    buffer = io.BytesIO()
    torch.save(schedule.state_dict(), buffer)
    try:
        torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    except pickle.UnpicklingError as error:
        what = "its state_dict holds objects that a checkpoint cannot store"
        allowed, remedy = "tensors, numbers, strings, lists and dicts", "array.tolist() in state_dict()"
        raise ConfigError(Problem("scheduler", what, allowed, remedy)) from error


def _plan(cfg: DictConfig, node: DictConfig | None, key: str) -> Plan | None:
    if node is None:
        return None
    lengths = Lengths(cfg.facts.steps_per_epoch, cfg.facts.total_steps)
    own = {name: node[name] for name in ("warmup", "warmup_start", "monitor") if name in node}
    bound = factory(node)
    if bound.keywords.get("mode") == "auto" and own.get("monitor"):
        bound.keywords["mode"] = direction(own["monitor"])
    return Plan(bound, lengths, node.interval, **own, key=key)
