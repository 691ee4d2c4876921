"""`debug=overfit`: whether a model can learn one batch by heart, and what stands in its way if it cannot."""

from __future__ import annotations

from itertools import repeat

from omegaconf import DictConfig
from torch import nn

from runner import program
from runner.batch import Batch
from runner.experiment import Experiment
from runner.scheduler import Schedule
from runner.table import Table
from runner.terminal import show
from runner.trainer import Limits, Trainer
from runner.updates import make_optimizer, make_trainer
from runner.visible import log

STEPS = 100

FELL = 0.5
"""Share of its first value to which the loss of one batch has to fall."""


def main(cfg: DictConfig, experiment: Experiment) -> None:
    """Train on the first batch alone, with the learning rate as it is, and say how far the loss fell.

    Raises:
        NonFinite: the loss or the gradient became NaN or infinite.
    """
    opt = make_optimizer(cfg, experiment.model, experiment.loss)
    trainer = make_trainer(cfg, experiment, opt, Schedule(opt, None, 1.0), Limits(steps=STEPS), ema=None, compiled=None)
    batch = experiment.data.example.to(experiment.device)
    losses, dead = learn(trainer, batch)
    shown = [0, 1, 3, 10, 30, STEPS - 1]
    show(Table(f"Training on one batch of {len(batch)}", ["step", "loss"], [[n + 1, losses[n]] for n in shown]))
    if losses[0] > 0 and losses[-1] <= FELL * losses[0]:
        share = 100 * losses[-1] / losses[0]
        log.info("\nthe loss fell to %.1f %% of its first value: the model can learn this batch", share)
    else:
        log.warning("\nthe loss did not even halve. Possible reasons: %s", suspects(cfg, trainer, dead))


def learn(trainer: Trainer, batch: Batch) -> tuple[list[float], list[str]]:
    """The loss of each step, and the parameters that got no gradient in the first, or one of 0."""
    losses: list[float] = []
    dead: list[str] = []

    def look() -> None:
        if not losses:
            named = trainer.model.named_parameters()
            dead.extend(name for name, p in named if p.requires_grad and (p.grad is None or not bool(p.grad.any())))

    trainer.gradient.observe = look
    trainer.latch = None  # every loss is waited for anyway, so that a bad one can end it at once
    trainer.model.train()
    if trainer.frozen is not None:
        trainer.frozen.set_epoch(0)
    for each in repeat(batch, STEPS):
        trainer.step([each])
        losses.append(trainer.last_loss)
    return losses, dead


def suspects(cfg: DictConfig, trainer: Trainer, dead: list[str]) -> str:
    """What may keep the loss where it is."""
    model: nn.Module = trainer.model
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    dropout = max((layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)), default=0.0)
    rate = max(group["lr"] for group in trainer.optimizer.param_groups)
    found = [f"the learning rate ({rate:g}; {program.line('lr_find')} suggests one)"]
    found += [f"parameters without a gradient ({', '.join(dead[:5])})"] if dead else []
    found += [f"frozen parameters ({frozen:,} of {total:,})"] if frozen else []
    found += [f"dropout of {dropout:g}"] if dropout >= 0.5 else []
    found += ["mixed or perturbed samples (trainer.step)"] if cfg.trainer.step is not None else []
    found += [f"clipping (trainer.clip_norm={cfg.trainer.clip_norm:g})"] if cfg.trainer.clip_norm else []
    return "; ".join([*found, "targets that cannot be predicted from the inputs"])
