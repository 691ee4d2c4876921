"""Figures that say how training goes, besides the loss."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Vitals:
    """What is counted since the last evaluation, or since the epoch began if that was later.

    Args:
        parameters: which are trained.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], device: torch.device) -> None:
        self.parameters, self.device = parameters, device
        self.norms = torch.zeros((), device=device)  # of the gradients, before they were clipped, added up
        self.reset()

    def restart(self) -> None:
        """Begin anew with what is about time."""
        self.entered, self.waited = time.perf_counter(), 0.0  # seconds for the loader
        self.samples = 0

    def reset(self) -> None:
        """Begin anew."""
        self.restart()
        self.steps = 0
        # By how much the first step moved the weights, as a share of their size.
        self.update_ratio = torch.full((), math.nan, device=self.device)
        self._before: list[Tensor] = []
        self.norms.zero_()

    def before_step(self) -> None:
        """Remember the weights, if the step is the first."""
        if self.steps == 0:
            self._before = [p.detach().clone() for p in self.parameters]

    def after_step(self, samples: int) -> None:
        """Count a step."""
        self.samples += samples
        self.steps += 1
        if self._before:
            moved = [p.detach() - old for p, old in zip(self.parameters, self._before, strict=True)]
            size = nn.utils.get_total_norm(self._before).clamp(min=1e-12)
            self.update_ratio = nn.utils.get_total_norm(moved) / size
            self._before = []

    @property
    def seconds(self) -> float:
        """For how long it has been counted."""
        return max(time.perf_counter() - self.entered, 1e-9)

    @property
    def speed(self) -> float:
        """Training samples per second."""
        return self.samples / self.seconds

    def state_dict(self) -> dict[str, float]:
        """Return what a resumed run goes on from; not what is about time."""
        return {"steps": self.steps, "norms": float(self.norms), "update_ratio": float(self.update_ratio)}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.steps = int(state["steps"])
        self.norms.fill_(state["norms"])
        self.update_ratio.fill_(state["update_ratio"])

    def read(self) -> dict[str, float]:
        """Samples per second, the share of the time that was spent waiting for data, the mean norm of the gradient, how
        far a step moves the weights relative to their size, memory on CUDA. Waits for the device."""
        found = {
            "samples_per_second": self.speed,
            "waiting_for_data": self.waited / self.seconds,
            "gradient_norm": float(self.norms) / max(self.steps, 1),
            "update_to_weight": float(self.update_ratio),
        }
        if self.device.type == "cuda":
            found["memory_mib"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        return found
