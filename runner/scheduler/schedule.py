"""The schedule of an optimizer: which curve each of its groups follows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from torch.optim import Optimizer

from runner.errors import ConfigError, Problem
from runner.scheduler.curve import Curve, Plan, momentum_of
from runner.scheduler.lengths import TO_THE_END
from runner.table import Table

Rates = np.ndarray[Any, np.dtype[np.float64]]
"""(total_steps,) a learning rate for each step of the run."""


class Schedule:
    """Moves the learning rates of an optimizer's groups, each in proportion to a curve.

    Args:
        plan: of the groups that have none of their own; None for rates that stay as they are.
        own: plans of some groups, by their number; None for a rate that stays as it is.
        base_rate: the learning rate from which the curves start: that of a group for which no rule says otherwise.
    """

    def __init__(
        self, optimizer: Optimizer, plan: Plan | None, base_rate: float, own: Mapping[int, Plan | None] | None = None
    ) -> None:
        own = own or {}
        self.optimizer = optimizer
        rate = base_rate or 1.0  # a rate of 0 has no proportions; groups may have others
        plans: dict[int, Plan] = {id(p): p for p in (plan, *own.values()) if p is not None}
        made = {number: Curve(p, rate, optimizer.defaults) for number, p in plans.items()}
        self.curves = list(made.values())
        self._rates = [float(group.get("lr", math.nan)) for group in optimizer.param_groups]
        first = momentum_of(optimizer.defaults)
        # A group with a momentum of its own keeps it.
        self._usual = [momentum_of(group) == first for group in optimizer.param_groups]
        chosen = [own.get(number, plan) for number in range(len(self._rates))]
        self._followed = [None if p is None else made[id(p)] for p in chosen]
        self._apply()

    def after(self, interval: str) -> None:
        """Go on by a ``step`` or an ``epoch``, which has just ended."""
        moved = [curve.after(interval) for curve in self.curves]
        if any(moved):
            self._apply()

    def measured(self, record: Mapping[str, Any]) -> None:
        """Take in what an evaluation found: ``"<part>/<metric>": value``."""
        for curve in self.curves:
            if curve.plan.monitor is not None:
                curve.measured(record[curve.plan.monitor])
        self._apply()

    def _apply(self) -> None:
        groups = zip(self.optimizer.param_groups, self._rates, self._followed, self._usual, strict=True)
        for group, rate, curve, usual in groups:
            if curve is not None:
                # Exactly torch's rate for a group with the optimizer's own; else in proportion.
                group["lr"] = curve.rate if rate == curve.base else rate * (curve.rate / curve.base)
                if usual and (momentum := curve.momentum) is not None:
                    group.update(_moved(group, momentum))

    @cached_property
    def _whole(self) -> dict[str, Rates]:
        """Of each curve, by the key of its plan, the rate of every step of the run."""
        return {c.plan.key: rates_of(c.plan, c.base, self.optimizer.defaults) for c in self.curves}

    def preview(self) -> dict[str, Rates]:
        """(total_steps,) the learning rate of each group, by its name, in each step of the run; {} if none moves.

        Raises:
            ConfigError: see `rates_of`.
        """
        found: dict[str, Rates] = {}
        if not self.curves:
            return found
        for group, rate, curve in zip(self.optimizer.param_groups, self._rates, self._followed, strict=True):
            if curve is None:
                found[group["name"]] = np.full(self.curves[0].plan.lengths.total_steps, rate)
            else:
                rates = self._whole[curve.plan.key]
                found[group["name"]] = rates if rate == curve.base else rate * (rates / curve.base)
        return found

    def tables(self) -> list[Table]:
        """The turns of each learning rate, of which groups may share one."""
        shared: dict[bytes, list[str]] = {}
        previews = self.preview()
        for name, rates in previews.items():
            shared.setdefault(rates.tobytes(), []).append(name)
        names = [group["name"] for group in self.optimizer.param_groups]
        found = []
        for same in shared.values():
            curve = self._followed[names.index(same[0])]
            if curve is not None:
                found.append(milestones(curve.plan, previews[same[0]], "; ".join(same)))
        return found

    def state_dict(self) -> dict[str, Any]:
        return {"curves": [curve.state_dict() for curve in self.curves]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`.

        To be called after the optimizer's state was loaded, which brings back the learning rates that it was saved
        with: they follow from the configuration and the curves, and are entered anew.
        """
        for curve, saved in zip(self.curves, state["curves"], strict=True):
            curve.load_state_dict(saved)
        self._apply()


def _moved(group: Mapping[str, Any], momentum: float) -> dict[str, Any]:
    return {"betas": (momentum, *group["betas"][1:])} if "betas" in group else {"momentum": momentum}


def rates_of(plan: Plan, rate: float, defaults: Mapping[str, Any]) -> Rates:
    """(total_steps,) the learning rate of every step of the run, of a group that starts from `rate`.

    That of `ReduceLROnPlateau` follows from what will be measured: the curve is that of a metric that keeps getting
    better.

    Raises:
        ConfigError: the rate is negative or no number somewhere, or the run ends with steps at a rate of 0.
    """
    curve = Curve(plan, rate, defaults)
    rates = np.empty(plan.lengths.total_steps)
    for step in range(len(rates)):
        rates[step] = curve.rate
        curve.step()
    wrong = ~(np.isfinite(rates) & (rates >= 0))
    if wrong.any():
        first = int(wrong.argmax())
        raise ConfigError(Problem(plan.key, f"the learning rate is {rates[first]} at step {first:,}", "numbers >= 0"))
    idle = len(rates) - 1 - int(np.flatnonzero(rates).max(initial=-1))
    if idle > 1:
        what = f"the learning rate is 0 for the last {idle:,} of {len(rates):,} steps"
        length = next((name for name in TO_THE_END if name in plan.factory.keywords), None)
        remedy = "" if length is None else f"{plan.key}.{length}=null"
        raise ConfigError(Problem(plan.key, what, "a schedule as long as the run", remedy))
    return rates


def milestones(plan: Plan, rates: Rates, groups: str = "") -> Table:
    """The rate at the first step, after the warm-up, after every jump, and at the last step."""
    steps = {0: "first step"}
    if plan.warmup_steps:
        steps[plan.warmup_steps] = "after the warm-up"
    change = np.abs(np.diff(rates))
    jumps = np.flatnonzero((change > 0.2 * rates[:-1]) & (change > 0.01 * rates.max())) + 1
    steps |= {int(step): "changed" for step in jumps[:8] if step > plan.warmup_steps}
    steps[len(rates) - 1] = "last step"
    per_epoch = plan.lengths.steps_per_epoch
    rows = [[steps[step], step, step // per_epoch + 1, float(rates[step])] for step in sorted(steps)]
    return Table(f"Learning rate{groups and f': {groups}'}", ["", "step", "epoch", "lr"], rows, exact=("lr",))
