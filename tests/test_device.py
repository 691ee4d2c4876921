from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from runner import device
from runner.errors import ConfigError

has_cuda = torch.cuda.is_available()


def test_the_cpu_is_always_there() -> None:
    assert device.resolve("cpu") == torch.device("cpu")
    assert device.describe(torch.device("cpu")) == "cpu"


@pytest.mark.skipif(has_cuda, reason="needs a machine without CUDA")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there_is_an_error_that_says_what_is(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"there is no '{name}' on this machine\n  allowed: auto, cpu"):
        device.resolve(name)


@pytest.mark.skipif(has_cuda or torch.backends.mps.is_available(), reason="needs a machine with a CPU only")
def test_auto_takes_what_is_there() -> None:
    assert device.resolve("auto") == torch.device("cpu")


@pytest.mark.cuda
@pytest.mark.skipif(not has_cuda, reason="needs CUDA")
def test_cuda_is_numbered() -> None:
    assert device.resolve("auto") == device.resolve("cuda") == device.resolve("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ConfigError, match="there is no 'cuda:99'"):
        device.resolve("cuda:99")


def test_threads_as_they_were_asked_for() -> None:
    assert device.threads(3, nn.Linear(1, 1), torch.zeros(1, 1)) == 3


def test_one_thread_for_a_small_model_and_every_core_for_a_large_one() -> None:
    small, large = nn.Linear(10, 10), nn.Linear(2000, 2000)
    assert device.threads("auto", small, torch.zeros(64, 10)) == 1
    # 2 · 64 · 2000 · 2000 = 5.12e8 operations
    assert device.threads("auto", large, torch.zeros(64, 2000)) == len(os.sched_getaffinity(0))
    assert device.threads("auto", large, torch.zeros(8, 2000)) == 1


def test_counting_operations_changes_nothing_in_the_model() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    device.threads("auto", model, torch.randn(8, 3))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
