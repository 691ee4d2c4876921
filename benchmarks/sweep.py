"""What a sweep saves: eight small runs as fresh processes, and as one sweep.

    uv run benchmarks/sweep.py [--turns 3]

Result (2 shared cores, torch 2.15, Python 3.11): see the last lines of this docstring's sibling, docs/sweeps.md.
Each way is timed in turns with the others; ratios are of the medians.
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

RUN = ("model=mlp", "trainer.max_epochs=20")
SEEDS = range(8)
COMMAND = (sys.executable, "-m", "runner")


def run(*arguments: str) -> str:
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run([*COMMAND, *arguments], cwd=place, capture_output=True, text=True, check=True)
    return done.stdout


def fresh() -> None:
    for seed in SEEDS:
        run(*RUN, f"seed={seed}")


def sweep(*arguments: str) -> str:
    return run("-m", *RUN, f"seed={','.join(map(str, SEEDS))}", *arguments)


def seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def overhead() -> float:
    """Seconds per job of a sweep beyond what its run takes from its folder on: building it, the fork, the table."""
    said = sweep()
    whole = float(re.findall(r"in ([\d.]+) s\n", said)[-1])
    each = [float(text) for text in re.findall(r"([\d.]+) s$", said, re.MULTILINE)]
    return (whole - sum(each[: len(SEEDS)])) / len(SEEDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    turns = parser.parse_args().turns
    ways: dict[str, Callable[[], object]] = {
        "8 fresh processes": fresh,
        "a sweep": sweep,
        "a sweep, 2 at a time": lambda: sweep("sweep.n_jobs=2"),
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
    print(f"of each job beyond its run: {1000 * statistics.median(overhead() for _ in range(turns)):.0f} ms")


if __name__ == "__main__":
    main()
