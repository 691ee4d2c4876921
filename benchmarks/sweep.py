"""What a sweep saves: eight small runs as fresh processes, and as one sweep.

    uv run benchmarks/sweep.py [--turns 3] [KEY=VALUE ...]

Each way is timed in turns with the others; ratios are of the medians. On 2 shared cores with torch 2.15, for 8 runs of
20 epochs on the digits:

                                             as it is    tensorboard.pictures=false
    one after the other / fresh processes        0.34                          0.28
    2 at a time / fresh processes                0.22                          0.20
    2 at a time / one after the other            0.63                          0.71

A fresh process takes 6 s to import torch, scikit-learn and the rest. Of the 1.9 s that a job takes, 0.6 s are training
and 0.9 s drawing pictures.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

MODEL = ("model=mlp", "trainer.max_epochs=20")
SEEDS = range(8)
COMMAND = (sys.executable, "-m", "runner")


def run(*arguments: str) -> str:
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run([*COMMAND, *arguments], cwd=place, capture_output=True, text=True, check=True)
    return done.stdout


def fresh(*overrides: str) -> None:
    for seed in SEEDS:
        run(*MODEL, f"seed={seed}", *overrides)


def sweep(*overrides: str) -> str:
    return run("-m", *MODEL, f"seed={','.join(map(str, SEEDS))}", *overrides)


def seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def overhead(*overrides: str) -> float:
    """Seconds per job of a sweep beyond what its run takes from its folder on: building it, the fork, the table."""
    said = sweep(*overrides)
    whole = float(re.findall(r"in ([\d.]+) s\n", said)[-1])
    each = [float(text) for text in re.findall(r"([\d.]+) s$", said, re.MULTILINE)]
    return (whole - sum(each[: len(SEEDS)])) / len(SEEDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for every run")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    turns, every = options.turns, tuple(options.overrides)
    ways: dict[str, Callable[[], object]] = {
        "8 fresh processes": lambda: fresh(*every),
        "a sweep": lambda: sweep(*every),
        "a sweep, 2 at a time": lambda: sweep("sweep.n_jobs=2", *every),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, call in ways.items():
            times[name].append(seconds(call))
    medians = {name: statistics.median(each) for name, each in times.items()}
    first = medians["8 fresh processes"]
    for name, median in medians.items():
        print(f"{name:22s} {median:6.1f} s   {median / first:.2f} × 8 fresh processes")
    print(f"2 at a time / one after the other: {medians['a sweep, 2 at a time'] / medians['a sweep']:.2f}")
    print(f"of each job beyond its run: {1000 * statistics.median(overhead(*every) for _ in range(turns)):.0f} ms")


if __name__ == "__main__":
    main()
