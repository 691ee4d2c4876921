"""Every model option takes a step on small pictures, in one channel or in three."""

from __future__ import annotations

import pytest
import torch
from conftest import composed
from torch.nn.functional import cross_entropy

from runner import config, options

OPTIONS = sorted(path.stem for path in (options.home() / "model").glob("*.yaml") if path.stem != "custom")


@pytest.mark.parametrize("option", OPTIONS)
def test_a_step(option: str) -> None:
    model = made(option, 3, 32, 32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [p.clone() for p in model.parameters()]
    output = model(torch.randn(2, 3, 32, 32))
    assert output.shape == (2, 5)
    cross_entropy(output, torch.tensor([0, 4])).backward()
    assert all(p.grad is not None for p in model.parameters())
    optimizer.step()
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("option", OPTIONS)
def test_grey_pictures(option: str) -> None:
    with torch.device("meta"):
        assert made(option, 1, 28, 28)(torch.empty(2, 1, 28, 28)).shape == (2, 5)


def made(option: str, *shape: int) -> torch.nn.Module:
    cfg = composed(f"model={option}")
    config.fill(cfg, {"input_shape": list(shape), "num_outputs": 5})
    model: torch.nn.Module = config.factory(cfg.model)()
    return model
