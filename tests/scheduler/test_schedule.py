from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import composed
from omegaconf import OmegaConf
from torch.optim import SGD, AdamW, Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from runner import config
from runner.errors import ConfigError
from runner.scheduler import Curve, Lengths, Plan, Schedule, milestones, rates_of

PER_EPOCH, EPOCHS = 10, 40
RUN = Lengths(PER_EPOCH, PER_EPOCH * EPOCHS)


def sgd(*rates: float) -> Optimizer:
    return SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": r, "name": str(r)} for r in rates], lr=rates[0])


def plan(kind: Any, interval: str = "step", lengths: Lengths = RUN, **options: Any) -> Plan:
    own = {key: options.pop(key) for key in ("warmup", "warmup_start", "monitor") if key in options}
    return Plan(partial(kind, **options), lengths, interval, **own)


def applied(schedule: Schedule, steps: int = RUN.total_steps) -> np.ndarray[Any, Any]:
    """(steps, groups) the rates that a loop of this many steps would have trained with."""
    seen = []
    for step in range(steps):
        seen.append([group["lr"] for group in schedule.optimizer.param_groups])
        schedule.after("step")
        if (step + 1) % PER_EPOCH == 0:
            schedule.after("epoch")
    return np.array(seen)


def by_torch(
    make: Callable[[Optimizer], LRScheduler], interval: str = "step", rate: float = 0.1
) -> np.ndarray[Any, Any]:
    """(steps,) the rates of a loop that is written by hand with torch's scheduler."""
    optimizer, seen = sgd(rate), []
    scheduler = make(optimizer)
    for step in range(RUN.total_steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if interval == "step" or (step + 1) % PER_EPOCH == 0:
            scheduler.step()
    return np.array(seen)


def option(name: str, *overrides: str) -> Plan:
    """The plan of an option of `conf/scheduler`."""
    node = composed(f"scheduler={name}", *(each for each in overrides if "." not in each.partition("=")[0])).scheduler
    for key, _, value in (override.partition("=") for override in overrides):
        if "." in key:  # composing anew takes much longer than all that is tested
            OmegaConf.update(node, key.removeprefix("scheduler."), yaml.safe_load(value))
    return Plan(config.factory(node), RUN, node.interval, node.warmup, node.warmup_start, node.get("monitor"))


N = RUN.total_steps
OPTIONS: dict[str, tuple[Callable[[Optimizer], LRScheduler], str]] = {
    "constant": (lambda o: lr_scheduler.LambdaLR(o, lambda _: 1.0), "epoch"),
    "step": (lambda o: lr_scheduler.StepLR(o, 30), "epoch"),
    "multistep": (lambda o: lr_scheduler.MultiStepLR(o, [20, 30]), "epoch"),
    "exponential": (lambda o: lr_scheduler.ExponentialLR(o, 0.95), "epoch"),
    "linear": (lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, N), "step"),
    "polynomial": (lambda o: lr_scheduler.PolynomialLR(o, N, 0.9), "step"),
    "cosine": (lambda o: lr_scheduler.CosineAnnealingLR(o, N), "step"),
    "cosine_restarts": (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 10 * PER_EPOCH, 2), "step"),
    "one_cycle": (lambda o: lr_scheduler.OneCycleLR(o, 0.1, N), "step"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_torchs_own_step_for_step(name: str) -> None:
    make, interval = OPTIONS[name]
    schedule = Schedule(sgd(0.1), option(name, "optimizer=sgd"), 0.1)
    assert applied(schedule)[:, 0].tolist() == by_torch(make, interval).tolist()


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "one_cycle"])
def test_after_a_warm_up_every_option_is_torchs_sequence_of_the_two(name: str) -> None:
    make, interval = OPTIONS[name]
    warm, rest = 5 * PER_EPOCH, N - 5 * PER_EPOCH
    lengths = {"linear": "total_iters", "polynomial": "total_iters", "cosine": "T_max"}
    shorter = option(name, "scheduler.warmup=5 epochs", "scheduler.warmup_start=0.1")
    found = applied(Schedule(sgd(0.1), shorter, 0.1))[:, 0]

    def sequence(o: Optimizer) -> LRScheduler:
        main = shorter.factory.func(o, **{**shorter.arguments, **({lengths[name]: rest} if name in lengths else {})})
        return lr_scheduler.SequentialLR(o, [lr_scheduler.LinearLR(o, 0.1, total_iters=warm), main], [warm])

    if interval == "step":
        assert found == pytest.approx(by_torch(sequence), rel=1e-9)
    else:  # torch's sequence has one unit; the schedule of epochs begins when the warm-up is over
        expected = by_torch(make, interval)
        assert found[warm:] == pytest.approx(expected[: N - warm], rel=1e-12)
    assert found[: warm + 1] == pytest.approx([0.1 * (0.1 + 0.9 * t / warm) for t in range(warm + 1)], rel=1e-9)
    assert found[warm] == 0.1  # exactly: torch's way up ends beside it


def test_closed_forms_at_named_points() -> None:
    cosine = applied(Schedule(sgd(0.3), plan(lr_scheduler.CosineAnnealingLR, T_max=None, eta_min=0.03), 0.3))[:, 0]
    expected = [0.03 + 0.27 * (1 + math.cos(math.pi * t / N)) / 2 for t in range(N)]  # Loshchilov and Hutter, eq. 5
    assert cosine == pytest.approx(expected, rel=1e-9)
    poly = applied(Schedule(sgd(0.3), plan(lr_scheduler.PolynomialLR, total_iters=None, power=2.0), 0.3))[:, 0]
    assert poly == pytest.approx([0.3 * (1 - t / N) ** 2 for t in range(N)], rel=1e-9)
    step = applied(Schedule(sgd(0.3), plan(lr_scheduler.StepLR, "epoch", step_size=15), 0.3))[:, 0]
    assert step == pytest.approx([0.3 * 0.1 ** (t // (15 * PER_EPOCH)) for t in range(N)], rel=1e-12)
    # The last step before a milestone, and the first after it.
    assert step[[149, 150, 299, 300]] == pytest.approx([0.3, 0.03, 0.03, 0.003])


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("warmup", ["0", "3%"])
def test_groups_keep_their_ratio(name: str, warmup: str) -> None:
    """Also where torch would not: eta_min and max_lr are rates of their own."""
    floor = ["scheduler.eta_min=0.01"] if name.startswith("cosine") else []
    schedule = Schedule(sgd(0.1, 0.01, 0.5), option(name, f"scheduler.warmup={warmup}", *floor), 0.1)
    rates = applied(schedule)
    assert rates[:, 1] == pytest.approx(rates[:, 0] / 10, rel=1e-12)
    assert rates[:, 2] == pytest.approx(rates[:, 0] * 5, rel=1e-12)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("warmup", ["0", "25", "2 epochs", "17%"])
def test_what_is_previewed_is_what_is_applied(name: str, warmup: str) -> None:
    schedule = Schedule(sgd(0.1, 0.02), option(name, f"scheduler.warmup={warmup}"), 0.1)
    previewed = schedule.preview()
    rates = applied(schedule)
    assert previewed["0.1"].tolist() == rates[:, 0].tolist()
    assert previewed["0.02"].tolist() == rates[:, 1].tolist()


def test_a_group_with_a_schedule_of_its_own_and_one_with_none() -> None:
    own = Plan(partial(lr_scheduler.StepLR, step_size=1, gamma=0.5), RUN, "epoch", key="own")
    main = plan(lr_scheduler.CosineAnnealingLR, T_max=None)
    schedule = Schedule(sgd(0.1, 0.2, 0.3), main, 0.1, {1: own, 2: None})
    previewed, rates = schedule.preview(), applied(schedule)
    assert rates[:, 0] == pytest.approx([0.05 * (1 + math.cos(math.pi * t / N)) for t in range(N)])
    assert rates[:, 1] == pytest.approx([0.2 * 0.5 ** (t // PER_EPOCH) for t in range(N)])
    assert set(rates[:, 2]) == {0.3}
    assert [previewed[name].tolist() for name in ("0.1", "0.2", "0.3")] == rates.T.tolist()


def test_one_cycle_moves_the_momentum_too() -> None:
    ours = AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = Schedule(ours, plan(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=None), 0.1)
    theirs = AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    reference = lr_scheduler.OneCycleLR(theirs, 0.1, N)
    theirs.step()
    for _ in range(N - 1):
        assert ours.param_groups[0]["betas"] == theirs.param_groups[0]["betas"]
        assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
        schedule.after("step")
        reference.step()


def test_plateau_follows_the_metric_as_torchs_does() -> None:
    values = [1.0, 0.9, 0.95, 0.94, 0.93, 0.5, 0.6, 0.7, 0.8, float("nan")]
    optimizer = sgd(0.1, 0.01)
    options = {"patience": 1, "factor": 0.5}
    schedule = Schedule(optimizer, plan(lr_scheduler.ReduceLROnPlateau, "epoch", monitor="val/loss", **options), 0.1)
    reference = sgd(0.1, 0.01)
    theirs = lr_scheduler.ReduceLROnPlateau(reference, **options)
    for value in values:
        schedule.after("step")
        schedule.measured({"val/loss": value})
        schedule.after("epoch")
        theirs.step(value)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([group["lr"] for group in reference.param_groups], rel=1e-12)
    assert rates[0] == 0.1 * 0.5**3  # after 0.94, 0.7 and the NaN


@pytest.mark.parametrize("name", [*OPTIONS, "plateau"])
@pytest.mark.parametrize("warmup", ["0", "15"])
@pytest.mark.parametrize("stop", [3, 15, 37, 100])
def test_a_resumed_schedule_goes_on_as_if_never_stopped(name: str, warmup: str, stop: int) -> None:
    def run(schedule: Schedule, first: int, last: int) -> list[float]:
        seen = []
        for step in range(first, last):
            seen.append(schedule.optimizer.param_groups[1]["lr"])
            schedule.after("step")
            if (step + 1) % PER_EPOCH == 0:
                schedule.measured({"val/loss": 1.0})
                schedule.after("epoch")
        return seen

    made = option(
        name,
        f"scheduler.warmup={warmup}",
        *(["scheduler.patience=1", "scheduler.mode=min"] if name == "plateau" else []),
    )
    whole = run(Schedule(sgd(0.1, 0.03), made, 0.1), 0, 200)
    before = Schedule(sgd(0.1, 0.03), made, 0.1)
    run(before, 0, stop)
    optimizer = sgd(0.1, 0.03)
    after = Schedule(optimizer, made, 0.1)
    optimizer.load_state_dict(before.optimizer.state_dict())
    optimizer.param_groups[1]["lr"] = 123.0  # whatever an optimizer's state says
    after.load_state_dict(before.state_dict())
    assert run(after, stop, 200) == whole[stop:]


@pytest.mark.parametrize("name", ["cosine", "one_cycle", "linear", "multistep"])
def test_a_run_that_goes_on_for_longer_gets_the_longer_schedule(name: str) -> None:
    longer = Lengths(PER_EPOCH, 2 * N)
    short, long = (option(name, "scheduler.warmup=5%") for _ in range(2))
    long = Plan(long.factory, longer, long.interval, long.warmup, long.warmup_start)
    before = Schedule(sgd(0.1), short, 0.1)
    applied(before, N)
    after = Schedule(sgd(0.1), long, 0.1)
    after.load_state_dict(before.state_dict())
    expected = applied(Schedule(sgd(0.1), long, 0.1), 2 * N)[N:, 0]
    assert applied(after, N)[:, 0].tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("value", "interval", "length"),
    [
        (7, "step", 7), ("7 steps", "step", 7), ("1 step", "step", 1), ("3 epochs", "step", 30),
        ("3epochs", "epoch", 3),
        ("0.5 epochs", "step", 5), ("50%", "step", 200), ("50%", "epoch", 20), ("2.5 %", "step", 10),
        (["10%", "5 epochs", 39], "epoch", [4, 5, 39]),
    ],
)  # fmt: skip
def test_lengths(value: Any, interval: str, length: Any) -> None:
    assert RUN.read(value, interval, "scheduler.T_max") == length


@pytest.mark.parametrize("value", [0.5, -1, True, "5 minutes", "", "%", None])
def test_what_is_no_length(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"scheduler.T_max: .* is not a length"):
        RUN.read(value, "step", "scheduler.T_max")


def test_steps_cannot_be_counted_in_epochs() -> None:
    with pytest.raises(ConfigError, match=r"'5 steps' is in steps, but the schedule counts epochs(.|\n)*interval=step"):
        RUN.read("5 steps", "epoch", "scheduler.step_size")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            plan(lr_scheduler.CosineAnnealingLR, T_max=100),
            r"T_max: 100 is 100 steps, but the schedule runs for 400: .*would rise again",
        ),
        (plan(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=399), r"total_steps: 399 is 399 steps"),
        (plan(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps="200%"), r"total_steps: '200%' is 800 steps"),
        (plan(lr_scheduler.StepLR, step_size=0), r"step_size: 0 comes to 0 steps"),
        (plan(lr_scheduler.MultiStepLR, milestones=[]), "milestones: is an empty list"),
        (plan(lr_scheduler.LinearLR, total_iters=None, warmup="100%"), r"'100%' is 400 steps, .* the run has only 400"),
    ],
)
def test_what_cannot_be_meant(made: Plan, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made.check()


def test_what_will_not_be_reached_is_said() -> None:
    (said,) = plan(lr_scheduler.MultiStepLR, "epoch", milestones=[20, 50]).check()
    assert said == "scheduler.milestones: 50 is never reached: the schedule runs for only 40 epochs"
    assert plan(lr_scheduler.CosineAnnealingLR, T_max=None, warmup="10%").check() == []
    assert option("constant").check() == []


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (lambda t: -1.0 if t == 5 else 1.0, "the learning rate is -0.1 at step 5"),
        (lambda t: math.nan, "the learning rate is nan at step 0"),
        (lambda t: max(0.0, 1 - t / 300), "the learning rate is 0 for the last 100 of 400 steps"),
    ],
)
def test_a_curve_that_breaks_is_found_before_training(factor: Callable[[int], float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rates_of(plan(lr_scheduler.LambdaLR, lr_lambda=factor), 0.1, {})


def test_the_table_of_a_curve_has_its_turns() -> None:
    made = plan(lr_scheduler.MultiStepLR, "epoch", milestones=[20, 30], warmup=50, warmup_start=0.1)
    rows = milestones(made, rates_of(made, 0.1, {})).rows
    assert [row[:3] for row in rows] == [
        ["first step", 0, 1], ["after the warm-up", 50, 6], ["changed", 250, 26], ["changed", 350, 36],
        ["last step", 399, 40],
    ]  # fmt: skip
    assert [row[3] for row in rows] == pytest.approx([0.01, 0.1, 0.01, 0.001, 0.001])


def test_a_rate_of_zero_stays_zero_and_other_groups_move() -> None:
    schedule = Schedule(sgd(0.0, 0.2), plan(lr_scheduler.StepLR, "epoch", step_size=20), 0.0)
    rates = applied(schedule)
    assert set(rates[:, 0]) == {0.0}
    assert rates[[0, 399], 1].tolist() == pytest.approx([0.2, 0.02])


def test_a_curve_knows_when_its_warm_up_is_over() -> None:
    curve = Curve(plan(lr_scheduler.StepLR, "epoch", step_size=1, warmup=10), 1.0, {})
    for _ in range(10):
        assert curve.warming
        curve.after("step")
    curve.after("epoch")  # that ended with the warm-up
    assert not curve.warming
    assert curve.rate == 1.0


class Ramp(LRScheduler):
    """A schedule of a user's, with a length that none of torch's has."""

    def __init__(self, optimizer: Optimizer, length: int, last_epoch: int = -1) -> None:
        self.length = length
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [base * max(0.0, 1 - self.last_epoch / self.length) for base in self.base_lrs]


@pytest.mark.parametrize(
    "make",
    [
        lambda lengths: plan(Ramp, length=lengths.total_steps, lengths=lengths),
        lambda lengths: plan(lr_scheduler.LambdaLR, lengths=lengths,
                             lr_lambda=partial(_fall, total=lengths.total_steps)),
        lambda lengths: plan(lr_scheduler.OneCycleLR, max_lr=0.1, epochs=lengths.total("epoch"),
                             steps_per_epoch=PER_EPOCH, lengths=lengths),
    ],
    ids=["own", "lambda", "one_cycle"],
)  # fmt: skip
@pytest.mark.parametrize("factor", [2, 0.5])
def test_any_argument_that_follows_from_the_length_is_that_of_the_resumed_run(make: Any, factor: float) -> None:
    other = Lengths(PER_EPOCH, int(N * factor))
    before = Schedule(sgd(0.1), make(RUN), 0.1)
    applied(before, 150)
    after = Schedule(sgd(0.1), make(other), 0.1)
    after.load_state_dict(before.state_dict())
    expected = applied(Schedule(sgd(0.1), make(other), 0.1), other.total_steps)[150:, 0]
    assert applied(after, other.total_steps - 150)[:, 0].tolist() == expected.tolist()


def _fall(step: int, total: int) -> float:
    return 1 - step / total


def test_a_plateau_with_a_longer_warm_up_goes_on_warming() -> None:
    def made(total: int) -> Schedule:
        kind = plan(
            lr_scheduler.ReduceLROnPlateau, "epoch", Lengths(PER_EPOCH, total), monitor="val/loss", warmup="50%"
        )
        return Schedule(sgd(0.1), kind, 0.1)

    before = made(40)
    applied(before, 30)
    after = made(400)
    after.load_state_dict(before.state_dict())
    rates = applied(after, 200)[:, 0]
    assert rates[[0, 100]] == pytest.approx([0.1 * (0.01 + 0.99 * t / 200) for t in (30, 130)], rel=1e-9)
    assert rates[-1] == 0.1


def test_a_function_with_a_state_begins_anew_after_the_preview() -> None:
    class Stateful:
        def __init__(self) -> None:
            self.factor = 1.0

        def __call__(self, step: int) -> float:
            self.factor *= 0.9 if step else 1.0
            return self.factor

    schedule = Schedule(sgd(0.1), plan(lr_scheduler.LambdaLR, "epoch", lr_lambda=Stateful()), 0.1)
    previewed = schedule.preview()["0.1"]
    assert applied(schedule)[:, 0].tolist() == previewed.tolist()
    assert previewed[-1] == pytest.approx(0.1 * 0.9 ** (EPOCHS - 1))


def test_a_group_with_a_momentum_of_its_own_keeps_it() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": parameters[:1], "betas": (0.5, 0.9)}, {"params": parameters[1:]}]
    optimizer = AdamW(groups, lr=0.1, betas=(0.9, 0.98))
    Schedule(optimizer, plan(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=None), 0.1)
    assert [group["betas"] for group in optimizer.param_groups] == [(0.5, 0.9), (0.95, 0.98)]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            plan(lr_scheduler.MultiStepLR, "epoch", milestones=["1%", "50%"]),
            r"milestones: \['1%', '50%'\] comes to 0, 20 epochs(.|\n)*step",
        ),
        (plan(lr_scheduler.MultiStepLR, "epoch", milestones=[[1, 2]]), "is a list of lists"),
    ],
)
def test_turns_that_cannot_be_meant(made: Plan, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made.check()


def test_turns_for_which_no_step_is_left_are_said() -> None:
    assert "is never reached" in plan(lr_scheduler.StepLR, "epoch", step_size=EPOCHS).check()[0]
    assert "there is no warm-up" in plan(lr_scheduler.StepLR, "epoch", step_size=5, warmup="0.1%").check()[0]
    assert plan(lr_scheduler.CosineAnnealingLR, T_max=N).check() == []


def test_the_tables_are_of_the_groups() -> None:
    schedule = Schedule(sgd(0.1, 0.2, 0.3), plan(lr_scheduler.CosineAnnealingLR, T_max=None), 0.1, {2: None})
    tables = schedule.tables()
    assert [table.title for table in tables] == ["Learning rate: 0.1", "Learning rate: 0.2"]
    assert [row[0] for row in tables[1].rows] == ["first step", "last step"]
    assert tables[1].rows[0][3] == 0.2


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_function_of_ones_own_is_torchs_own_step_for_step(interval: str) -> None:
    schedule = Schedule(sgd(0.1), plan(lr_scheduler.LambdaLR, interval, lr_lambda=_halving), 0.1)
    expected = by_torch(lambda o: lr_scheduler.LambdaLR(o, _halving), interval)
    assert applied(schedule)[:, 0].tolist() == expected.tolist()
    assert expected[-1] < expected[0]


def _halving(count: int) -> float:
    return float(0.5 ** (count // 7))
