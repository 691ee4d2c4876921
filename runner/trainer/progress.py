"""How far a run has come, and where it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Record = Mapping[str, Any]


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
    """Updates that were not made, because the loss or the gradient was not finite; without those that the scaler of
    half precision leaves out."""
    loss_sums: list[float] = field(default_factory=list)
    loss_weights: list[float] = field(default_factory=list)
    """The running epoch's training loss, as a sum and a weight for each of its terms."""
    rates: list[float] = field(default_factory=list)
    """Learning rate of each parameter group in the last step."""
    best: dict[str, Any] | None = None
    """The record of the best evaluation so far."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The record of every evaluation: epoch, step, ``"<part>/<metric>": value``."""

    @property
    def last_epoch(self) -> int:
        """The number, from 1, of the epoch that the last step was of; 0 before the first."""
        return self.epoch + (self.batch > 0)

    @property
    def evaluated(self) -> bool:
        """Whether there was an evaluation after the last step."""
        return bool(self.history) and self.history[-1]["step"] == self.step


@dataclass(frozen=True)
class Limits:
    """When a run ends: with what is reached first. None is never.

    Args:
        epochs, steps: of the whole run. Steps may end it inside an epoch.
        seconds: for which this process may train.
        stop: whether the evaluations so far say that more of them will not be better.
        evaluate_epochs, evaluate_steps: how often a part is looked at; one of the two is None.
    """

    epochs: int | None = None
    steps: int | None = None
    seconds: float | None = None
    stop: Callable[[list[dict[str, Any]]], bool] = lambda history: False
    evaluate_epochs: int | None = 1
    evaluate_steps: int | None = None

    def reached(self, progress: Progress, seconds: float) -> str | None:
        """The one that ends the run, inside an epoch or at its end.

        Args:
            seconds: for which this process has trained.
        """
        if self.epochs is not None and progress.epoch >= self.epochs:
            return "max_epochs"
        if self.steps is not None and progress.step >= self.steps:
            return "max_steps"
        return "max_time" if self.seconds is not None and seconds >= self.seconds else None

    def evaluate_after(self, progress: Progress) -> bool:
        """Whether it is time for an evaluation inside an epoch."""
        every = self.evaluate_steps
        return every is not None and progress.step > 0 and progress.step % every == 0 and not progress.evaluated

    def evaluate_at_end(self, progress: Progress, whole: bool, over: bool) -> bool:
        """Whether it is time for an evaluation where an epoch ends, or the run inside one.

        Args:
            whole: whether the epoch has run to its end.
            over: whether the run is.
        """
        done, every = progress.epoch + whole, self.evaluate_epochs
        last = over or (self.epochs is not None and done >= self.epochs)
        return not progress.evaluated and (last or (whole and every is not None and done % every == 0))


def early_stopping(
    patience: int | None, better: Callable[[Record, Record | None], bool]
) -> Callable[[Sequence[Record]], bool]:
    """A function of all evaluations so far: whether the last `patience` of them brought nothing better.

    Args:
        better: whether the first record beats the second, or none.
    """

    def stop(history: Sequence[Record]) -> bool:
        best: Record | None = None
        waited = 0
        for record in history:
            best, waited = (record, 0) if better(record, best) else (best, waited + 1)
        return patience is not None and waited >= patience

    return stop
