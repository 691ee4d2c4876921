from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from runner import optimizer


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adam])
def test_fused_where_the_choice_is_open(kind: Any) -> None:
    assert optimizer.build(partial(kind, fused=None), nn.Linear(2, 2)).defaults["fused"] is True


@pytest.mark.parametrize("options", [{"fused": False}, {"foreach": True}, {"differentiable": True}])
def test_a_choice_that_was_made_stands(options: dict[str, bool]) -> None:
    made = optimizer.build(partial(torch.optim.AdamW, **options), nn.Linear(2, 2))
    assert not made.defaults["fused"]
    assert all(made.defaults[name] == value for name, value in options.items())


def test_an_optimizer_without_a_fused_form() -> None:
    assert isinstance(optimizer.build(partial(torch.optim.RMSprop, lr=0.1), nn.Linear(2, 2)), torch.optim.RMSprop)


def test_only_what_is_trainable_of_every_module() -> None:
    model, loss = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), nn.Linear(1, 1)
    model[0].requires_grad_(False)
    (group,) = optimizer.build(partial(torch.optim.SGD, lr=0.1), model, loss).param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in (*model[1].parameters(), *loss.parameters())]
