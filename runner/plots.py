"""Plots, with matplotlib, which is imported when the first one is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 2000
"""To which a line is thinned out: more than a plot has pixels across."""


def schedule(rates: Mapping[str, np.ndarray[Any, Any]], steps_per_epoch: int) -> Figure:
    """Learning rates over the steps of a run, by the name of the group, with the epochs on top."""
    figure, axes = _axes("step", "learning rate")
    names: dict[bytes, list[str]] = {}
    for name, values in rates.items():
        names.setdefault(values.tobytes(), []).append(name)
    for same in names.values():  # one line for groups that have one rate
        values = rates[same[0]]
        steps = np.arange(0, len(values), max(1, len(values) // POINTS))
        axes.plot(steps, values[steps], label="; ".join(same), drawstyle="steps-post")
    if 1 < len(names) <= 12:
        axes.legend(fontsize="small")
    axes.set_ylim(bottom=0)
    axes.secondary_xaxis("top", (lambda s: s / steps_per_epoch, lambda e: e * steps_per_epoch)).set_xlabel("epoch")
    return figure


def rate_search(rates: np.ndarray[Any, Any], losses: np.ndarray[Any, Any], smooth: np.ndarray[Any, Any],
                suggestion: float | None) -> Figure:  # fmt: skip
    """The training loss over learning rates that grow from step to step."""
    figure, axes = _axes("learning rate", "training loss")
    axes.plot(rates, losses, color="0.75", linewidth=1, label="loss of the step")
    axes.plot(rates, smooth, label="smoothed")
    axes.set_xscale("log")
    lowest, first = float(np.nanmin(smooth)), float(smooth[0])
    span = max(first - lowest, 0.1 * abs(first), 1e-12)
    axes.set_ylim(lowest - 0.2 * span, first + 0.5 * span)
    if suggestion is not None:
        axes.axvline(suggestion, color="C1", linestyle="--", label=f"suggested: {suggestion:.2g}")
    axes.legend(fontsize="small")
    return figure


def _axes(x: str, y: str) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure  # without pyplot, which keeps figures alive and looks for a screen

    figure = Figure(figsize=(6.4, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    return figure, axes


def to_image(figure: Figure) -> Tensor:
    """A figure as an image: (3, height, width) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = torch.from_numpy(np.asarray(canvas.buffer_rgba()).copy())  # (height, width, 4)
    return pixels[..., :3].permute(2, 0, 1)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as the file's ending says: .png, .svg, .pdf."""
    figure.savefig(path)
