from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import StepLR

from runner.batch import Batch
from runner.dataset import ArrayDataset, Samples
from runner.draws import seed_of
from runner.evaluation import predict
from runner.loader import Order, Resident
from runner.loss import Loss, Term
from runner.metric import Metric, Predicted, measure, roc_auc
from runner.scheduler import Lengths, Plan, Schedule
from runner.trainer import Limits, Precision, Trainer
from runner.transform import Pipeline

CPU = torch.device("cpu")
INPUTS = torch.randn(90, 6, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(3, (90,), generator=torch.Generator().manual_seed(1))
WEIGHTS = [0.2, 1.0, 3.0]


def criterion(weight: list[float] | None = None, **options: Any) -> Loss:
    tensor = None if weight is None else torch.tensor(weight)
    return Loss([Term(nn.CrossEntropyLoss(tensor))], "classification", 3, **options)


def resident(batch_size: int, sampler: str = "sequential", targets: torch.Tensor = TARGETS) -> Resident:
    order = Order(torch.arange(90), sampler, batch_size=batch_size, seed=5)
    return Resident(Samples(ArrayDataset(INPUTS, targets)), order, Pipeline(), CPU)


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def trainer(
    model: nn.Module, batch_size: int = 16, weight: list[float] | None = None, **options: Any
) -> tuple[Trainer, Resident]:
    loader = resident(batch_size, "shuffle")
    loss = criterion(weight)
    optimizer = sgd(model)
    plan = Plan(partial(StepLR, step_size=2, gamma=0.5), Lengths(math.ceil(90 / batch_size), 1000), "epoch")
    schedule = Schedule(optimizer, plan, 0.1)
    options.setdefault("evaluate", lambda model: {"val/loss": predict(model, loss, loader).loss})
    options.setdefault("better", lambda new, old: new["val/loss"] < old["val/loss"])
    limits = {"epochs": options.pop("max_epochs", 1), "steps": options.pop("max_steps", None)}
    limits |= {
        key: options.pop(key) for key in ("seconds", "stop", "evaluate_epochs", "evaluate_steps") if key in options
    }
    return Trainer(
        model, loss, optimizer, schedule, loader, limits=Limits(**limits), device=CPU, seed=5, **options
    ), loader


def run(trainer: Trainer, steps: int = -1) -> list[dict[str, Any]]:
    """Train to the end, or for a number of steps; the records of the evaluations."""
    records = []
    for record in trainer.fit():
        records += [record] if record is not None else []
        if trainer.progress.step == steps and record is None:
            break
    return records


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("weight", [None, WEIGHTS])
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_an_epoch_is_the_loop_that_one_would_write_by_hand(weight: list[float] | None, clip_norm: float | None) -> None:
    trained, by_hand = network(), network()
    made, loader = trainer(trained, weight=weight, clip_norm=clip_norm)
    run(made)

    optimizer = sgd(by_hand)
    tensor = None if weight is None else torch.tensor(weight)
    for rows in loader.order.batches(0):
        optimizer.zero_grad()
        cross_entropy(by_hand(INPUTS[rows]), TARGETS[rows], tensor).backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(by_hand.parameters(), clip_norm)
        optimizer.step()
    for one, other in zip(trained.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("weight", [None, WEIGHTS])
def test_micro_batches_are_one_large_batch(weight: list[float] | None) -> None:
    # 90 samples in batches of 8: the last step has one micro-batch of 2 after two of 8.
    small, large = network(), network()
    in_parts, _ = trainer(small, batch_size=8, accumulate=4, weight=weight, max_epochs=3)
    at_once, _ = trainer(large, batch_size=32, weight=weight, max_epochs=3)
    records = run(in_parts), run(at_once)
    assert in_parts.progress.step == at_once.progress.step == 9
    for one, other in zip(small.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    for a, b in zip(*records, strict=True):
        assert a["train/loss"] == pytest.approx(b["train/loss"], abs=1e-6)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 89), max_size=6), weight=st.sampled_from([None, WEIGHTS]), terms=st.booleans())
def test_any_micro_batches_make_the_step_of_one_batch(cuts: list[int], weight: list[float] | None, terms: bool) -> None:
    def stepped(edges: list[int]) -> tuple[nn.Module, float]:
        model = network().double()
        # One loss weighs its samples and the other does not: their weights must not be mixed up.
        several = [Term(nn.KLDivLoss(), 0.5)] if terms else []
        loss = Loss([*criterion(weight).terms, *several], "classification", 3).double()
        schedule = Schedule(optimizer := sgd(model), None, 0.1)
        made = Trainer(
            model,
            loss,
            optimizer,
            schedule,
            resident(8),
            lambda model: {},
            lambda a, b: False,
            Limits(1),
            device=CPU,
            seed=0,
        )
        rows = [torch.arange(a, b) for a, b in pairwise(edges)]
        made.step([Batch(INPUTS[r].double(), TARGETS[r], r) for r in rows])
        return model, made.running_loss

    (whole, expected), (parts, found) = stepped([0, 90]), stepped(sorted({0, 90, *cuts}))
    assert found == pytest.approx(expected, abs=1e-6)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch_size=st.integers(1, 91))
def test_any_batches_give_the_same_loss_and_metrics(batch_size: int) -> None:
    model, loss = network().double(), criterion(WEIGHTS).double()
    data = Samples(ArrayDataset(INPUTS.double(), TARGETS))
    said = [
        predict(model, loss, Resident(data, Order(torch.arange(90), "sequential", batch_size=size), Pipeline(), CPU))
        for size in (90, batch_size)
    ]
    assert said[0].loss == pytest.approx(said[1].loss, abs=1e-6)
    metrics = {"auc": Metric(partial(roc_auc)), "accuracy": Metric(partial(accuracy_score))}
    found = [measure(metrics, Predicted.of("classification", loss.readout(s.output), s.target)) for s in said]
    assert found[0] == pytest.approx(found[1], abs=1e-9)


@pytest.mark.parametrize("weight", [None, WEIGHTS])
def test_the_loss_of_a_part_is_that_of_all_its_samples_at_once(weight: list[float] | None) -> None:
    model = network()
    tensor = None if weight is None else torch.tensor(weight)
    loader = resident(7)
    said = predict(model, criterion(weight), loader)
    assert said.loss == pytest.approx(cross_entropy(model(INPUTS), TARGETS, tensor).item(), abs=1e-6)
    assert torch.equal(said.target, TARGETS)
    assert said.index.tolist() == list(range(90))
    torch.testing.assert_close(said.output, model(INPUTS))


def test_predicting_leaves_the_model_in_its_mode_and_keeps_no_graph() -> None:
    model = network(dropout=0.9).train()
    loader = resident(90)
    loss = criterion()
    assert predict(model, loss, loader).loss == predict(model, loss, loader).loss  # no dropout
    assert model.training
    assert not predict(model, loss, loader).output.requires_grad


@pytest.mark.parametrize("stop", [1, 5, 6, 7, 17, 18])
def test_stopped_at_any_step_and_resumed_gives_the_same_bytes(stop: int) -> None:
    options: dict[str, Any] = {"max_epochs": 3, "accumulate": 1}
    whole, _ = trainer(network(dropout=0.5), **options)
    expected = run(whole)
    assert whole.progress.step == 18

    first, _ = trainer(network(dropout=0.5), **options)
    records = run(first, stop)
    state = first.state_dict()
    torch.rand(10)
    second, _ = trainer(network(dropout=0.5), **options)
    second.load_state_dict(state)
    assert records + run(second) == expected
    assert same(whole.model, second.model)
    assert second.progress.history == expected
    assert any(second.progress.best is record for record in second.progress.history)


def test_dropout_masks_differ_between_micro_batches_and_steps() -> None:
    seen: list[torch.Tensor] = []

    class Spy(nn.Dropout):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(torch.ones_like(x))
            seen.append(y)
            return x * y

    model = nn.Sequential(Spy(0.5), nn.Linear(6, 3))
    made, _ = trainer(model, batch_size=15, accumulate=2)
    run(made, 2)
    assert len(seen) == 4
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])
    torch.manual_seed(seed_of(5, "step", 1))
    assert torch.equal(nn.functional.dropout(torch.ones(15, 6), 0.5), seen[2])


def test_max_steps_ends_the_run_inside_an_epoch_and_more_steps_go_on_there() -> None:
    whole, _ = trainer(network(), max_epochs=None, max_steps=10)
    run(whole)

    first, _ = trainer(network(), max_epochs=None, max_steps=8)
    (one, two) = run(first)
    assert (one["epoch"], one["step"], two["epoch"], two["step"]) == (1, 6, 2, 8)
    second, _ = trainer(network(), max_epochs=None, max_steps=10)
    second.load_state_dict(first.state_dict())
    run(second)
    assert same(whole.model, second.model)
    assert second.progress.history[-1]["train/loss"] == whole.progress.history[-1]["train/loss"]


def test_a_run_that_reached_its_length_does_nothing_more() -> None:
    made, _ = trainer(network(), max_epochs=2, max_steps=7)
    assert len(run(made)) == 2
    assert made.finished
    assert run(made) == []


def test_a_stop_between_the_last_step_and_its_evaluation_loses_no_evaluation() -> None:
    first, _ = trainer(network(), max_epochs=None, max_steps=8)
    run(first, 8)
    second, _ = trainer(network(), max_epochs=None, max_steps=8)
    second.load_state_dict(first.state_dict())
    assert [record["step"] for record in run(second)] == [8]
    assert second.progress.step == 8


def test_the_best_record_is_the_first_of_the_best() -> None:
    losses_seen = iter([3.0, 1.0, 2.0, 1.0])
    made, _ = trainer(network(), max_epochs=4, evaluate=lambda model: {"val/loss": next(losses_seen)})
    run(made)
    assert made.progress.best is not None
    assert made.progress.best["epoch"] == 2


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_whose_targets_are_all_ignored_adds_nothing(accumulate: int) -> None:
    model = network()
    before = [p.clone() for p in model.parameters()]
    loader = resident(10, targets=torch.full((90,), -100))
    loss = criterion(ignore_index=-100)
    optimizer = sgd(model)
    schedule = Schedule(optimizer, None, 0.1)
    made = Trainer(
        model, loss, optimizer, schedule, loader, lambda model: {}, lambda a, b: False, Limits(1), device=CPU, seed=0
    )
    (record,) = run(made)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert math.isnan(record["train/loss"])


class Overflowing(nn.Module):
    """Makes the loss of some forward passes infinite."""

    def __init__(self, *when: int) -> None:
        super().__init__()
        self.when, self.calls = when, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        return x * math.inf if self.training and self.calls - 1 in self.when else x


def test_half_precision_goes_on_after_a_step_that_was_skipped() -> None:
    """The scaler halves its scale for it, as torch's own loop would."""
    model = network()
    model.append(Overflowing(1))
    made, _ = trainer(model, precision=Precision(CPU, "fp16"), skip_nonfinite=True)
    run(made)
    assert (made.progress.step, made.progress.skipped) == (6, 1)
    assert made.gradient.scaler is not None
    assert made.gradient.scaler.get_scale() == 2.0**15
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_gradient_that_the_scaler_leaves_out_does_not_count_in_the_mean_norm() -> None:
    class Infinite(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            return gradients[0] * math.inf

    class Once(nn.Module):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += self.training
            return Infinite.apply(x) if self.training and self.calls == 3 else x  # type: ignore[no-any-return]

    model = network()
    model.append(Once())
    made, _ = trainer(model, precision=Precision(CPU, "fp16"))
    run(made)
    assert made.progress.skipped == 0
    assert 0 < made.measured["gradient_norm"] < 10


def test_evaluations_are_not_counted_as_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by a second for a step, and by much for an evaluation and for what follows it."""
    now = [0.0]
    monkeypatch.setattr("runner.trainer.vitals.time.perf_counter", lambda: now[0])

    def evaluate(model: nn.Module) -> dict[str, float]:
        now[0] += 100
        return {"val/loss": 1.0}

    made, _ = trainer(network(), max_epochs=None, max_steps=6, evaluate_steps=2, evaluate=evaluate)
    speeds = []
    for record in made.fit():
        now[0] += 1 if record is None else 1000
        speeds += [made.measured["samples_per_second"]] if record else []
    assert speeds == [16.0, 16.0, 13.0]  # 90 samples in batches of 16


def test_the_norm_of_a_search_is_that_of_its_first_gradient() -> None:
    model, by_hand = network(), network()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    loader = resident(90)
    schedule = Schedule(optimizer, None, 1.0)
    made = Trainer(
        model, criterion(), optimizer, schedule, loader, lambda model: {"val/loss": 1.0}, lambda a, b: False,
        Limits(1), device=CPU, seed=0,
    )  # fmt: skip
    run(made)
    cross_entropy(by_hand(INPUTS), TARGETS).backward()
    expected = nn.utils.get_total_norm([p.grad for p in by_hand.parameters() if p.grad is not None])
    assert made.measured["gradient_norm"] == pytest.approx(float(expected), rel=1e-5)
