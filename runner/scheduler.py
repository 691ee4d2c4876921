"""Learning-rate schedules: torch's own, advanced after every step or after every epoch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class Schedule:
    """A torch scheduler together with how often it advances.

    Args:
        factory: a scheduler class with its arguments bound, all but the optimizer.
        interval: ``step`` (one optimizer update) or ``epoch``: the unit that the scheduler counts in.
    """

    def __init__(self, factory: Callable[..., LRScheduler], optimizer: Optimizer, interval: str) -> None:
        self.scheduler = factory(optimizer)
        self.interval = interval
        self._first = [group["lr"] for group in optimizer.param_groups]
        self._settings = inspect.signature(type(self.scheduler)).parameters.keys() - {"optimizer", "last_epoch"}

    def after(self, interval: str) -> None:
        """Advance if the schedule counts in this `interval`, which has just ended."""
        if interval == self.interval:
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, which must have been loaded into the optimizer already.

        torch's schedulers would take their settings from it too, and compute each rate from the one before. A run that
        is resumed with more epochs has other settings: then the schedule is run again from its start to this point.
        """
        # The optimizer's steps were taken in an earlier process; torch would warn that there were none.
        self.scheduler.optimizer._opt_called = True  # type: ignore[attr-defined]
        mine = vars(self.scheduler)
        if all(mine[name] == state[name] for name in self._settings if name in state and name in mine):
            self.scheduler.load_state_dict(state)
            return
        for group, rate in zip(self.scheduler.optimizer.param_groups, self._first, strict=True):
            group["lr"] = rate
        for _ in range(state["last_epoch"]):
            self.scheduler.step()
