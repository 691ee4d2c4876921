"""When is a second CPU thread worth having?

Times one training step of models of growing size with one thread and with all cores, in turns, and prints the ratio
beside the number of floating-point operations in the forward pass, which is what `runner.device.threads` decides by.

    uv run benchmarks/threads.py
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as runner.__main__ does

import time
from statistics import median

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

from runner.model import CNN, MLP

CASES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "MLP 256-128, 8×8, batch 64": (MLP((1, 8, 8), 10), (64, 1, 8, 8)),
    "MLP 256-128, 28×28, batch 64": (MLP((1, 28, 28), 10), (64, 1, 28, 28)),
    "MLP 256-128, 28×28, batch 512": (MLP((1, 28, 28), 10), (512, 1, 28, 28)),
    "MLP 1024-1024, 28×28, batch 128": (MLP((1, 28, 28), 10, hidden=(1024, 1024)), (128, 1, 28, 28)),
    "CNN 8-16, 8×8, batch 64": (CNN((1, 8, 8), 10, channels=(8, 16)), (64, 1, 8, 8)),
    "CNN 32-64, 8×8, batch 64": (CNN((1, 8, 8), 10), (64, 1, 8, 8)),
    "CNN 32-64, 16×16, batch 64": (CNN((1, 16, 16), 10), (64, 1, 16, 16)),
    "CNN 32-64, 28×28, batch 64": (CNN((1, 28, 28), 10), (64, 1, 28, 28)),
    "ResNet-18, 32×32, batch 16": (resnet18(num_classes=10), (16, 3, 32, 32)),
    "ResNet-18, 64×64, batch 32": (resnet18(num_classes=10), (32, 3, 64, 64)),
}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    optimizer.zero_grad()


def main() -> None:
    cores = os.cpu_count() or 1
    print(f"torch {torch.__version__}, {cores} cores; time of a step with {cores} threads, relative to one thread")
    for name, (model, shape) in CASES.items():
        x, y = torch.randn(shape), torch.randint(10, shape[:1])
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model(x)
        times: dict[int, list[float]] = {1: [], cores: []}
        for _ in range(12):
            for threads, seconds in times.items():
                torch.set_num_threads(threads)
                step(model, optimizer, x, y)
                repeats = max(1, int(2e9 / max(counter.get_total_flops(), 1)))
                started = time.perf_counter()
                for _ in range(min(repeats, 20)):
                    step(model, optimizer, x, y)
                seconds.append((time.perf_counter() - started) / min(repeats, 20))
        ratio = median(b / a for a, b in zip(times[1], times[cores], strict=True))
        print(
            f"{name:34} {counter.get_total_flops() / 1e6:10,.1f} MFLOP  {median(times[1]) * 1e3:8.2f} ms  {ratio:5.2f}"
        )


if __name__ == "__main__":
    main()
