"""Metrics: scikit-learn's functions, applied once per evaluation to everything the model said about a part."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

Metric = Callable[..., float]


def measure(metrics: Mapping[str, Metric], output: Tensor, target: Tensor) -> dict[str, float]:
    """Every metric's value.

    Args:
        metrics: name and function of ``(y_true, y_pred)``, both class indices.
        output: (N, C) scores; the highest is the prediction.
        target: (N,) class indices.
    """
    truth, prediction = target.cpu().numpy(), output.argmax(1).cpu().numpy()
    return {name: float(metric(truth, prediction)) for name, metric in metrics.items()}
