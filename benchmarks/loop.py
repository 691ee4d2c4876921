"""What does the runner's training loop cost, beside a loop written by hand and beside Lightning?

Times an epoch of a small MLP and of a small CNN, on Fashion-MNIST in batches of 64 with one thread: all ways in turns
within one run, with the same data and hyper-parameters and each with a model of the same class. What a way decides by
itself, such as a fused optimizer or the layout of pictures, is as it is by default. Nothing is evaluated.

    uv run --with lightning benchmarks/loop.py FOLDER   # FOLDER has FashionMNIST/raw/, as torchvision lays it out
    uv run --with lightning benchmarks/loop.py FOLDER --device cuda

Without FOLDER the pictures are random ones of the same shape; without Lightning, its rows are left out.

On two shared cores of an Intel Xeon, with torch 2.15 and Lightning 2.6, the runner's time over that of the loop by hand
with tensors in memory is 0.91 for the MLP and 0.83 for the CNN. Its speed over Lightning's is 1.8 and 1.2 with the
tensors, 5.6 and 1.35 with the pictures. The progress bar takes 0.6 % and 0.1 % of an epoch.

On an H100, with torch 2.11 and Lightning 2.6, a step is nothing but launching kernels: the ratio is 1.27 and 1.15.
With trainer.cuda_graph=true the runner is 3.7 and 4.0 times as fast as without: 2.8 and 4.0 times as fast as the
loop by hand, 6.2 and 6.3 times as fast as Lightning with the tensors, 24 and 17 times with the pictures.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import transforms

from runner import hydra_internals, options, terminal, train
from runner.grammar import quoted
from runner.model import CNN, MLP
from runner.trainer import Trainer

BATCH, TURNS = 64, 9
MODELS: dict[str, type[MLP] | type[CNN]] = {"mlp": MLP, "cnn": CNN}
SAMPLES = {"mlp": 12_800, "cnn": 1_280}  # in an epoch, such that none takes longer than some seconds
RUNNER, LOGGED, GRAPHED = "runner", "runner, with its progress bar", "runner, trainer.cuda_graph=true"

Batches = Iterable[tuple[Tensor, Tensor]]
Epoch = Callable[[], float]
"""Trains for an epoch, and returns the seconds that it took."""


def prepared(name: str, folder: str | None, device: str, *more: str) -> tuple[DictConfig, train.Prepared]:
    """All that `runner` makes before it trains."""
    overrides = [f"model={name}", f"loader.subset={SAMPLES[name]}", f"device={device}", "trainer.threads=1", *more]
    overrides += [f"trainer.max_epochs={2 * (TURNS + 1)}"]  # in each turn, one with a progress bar and one without
    if folder is not None:
        overrides += ["dataset=fashion_mnist", quoted(f"dataset.root={folder}")]
    else:
        overrides += ["dataset=synthetic", "dataset.image_size=[1,28,28]", "dataset.size=45000"]
    with initialize_config_dir(str(options.home()), **hydra_internals.release()):
        cfg = compose("config", overrides)
    found = train.prepare(cfg, Path())
    found.trainer.evaluate = lambda model: {cfg.checkpoint.monitor: 0.0}
    return cfg, found


def replayed(name: str, folder: str | None, device: str) -> dict[str, Epoch]:
    """Ours with CUDA graphs, by what the table calls it."""
    fit = prepared(name, folder, device, "trainer.cuda_graph=true")[1].trainer.fit()
    return {GRAPHED: timed(lambda: silent(fit))}


def silent(fit: Iterator[Any]) -> None:
    while next(fit) is None:  # after each step; what follows an epoch's last one is its record
        pass


def logged(fit: Iterator[Any], cfg: DictConfig, trainer: Trainer, bar: terminal.Bar) -> float:
    """What `train` does between two steps. Returns the seconds that this took."""
    spent, progress = 0.0, trainer.progress
    interval, epochs = cfg.trainer.log_interval, cfg.facts.total_epochs
    while next(fit) is None:
        begun = time.perf_counter()
        if progress.step % interval == 0:
            trainer.check()
            epoch = f"{progress.epoch + 1}/{epochs}"
            bar.update(progress.step, epoch, trainer.running_loss, trainer.vitals.speed)
        spent += time.perf_counter() - begun
    return spent


def by_hand(model: nn.Module, batches: Callable[[], Batches], device: str) -> Epoch:
    """The loop that one would write, over what `batches` makes anew for each epoch."""
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters())

    def epoch() -> None:
        model.train()
        for x, y in batches():
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()

    return timed(epoch)


def shuffled(x: Tensor, y: Tensor) -> Batches:
    order = torch.randperm(len(x), device=x.device)
    for start in range(0, len(x), BATCH):
        rows = order[start : start + BATCH]
        yield x[rows], y[rows]


class Pictures(Dataset[tuple[Tensor, int]]):
    """One PIL picture at a time, as the data sets of torchvision have it."""

    def __init__(self, pictures: Tensor, labels: Tensor) -> None:
        self.pictures, self.labels = pictures, labels
        mean, std = pictures.float().mean().item() / 255, pictures.float().std().item() / 255
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize([mean], [std])])

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pictures[index, 0].numpy())), int(self.labels[index])


def lightning(model: nn.Module, loader: DataLoader[Any], device: str) -> Epoch:
    """Lightning's `Trainer` as it is by default, from the start of the epoch to its end: what comes before and after,
    a checkpoint among it, is not counted."""
    import lightning  # type: ignore[import-not-found, unused-ignore]

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.model, self.started, self.seconds = model, 0.0, 0.0

        def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
            return functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

        def on_train_epoch_start(self) -> None:
            wait()
            self.started = time.perf_counter()

        def on_train_epoch_end(self) -> None:
            wait()
            self.seconds = time.perf_counter() - self.started

    module = Module()

    def epoch() -> float:
        with TemporaryDirectory() as place, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            lightning.Trainer(accelerator=device, devices=1, max_epochs=1, default_root_dir=place).fit(module, loader)
        return float(module.seconds)

    return epoch


def wait() -> None:
    """Until the device has computed what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def timed(function: Callable[[], object]) -> Epoch:
    def epoch() -> float:
        wait()
        started = time.perf_counter()
        function()
        wait()
        return time.perf_counter() - started

    return epoch


def others(model: type[MLP] | type[CNN], pictures: Tensor, x: Tensor, y: Tensor, device: str) -> dict[str, Epoch]:
    """Every way but ours, by what the table calls it.

    Args:
        pictures: (N, 1, 28, 28) uint8, in the memory of the CPU.
        x: the same as float32, normalised; and on the device, as are `y`.
    """
    pin = device != "cpu"
    tensors: DataLoader[Any] = DataLoader(TensorDataset(x.cpu(), y.cpu()), BATCH, shuffle=True, pin_memory=pin)
    one_by_one: DataLoader[Any] = DataLoader(Pictures(pictures, y.cpu()), BATCH, shuffle=True, pin_memory=pin)
    models = [model((1, 28, 28), 10) for _ in range(4)]
    found = {
        "by hand, tensors in memory": by_hand(models[0], lambda: shuffled(x, y), device),
        "by hand, DataLoader of pictures": by_hand(models[1], lambda: one_by_one, device),
    }
    if find_spec("lightning") is not None:
        found["Lightning, DataLoader of tensors"] = lightning(models[2], tensors, device)
        found["Lightning, DataLoader of pictures"] = lightning(models[3], one_by_one, device)
    return found


def measure(name: str, folder: str | None, device: str) -> None:
    cfg, made = prepared(name, folder, device)
    experiment, trainer = made.experiment, made.trainer
    # As on a terminal, wherever the output goes: elsewhere nothing is drawn, and a progress bar costs less.
    terminal.console = Console(file=StringIO(), force_terminal=True)
    rows, held = experiment.data.loaders["train"].order.indices, experiment.data.samples["train"].arrays
    pictures, targets, fit, logging_took = held.inputs[rows], held.targets[rows], trainer.fit(), list[float]()
    x, y = experiment.data.transform(pictures.to(device)), targets.to(device)
    with terminal.Bar(cfg.facts.total_steps, 0) as bar:
        ways = {
            RUNNER: timed(lambda: silent(fit)),
            LOGGED: timed(lambda: logging_took.append(logged(fit, cfg, trainer, bar))),
            **(replayed(name, folder, device) if device != "cpu" else {}),
            **others(MODELS[name], pictures, x, y, device),
        }
        turns = [[epoch() for epoch in ways.values()] for _ in range(TURNS + 1)][1:]  # the first allocates memory
    seconds = dict(zip(ways, zip(*turns, strict=True), strict=True))
    show(name, seconds)
    if find_spec("lightning") is None:
        print("lightning is not installed: uv pip install lightning")
    share = median(part / whole for part, whole in zip(logging_took[1:], seconds[LOGGED], strict=True))
    print(f"the progress bar, and the loss that it shows, take {share:.1%} of an epoch")


def show(name: str, seconds: dict[str, tuple[float, ...]]) -> None:
    print(f"\n{name:36}  samples/s   runner's time / its (middle half of the turns)   runner's speed / its")
    for way, found in seconds.items():
        ratios = [ours / its for ours, its in zip(seconds[RUNNER], found, strict=True)]
        low, middle, high = quantiles(ratios, method="inclusive")
        speed = SAMPLES[name] / median(found)
        print(f"{way:36} {speed:10,.0f}   {middle:5.2f} ({low:.2f} … {high:.2f}) {1 / middle:40.2f}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # Lightning's advice
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", help="has FashionMNIST/raw/")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    given = parser.parse_args()
    where = torch.cuda.get_device_name() if given.device == "cuda" else "cpu"
    print(f"torch {torch.__version__}, {where}, one thread, batches of {BATCH}, medians of {TURNS} turns")
    for name in MODELS:
        measure(name, given.folder, given.device)
