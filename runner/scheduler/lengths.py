"""Lengths of a schedule: in steps, in epochs, or as a share of the run."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from runner.errors import ConfigError, Problem

LENGTHS = ("step_size", "milestones", "T_max", "T_0", "total_iters", "total_steps", "step_size_up", "step_size_down")
"""Arguments of torch's schedulers that are lengths; a list of lengths, ``milestones``."""

TO_THE_END = ("T_max", "total_iters", "total_steps")
"""Of these, the ones that null makes as long as the run, or what the warm-up leaves of it."""

MAY_BE_NULL = ("total_steps", "step_size_down")
"""And the ones that torch itself fills in."""

ALLOWED = 'a whole number (see scheduler.interval), "500 steps", "10 epochs", or a share of the run such as 5%'


@dataclass(frozen=True)
class Lengths:
    """How long a run is, and what a length in a configuration comes to in it."""

    steps_per_epoch: int
    total_steps: int

    def total(self, interval: str) -> int:
        """Steps or epochs in the run, the last epoch maybe not whole."""
        return self.total_steps if interval == "step" else math.ceil(self.total_steps / self.steps_per_epoch)

    def read(self, value: Any, interval: str, key: str) -> Any:
        """A length, or a list of them, in steps or epochs as `interval` says.

        Args:
            value: a whole number, which is in that unit already; a text with its unit; or a share of the run.
            key: where it stands in the configuration.

        Raises:
            ConfigError: it is none of these, or steps that a schedule of epochs cannot count.
        """
        if isinstance(value, (list, tuple)):
            if any(isinstance(item, (list, tuple)) for item in value):
                raise ConfigError(Problem(key, f"{value!r} is a list of lists", ALLOWED))
            return [self.read(item, interval, f"{key}.{number}") for number, item in enumerate(value)]
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%|steps?|epochs?)\s*", value) if isinstance(value, str) else None
        if match is None:
            raise ConfigError(Problem(key, f"{value!r} is not a length", ALLOWED))
        number, unit = float(match[1]), match[2].rstrip("s")
        if unit == "%":
            return round(self.total(interval) * number / 100)
        if unit == "step" and interval == "epoch":
            what = f"{value!r} is in steps, but the schedule counts epochs"
            remedy = f"{key.rpartition('scheduler.')[0]}scheduler.interval=step"
            raise ConfigError(Problem(key, what, "epochs, or a share of the run", remedy))
        if interval == "epoch" and not number.is_integer():
            what = f"{value!r} is not a whole number of epochs, and the schedule counts epochs"
            remedy = f"{key.rpartition('scheduler.')[0]}scheduler.interval=step"
            raise ConfigError(Problem(key, what, "whole epochs, or a share of the run", remedy))
        return round(number * (self.steps_per_epoch if unit == "epoch" and interval == "step" else 1))
