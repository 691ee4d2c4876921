"""The device a run computes on, and how many CPU threads it takes."""

from __future__ import annotations

import os

import torch
from torch import nn

from runner.errors import ConfigError, Problem

# Below this many floating-point operations in a forward pass, handing work to a second thread costs more than the
# thread saves. Measured in benchmarks/threads.py.
WORTH_A_THREAD = 5e8


def resolve(name: str) -> torch.device:
    """The device that the configuration's ``device`` names.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:N``, ``mps``; or ``auto``, for the first of CUDA, MPS and CPU that is there.

    Raises:
        ConfigError: there is no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu")
    kind, _, number = name.partition(":")
    cards = torch.cuda.device_count() if kind == "cuda" and torch.cuda.is_available() else 0
    if (kind == "cuda" and int(number or 0) >= cards) or (kind == "mps" and not _has_mps()):
        raise ConfigError(Problem("device", f"there is no {name!r} on this machine", _present(), "device=auto"))
    return torch.device("cuda", int(number or 0)) if kind == "cuda" else torch.device(name)


def describe(device: torch.device) -> str:
    """What people call the device."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def threads(wanted: int | str, model: nn.Module, example: torch.Tensor) -> int:
    """How many CPU threads a run computes with.

    Args:
        wanted: a number; or ``auto``, which is one thread for a small model (OpenMP threads that wait for one another
            make small kernels slower, and many times so beside a second process), and every core for a large one. It
            depends on the model and the cores alone, so that a run and its repetition choose the same.
        example: (B, ...) one batch of the model's input. The forward pass over it is counted, not timed.
    """
    if isinstance(wanted, int):
        return wanted
    return _cores() if example.device.type == "cpu" and _flops(model, example) > WORTH_A_THREAD else 1


def _flops(model: nn.Module, example: torch.Tensor) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    training = model.training
    # In eval mode, or BatchNorm would take the example into its statistics.
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.eval()(example)
    model.train(training)
    return int(counter.get_total_flops())


def _cores() -> int:
    """The cores that this process may use, which in a container or a Slurm job are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def _present() -> str:
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ", ".join(["auto", "cpu", *cuda, *(["mps"] if _has_mps() else [])])
