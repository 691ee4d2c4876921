"""Temperature scaling: one number by which logits are divided, such that probabilities are as often right as they say.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 4.2. It changes how
sure a model is, and never which class is the likeliest.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from runner.errors import ConfigError, Problem
from runner.evaluation import predict
from runner.loss import Loss
from runner.loss.kinds import convert
from runner.trained.opened import Opened
from runner.trained.part import part_of
from runner.trained.run import Run
from runner.visible import log

LARGEST = 100.0


def fitted_temperature(opened: Opened, run: Run, loss: Loss) -> float:
    """The temperature of a run with the least log loss on its own val part.

    Raises:
        InputError: the run gives no probabilities, or its data are not there.
    """
    run.check_cools()
    val = part_of(opened.with_own_data(), run, "val")
    if not val.own:
        what = "'val' needs the run's own val part, but dataset.* names other data"
        raise ConfigError(Problem("temperature", what, "a number > 0, or null"))
    loss.ignore_index = val.samples.ignore_index
    made = predict(run.model, loss, val.loader, run.forward)
    kept = made.kept
    logits = convert(made.output[kept].double(), run.readout.emits, "logits", run.task == "multilabel")
    found = fit_temperature(logits, made.target[kept], run.task)
    log.info("temperature %.4f, fitted on %s val samples", found, f"{int(kept.sum()):,}")
    return found


def fit_temperature(logits: Tensor, target: Tensor, task: str) -> float:
    """The temperature with the least mean log loss.

    Args:
        logits: (N, C)
        target: (N,) class indices; (N, C) of 0 and 1 for ``multilabel``, or probabilities for ``soft``.
    """
    from scipy.optimize import minimize_scalar

    exact = logits.double()

    def log_loss(log_temperature: float) -> float:
        cooled = exact / math.exp(log_temperature)
        if task == "multilabel":
            return float(functional.binary_cross_entropy_with_logits(cooled, target.double()))
        return float(functional.cross_entropy(cooled, target.double() if task == "soft" else target))

    with torch.inference_mode():
        span = math.log(LARGEST)
        # Convex in 1 / T, so there is one minimum.
        found = minimize_scalar(log_loss, bounds=(-span, span), method="bounded", options={"xatol": 1e-8})
    return math.exp(float(found.x))
