from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from conftest import QUICK, Run, goes_on, same_tensors
from torch import Tensor, nn

from runner.batch import Batch
from runner.loss import Loss, Term
from runner.trainer.gradient import Gradient
from runner.trainer.nonfinite import explained

DRAWN = torch.Generator().manual_seed(0)
INPUTS, TARGETS = torch.randn(23, 6, generator=DRAWN), torch.randint(3, (23,), generator=DRAWN)
BATCH = Batch(INPUTS, TARGETS, torch.arange(23))


class Small(nn.Module):
    """A device of which the memory holds no more than some samples."""

    def __init__(self, fits: int) -> None:
        super().__init__()
        self.fits, self.seen = fits, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if len(x) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return x


def network(fits: int = 100, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(1)
    layers = [nn.Linear(6, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.Tanh(), nn.Linear(8, 3), Small(fits)]
    return nn.Sequential(*layers)


def made(model: nn.Module, **options: Any) -> Gradient:
    loss = Loss([Term(nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2])))], "classification", 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Gradient(model, loss, optimizer, device=torch.device("cpu"), seed=0, **options)


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("size", [1, 5, 23, 40])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(size: int) -> None:
    """torch's own weighted mean over all 23 samples is the truth."""
    model = network()
    nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2]))(model(INPUTS), TARGETS).backward()
    expected = gradients(model)
    model.zero_grad()
    gradient = made(model, micro_batch=size)
    sums, weights, _ = gradient([BATCH], 0)
    assert len(gradients(model)) == 4
    for found, wanted in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)
    assert (sums / weights).item() == pytest.approx(
        nn.functional.cross_entropy(model(INPUTS), TARGETS, torch.tensor([1.0, 5.0, 0.2])).item()
    )


def test_parts_are_made_smaller_until_they_fit() -> None:
    model, other = network(fits=7, norm=True), network(norm=True)
    gradient, wanted = made(model, micro_batch="auto"), made(other, micro_batch=6)
    gradient([BATCH], 0)
    wanted([BATCH], 0)
    assert gradient.micro_batch == 6
    assert model[-1].seen == [23, 12, 6, 6, 6, 5]
    # Neither a gradient nor a statistic is left of the passes that broke.
    assert all(torch.equal(a, b) for a, b in zip(gradients(model), gradients(other), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), other.buffers(), strict=True))
    gradient([BATCH], 1)
    assert model[-1].seen[6:] == [6, 6, 6, 5]


def test_one_sample_that_does_not_fit_is_an_error() -> None:
    gradient = made(network(fits=0), micro_batch="auto")
    with pytest.raises(torch.OutOfMemoryError):
        gradient([BATCH], 0)


def test_a_size_that_was_asked_for_is_not_changed() -> None:
    gradient = made(network(fits=7), micro_batch=8)
    with pytest.raises(torch.OutOfMemoryError):
        gradient([BATCH], 0)


def test_a_run_that_was_stopped_goes_on_with_what_fitted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = Gradient._sums
    tried: list[int] = []

    def limited(self: Gradient, batches: Any, weights: Tensor) -> Tensor:
        tried.append(self.micro_batch or 64)
        if tried[-1] > 20:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return sums(self, batches, weights)

    monkeypatch.setattr(Gradient, "_sums", limited)
    whole, part = goes_on(run, *QUICK, "trainer.micro_batch=auto", "trainer.max_steps=9", step=4)
    assert tried[-6:] == [64] + [16] * 5  # the first one is tried before the state is read
    assert part["micro_batch"] == whole["micro_batch"] == 16
    assert same_tensors(part["model"], whole["model"])


def test_what_a_gradient_needs_again_is_not_changed() -> None:
    state = copy.deepcopy(network().state_dict())
    model = network()
    gradient = made(model)
    gradient([BATCH], 0)
    gradient.clear()
    assert gradients(model) == []
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), state.values(), strict=True))


def test_memory_that_is_too_small_is_no_broken_gradient() -> None:
    """A RuntimeError too, which a smaller micro-batch cures."""
    with torch.autograd.set_detect_anomaly(True), pytest.raises(torch.OutOfMemoryError), explained():
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_an_infinite_gradient_is_seen_before_it_is_clipped() -> None:
    model = network()
    gradient = made(model, clip_value=0.5, clip_norm=0.1)
    gradient.observe = lambda: model[0].weight.grad[0, 0].fill_(float("inf"))  # type: ignore[union-attr, index]
    assert gradient([BATCH], 0)[2] == float("inf")


def test_the_norm_is_that_of_before_it_is_clipped() -> None:
    model = network()
    *_, norm = made(model)([BATCH], 0)
    model.zero_grad()
    *_, before = made(model, clip_value=1e-3, clip_norm=1e-4)([BATCH], 0)
    assert before == norm
    assert torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm().item() <= 1.01e-4


class Empty(nn.ModuleList):
    """A network that is false, for it has a length of 0."""

    def forward(self, x: Tensor) -> Tensor:
        raise ZeroDivisionError


def test_what_is_compiled_is_called_whatever_its_length() -> None:
    gradient = made(network(), compiled=Empty())
    with pytest.raises(ZeroDivisionError):
        gradient([BATCH], 0)
