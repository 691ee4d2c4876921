"""The device a run computes on, and how many CPU threads it takes."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from runner import debugger
from runner.errors import ConfigError, Problem
from runner.eval_mode import eval_mode
from runner.table import Table

# Below this many floating-point operations in a forward pass, handing work to a second thread costs more than the
# thread saves. Measured in benchmarks/threads.py.
WORTH_A_THREAD = 5e8


def resolve(name: str) -> torch.device:
    """The device that the configuration's ``device`` names. CUDA is asked what is there, and not started.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:N``, ``mps``; or ``auto``, for the first of CUDA, MPS and CPU that is there.

    Raises:
        ConfigError: there is no such device on this machine.
    """
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu"
        return resolve(name)
    kind, _, number = name.partition(":")
    cards = torch.cuda.device_count() if kind == "cuda" and torch.cuda.is_available() else 0
    if (kind == "cuda" and int(number or 0) >= cards) or (kind == "mps" and not _has_mps()):
        there = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
        present = ["auto", "cpu", *(f"cuda:{i}" for i in there), *(["mps"] if _has_mps() else [])]
        what = f"there is no {name!r} on this machine"
        raise ConfigError(Problem("device", what, ", ".join(present), "device=auto"))
    return torch.device("cuda", int(number or 0)) if kind == "cuda" else torch.device(name)


def check(device: torch.device, cudnn: bool) -> None:
    """That this torch can compute on it. Starts CUDA, after which a process cannot be forked any more.

    Args:
        cudnn: whether it will compute with cuDNN.

    Raises:
        ConfigError: it cannot.
    """
    if device.type != "cuda":
        return
    _check_built_for(device)
    try:
        if cudnn:
            torch.backends.cudnn.version()  # is one that this torch can work with
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        remedy = "an LD_LIBRARY_PATH without another cuDNN, or trainer.cudnn=false"
        raise ConfigError(Problem("trainer.cudnn", reason, remedy=remedy)) from error


def _check_built_for(device: torch.device) -> None:
    """Check that this torch has kernels for a card: of its own architecture, or an older one's to be compiled."""
    major, minor = torch.cuda.get_device_capability(device)
    built = torch.cuda.get_arch_list()
    found = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name) for name in built]
    versions = [(m[1], int(m[2]), int(m[3])) for m in found if m is not None]
    fits = any(
        (kind == "sm" and a == major and b <= minor) or (kind == "compute" and (a, b) <= (major, minor))
        for kind, a, b in versions
    )
    if versions and not fits:
        name = torch.cuda.get_device_name(device)
        what = f"{device} ({name}) has compute capability {major}.{minor}, which this build of torch does not support"
        remedy = "a build of torch that supports it (pytorch.org/get-started), or device=cpu"
        raise ConfigError(Problem("device", what, ", ".join(built), remedy))


def describe(device: torch.device) -> str:
    """What people call the device."""
    if device.type != "cuda":
        return str(device)
    # What is called cuda:0 here may be another card of the machine.
    visible = _visible()
    place = f", card {visible[device.index]} of the machine" if len(visible) > (device.index or 0) else ""
    return f"{device} ({torch.cuda.get_device_name(device)}{place})"


def out_of_memory(device: torch.device, batch_size: int, accumulate: int, cut: bool = False) -> str:
    """What to do about batches that do not fit.

    Args:
        cut: whether they were made smaller until they would, and not even one sample did.
    """
    peak = ""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        peak = f": {torch.cuda.max_memory_allocated(device) / 2**20:,.0f} of {total / 2**20:,.0f} MiB at the peak"
    what = f"out of memory on {device} with batches of {batch_size}{peak}"
    if batch_size == 1 or cut:
        return f"{what}\n  try: a smaller model or input, or trainer.precision=bf16"
    half = f"loader.batch_size={batch_size // 2} trainer.accumulate={2 * accumulate}"
    same = "with the same number of samples per step"
    return f"{what}\n  try: trainer.micro_batch=auto, or {half}, {same}; or trainer.precision=bf16"


def threads(wanted: int | str, model: nn.Module, example: torch.Tensor) -> int:
    """How many CPU threads a run computes with.

    Args:
        wanted: a number; or ``auto``, which is one thread for a small model (OpenMP threads that wait for one another
            make small kernels slower, and many times so beside a second process), and every core for a large one. It
            depends on the model, its batches and the cores alone, so that a run and its repetition choose the same.
        example: (B, ...) one batch of the model's input. The forward pass over it is counted, not timed.
    """
    if isinstance(wanted, int) or debugger.on:
        return wanted if isinstance(wanted, int) else 1
    return len(cores()) if example.device.type == "cpu" and _flops(model, example) > WORTH_A_THREAD else 1


def _flops(model: nn.Module, example: torch.Tensor) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    # In eval mode, or BatchNorm would take the example into its statistics.
    try:
        with FlopCounterMode(display=False) as counter, torch.inference_mode(), eval_mode(model):
            model(example)
    except Exception:  # it keeps some models from running that do run: those with parametrised layers
        return 0
    return int(counter.get_total_flops())


def cores() -> list[int]:
    """The cores that this process may use, which in a container or a Slurm job are fewer than the machine has."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def cards() -> list[str]:
    """The CUDA cards that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return (_visible() or [str(number) for number in range(count)])[:count]


def _visible() -> list[str]:
    return [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def environment(device: torch.device, record: Mapping[str, Any]) -> Table:
    """What a run is computed with: packages, device, threads, commit.

    Args:
        record: of the run, with ``versions``, ``git`` and ``threads``; see `runner.result`.
    """
    rows = [[name, version] for name, version in record["versions"].items()]
    rows.append(["device", describe(device)])
    if device.type == "cuda":  # what this torch has kernels for, beside what the card can do
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        built, memory = torch.cuda.get_arch_list(), torch.cuda.get_device_properties(device).total_memory / 2**30
        rows.append(["compute capability", f"{capability}, and torch is built for {', '.join(built)}"])
        rows.append(["memory of the card", f"{memory:.1f} GiB"])
        rows.append(["CUDA, cuDNN", f"{torch.version.cuda}, {torch.backends.cudnn.version()}"])
    rows += [["threads", f"{record['threads']} of {os.cpu_count()} cores"], ["system", platform.platform()]]
    git = record["git"]
    commit = "none" if git is None else git["commit"] + ("" if git["clean"] else ", with changes")
    return Table("Environment", ["what", "value"], [*rows, ["git commit", commit]])
