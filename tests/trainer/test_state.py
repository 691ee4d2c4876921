from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, left_at, own_model
from torch import nn
from torch.optim import SGD, AdamW

from runner.model import unsaved
from runner.trainer.state import load_optimizer


def network(order: str) -> nn.Sequential:
    """Three layers of one shape, in an order that is that of their names."""
    torch.manual_seed(0)
    layers = {name: nn.Linear(4, 4) for name in "abc"}
    return nn.Sequential(OrderedDict((name, layers[name]) for name in order))


def named(model: nn.Module, kind: Any = AdamW, **options: Any) -> torch.optim.Optimizer:
    made: torch.optim.Optimizer = kind(list(model.named_parameters()), lr=0.1, **options)
    return made


def trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    for name, parameter in model.named_parameters():
        parameter.grad = torch.full_like(parameter, float(ord(name[0])))
    optimizer.step()
    return copy.deepcopy(optimizer.state_dict())


@pytest.mark.parametrize("kind", [AdamW, SGD])
def test_each_parameter_gets_the_state_of_its_name(kind: Any) -> None:
    options = {"momentum": 0.9} if kind is SGD else {}
    model, moved = network("abc"), network("cab")
    first, second = named(model, kind, **options), named(moved, kind, **options)
    load_optimizer(second, trained(model, first))
    before, after = dict(model.named_parameters()), dict(moved.named_parameters())
    for name in before:
        for key, value in first.state[before[name]].items():
            assert torch.equal(torch.as_tensor(second.state[after[name]][key]), torch.as_tensor(value))
    # torch itself gives the layers the state of one another, and says nothing.
    second.load_state_dict(first.state_dict())
    assert not all(
        torch.equal(torch.as_tensor(value), torch.as_tensor(second.state[after[name]][key]))
        for name in before for key, value in first.state[before[name]].items()
    )  # fmt: skip


def test_groups_are_found_by_what_is_in_them() -> None:
    def groups(model: nn.Module, order: str) -> AdamW:
        parts = {"w": [], "b": []}
        for name, parameter in model.named_parameters():
            parts[name[2]].append((name, parameter))
        return AdamW([{"params": parts[part], "lr": {"w": 0.1, "b": 0.2}[part]} for part in order])

    model = network("abc")
    first = groups(model, "wb")
    state = trained(model, first)
    other = groups(network("abc"), "bw")
    load_optimizer(other, state)
    assert [group["lr"] for group in other.param_groups] == [0.2, 0.1]
    assert [group["param_names"][0] for group in other.param_groups] == ["a.bias", "a.weight"]


@pytest.mark.parametrize("fused", [False, True])
def test_a_state_of_another_layout_in_memory_goes_on(fused: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 4, 3)
    laid_out = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    first, second = named(plain, fused=fused), named(laid_out, fused=fused)
    gradient = torch.randn_like(plain.weight)

    def step(conv: nn.Conv2d, optimizer: torch.optim.Optimizer) -> None:
        conv.weight.grad = torch.empty_like(conv.weight).copy_(gradient)
        optimizer.step()

    step(plain, first)
    laid_out.load_state_dict(plain.state_dict())
    load_optimizer(second, copy.deepcopy(first.state_dict()))
    gradient.neg_()
    step(plain, first)
    step(laid_out, second)
    assert laid_out.weight.stride() != plain.weight.stride()
    torch.testing.assert_close(laid_out.weight, plain.weight)


def test_an_optimizer_may_keep_more_than_the_state_of_its_parameters() -> None:
    optimizer = SGD(network("abc").parameters(), lr=0.1)
    optimizer.state["count"] = 3  # type: ignore[index]
    load_optimizer(optimizer, copy.deepcopy(optimizer.state_dict()))
    assert optimizer.state["count"] == 3  # type: ignore[index]


def test_other_parameters_are_refused() -> None:
    model = network("abc")
    state = trained(model, named(model))
    with pytest.raises(ValueError, match=r"differ from the saved ones: c\.bias, c\.weight"):
        load_optimizer(named(network("ab")), state)


def test_what_a_state_dict_does_not_have() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen = torch.zeros(3)
            self.register_buffer("passing", torch.zeros(1), persistent=False)
            self.register_buffer("kept", torch.zeros(1))
            self.layer = nn.Linear(1, 1)

    model = nn.Sequential(Own(), nn.ReLU())
    assert unsaved(model) == ["0.seen", "0.passing"]
    assert not {"0.seen", "0.passing"} & model.state_dict().keys()
    assert unsaved(nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))) == []


def test_a_run_names_it_at_its_start(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    options = own_model(
        "import torch\n"
        "class Net(torch.nn.Sequential):\n"
        "    def __init__(self, num_outputs):\n"
        "        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, num_outputs))\n"
        "        self.steps = torch.zeros(())\n"
    )
    assert run(*options, "trainer.max_steps=1", "tensorboard.enabled=false") == 0
    assert "not saved in checkpoints, because they are not in the model's state_dict: steps;" in capsys.readouterr().out


def test_reordered_layers_go_on_with_their_own_state(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The code of a model is changed between two starts: its layers are made in another order."""
    text = (
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, num_outputs):\n"
        "        super().__init__()\n"
        "        for name in ORDER: self.add_module(name, torch.nn.Linear(64, 64))\n"
        "        self.head = torch.nn.Linear(64, num_outputs)\n"
        "    def forward(self, x):\n"
        "        return self.head(self.b(self.a(x.flatten(1)).relu()))\n"
    )
    options = (*own_model("ORDER = 'ab'\n" + text), "trainer.threads=1", "tensorboard.enabled=false")
    with left_at(9):
        assert run(*options, "hydra.run.dir=whole", "trainer.max_epochs=1", "checkpoint.every=9 steps") == 0
    Path("own_net.py").write_text("ORDER = 'ba'\n" + text)
    del sys.modules["own_net"]
    assert run("resume=part", "allow_targets=[own_net.*]") == 0
    whole, part = (torch.load(f"{name}/checkpoints/last.pt", weights_only=True)["model"] for name in ("whole", "part"))
    for name, value in whole.items():
        torch.testing.assert_close(part[name], value, rtol=0, atol=0, msg=lambda m, n=name: f"{n}: {m}")
