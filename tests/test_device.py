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


@pytest.mark.parametrize(
    ("capability", "built", "fits"),
    [
        ((8, 6), ["sm_80", "sm_90"], True),  # of the same major version
        ((9, 0), ["sm_80", "compute_80"], True),  # compiled when it is first run
        ((7, 0), ["sm_75", "sm_80", "compute_90"], False),
        ((12, 0), ["sm_75", "sm_90a"], False),
        ((8, 6), [], True),  # unknown
    ],
)
def test_a_card_that_torch_is_not_built_for(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], built: list[str], fits: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda where: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda where: "NVIDIA Something")
    assert device.resolve("cuda:1") == torch.device("cuda:1")
    assert device.resolve("auto") == torch.device("cuda:0")
    if fits:
        device.check(torch.device("cuda:1"), cudnn=False)
    else:
        message = r"cuda:1 \(NVIDIA Something\) has compute capability \d+\.0, which this build of torch does not supp"
        with pytest.raises(ConfigError, match=message):
            device.check(torch.device("cuda:1"), cudnn=False)


def test_the_card_is_named_as_the_machine_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda where: "NVIDIA Something")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert device.describe(torch.device("cuda:1")) == "cuda:1 (NVIDIA Something, card 5 of the machine)"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert device.describe(torch.device("cuda:1")) == "cuda:1 (NVIDIA Something)"


def test_another_cudnn_than_the_one_torch_was_built_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def version() -> int:
        raise RuntimeError(
            "cuDNN version incompatibility: PyTorch was compiled against (9, 1, 0) but found (8, 9, 2).\n…"
        )

    monkeypatch.setattr(torch.backends.cudnn, "version", version)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda where: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90"])
    with pytest.raises(ConfigError, match=r"trainer.cudnn: cuDNN version incompatibility.*\n  try: an LD_LIBRARY_PATH"):
        device.check(torch.device("cuda:0"), cudnn=True)


def test_what_to_do_where_not_even_one_sample_fits() -> None:
    said = device.out_of_memory(torch.device("cpu"), 64, 1, cut=True)
    assert said.endswith("\n  try: a smaller model or input, or trainer.precision=bf16")
    assert "trainer.micro_batch=auto" in device.out_of_memory(torch.device("cpu"), 64, 1)
