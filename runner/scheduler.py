"""Learning-rate schedules: torch's own, advanced after every step or after every epoch."""

from __future__ import annotations

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

    def after(self, interval: str) -> None:
        """Advance if the schedule counts in this `interval`, which has just ended."""
        if interval == self.interval:
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state)
