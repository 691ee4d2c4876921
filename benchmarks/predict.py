"""What does `predict` cost, beside the model alone?

Asks a small MLP and a small CNN about Fashion-MNIST's 10,000 test pictures in batches of 64 with one thread, in turns:
the model alone over batches that are ready, and all that `runner predict input=test output=FILE` does from
the stored bytes to the file. Then whole processes in turns: one picture predicted, and `import torch`. Then their
memory: for 100,000 paths on stdin, and for 100.

    uv run benchmarks/predict.py FOLDER   # FOLDER has FashionMNIST/raw/, as torchvision lays it out

On two shared cores of an Intel Xeon, with torch 2.15: the CNN has 0.96 to 0.99 times the pictures per second of the
model alone (2,300), the MLP 0.52 times (160,000), for a line takes 3 µs to write. One picture takes 1.12 to 1.27 times
as long as importing torch. 100 files take 585 MB, 10,000 take 601, 100,000 take 608: the allocator fills its arenas.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from runner import predict
from runner.__main__ import main
from runner.trained.inputs import pieces
from runner.trained.opening import opened
from runner.trained.run import Run, open_run
from runner.trained.writing import Writer

TURNS = 9
QUICK = ("tensorboard.enabled=false", "trainer.threads=1", "trainer.max_steps=50", "device=cpu")


def trained(place: Path, name: str, root: str) -> Path:
    """A run that was trained a little."""
    folder = place / name
    assert (
        main(["dataset=fashion_mnist", f"dataset.root={root}", f"model={name}", *QUICK, f"hydra.run.dir={folder}"]) == 0
    )
    return folder


def throughput(folder: Path) -> tuple[float, float]:
    """Pictures per second of the model alone, and what of that is left when it is `predict` that asks."""
    (run_folder,) = opened("predict", [f"run={folder}", "input=test"])
    run = open_run(run_folder.cfg, folder)
    ready = [piece.samples[0].clone() for piece in pieces("test", [run_folder], [run])]
    pairs = []
    for turn in range(TURNS):
        found = pieces("test", [run_folder], [run])
        first = next(found)  # the data are read
        with Writer(str(folder / f"{turn}.csv"), run.layout(("index",), target=True)) as writer:
            pairs.append(
                (timed(lambda: alone(run, ready)), timed(lambda: predict.write(chain([first], found), [run], writer)))  # noqa: B023
            )
    model, whole = (median(column) for column in zip(*pairs[1:], strict=True))
    return 10_000 / model, model / whole


def alone(run: Run, ready: list[torch.Tensor]) -> None:
    with torch.inference_mode():
        for batch in ready:
            run.forward(batch)


def timed(function: Callable[[], object]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def start_up(folder: Path, picture: Path) -> float:
    """Time of a process that predicts one picture over that of one that imports torch."""
    command = [sys.executable, "-m", "runner", "predict", f"run={folder}", f"input={picture}"]
    pairs = [(process([sys.executable, "-c", "import torch"]), process(command)) for _ in range(TURNS)]
    torch_alone, one_picture = (median(column) for column in zip(*pairs[1:], strict=True))
    return float(one_picture / torch_alone)


def process(command: list[str]) -> float:
    return timed(lambda: subprocess.run(command, check=True, capture_output=True))


def memory(folder: Path, picture: Path, count: int) -> float:
    """Peak of a process that predicts `count` files, in MB."""
    code = (
        "from runner.__main__ import main\n"
        f"main(['predict', 'run={folder}', 'input=-', 'output={folder}/{count}.csv'])\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    paths = f"{picture}\n" * count
    done = subprocess.run([sys.executable, "-c", code], input=paths, capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


if __name__ == "__main__":
    from PIL import Image

    with TemporaryDirectory() as place:
        picture = Path(place) / "picture.png"
        Image.new("L", (28, 28)).save(picture)
        folders = {name: trained(Path(place), name, sys.argv[1]) for name in ("mlp", "cnn")}
        for name, folder in folders.items():
            speed, share = throughput(folder)
            print(f"{name}: the model alone {speed:,.0f} pictures/s; predict {share:.2f} times that")
        print(f"one picture: {start_up(folders['cnn'], picture):.2f} times import torch")
        for count in (100, 10_000, 100_000):
            print(f"memory for {count:,} files: {memory(folders['cnn'], picture, count):.0f} MB")
