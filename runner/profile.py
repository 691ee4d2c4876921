"""Where the time of training goes, with torch's profiler."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from runner.errors import cut
from runner.table import Table

WAIT, WARMUP, ACTIVE = 2, 2, 10
"""Steps that are left out, steps that are run under the profiler and left out, steps that are measured."""
STEPS = WAIT + WARMUP + ACTIVE


class Profiler:
    """Profiles some steps of a run.

    Args:
        folder: where ``trace.json`` is written, which chrome://tracing and ui.perfetto.dev show.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.path = folder / "trace.json"
        self._on_cuda = device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_cuda else [])]
        steps = schedule(wait=WAIT, warmup=WARMUP, active=ACTIVE, repeat=1)
        self._profiler = profile(
            activities=activities, schedule=steps, on_trace_ready=self._done, record_shapes=True, acc_events=True
        )
        self._sort = "self_device_time_total" if self._on_cuda else "self_cpu_time_total"
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
        """Stop, where the run ended before."""
        # Before the first step that is measured there is nothing to stop, and on CUDA torch crashed in doing it.
        if self.table is None and self._profiler.step_num >= WAIT + WARMUP:
            self._profiler.stop()

    def _done(self, profiler: profile) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self.path.parent) as place:  # torch would write through a link
            profiler.export_chrome_trace(os.path.join(place, self.path.name))
            os.replace(os.path.join(place, self.path.name), self.path)
        # What torch marks, a step and the optimizer's part of it, has on a card the time of its kernels once more.
        events = [event for event in profiler.key_averages() if not (self._on_cuda and event.is_user_annotation)]
        measured = max(1, min(ACTIVE, profiler.step_num - WAIT - WARMUP))  # fewer, if the run was stopped
        total = sum(getattr(event, self._sort) for event in events) or 1
        rows = []
        for event in sorted(events, key=lambda event: -getattr(event, self._sort))[:15]:
            spent = getattr(event, self._sort)
            rows.append([cut(event.key, 60), event.count // measured, spent / measured, spent / total])
        columns = ["operation", "calls per step", "µs per step", "share"]
        self.table = Table(f"Profile of {measured} steps", columns, rows)
