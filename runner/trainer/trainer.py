"""The training loop.

Read it from the bottom up: `Trainer.fit` is the run, `Trainer.epoch` an epoch, `Trainer.step` one optimizer update.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from runner.batch import Batch
from runner.trainer import nonfinite
from runner.trainer.gradient import Gradient
from runner.trainer.graphs import Found
from runner.trainer.nonfinite import Latch, NonFinite
from runner.trainer.progress import Limits, Progress
from runner.trainer.state import load_optimizer
from runner.trainer.vitals import Vitals

if TYPE_CHECKING:  # parts are given to one another, and do not import one another
    from runner.loader import Loader
    from runner.loss import Loss
    from runner.model import Frozen
    from runner.scheduler import Schedule


class Trainer:
    """Trains a model, and says where it is.

    Args:
        loader: the train part.
        evaluate: called with the weights that are evaluated; returns ``{"<part>/<metric>": value}``.
        better: whether the first record of an evaluation beats the second, or none.
        frozen: what is not trained, and until when.
        accumulate: batches in a step. An epoch's last step has fewer when they do not divide.
        ema: decay of an exponential moving average of the weights, which then is what is evaluated; or None.
        skip_nonfinite: leave out a step whose loss or gradient is not finite; else it ends the run.
        how: the gradient is computed; see `Gradient`.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer, schedule: Schedule, loader: Loader,
        evaluate: Callable[[nn.Module], dict[str, float]],
        better: Callable[[Mapping[str, Any], Mapping[str, Any] | None], bool], limits: Limits, *, device: torch.device,
        frozen: Frozen | None = None, accumulate: int = 1, ema: float | None = None, skip_nonfinite: bool = False,
        **how: Any,
    ) -> None:  # fmt: skip
        self.model, self.loss, self.optimizer, self.schedule = model, loss, optimizer, schedule
        self.loader, self.evaluate, self.better, self.limits = loader, evaluate, better, limits
        self.frozen, self.accumulate, self.skip_nonfinite = frozen, accumulate, skip_nonfinite
        self.gradient = Gradient(model, loss, optimizer, device=device, **how)
        self.average = None
        if ema is not None:
            # With its buffers: averaged weights have other statistics than those of the last step.
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema), use_buffers=True)
        self.searches = searches(optimizer)
        may_latch = device.type == "cuda" and not skip_nonfinite and self.gradient.scaler is None
        self.latch = Latch.of(optimizer, device) if may_latch else None
        self.progress = Progress()
        # The running epoch's loss: sums and weights of its T terms, (2, T). Apple's GPUs have no float64.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(2, len(loss.terms), dtype=dtype, device=device)
        self.last = self.sums.clone()
        """(2, T) the same of the last step."""
        self.vitals = Vitals(self.gradient.parameters, device)
        self.observed: dict[str, Any] = {}
        """Counts of whoever observes the gradients, as they were when the run that is resumed was saved."""
        self.measured: dict[str, float] = {}
        """What they were at the last evaluation; see `Vitals.read`."""
        self.gap: AbstractContextManager[None] = nullcontext()
        """Entered for the wait for batches, and for an evaluation: there is nothing half done in these."""
        self._started = time.perf_counter()
        self._waited_enough = False

    @property
    def weights(self) -> nn.Module:
        """The model that is evaluated: the average of the weights, if one is kept."""
        return self.model if self.average is None else self.average.module

    @property
    def over(self) -> str | None:
        """The limit that the run has reached, inside an epoch or at its end."""
        reached = self.limits.reached(self.progress, time.perf_counter() - self._started)
        return reached or ("early_stopping" if self._waited_enough else None)

    @property
    def finished(self) -> bool:
        """Whether the run has reached its end, the evaluation there included."""
        over = self.over
        return over == "max_epochs" or (over is not None and self.progress.evaluated)

    @property
    def running_loss(self) -> float:
        """Mean training loss of the running epoch so far. Waits for the device."""
        return _mean(self.sums)

    @property
    def last_loss(self) -> float:
        """Training loss of the last step. Waits for the device."""
        return _mean(self.last)

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
        if self.searches:
            (sums, weights, norm), taken = self._search(batches), True
        else:
            sums, weights, norm = self.gradient(batches, progress.step)
            taken = self._may_take(sums, norm, batches)
            if taken:
                self.gradient.update()
        self.gradient.clear()
        self.last = torch.stack([sums, weights])
        if taken:
            self.sums += self.last
            # A gradient that overflowed in half precision is left out by the scaler.
            self.vitals.norms += norm if self.gradient.scaler is None else norm.nan_to_num(0.0, 0.0)
            if self.average is not None:
                self.average.update_parameters(self.model)
        else:
            self.gradient.skip()
            nonfinite.restore(self.model, held)
            progress.skipped += 1
        self.schedule.after("step")
        progress.step += 1
        progress.batch += len(batches)

    def _may_take(self, sums: Tensor, norm: Tensor, batches: list[Batch]) -> bool:
        """Whether a step may be taken. In half precision the scaler sees to gradients that are not finite."""
        looked_at = [sums] if self.gradient.scaler is not None else [sums, norm]
        if self.latch is not None:  # looking is waiting for the device, which `check` does once in a while
            self.latch.look(looked_at, self.progress.step)
            return True
        if all(math.isfinite(value) for tensor in looked_at for value in tensor.flatten().tolist()):
            return True
        if not self.skip_nonfinite:
            self._explain(batches, self.progress.step)
        return False

    def _explain(self, batches: list[Batch], number: int) -> None:
        where = nonfinite.describe(self.model, self.loss, batches, self.gradient.forward)
        at = f"at step {number:,} of epoch {self.progress.epoch + 1}"
        raise NonFinite(f"the loss or its gradient is not finite {at}: {where}")

    def check(self) -> None:
        """Look whether all steps so far were taken. Waits for the device.

        Raises:
            NonFinite: one was not, nor any after it.
        """
        bad = None if self.latch is None else self.latch.first()
        if bad is None:
            return
        # The weights are those before it: computed once more, it says what went wrong.
        progress = self.progress
        done = -(-progress.batch // self.accumulate)  # steps of the epoch, of which the last may have fewer batches
        first = (done - (progress.step - bad)) * self.accumulate
        batches = list(islice(self.loader.epoch(progress.epoch, start=first), self.accumulate))
        progress.step, progress.batch = bad, first
        self.gradient(batches, bad)
        self._explain(batches, bad)

    def _search(self, batches: list[Batch]) -> Found:
        """A step of an optimizer that asks for the loss at several points: L-BFGS. Returns what was found at the
        first."""
        found: list[Found] = []

        def closure() -> float:
            self.gradient.clear()
            sums, weights, norm = self.gradient(batches, self.progress.step)
            self._may_take(sums, norm, batches)
            found.append((sums.clone(), weights.clone(), norm.clone()))  # the next call may overwrite them
            return (sums / weights.clamp(min=1e-12)).sum().item()

        self.optimizer.step(closure)
        return found[0]

    def epoch(self) -> Iterator[None]:
        """The rest of the running epoch. Pauses after each step, so that the caller can look, or stop."""
        self.model.train()
        if self.frozen is not None:
            self.frozen.set_epoch(self.progress.epoch)
        batches = self.loader.epoch(self.progress.epoch, start=self.progress.batch)
        while self.over is None and (taken := self._next(batches)):
            self.vitals.before_step()
            self.step(taken)
            self.vitals.after_step(sum(map(len, taken)))
            yield

    def _next(self, batches: Iterator[Batch]) -> list[Batch]:
        begun = time.perf_counter()
        with self.gap:
            taken = list(islice(batches, self.accumulate))
        self.vitals.waited += time.perf_counter() - begun
        return taken

    def fit(self) -> Iterator[dict[str, Any] | None]:
        """Train to the end. Yields None after each step, and a record after each evaluation; {} after an epoch that
        ends without one.

        Without any step, if there was no time for one, it yields nothing.

        Between two yields nothing is half done: whenever the caller has the word, `state_dict` is a state that
        training can go on from.
        """
        while not self.finished:
            if self.limits.evaluate_after(self.progress):  # the run was stopped before it
                yield self._record()
            within = self.progress.batch > 0 and not self.progress.evaluated  # of what is counted, if it was resumed
            (self.vitals.restart if within else self.vitals.reset)()
            for _ in self.epoch():
                yield None
                if self.limits.evaluate_after(self.progress):
                    yield self._record()
                    self.vitals.reset()  # neither the evaluation nor what the caller does with it is training
            if not self.progress.step:
                return  # the time was over before the first one: there is nothing to evaluate
            # A limit may end the run inside an epoch, which then stays open: a longer run goes on from there.
            whole = self.progress.batch >= len(self.loader)
            due = self.limits.evaluate_at_end(self.progress, whole, self.over is not None)
            record = self._record() if due else None
            if whole:
                self._close_epoch()
            if whole or record is not None:
                yield record or {}

    def _record(self) -> dict[str, Any]:
        """Evaluate, and enter what was found into the history."""
        self.check()
        self.measured = self.vitals.read()
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
        self.check()
        self.progress.epoch += 1
        self.progress.batch = 0
        self.sums.zero_()
        self.schedule.after("epoch")

    def state_dict(self) -> dict[str, Any]:
        """Everything that training goes on from, as plain containers and tensors (the live ones, not copies)."""
        self.progress.loss_sums, self.progress.loss_weights = self.sums.tolist()
        average = self.average
        return {
            "model": self.model.state_dict(), "ema": None if average is None else average.module.state_dict(),
            "ema_updates": None if average is None else int(average.n_averaged), "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(), "scheduler": self.schedule.state_dict(),
            "scaler": None if self.gradient.scaler is None else self.gradient.scaler.state_dict(),
            "micro_batch": self.gradient.micro_batch, "progress": asdict(self.progress),
            "vitals": self.vitals.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            KeyError, RuntimeError, TypeError, ValueError: it is of another model, or of other code.
        """
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.module.load_state_dict(state["ema"])
            self.average.n_averaged.fill_(state["ema_updates"])
        self.loss.load_state_dict(state["loss"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.schedule.load_state_dict(state["scheduler"])  # after the optimizer: it enters the learning rates anew
        if self.gradient.scaler is not None:
            self.gradient.scaler.load_state_dict(state["scaler"])
        self.gradient.micro_batch = state["micro_batch"]
        self.progress = Progress(**state["progress"])
        if "vitals" in state:  # not of earlier versions
            self.vitals.load_state_dict(state["vitals"])
        self.observed = state.get("gradients") or {}
        if self.progress.best is not None:  # one object again with its entry in the history, as it was
            self.progress.best = next(r for r in self.progress.history if r["step"] == self.progress.best["step"])
        self._waited_enough = self.limits.stop(self.progress.history)
        sums = [self.progress.loss_sums, self.progress.loss_weights]
        self.sums.copy_(torch.tensor(sums, dtype=torch.float64))


def _mean(found: Tensor) -> float:
    sums, weights = found.cpu()
    return float((sums / weights).sum())  # NaN before the first target that counts


def searches(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer needs a function that evaluates the loss, and cannot do with the gradient alone."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty
