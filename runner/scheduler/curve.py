"""One schedule as a curve: a torch scheduler over a reference rate."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from runner.errors import ConfigError, Problem
from runner.scheduler.lengths import ALLOWED, LENGTHS, MAY_BE_NULL, TO_THE_END, Lengths

TURNS = ("step_size", "milestones")
"""Lengths after which the rate is another one: there is no step left for it where they are as long as the run."""


@dataclass(frozen=True)
class Plan:
    """What a configuration says of a schedule.

    Args:
        factory: a class of torch's with its arguments bound, lengths among them as they are written.
        lengths: of the run.
        interval: ``step`` or ``epoch``: the unit that the schedule counts in.
        warmup: length of a linear warm-up, which advances with every step; the schedule begins when it is over.
        warmup_start: where it begins, as a fraction of the rate.
        monitor: for `ReduceLROnPlateau`: the metric that it looks at after each evaluation.
        key: where it stands in the configuration.
    """

    factory: partial[LRScheduler]
    lengths: Lengths
    interval: str
    warmup: Any = 0
    warmup_start: float = 0.01
    monitor: str | None = None
    key: str = "scheduler"

    @cached_property
    def warmup_steps(self) -> int:
        steps: int = self.lengths.read(self.warmup, "step", f"{self.key}.warmup")
        return steps

    @cached_property
    def rest(self) -> int:
        """Steps or epochs that the warm-up leaves to the schedule."""
        left = self.lengths.total_steps - self.warmup_steps
        return left if self.interval == "step" else math.ceil(left / self.lengths.steps_per_epoch)

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the torch class, lengths in its unit."""
        found = dict(self.factory.keywords)
        for name in [name for name in LENGTHS if name in found]:
            key, value = f"{self.key}.{name}", found[name]
            if name == "milestones" and not isinstance(value, (list, tuple)):
                raise ConfigError(Problem(key, f"{value!r} is not a list", "a list of lengths, such as [50%, 75%]"))
            if value is not None:
                found[name] = self.lengths.read(value, self.interval, key)
            elif name in TO_THE_END and not (name == "total_steps" and found.get("epochs")):
                found[name] = self.rest
            elif name not in MAY_BE_NULL:
                raise ConfigError(Problem(key, "is null", ALLOWED))
        return found

    def make(self, reference: Optimizer) -> LRScheduler:
        """torch's scheduler."""
        # Copies: a function with a state of its own must not go on where the preview left it.
        return self.factory.func(reference, *self.factory.args, **copy.deepcopy(self.arguments))

    def check(self) -> list[str]:
        """Raise what cannot be meant, and return what probably is not.

        Raises:
            ConfigError: a warm-up as long as the run; a length of 0; a cosine that would rise again, or one cycle that
                ends before the run does.
        """
        total, kind, rest = self.lengths.total_steps, self.factory.func.__name__, self.rest
        if self.warmup_steps >= total:
            what = f"{self.warmup!r} is {self.warmup_steps:,} steps, but the run has only {total:,}"
            raise ConfigError(Problem(f"{self.key}.warmup", what, "shorter than the run", f"{self.key}.warmup=5%"))
        said = []
        if self.warmup_steps == 0 and self.warmup not in (0, "0"):
            what = f"{self.warmup!r} of {total:,} steps is less than one step, so there is no warm-up"
            said.append(f"{self.key}.warmup: {what}")
        for name, length in ((name, self.arguments[name]) for name in LENGTHS if self.arguments.get(name) is not None):
            key, shown = f"{self.key}.{name}", f"{self.factory.keywords[name]!r}"
            if (length == [] or length == 0 or 0 in _listed(length)) and kind != "ConstantLR":
                remedy = f"{self.key}.interval=step" if self.interval == "epoch" else ""
                comes_to = ", ".join(map(str, _listed(length))) + f" {self.interval}s"
                what = "is an empty list" if length == [] else f"{shown} comes to {comes_to}"
                raise ConfigError(Problem(key, what, "at least 1", remedy))
            wrong = (kind == "CosineAnnealingLR" and length < rest) or (kind == "OneCycleLR" and length != rest)
            if wrong:
                what = f"{shown} is {length:,} {self.interval}s, but the schedule runs for {rest:,}"
                then = ": the learning rate would rise again" if kind == "CosineAnnealingLR" else ""
                raise ConfigError(Problem(key, what + then, "null, for the length of the run", f"{key}=null"))
            last = max(_listed(length))
            if (last > rest or (last == rest and name in TURNS)) and kind != "ConstantLR":
                late = self.factory.keywords[name][length.index(last)] if isinstance(length, list) else shown
                said.append(f"{key}: {late} is never reached: the schedule runs for only {rest:,} {self.interval}s")
        return said


def _listed(length: Any) -> list[int]:
    return length if isinstance(length, list) else [length]


class Curve:
    """The rate of a parameter group with the optimizer's own learning rate, step for step.

    Other groups follow in proportion, whatever the torch scheduler does: it could not keep their ratio where it has
    rates of its own (``eta_min``, ``max_lr``).

    Args:
        rate: the learning rate that the schedule starts from.
        defaults: the settings of the optimizer; a schedule may move its momentum, too.
    """

    def __init__(self, plan: Plan, rate: float, defaults: Mapping[str, Any]) -> None:
        self.plan, self.base = plan, rate
        self.steps = self.epochs = 0
        self.reference = _Reference({**defaults, "lr": rate})
        self.scheduler = plan.make(self.reference)

    @property
    def warming(self) -> bool:
        return self.steps < self.plan.warmup_steps

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        rate = float(self.reference.group["lr"])
        start = self.plan.warmup_start
        return rate * (start + (1 - start) * self.steps / self.plan.warmup_steps) if self.warming else rate

    @property
    def momentum(self) -> float | None:
        """The momentum of the next step, or Adam's β1, where the schedule moves it."""
        if not getattr(self.scheduler, "cycle_momentum", False):
            return None
        return float(momentum_of(self.reference.group))

    def after(self, interval: str) -> bool:
        """Go on by a step or an epoch, which has just ended; returns whether the rate may be another one."""
        if interval == "step":
            self.steps += 1
        else:
            self.epochs += 1
        # The step and the epoch with which the warm-up ends are the last of it, and none of the schedule's.
        if self.plan.warmup_steps and self.steps <= self.plan.warmup_steps:
            return True
        if interval == self.plan.interval and not self.is_plateau:
            self.scheduler.step()
            return True
        return False

    def step(self, epochs: float = math.inf) -> None:
        """Go on by a step, and by the epoch that ends with it, if these are not yet as many as `epochs`."""
        self.after("step")
        if self.steps % self.plan.lengths.steps_per_epoch == 0 and self.epochs < epochs:
            self.after("epoch")

    @property
    def is_plateau(self) -> bool:
        return isinstance(self.scheduler, ReduceLROnPlateau)

    def measured(self, value: float) -> None:
        """Take in the monitored metric of an evaluation."""
        if self.is_plateau and not self.warming:
            self.scheduler.step(value)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        """Where the curve is, as plain containers."""
        return {
            "steps": self.steps,
            "epochs": self.epochs,
            "settings": self._settings,
            "reference": dict(self.reference.group, params=[]),
            "scheduler": self.scheduler.state_dict(),
        }

    @property
    def _settings(self) -> dict[str, str]:
        """All arguments, lengths in steps or epochs among them."""
        return {
            **{name: _written(value) for name, value in self.plan.arguments.items()},
            "warmup": f"{self.plan.warmup_steps}",
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, of a curve with the same schedule.

        torch's schedulers would take their settings from it too, and compute each rate from the one before. A run that
        is resumed with more epochs has other lengths: then the curve is run again from its start to this point.
        """
        same = state["settings"] == self._settings
        if not same:
            while self.steps < min(state["steps"], self.plan.lengths.total_steps):
                self.step(state["epochs"])
        if same or self.is_plateau:  # what was measured cannot be run again
            self.scheduler.load_state_dict(state["scheduler"])
            self.reference.group.update({k: v for k, v in state["reference"].items() if k != "params"})
        if same:
            self.steps, self.epochs = state["steps"], state["epochs"]


def momentum_of(group: Mapping[str, Any]) -> Any:
    """The momentum of a parameter group, or Adam's β1; None without either."""
    return group["betas"][0] if "betas" in group else group.get("momentum")


def _written(value: Any) -> str:
    """A value as a text that is the same in another process: functions by their names."""
    if isinstance(value, partial):
        return f"{_written(value.func)}{value.args}{value.keywords}"
    return getattr(value, "__qualname__", type(value).__qualname__) if callable(value) else repr(value)


class _Reference(Optimizer):
    """An optimizer of one group and nothing in it, for a scheduler to move its learning rate."""

    def __init__(self, defaults: dict[str, Any]) -> None:
        super().__init__([torch.zeros(())], defaults)
        self._opt_called = True  # schedulers warn if there was no step before theirs

    @property
    def group(self) -> dict[str, Any]:
        return self.param_groups[0]
