"""The training loop.

Read it from the bottom up: `Trainer.fit` is the run, `Trainer.epoch` an epoch, `Trainer.step` one optimizer update.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import reduce
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from runner import nonfinite, step
from runner.batch import Batch
from runner.draws import reseed
from runner.nonfinite import NonFinite
from runner.precision import Precision

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
    """Optimizer updates that are done, the skipped ones among them."""
    skipped: int = 0
    """Updates that were not made, because the loss or the gradient was not finite."""
    loss_sums: list[float] = field(default_factory=list)
    loss_weights: list[float] = field(default_factory=list)
    """The running epoch's training loss, as a sum and a weight for each of its terms."""
    rates: list[float] = field(default_factory=list)
    """Learning rate of each parameter group in the last step."""
    best: dict[str, Any] | None = None
    """The record of the best evaluation so far."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The record of every evaluation: epoch, step, ``"<part>/<metric>": value``."""


@dataclass(frozen=True)
class Limits:
    """When a run ends: with what is reached first. None is never.

    Args:
        epochs, steps: of the whole run. Steps may end it inside an epoch.
        seconds: of training in this process.
        stop: whether the evaluations so far say that more of them will not be better.
        evaluate_epochs, evaluate_steps: how often a part is looked at; one of the two is None.
    """

    epochs: int | None = None
    steps: int | None = None
    seconds: float | None = None
    stop: Callable[[list[dict[str, Any]]], bool] = lambda history: False
    evaluate_epochs: int | None = 1
    evaluate_steps: int | None = None


class Trainer:
    """Trains a model, and says where it is.

    Args:
        loader: the train part.
        evaluate: called with the weights that are evaluated; returns ``{"<part>/<metric>": value}``.
        better: whether the first record of an evaluation beats the second.
        seed: from which the random draws of each step follow.
        frozen: what is not trained, and until when.
        compute: the loss of a batch; see `runner.step`.
        precision: in which the model computes.
        compiled: the model compiled, if it is.
        accumulate: micro-batches in a step. Each loss is divided by the weight of the whole step, so that a weighted
            mean is that of one large batch. An epoch's last step has fewer when they do not divide.
        clip_norm: upper bound of the gradient's total 2-norm (Pascanu et al., "On the difficulty of training recurrent
            neural networks", 2013), or None.
        clip_value: upper bound of the size of each of its elements, or None.
        ema: decay of an exponential moving average of the weights, which then is what is evaluated; or None.
        skip_nonfinite: leave out a step whose loss or gradient is not finite; else it ends the run.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        loader: Loader,
        evaluate: Callable[[nn.Module], dict[str, float]],
        better: Callable[[dict[str, Any], dict[str, Any]], bool],
        limits: Limits,
        *,
        device: torch.device,
        seed: int,
        frozen: Frozen | None = None,
        compute: Callable[..., Tensor] = step.plain,
        precision: Precision | None = None,
        compiled: Callable[[Tensor], Tensor] | None = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema: float | None = None,
        skip_nonfinite: bool = False,
    ) -> None:
        self.model, self.loss, self.optimizer, self.schedule = model, loss, optimizer, schedule
        self.loader, self.evaluate, self.better, self.limits = loader, evaluate, better, limits
        self.device, self.seed, self.frozen, self.compute = device, seed, frozen, compute
        self.precision = precision or Precision(device)
        self.forward = self.precision.forward(compiled or model)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision.scales_loss)
        self.accumulate, self.clip_norm, self.clip_value = accumulate, clip_norm, clip_value
        self.skip_nonfinite = skip_nonfinite
        self.average = None
        if ema is not None:
            # With its buffers: averaged weights have other statistics than those of the last step.
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema), use_buffers=True)
        self.observe: Callable[[], None] | None = None
        """Called in each step when the gradients are there, if it is set."""
        self.searches = searches(optimizer)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.progress = Progress()
        # The running epoch's loss: sums and weights of its T terms, (2, T). Apple's GPUs have no float64.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(2, len(loss.terms), dtype=dtype, device=device)
        # Since the running epoch was entered:
        self.samples, self.steps = 0, 0
        self.waited = 0.0  # seconds for the loader
        self.norms = torch.zeros((), device=device)  # of the gradients, before they were clipped, added up
        self.update_ratio = math.nan  # by how much the first step moved the weights, as a share of their size
        self.vitals: dict[str, float] = {}
        """Of the last evaluation: samples per second, the share of the time that was spent waiting for data, the mean
        norm of the gradient, how far a step moves the weights relative to their size, memory on CUDA."""
        self._started = self._entered = time.perf_counter()
        self._waited_enough = False

    @property
    def weights(self) -> nn.Module:
        """The model that is evaluated: the average of the weights, if one is kept."""
        return self.model if self.average is None else self.average.module

    @property
    def finished(self) -> bool:
        """Whether the run has reached its end, the evaluation there included."""
        by_epochs = self.limits.epochs is not None and self.progress.epoch >= self.limits.epochs
        return by_epochs or (self.over is not None and self._evaluated)

    @property
    def over(self) -> str | None:
        """The limit that the run has reached, inside an epoch or at its end."""
        limits, progress = self.limits, self.progress
        if limits.epochs is not None and progress.epoch >= limits.epochs:
            return "max_epochs"
        if limits.steps is not None and progress.step >= limits.steps:
            return "max_steps"
        if limits.seconds is not None and time.perf_counter() - self._started >= limits.seconds:
            return "max_time"
        return "early_stopping" if self._waited_enough else None

    @property
    def _evaluated(self) -> bool:
        history = self.progress.history
        return bool(history) and history[-1]["step"] == self.progress.step

    @property
    def _due(self) -> bool:
        """Whether it is time for an evaluation inside an epoch."""
        every = self.limits.evaluate_steps
        return every is not None and self.progress.step > 0 and self.progress.step % every == 0 and not self._evaluated

    @property
    def running_loss(self) -> float:
        """Mean training loss of the running epoch so far. Waits for the device."""
        sums, weights = self.sums.cpu()
        return float((sums / weights).sum())  # NaN before the first target that counts

    @property
    def learning_rates(self) -> dict[str, float]:
        """Of each parameter group by name, as the last step used it."""
        names = [group.get("name", str(number)) for number, group in enumerate(self.optimizer.param_groups)]
        return dict(zip(names, self.progress.rates, strict=False))

    def step(self, batches: list[Batch]) -> None:
        """One optimizer update, from the gradient of the batches' joint mean loss."""
        progress = self.progress
        progress.rates = [group.get("lr", math.nan) for group in self.optimizer.param_groups]
        held = nonfinite.copies(self.model) if self.skip_nonfinite else {}
        # Targets alone say how much they weigh, so that each micro-batch can be divided by the weight of them all.
        weights = reduce(torch.add, [self.loss.weight(batch) for batch in batches])  # (T,)
        if self.searches:
            sums, taken = self._search(batches, weights), True
        else:
            sums, norm = self.gradient(batches, weights)
            taken = self._is_finite(sums, norm, batches)
            if taken:
                self.norms += norm
                self.scaler.step(self.optimizer)
                self.scaler.update()
        self.optimizer.zero_grad()
        if taken:
            self.sums += torch.stack([sums, weights])
            if self.average is not None:
                self.average.update_parameters(self.model)
        else:
            nonfinite.restore(self.model, held)
            progress.skipped += 1
        self.schedule.after("step")
        self.samples += sum(map(len, batches))
        self.steps += 1
        progress.step += 1
        progress.batch += len(batches)

    def gradient(self, batches: list[Batch], weights: Tensor) -> tuple[Tensor, Tensor]:
        """Leave the gradient of the joint mean loss in the parameters, clipped.

        Returns:
            the (T,) sums of the loss's terms, and the norm of the gradient before it was clipped.
        """
        # Once a step and not once a batch, or every micro-batch would have the same dropout masks.
        reseed(self.device, self.seed, "step", self.progress.step)
        # The slope of the sum of the quotients. A step whose targets are all ignored has sums of 0 and adds nothing.
        slopes = self.scaler.scale(weights.clamp(min=1e-12).reciprocal())
        losses = []
        for batch in batches:
            sums = self._sums(self.compute(self.forward, self.loss, batch), batch)
            sums.backward(slopes)
            losses.append(sums.detach())
        self.scaler.unscale_(self.optimizer)
        if self.observe is not None:
            self.observe()
        if self.clip_value is not None:
            nn.utils.clip_grad_value_(self.parameters, self.clip_value)
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip_norm, norm)
        return reduce(torch.add, losses), norm

    def _sums(self, value: Tensor, batch: Batch) -> Tensor:
        """(T,) sums, of what a step function returned: a scalar is the mean of the batch's first term."""
        if value.dim():
            return value
        sums = torch.zeros(len(self.loss.terms), device=value.device)
        sums[0] = value * self.loss.weight(batch)[0]
        return sums

    def _is_finite(self, sums: Tensor, norm: Tensor, batches: list[Batch]) -> bool:
        """Whether a step may be taken. In half precision the scaler sees to gradients that are not finite."""
        if self.device.type == "cuda" and not self.skip_nonfinite:
            return True  # looking is waiting for the device, which `check` does once in a while
        if math.isfinite(sums.sum() if self.precision.scales_loss else sums.sum() + norm):
            return True
        if self.skip_nonfinite:
            return False
        where = nonfinite.describe(self.model, self.loss, batches, self.forward)
        at = f"at step {self.progress.step:,} of epoch {self.progress.epoch + 1}"
        raise NonFinite(f"the loss or its gradient is not finite {at}: {where}")

    def check(self) -> None:
        """Look at the running epoch's loss. Waits for the device.

        Raises:
            NonFinite: it is not finite.
        """
        if not bool(self.sums[0].isfinite().all()):
            raise NonFinite(f"the loss became a number that is not finite, at or before step {self.progress.step:,}")

    def _search(self, batches: list[Batch], weights: Tensor) -> Tensor:
        """A step of an optimizer that asks for the loss at several points: L-BFGS. Returns the sums at the first."""
        found: list[Tensor] = []

        def closure() -> float:
            self.optimizer.zero_grad()
            sums, norm = self.gradient(batches, weights)
            self._is_finite(sums, norm, batches)
            found.append(sums)
            return (sums / weights.clamp(min=1e-12)).sum().item()

        self.optimizer.step(closure)
        return found[0]

    def epoch(self) -> Iterator[None]:
        """The rest of the running epoch. Pauses after each step, so that the caller can look, or stop."""
        self.model.train()
        if self.frozen is not None:
            self.frozen.enter(self.progress.epoch)
        batches = self.loader.epoch(self.progress.epoch, start=self.progress.batch)
        while self.over is None and (micro_batches := self._next(batches)):
            before = self._copies() if self.steps == 0 else []
            self.step(micro_batches)
            if before:
                self.update_ratio = self._moved(before)
            yield

    def _next(self, batches: Iterator[Batch]) -> list[Batch]:
        begun = time.perf_counter()
        taken = list(islice(batches, self.accumulate))
        self.waited += time.perf_counter() - begun
        return taken

    def _copies(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.parameters]

    def _moved(self, before: list[Tensor]) -> float:
        """The norm of what a step added to the weights, over theirs. Waits for the device."""
        added = [p.detach() - old for p, old in zip(self.parameters, before, strict=True)]
        return float(nn.utils.get_total_norm(added) / nn.utils.get_total_norm(before).clamp(min=1e-12))

    def fit(self) -> Iterator[dict[str, Any] | None]:
        """Train to the end. Yields None after each step, and a record after each evaluation.

        Between two yields nothing is half done: whenever the caller has the word, `state_dict` is a state that
        training can go on from.
        """
        while not self.finished:
            self._entered = time.perf_counter()
            self.samples, self.steps, self.waited = 0, 0, 0.0
            self.norms.zero_()
            if self._due:  # the run was stopped before it
                yield self._record()
            for _ in self.epoch():
                yield None
                if self._due:
                    yield self._record()
            # A limit may end the run inside an epoch, which then stays open: a longer run goes on from there.
            whole = self.progress.batch >= len(self.loader)
            record = self._record() if self._due_at_end(whole) else None
            if whole:
                self._close_epoch()
            if record is not None:
                yield record

    def _due_at_end(self, whole: bool) -> bool:
        """Whether it is time for an evaluation where an epoch ends, or the run inside one."""
        done, limits = self.progress.epoch + whole, self.limits
        last = self.over is not None or (limits.epochs is not None and done >= limits.epochs)
        every = limits.evaluate_epochs
        return not self._evaluated and (last or (whole and every is not None and done % every == 0))

    def _record(self) -> dict[str, Any]:
        """Evaluate, and enter what was found into the history."""
        self.check()
        self.vitals = self._vitals()
        progress = self.progress
        record = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "train/loss": self.running_loss,
            **self.evaluate(self.weights),
        }
        self.schedule.measured(record)
        progress.history.append(record)
        if progress.best is None or self.better(record, progress.best):
            progress.best = record
        self._waited_enough = self.limits.stop(progress.history)
        return record

    def _close_epoch(self) -> None:
        self.progress.epoch += 1
        self.progress.batch = 0
        self.sums.zero_()
        self.schedule.after("epoch")

    def _vitals(self) -> dict[str, float]:
        """How training went since the running epoch was entered. Waits for the device."""
        seconds = max(time.perf_counter() - self._entered, 1e-9)
        found = {
            "samples_per_second": self.samples / seconds,
            "waiting_for_data": self.waited / seconds,
            "gradient_norm": float(self.norms) / max(self.steps, 1),
            "update_to_weight": self.update_ratio,
        }
        if self.device.type == "cuda":
            found["memory_mib"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        return found

    def speed(self) -> float:
        """Training samples per second since the running epoch was entered."""
        return self.samples / (time.perf_counter() - self._entered)

    def state_dict(self) -> dict[str, Any]:
        """Everything that training goes on from, as plain containers and tensors (the live ones, not copies)."""
        self.progress.loss_sums, self.progress.loss_weights = self.sums.tolist()
        average = self.average
        return {
            "model": self.model.state_dict(),
            "ema": None if average is None else average.module.state_dict(),
            "ema_updates": None if average is None else int(average.n_averaged),
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": asdict(self.progress),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.module.load_state_dict(state["ema"])
            self.average.n_averaged.fill_(state["ema_updates"])
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["scheduler"])  # last: it enters the learning rates anew
        self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])
        if self.progress.best is not None:  # one object again with its entry in the history, as it was
            self.progress.best = next(r for r in self.progress.history if r["step"] == self.progress.best["step"])
        self._waited_enough = self.limits.stop(self.progress.history)
        sums = [self.progress.loss_sums, self.progress.loss_weights]
        self.sums.copy_(torch.tensor(sums, dtype=torch.float64))


def searches(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer needs a function that evaluates the loss, and cannot do with the gradient alone."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty
