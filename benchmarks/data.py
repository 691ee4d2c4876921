"""How fast do samples reach the model, and what do they cost in memory?

Everything is measured in turns within one run and printed as ratios, with one thread.

    uv run benchmarks/data.py FOLDER      # FOLDER has FashionMNIST/raw/, as torchvision lays it out
"""

from __future__ import annotations

import gzip
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import transforms as v1

from runner.dataset import ArrayDataset, Parts, Samples, image_folder, torchvision
from runner.loader import Order, Resident
from runner.transform import Crop, Flip, Normalize, Pipeline

CPU = torch.device("cpu")
BATCH = 64


def samples_per_second(batches: Iterator[Any], count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * BATCH / (time.perf_counter() - started)


def bare(inputs: Tensor, mean: float, std: float) -> Iterator[Tensor]:
    """What one would write by hand: index, pad, a window view, flip, normalise."""
    while True:
        for rows in torch.randperm(len(inputs)).split(BATCH):
            x = functional.pad(inputs[rows], [4] * 4)
            shift = torch.randint(9, (len(x), 2))
            x = x.unfold(2, 28, 1).unfold(3, 28, 1)[torch.arange(len(x)), :, shift[:, 0], shift[:, 1]]
            x = torch.where((torch.rand(len(x)) < 0.5).view(-1, 1, 1, 1), x.flip(3), x)
            yield (x.float() - mean) / std


def resident(data: ArrayDataset) -> Iterator[Any]:
    transform = Pipeline([Crop(4), Flip(), Normalize()]).fit(lambda: data.inputs.split(4096))
    loader = Resident(Samples(data), Order(torch.arange(len(data)), batch_size=BATCH), transform, CPU)
    for epoch in range(10**9):
        yield from loader.epoch(epoch)


class Pil(torch.utils.data.Dataset[Any]):
    """One PIL picture at a time, as torchvision's tutorials have it."""

    def __init__(self, data: ArrayDataset, mean: float, std: float) -> None:
        self.data = data
        steps = [
            v1.RandomCrop(28, 4),
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize([mean / 255], [std / 255]),
        ]
        self.transform = v1.Compose(steps)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = Image.fromarray(self.data.inputs[index, 0].numpy())
        return self.transform(picture), int(self.data.targets[index])


def fashion_mnist(root: str) -> None:
    before = memory()
    parts: Parts = torchvision("FashionMNIST", root, parts={"train": {"train": True}, "test": {"train": False}})
    cost = memory() - before
    extracted = sum(len(gzip.decompress(path.read_bytes())) for path in Path(root, "FashionMNIST/raw").glob("*.gz"))
    print(f"memory of Fashion-MNIST, held resident: {cost / extracted:.2f} × its {extracted / 2**20:.0f} MiB on disk")

    data: Any = parts.train
    mean, std = data.inputs.float().mean().item(), data.inputs.float().std().item()
    pil: Any = DataLoader(Pil(data, mean, std), BATCH, shuffle=True)
    ways: dict[str, tuple[Callable[[], Iterator[Any]], int]] = {
        "resident": (lambda: resident(data), 500),
        "bare loop": (lambda: bare(data.inputs, mean, std), 500),
        "PIL": (lambda: iter(pil), 40),
    }
    running = {name: make() for name, (make, _) in ways.items()}
    speed: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(9):
        for name, (_, count) in ways.items():
            speed[name].append(samples_per_second(running[name], count))
    for name, found in speed.items():
        print(f"{name:10} {median(found):10,.0f} samples/s, crop + flip + normalize")
    for other in ("PIL", "bare loop"):
        ratios = [a / b for a, b in zip(speed["resident"], speed[other], strict=True)]
        print(f"resident / {other}: {median(ratios):.2f}")


def folder_of_jpegs(count: int = 2000) -> None:
    with tempfile.TemporaryDirectory() as place:
        rng = np.random.default_rng(0)
        for number in range(count):
            path = Path(place, "pictures", f"class-{number % 4}", f"{number}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            coarse.resize((320, 240), Image.Resampling.BICUBIC).save(path, quality=90)
        times = []
        for _ in range(2):  # the first run decodes, the second finds what it kept
            started = time.perf_counter()
            data: Any = image_folder(f"{place}/pictures", size=[96, 96], cache=f"{place}/cache")
            opened = time.perf_counter() - started
            loader = Resident(Samples(data), Order(torch.arange(count), batch_size=BATCH), Pipeline(), CPU)
            epochs = []
            for epoch in range(4):
                started = time.perf_counter()
                for _ in loader.epoch(epoch):
                    pass
                epochs.append(time.perf_counter() - started)
            times.append((opened, median(epochs[1:])))
    (first, later), (second, _) = times
    ratio = (first + later) / later
    print(f"{count:,} JPEGs of 320×240, held as 96×96: the first epoch, with decoding, takes {ratio:.0f} × a later one")
    print(f"{count:,} JPEGs: opening them again takes {second / first:.3f} × the first time")


def memory() -> int:
    """The largest memory that this process has held so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, batch {BATCH}")
    if len(sys.argv) > 1:
        fashion_mnist(sys.argv[1])
    folder_of_jpegs()
