"""How the run folders below `runs/` were made, and what is asked of them ever after.

    python make.py data              # what they are trained on
    python make.py make NAME...      # train: only ever under a name that is new
    python replay.py FOUND NAME...   # in another copy of this folder: what this version makes of them
    python make.py record FOUND      # write that down in recorded.json

The folders are what an earlier version left. They are never made again by newer code, which would prove nothing: what
is new (another kind of run, a new format) gets a new name below, and the ones that are there stay as they are. Nor is
anything recorded again, unless an old figure was wrong on purpose, which a commit has to say.

To be run in a copy of this folder at another place, with `runner` on the path, by a name that may be published:
a run writes the paths of its program into `.hydra/hydra.yaml`, and the name of the machine into event files.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import replay

LIGHT = (
    "device=cpu", "trainer.threads=1", "trainer.max_epochs=2", "loader.batch_size=32", "tensorboard.enabled=false",
)  # fmt: skip

MLP = ("model=mlp", "model.hidden=[8]")


def _table(path: str, *options: str) -> tuple[str, ...]:
    return ("dataset=table", f"dataset.path=data/{path}.csv", "transform=table", *MLP, *options)


VALUES = ("loss=mse", "metric=regression", "split=random")

IRIS = ("dataset=iris", *MLP)

WITH_HYDRAS = ("digits", "environment", "own_code")
"""Runs that keep Hydra's own record, which takes a third of the room, and which nothing reads."""


@dataclass(frozen=True)
class Frozen:
    """A run folder.

    Args:
        typed: the command that made it, besides `LIGHT` and where it is.
        stopped: the step in which it got Ctrl-C.
        killed: the file whose run was completed when all its processes were killed; or the step in which it was.
        environment: what was set when it was made, and is not any more.
    """

    typed: tuple[str, ...]
    stopped: int | None = None
    killed: int | str | None = None
    environment: tuple[str, str] | None = None


RUNS = {
    # Classes: a CNN with augmentation and curves in TensorBoard; class weights, warm-up, clipping, a plateau.
    "digits": Frozen(("model=cnn", "model.channels=[2,4]", "transform=crop_flip", "transform.train.0.padding=1",
                      "tensorboard.enabled=true", "tensorboard.pictures=false", "loader.subset=256")),
    "weighted": Frozen((*IRIS, "loss=weighted_ce", "optimizer=sgd", "optimizer.lr=0.1", "scheduler=plateau",
                        "trainer.clip_norm=1.0", "trainer.early_stopping.patience=5",
                        "optimizer.param_groups=[{match: bias, lr_scale: 2.0}]")),
    "values": Frozen(("dataset=diabetes", *MLP, *VALUES, "loss.standardize=true", "scheduler.warmup=5")),
    "flags": Frozen(_table("flags", "dataset.target=[sweet,round,green]", "loss=bce", "loss.pos_weight=balanced",
                           "metric=multilabel", "split=random")),
    "table": Frozen(_table("people", "dataset.target=risk", "dataset.drop=[id]")),
    # Milliseconds since 1970: float32 has steps of 131 seconds there, in which their mean and deviation are off.
    "large_numbers": Frozen(_table("events", "dataset.target=delay", "dataset.task=regression", *VALUES,
                                   "loss.standardize=true")),
    "images": Frozen(("dataset=image_folder", "dataset.root=data/images", "dataset.cache=null", "split=random",
                      "transform=flip", "model=cnn", "model.channels=[2,4]", "loader.batch_size=8")),
    "stream": Frozen(("--config-dir", "mine", *replay.OWN, "dataset=waves", "transform=none", *MLP)),
    "ema": Frozen((*IRIS, "trainer.ema=0.9", "checkpoint.keep=2", "trainer.accumulate=2", "loss=label_smoothing")),
    "half": Frozen((*MLP, "trainer.precision=bf16", "loader.subset=256")),
    "folds": Frozen((*IRIS, "split=stratified_kfold", "split.n_splits=3")),
    "folds_killed": Frozen((*IRIS, "split=stratified_kfold", "split.n_splits=3"),
                           killed="fold-1/result.json"),
    "sweep": Frozen(("-m", *IRIS, "optimizer.lr=0.01,0.001")),
    "sweep_killed": Frozen(("-m", *IRIS, "seed=0,1"), killed="seed=0/result.json"),
    "search": Frozen(("-m", *IRIS, "sweep=optuna", "sweep.points=2", "optimizer.lr=tag(log,interval(1e-4,1e-1))")),
    "own_code": Frozen(("--config-dir", "mine", *replay.OWN, "dataset=iris", "model=own",
                        "+metric.share_of_first._target_=own_code.share_of_first")),
    # Read by the process itself, not from memory; with everything that is drawn anew for each sample.
    "interrupted": Frozen((*MLP, "model.dropout=0.3", "transform=crop_flip", "transform.train.0.padding=1",
                           "loader=workers", "loader.subset=256"), stopped=11),
    "killed": Frozen((*MLP, "model.dropout=0.3", "checkpoint.every=5 steps", "loader.subset=256"), killed=12),
    "environment": Frozen((*_table("people", "dataset.target=risk", "dataset.drop=[id]"),
                           "dataset.path=${oc.env:EARLIER_DATA,nowhere}/people.csv",
                           "optimizer.lr=${oc.decode:${oc.env:EARLIER_LR,0.02}}"),
                          environment=("EARLIER_DATA", "data")),
}  # fmt: skip


def make(name: str) -> None:
    """Train the run `name` in a process of its own, in a folder that must not be there."""
    frozen = RUNS[name]
    place = Path("runs", name)
    if place.exists():
        raise SystemExit(f"{place} is there already, and stays as it is")
    kind = "sweep" if "-m" in frozen.typed else "run"
    typed = [*frozen.typed, *(o for o in LIGHT if o.partition("=")[0] not in _keys(frozen.typed))]
    child = os.fork()
    if child == 0:
        os.setsid()
        _train([*typed, f"hydra.{kind}.dir={place}"], frozen)
    if isinstance(frozen.killed, str):
        while not _is_complete(place / frozen.killed):
            time.sleep(0.001)
        os.killpg(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    wanted = 130 if frozen.stopped is not None else -9 if frozen.killed is not None else 0
    if status != wanted:
        raise SystemExit(f"{name} ended with {status}, and not with {wanted}")
    if name not in WITH_HYDRAS:
        for path in place.rglob(".hydra"):
            shutil.rmtree(path)


def _keys(overrides: tuple[str, ...]) -> set[str]:
    return {override.partition("=")[0] for override in overrides}


def _train(arguments: list[str], frozen: Frozen) -> None:
    if frozen.environment is not None:
        os.environ.update([frozen.environment])
    step = frozen.stopped or frozen.killed
    if isinstance(step, int):
        _signal_at(step, signal.SIGINT if frozen.stopped else signal.SIGKILL)
    os._exit(replay.main(arguments))


def _signal_at(wanted: int, number: signal.Signals) -> None:
    """Have the run get a signal in a step, when what is being written is on the disk."""
    from runner.trainer import Trainer

    step = Trainer.step

    def stopped(self: Trainer, batches: object) -> None:
        step(self, batches)  # type: ignore[arg-type]
        if self.progress.step == wanted:
            time.sleep(1.0)
            signal.raise_signal(number)

    Trainer.step = stopped  # type: ignore[assignment,method-assign]


def _is_complete(result: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return bool(json.loads(result.read_text())["state"] == "completed")
    return False


def data() -> None:
    """Write what the runs were trained on, below `data/`."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    Path("data").mkdir()

    def table(name: str, columns: dict[str, list[object]]) -> None:
        with open(f"data/{name}.csv", "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))

    age, income = draw.integers(18, 90, 120), draw.normal(3000, 800, 120).round(2)
    town = draw.choice(["Aachen", "Bonn", "Köln"], 120)
    risk = np.where(age / 90 + (town == "Bonn") + draw.normal(0, 0.3, 120) > 0.9, "high", "low")
    table("people", {
        "id": list(range(120)), "age": [a if i % 9 else "" for i, a in enumerate(age)], "income": income.tolist(),
        "town": [t if i % 11 else "" for i, t in enumerate(town)], "risk": risk.tolist(),
    })  # fmt: skip
    begun = 1_700_000_000_000 + draw.integers(0, 86_400_000, 120)
    size = draw.integers(1, 10**9, 120)
    delay = 3e9 + (begun - 1.7e12) / 60 + size / 1e4 + draw.normal(0, 1e4, 120)
    table("events", {"begun": begun.tolist(), "size": size.tolist(), "delay": delay.round(1).tolist()})
    traits = draw.normal(0, 1, (120, 4)).round(3)
    flags = (traits[:, :3] + draw.normal(0, 0.5, (120, 3)) > 0.4).astype(int)
    table("flags", {f"x{i}": traits[:, i].tolist() for i in range(4)}
          | {name: flags[:, i].tolist() for i, name in enumerate(("sweet", "round", "green"))})  # fmt: skip
    for number in range(36):
        kind = number % 3
        pixels = draw.integers(0, 120, (8, 8, 3), dtype=np.uint8)
        pixels[..., kind] += 100
        path = Path("data/images", ("red", "green", "blue")[kind], f"{number:02}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def record(found: str) -> None:
    """Enter in `recorded.json` what `replay.py` found of runs that are new."""
    path = Path("recorded.json")
    known, new = (json.loads(p.read_text()) if p.exists() else {} for p in (path, Path(found)))
    if failed := [name for name, content in new.items() if "failed" in content]:
        raise SystemExit(f"{', '.join(failed)}: did not work")
    if twice := known.keys() & new.keys():
        raise SystemExit(f"{', '.join(twice)}: recorded already")
    path.write_text(json.dumps(known | new, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    what, *names = sys.argv[1:]
    if what == "make":
        replay.warm()
    for each in names:
        {"make": make, "record": record}[what](each)
    if what == "data":
        data()
