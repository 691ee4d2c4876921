"""`runner lr_find`: a learning rate for a configuration, found by trying them all once.

The range test of Smith ("Cyclical Learning Rates for Training Neural Networks", 2017, section 3.3), with rates that
grow by the same factor from step to step.
"""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from runner import folder
from runner.errors import ConfigError, Problem
from runner.experiment import assemble
from runner.files import refuse
from runner.pictures import plots
from runner.scheduler import Schedule
from runner.table import Table
from runner.terminal import show
from runner.trainer import Limits, Trainer
from runner.updates import make_optimizer, make_trainer
from runner.visible import log

SMOOTHING = 0.9
"""Share of the past in the running mean of the loss, by which the search ends."""

WINDOW = 7
"""Steps in the centred mean of the curve, which unlike a running mean does not lag behind the loss."""

STEEPEST = "where the loss falls most steeply"

Array = np.ndarray[Any, np.dtype[np.float64]]


def main(cfg: DictConfig) -> None:
    """Train for some steps with a growing rate, and suggest one. What was trained is thrown away.

    Raises:
        InputError: the data or the configuration are wrong.
    """
    options = cfg.lr_find
    experiment = assemble(cfg)
    opt = make_optimizer(cfg, experiment.model, experiment.loss)
    base = opt.defaults.get("lr")
    if base is None:
        raise ConfigError(Problem("optimizer", f"{cfg.optimizer._target_} has no learning rate"))
    place = _claim()
    limits = Limits(steps=options.steps, evaluate_epochs=None)
    schedule = Schedule(opt, None, base)
    trainer = make_trainer(cfg, experiment, opt, schedule, limits, ema=None, compiled=None, skip_nonfinite=True)
    rates = np.geomspace(options.start, options.end, options.steps)
    losses = search(trainer, rates, base, options.stop)
    rates = rates[: len(losses)]
    smoothed = centred_mean(losses)
    found = suggest(rates, smoothed)
    _report(found, place, rates, losses, smoothed, options.steps)
    own = [group["name"] for group in opt.param_groups if "lr" in _rule(cfg, group["rule"])]
    if own and found:
        share = found[STEEPEST] / (base or 1.0)
        names = ", ".join(own)
        log.info("these parameter groups have their own lr; multiply it by %.2g as well: %s", share, names)


def _claim() -> Path:
    """A folder for what is found, before anything is tried."""
    now = datetime.now()
    place = folder.outputs() / "lr_find" / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S}"
    try:
        return folder.claim(place)
    except OSError as error:
        refuse(error, "lr_find", f"'{place}' cannot be made", "a writable working directory")


def _rule(cfg: DictConfig, number: int | None) -> Any:
    return {} if number is None else cfg.optimizer.param_groups[number]


def search(trainer: Trainer, rates: Array, base: float, stop: float) -> Array:
    """(n,) the training loss of each step, up to the one at which it had grown out of bounds.

    Args:
        rates: (steps,) of a group with the learning rate `base`; the others in proportion.
        stop: how many times its lowest the smoothed loss may be.
    """
    groups, losses = trainer.optimizer.param_groups, list[float]()
    first = [group["lr"] / (base or 1.0) for group in groups]

    def set_rate(rate: float) -> None:
        for group, share in zip(groups, first, strict=True):
            group["lr"] = share * rate

    set_rate(rates[0])
    for record in trainer.fit():
        if record is not None:
            continue
        losses.append(trainer.last_loss)
        smoothed = running_mean(np.array(losses))
        lowest = smoothed.min()  # which may be negative
        grown = smoothed[-1] - lowest > (stop - 1) * abs(lowest)
        if not math.isfinite(losses[-1]) or grown or len(losses) == len(rates):
            break
        set_rate(rates[len(losses)])
    return np.array(losses)


def running_mean(losses: Array) -> Array:
    """Exponential running mean, without the bias of its start (Kingma and Ba, "Adam", 2015, section 3)."""
    mean, made = 0.0, []
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        made.append(mean / (1 - SMOOTHING**number))
    return np.array(made)


def centred_mean(losses: Array) -> Array:
    """Mean of `WINDOW` steps around each, of fewer at the ends. Losses over twice the first count as that."""
    bounded = np.nan_to_num(losses, nan=np.inf).clip(max=losses[0] + abs(losses[0]))
    sums, counts = (np.convolve(each, np.ones(WINDOW)) for each in (bounded, np.ones(len(losses))))
    return (sums / counts)[WINDOW // 2 : WINDOW // 2 + len(losses)]


def suggest(rates: Array, smoothed: Array) -> dict[str, float]:
    """Rates that one may take, by how they were found; none where the loss did not fall by a twentieth."""
    lowest = int(smoothed.argmin())
    if lowest < 2 or smoothed[lowest] > smoothed[0] - 0.05 * abs(smoothed[0]):
        return {}
    falling = np.gradient(smoothed[: lowest + 1], np.log(rates[: lowest + 1]))
    return {STEEPEST: float(rates[falling.argmin()]), "a tenth of the rate at its minimum": float(rates[lowest] / 10)}


def _report(found: dict[str, float], place: Path, rates: Array, losses: Array, smoothed: Array, steps: int) -> None:
    suggestion = found.get(STEEPEST)
    plots.rate_search(rates, losses, smoothed, suggestion).savefig(place / "lr_find.png")
    columns = np.stack([rates, losses, smoothed], 1)
    np.savetxt(place / "lr_find.csv", columns, "%.17g", ",", header="lr,loss,smoothed", comments="")
    done = f"{steps} steps"
    if len(rates) < steps:
        why = "grew" if math.isfinite(losses[-1]) else "was no longer finite"
        done = f"stopped after {len(rates)} of {steps} steps because the loss {why}"
    log.info("%s; learning rates %.3g to %.3g", done, rates[0], rates[-1])
    if found:
        show(Table("Suggestions", ["", "lr"], list(found.items()), exact=("lr",)))
        log.info("\n%s/lr_find.png shows the curve; to train: optimizer.lr=%.2g", place, suggestion)
    else:
        log.warning(
            "no learning rate reduced the loss: see %s/lr_find.png; check data, loss and frozen layers, or try "
            "lr_find.steps=%d", place, 5 * steps,
        )  # fmt: skip
