"""Which of two figures is better. Imports nothing, so that figures can be compared without torch."""

from __future__ import annotations

LESS_IS_BETTER = (
    "loss", "error", "mse", "rmse", "mae", "mape", "nll", "perplexity", "deviance", "divergence", "brier", "ece",
)  # fmt: skip
"""Endings of the names of metrics that are better when they are smaller."""


def direction(monitor: str, mode: str = "auto") -> str:
    """``min`` or ``max``: which of a metric, ``<part>/<metric>``, is better; as far as its name says, if `mode` is
    ``auto``."""
    return mode if mode != "auto" else "min" if monitor.endswith(LESS_IS_BETTER) else "max"


def mode_of(tag: str, monitor: object, mode: object) -> str:
    """The `mode` for figures of `tag`: that of the configuration where it decides by this metric, else ``auto``."""
    return str(mode) if tag == monitor else "auto"
