"""From which size on is a GPU faster than the CPU?

Times a training step of MLPs of growing width on the CPU (one thread and all cores) and on the CUDA device, in turns,
and prints each time relative to one thread. A small network spends its time on launching kernels, not in them.

    uv run benchmarks/devices.py

On an H200 and a server CPU with 16 cores, with torch 2.11, the GPU takes 1.5, 1.2, 0.28 and 0.04 of the time of one
thread at widths of 32, 128, 512 and 2048 (all cores: 1.6, 1.25, 0.94 and 0.18).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as runner.__main__ does

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn

from runner.model import MLP

WIDTHS, BATCH, TURNS, STEPS = (32, 128, 512, 2048), 64, 7, 10


def training(device: torch.device, threads: int, width: int) -> Callable[[], float]:
    """A function that trains for some steps, and returns the seconds of one."""
    model = MLP((1, 28, 28), 10, hidden=(width, width)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    x, y = torch.randn(BATCH, 1, 28, 28, device=device), torch.randint(10, (BATCH,), device=device)

    def measured() -> float:
        torch.set_num_threads(threads)
        started = time.perf_counter()
        for _ in range(STEPS):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - started) / STEPS

    return measured


def main() -> None:
    cpu, cores = torch.device("cpu"), os.cpu_count() or 1
    ways = {"1 thread": (cpu, 1), f"{cores} threads": (cpu, cores)}
    if torch.cuda.is_available():
        ways[torch.cuda.get_device_name()] = torch.device("cuda"), 1
    else:
        print("there is no CUDA device here")
    print(f"torch {torch.__version__}; time of a step of an MLP, batch {BATCH}, relative to one CPU thread")
    for width in WIDTHS:
        made = {name: training(device, threads, width) for name, (device, threads) in ways.items()}
        turns = [[measured() for measured in made.values()] for _ in range(TURNS + 1)][1:]
        ratios = [median(turn[column] / turn[0] for turn in turns) for column in range(len(made))]
        shown = "   ".join(f"{name} {ratio:5.2f}" for name, ratio in zip(made, ratios, strict=True))
        print(f"width {width:5}   {median(turn[0] for turn in turns) * 1e3:8.2f} ms   {shown}")


if __name__ == "__main__":
    main()
