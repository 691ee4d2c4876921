"""What of CUDA graphs needs no card: which steps are replayed, and that replays are compared. The rest is in
`test_cuda`."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from runner.batch import Batch
from runner.errors import ConfigError
from runner.loss import Loss, Term
from runner.trainer import graphs, nonfinite
from runner.trainer.gradient import Gradient
from runner.trainer.graphs import MOST, SETTLED, WARM_UP, Recording


class Graph:
    """In the place of torch's: a replay calls what was recorded, and leaves what it finds in the same memory."""

    def __init__(self) -> None:
        self.replay: Callable[[], None] = lambda: None


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that were replayed."""
    sizes: list[int] = []
    init = Recording.__init__

    def record(self: Recording, compute: Any, batches: Sequence[Batch], parameters: Any, place: Any) -> None:
        modules = nn.ModuleList([compute.__self__.model, compute.__self__.loss])
        held = nonfinite.copies(modules)
        with torch.random.fork_rng([]):
            init(self, compute, batches, parameters, place)
        nonfinite.restore(modules, held)  # a card takes note of kernels, and does not run them

        def replay() -> None:
            sizes.append(len(self.batches[0]))
            for parameter in parameters:
                parameter.grad = None
            for to, found in zip(self.found, compute(self.batches), strict=True):
                to.copy_(found)
            self.gradients = [parameter.grad for parameter in parameters]

        self.graph.replay = replay  # type: ignore[method-assign]

    monkeypatch.setattr(Recording, "__init__", record)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(graphs, "_recording", lambda graph, place: nullcontext())
    # Dropout's masks, which a card draws itself, are drawn by the CPU here.
    monkeypatch.setattr(graphs, "_drawn_on_the_host", lambda: None)
    return sizes


def made(criterion: nn.Module | None = None, **options: Any) -> Gradient:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    criterion = criterion or nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2]))
    loss = Loss([Term(criterion)], "classification", 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Gradient(model, loss, optimizer, device=torch.device("cpu"), seed=0, **options)


def batch(size: int, number: int) -> Batch:
    drawn = torch.Generator().manual_seed(number)
    inputs, targets = torch.randn(size, 6, generator=drawn), torch.randint(3, (size,), generator=drawn)
    return Batch(inputs, targets, torch.arange(size))


def trained(gradient: Gradient, sizes: Sequence[int]) -> list[Tensor]:
    """What each step finds, and the state at the end."""
    found = []
    for number, size in enumerate(sizes):
        found += [each.clone() for each in gradient([batch(size, number)], number)]
        gradient.update()
        gradient.clear()
    return [*found, *gradient.model.state_dict().values()]


def test_replayed_steps_are_those_that_are_computed(recorded: list[int]) -> None:
    """Each kind of steps is replayed as soon as it has been compared."""
    sizes = [16, 16, 16, 9] * 5
    graphed, plain = trained(made(graph=True), sizes), trained(made(), sizes)
    assert all(torch.equal(a, b) for a, b in zip(graphed, plain, strict=True))
    assert recorded == [size for number, size in enumerate(sizes) if sizes[:number].count(size) >= WARM_UP]


def test_one_graph_holds_the_batches_of_a_step(recorded: list[int]) -> None:
    graphed, plain = made(graph=True), made()
    for number in range(SETTLED + 2):
        batches = [batch(16, number), batch(9, 100 + number)]
        expected, found = plain(batches, number), graphed(batches, number)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        plain.clear()
        graphed.clear()
    assert len(recorded) == SETTLED + 2 - WARM_UP


def test_there_are_no_more_graphs_than_memory_is_for(recorded: list[int]) -> None:
    sizes = [size for _ in range(SETTLED + 1) for size in range(2, 2 + MOST + 1)]
    trained(made(graph=True), sizes)
    assert sorted(set(recorded)) == list(range(2, 2 + MOST))


def test_layers_that_thaw_make_other_steps(recorded: list[int]) -> None:
    gradient = made(graph=True)
    gradient.model[0].requires_grad_(False)  # type: ignore[index]
    trained(gradient, [16] * (SETTLED + 1))
    assert len(recorded) == SETTLED + 1 - WARM_UP
    gradient.model[0].requires_grad_(True)  # type: ignore[index]
    gradient([batch(16, 0)], 0)
    assert len(recorded) == SETTLED + 1 - WARM_UP


class Counting(nn.CrossEntropyLoss):
    """A loss with a state."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__(reduction="none")
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        self.seen += len(target)
        return super().forward(output, target)


def test_the_state_of_a_loss_is_changed_once_a_step(recorded: list[int]) -> None:
    seen = []
    for graph in (False, True):
        gradient = made(graph=graph, criterion=Counting())
        trained(gradient, [16] * (SETTLED + 2))
        seen += [int(buffer) for name, buffer in gradient.loss.named_buffers() if "seen" in name]
    assert seen == [16 * (SETTLED + 2)] * 2


def test_a_step_that_depends_on_something_else_is_refused(recorded: list[int]) -> None:
    """As mixup does, whose share is drawn on the CPU: a graph holds one share for good."""
    calls = 0

    def fading(model: Any, loss: Loss, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        value: Tensor = loss(model(batch.input), batch) / calls
        return value

    with pytest.raises(ConfigError, match="a step that is replayed is another one") as raised:
        trained(made(graph=True, compute=fading), [16] * (WARM_UP + 1))
    assert "try: trainer.cuda_graph=false" in str(raised.value)


def test_a_step_that_cannot_be_recorded_says_why(monkeypatch: pytest.MonkeyPatch, recorded: list[int]) -> None:
    @contextmanager
    def broken_off(graph: Any, place: Any) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise RuntimeError("operation failed due to a previous error during capture") from error

    monkeypatch.setattr(graphs, "_recording", broken_off)

    def waiting(model: Any, loss: Loss, batch: Batch) -> Tensor:
        if len(seen) == WARM_UP + 1:
            raise ValueError("not permitted when stream is capturing")
        seen.append(len(batch))
        value: Tensor = loss(model(batch.input), batch)
        return value

    seen: list[int] = []
    with pytest.raises(ConfigError, match="cannot be recorded: not permitted when stream is capturing"):
        trained(made(graph=True, compute=waiting), [16] * (WARM_UP + 1))


@pytest.mark.parametrize("draw", [torch.rand, random.random, np.random.rand])
def test_draws_on_the_cpu_are_refused_however_they_fall(
    monkeypatch: pytest.MonkeyPatch, recorded: list[int], draw: Callable[..., Any]
) -> None:
    """A graph would repeat one of them for good, and a comparison may not see it: this one changes nothing."""
    monkeypatch.undo()

    def drawing(model: Any, loss: Loss, batch: Batch) -> Tensor:
        draw(*([()] if draw is torch.rand else []))
        value: Tensor = loss(batch.input @ next(iter(model.parameters())).T[:, :3], batch)
        return value

    with pytest.raises(ConfigError, match="draws random numbers on the CPU"):
        trained(made(graph=True, compute=drawing), [16] * (WARM_UP + 1))


class Replacing(nn.Linear):
    """A layer that keeps a mean, in a new tensor each time."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__(6, 3)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.mean().detach()
        return super().forward(x)


def test_buffers_that_are_replaced_are_refused(recorded: list[int]) -> None:
    gradient = made(graph=True)
    gradient.model = Replacing()
    gradient = Gradient(
        gradient.model, gradient.loss, torch.optim.SGD(gradient.model.parameters(), lr=0.1),
        device=torch.device("cpu"), seed=0, graph=True,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="puts new tensors in the place of parameters or buffers"):
        trained(gradient, [16] * (WARM_UP + 1))


def test_tensors_that_a_model_makes_anew_are_kept_for_the_graph(recorded: list[int]) -> None:
    gradient = made(graph=True)
    first = gradient.model.mask = torch.ones(8)  # type: ignore[assignment]
    trained(gradient, [16] * (SETTLED + 1))
    assert gradient.graphs is not None
    (recording,) = gradient.graphs._recorded.values()
    assert any(each is first for each in recording.reads)


def test_what_was_graphed_is_freed_with_it(recorded: list[int]) -> None:
    """Without waiting for the garbage collector: the trial before a run has a model and memory of its own."""
    gc.disable()
    try:
        gradient = made(graph=True)
        gradient([batch(16, 0)], 0)
        model = weakref.ref(gradient.model)
        del gradient
        assert model() is None
    finally:
        gc.enable()


def test_what_is_watched_is_computed(recorded: list[int]) -> None:
    gradient = made(graph=True)
    gradient.observe = lambda: None
    trained(gradient, [16] * (SETTLED + 2))
    assert recorded == []
