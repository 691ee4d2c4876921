"""The training loop.

Read it from the bottom up: `Trainer.fit` is the run, `Trainer.epoch` an epoch, `Trainer.step` one optimizer update.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import reduce
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from runner.batch import Batch
from runner.draws import reseed

if TYPE_CHECKING:  # parts are given to one another, and do not import one another
    from runner.loader import Loader
    from runner.loss import Loss
    from runner.model import Frozen
    from runner.scheduler import Schedule


@dataclass
class Progress:
    """How far a run has come: all that a resumed run needs besides the weights and the optimizer's state."""

    epoch: int = 0
    """Epochs that are complete."""
    batch: int = 0
    """Batches of the running epoch that are done."""
    step: int = 0
    """Optimizer updates that are done."""
    loss_sums: list[float] = field(default_factory=list)
    loss_weights: list[float] = field(default_factory=list)
    """The running epoch's training loss, as a sum and a weight for each of its terms."""
    best: dict[str, Any] | None = None
    """The record of the best evaluation so far."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The record of every evaluation: epoch, step, ``"<part>/<metric>": value``."""


@dataclass
class Predictions:
    """What a model said about a part. N is its number of samples."""

    loss: float
    """Mean over all samples at once, weighted as the loss weights them."""
    output: Tensor
    """(N, ...) what the model made, on its device."""
    target: Tensor
    """(N, ...)"""
    kept: Tensor
    """(N,) bool: which samples have a target that counts."""
    index: Tensor
    """(N,) int64: each sample's index in its data set."""


@torch.inference_mode()
def predict(model: nn.Module, loss: Loss, loader: Loader) -> Predictions:
    """Run a part through the model in eval mode. Every layer is left in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    rows = []
    for batch in loader.epoch():
        output = model(batch.input)
        parts = output, batch.target, loss.kept(batch), batch.index
        rows.append((*parts, loss(output, batch), loss.weight(batch)))
    for module, training in modes:
        module.training = training
    outputs, targets, kept, indices, sums, weights = zip(*rows, strict=True)
    # In float64: a part can have more batches than float32 can add up without losing digits.
    means = torch.stack(sums).cpu().double().sum(0) / torch.stack(weights).cpu().double().sum(0)
    return Predictions(means.sum().item(), *map(torch.cat, (outputs, targets, kept, indices)))


class Trainer:
    """Trains a model, and says where it is.

    Args:
        loader: the train part.
        evaluate: called at the end of each epoch; returns ``{"<part>/<metric>": value}``.
        better: whether the first record of an evaluation beats the second.
        seed: from which the random draws of each step follow.
        frozen: what is not trained, and until when.
        max_epochs, max_steps: the run ends with the one that is reached first. Steps may end it inside an epoch.
        accumulate: micro-batches in a step. Each loss is divided by the weight of the whole step, so that a weighted
            mean is that of one large batch. An epoch's last step has fewer when they do not divide.
        clip_norm: upper bound of the gradient's total 2-norm (Pascanu et al., "On the difficulty of training recurrent
            neural networks", 2013), or None.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        loader: Loader,
        evaluate: Callable[[], dict[str, float]],
        better: Callable[[dict[str, Any], dict[str, Any]], bool],
        *,
        device: torch.device,
        seed: int,
        frozen: Frozen | None = None,
        max_epochs: int | None,
        max_steps: int | None = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
    ) -> None:
        self.model, self.loss, self.optimizer, self.schedule = model, loss, optimizer, schedule
        self.loader, self.evaluate, self.better = loader, evaluate, better
        self.device, self.seed, self.frozen = device, seed, frozen
        self.observe: Callable[[], None] | None = None
        """Called in each step when the gradients are there, if it is set."""
        self.max_epochs, self.max_steps = max_epochs, max_steps
        self.accumulate, self.clip_norm = accumulate, clip_norm
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.progress = Progress()
        # The running epoch's loss: sums and weights of its T terms, (2, T). Apple's GPUs have no float64.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(2, len(loss.terms), dtype=dtype, device=device)
        self.samples = 0  # since the running epoch was entered
        self.samples_per_second = 0.0

    @property
    def finished(self) -> bool:
        """Whether the run has reached its length, the evaluation there included."""
        progress = self.progress
        evaluated = bool(progress.history) and progress.history[-1]["step"] == progress.step
        by_epochs = self.max_epochs is not None and progress.epoch >= self.max_epochs
        return by_epochs or (self._out_of_steps and evaluated)

    @property
    def _out_of_steps(self) -> bool:
        return self.max_steps is not None and self.progress.step >= self.max_steps

    @property
    def running_loss(self) -> float:
        """Mean training loss of the running epoch so far. Waits for the device."""
        sums, weights = self.sums.cpu()
        return float((sums / weights).sum())  # NaN before the first target that counts

    @property
    def learning_rates(self) -> list[float]:
        """Of each parameter group, as the next step will use it."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def step(self, batches: list[Batch]) -> None:
        """One optimizer update, from the gradient of the batches' joint mean loss."""
        # Once a step and not once a batch, or every micro-batch would have the same dropout masks.
        reseed(self.device, self.seed, "step", self.progress.step)
        # Targets alone say how much they weigh, so that each micro-batch can be divided by the weight of them all.
        weights = reduce(torch.add, [self.loss.weight(batch) for batch in batches])  # (T,)
        # The slope of the sum of the quotients. A step whose targets are all ignored has sums of 0 and adds nothing.
        slopes = weights.clamp(min=1e-12).reciprocal()
        losses = []
        for batch in batches:
            terms = self.loss(self.model(batch.input), batch)
            terms.backward(slopes)
            losses.append(terms.detach())
        sums = reduce(torch.add, losses)
        if self.observe is not None:
            self.observe()
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.after("step")
        self.sums += torch.stack([sums, weights])
        self.samples += sum(map(len, batches))
        self.progress.step += 1
        self.progress.batch += len(batches)

    def epoch(self) -> Iterator[None]:
        """The rest of the running epoch. Pauses after each step, so that the caller can look, or stop."""
        self.model.train()
        if self.frozen is not None:
            self.frozen.enter(self.progress.epoch)
        batches = self.loader.epoch(self.progress.epoch, start=self.progress.batch)
        while not self._out_of_steps and (micro_batches := list(islice(batches, self.accumulate))):
            self.step(micro_batches)
            yield

    def fit(self) -> Iterator[dict[str, Any] | None]:
        """Train to the end. Yields None after each step, and a record after each evaluation.

        Between two yields nothing is half done: whenever the caller has the word, `state_dict` is a state that
        training can go on from.
        """
        while not self.finished:
            self._entered = time.perf_counter()
            self.samples = 0
            yield from self.epoch()
            self.samples_per_second = self.speed()
            record = self._record()
            # Steps may end the run inside an epoch, which then stays open: with more steps it goes on from there.
            if self.progress.batch >= len(self.loader):
                self._close_epoch()
            yield record

    def _record(self) -> dict[str, Any]:
        """Evaluate, and enter what was found into the history."""
        progress = self.progress
        record = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "train/loss": self.running_loss,
            **self.evaluate(),
        }
        progress.history.append(record)
        if progress.best is None or self.better(record, progress.best):
            progress.best = record
        return record

    def _close_epoch(self) -> None:
        self.progress.epoch += 1
        self.progress.batch = 0
        self.sums.zero_()
        self.schedule.after("epoch")

    def speed(self) -> float:
        """Training samples per second since the running epoch was entered."""
        return self.samples / (time.perf_counter() - self._entered)

    def state_dict(self) -> dict[str, Any]:
        """Everything that training goes on from, as plain containers and tensors (the live ones, not copies)."""
        self.progress.loss_sums, self.progress.loss_weights = self.sums.tolist()
        return {
            "model": self.model.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.schedule.state_dict(),
            "progress": asdict(self.progress),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["scheduler"])
        self.progress = Progress(**state["progress"])
        if self.progress.best is not None:  # one object again with its entry in the history, as it was
            self.progress.best = next(r for r in self.progress.history if r["step"] == self.progress.best["step"])
        sums = [self.progress.loss_sums, self.progress.loss_weights]
        self.sums.copy_(torch.tensor(sums, dtype=torch.float64))
