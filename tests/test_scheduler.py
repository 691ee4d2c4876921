from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from runner.scheduler import Schedule


def optimizer(lr: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates(schedule: Schedule, opt: torch.optim.Optimizer, steps: int, interval: str = "step") -> list[float]:
    seen = []
    for _ in range(steps):
        seen.append(opt.param_groups[0]["lr"])
        opt.step()
        schedule.after(interval)
    return seen


def test_cosine_against_the_closed_form() -> None:
    opt = optimizer(0.3)
    schedule = Schedule(partial(lr_scheduler.CosineAnnealingLR, T_max=40), opt, "step")
    assert rates(schedule, opt, 41) == pytest.approx(
        [0.15 * (1 + math.cos(math.pi * t / 40)) for t in range(41)], abs=1e-9
    )


def test_step_against_the_closed_form() -> None:
    opt = optimizer()
    schedule = Schedule(partial(lr_scheduler.StepLR, step_size=30, gamma=0.1), opt, "epoch")
    assert rates(schedule, opt, 91, "epoch") == pytest.approx([0.1 ** (t // 30) for t in range(91)])


@pytest.mark.parametrize(("counts", "passes"), [("step", "epoch"), ("epoch", "step")])
def test_a_schedule_counts_in_its_own_interval_only(counts: str, passes: str) -> None:
    opt = optimizer()
    schedule = Schedule(partial(lr_scheduler.StepLR, step_size=1), opt, counts)
    assert rates(schedule, opt, 3, passes) == [1.0, 1.0, 1.0]


FACTORIES = [
    partial(lr_scheduler.CosineAnnealingLR, T_max=20),
    partial(lr_scheduler.StepLR, step_size=3),
    partial(lr_scheduler.LinearLR, start_factor=0.1, total_iters=9),
    partial(lr_scheduler.OneCycleLR, max_lr=2.0, total_steps=30),
]


def test_the_state_is_loaded_where_the_settings_are_the_same() -> None:
    first = optimizer()
    before = Schedule(FACTORIES[0], first, "step")
    rates(before, first, 8)
    first.param_groups[0]["lr"] = before.scheduler._last_lr[0] = 0.123  # as no schedule would have it
    after = Schedule(FACTORIES[0], optimizer(), "step")
    after.load_state_dict(before.state_dict())
    assert after.state_dict() == before.state_dict()
    assert after.scheduler._last_lr == [0.123]


@pytest.mark.parametrize("factory", FACTORIES)
def test_resuming_gives_the_rates_of_the_uninterrupted_run(factory: Any) -> None:
    whole = optimizer()
    expected = rates(Schedule(factory, whole, "step"), whole, 20)

    first = optimizer()
    before = Schedule(factory, first, "step")
    rates(before, first, 8)
    second = optimizer()
    after = Schedule(factory, second, "step")
    second.load_state_dict(first.state_dict())
    after.load_state_dict(before.state_dict())
    assert rates(after, second, 12) == expected[8:]


def test_a_longer_run_gets_the_longer_schedule() -> None:
    short, long = (partial(lr_scheduler.CosineAnnealingLR, T_max=steps) for steps in (10, 20))
    first = optimizer()
    before = Schedule(short, first, "step")
    rates(before, first, 10)
    assert first.param_groups[0]["lr"] == 0  # the end of the short one; a rate times something would stay 0

    second = optimizer()
    after = Schedule(long, second, "step")
    second.load_state_dict(first.state_dict())
    after.load_state_dict(before.state_dict())
    assert rates(after, second, 11) == pytest.approx(
        [0.5 * (1 + math.cos(math.pi * t / 20)) for t in range(10, 21)], abs=1e-9
    )
