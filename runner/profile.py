"""Where the time of training goes, with torch's profiler."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from runner.table import Table

WAIT, WARMUP, ACTIVE = 2, 2, 10
"""Steps that are left out, steps that are run under the profiler and left out, steps that are measured."""


class Profiler:
    """Profiles some steps of a run.

    Args:
        folder: where ``trace.json`` is written, which chrome://tracing and ui.perfetto.dev show.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.path = folder / "trace.json"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
        steps = schedule(wait=WAIT, warmup=WARMUP, active=ACTIVE, repeat=1)
        self._profiler = profile(activities=activities, schedule=steps, on_trace_ready=self._done, record_shapes=True)
        self._sort = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
        self.table: Table | None = None
        """What took the most time, when the steps are over."""
        self._profiler.start()

    def step(self) -> Table | None:
        """Tell it that a step is done; returns the table after the last one that is measured."""
        if self.table is not None:
            return None
        self._profiler.step()
        return self.table

    def close(self) -> None:
        """Stop, where the run was shorter than what was to be measured."""
        if self.table is None:
            self._profiler.stop()

    def _done(self, profiler: profile) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.path))
        found = sorted(profiler.key_averages(), key=lambda event: -getattr(event, self._sort))[:15]
        total = sum(getattr(event, self._sort) for event in profiler.key_averages()) or 1
        rows = [
            [event.key, event.count // ACTIVE, getattr(event, self._sort) / ACTIVE, getattr(event, self._sort) / total]
            for event in found
        ]
        self.table = Table(f"Profile of {ACTIVE} steps", ["operation", "calls per step", "µs per step", "share"], rows)
