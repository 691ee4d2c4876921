"""What is asked of a run that an earlier version made, and what comes of it.

    python replay.py FOUND NAME...   # in a copy of this folder: write to the file FOUND what this version makes of them

The processor decides which kernels compute, and these in which order they add; `ENVIRONMENT`, to be set before torch
is imported, takes those that every x86-64 processor has.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41", "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What is asked of a run.

    Args:
        resume: what is typed beside ``resume=``.
        typed: what is typed with every command.
        input: what is predicted.
        part: the folder of the run that is evaluated and predicts, in that of a cross-validation or a sweep.
        weights: that it is evaluated with, and predicts with.
    """

    resume: tuple[str, ...] = ("trainer.max_epochs=3",)
    typed: tuple[str, ...] = ()
    input: str = "test"
    part: str = ""
    weights: str = "best"


OWN = ("allow_targets=[own_code.*]",)
RUNS = {
    "digits": Asked(),
    "weighted": Asked(),
    "values": Asked(),
    "flags": Asked(input="data/flags.csv"),
    "table": Asked(input="data/people.csv"),
    "large_numbers": Asked(input="data/events.csv"),
    "images": Asked(input="data/images"),
    "stream": Asked(typed=OWN),
    "ema": Asked(),
    "half": Asked(),
    "folds": Asked(part="fold-1"),
    "folds_killed": Asked(resume=(), part="fold-1"),
    "sweep": Asked(resume=("-m", "optimizer.lr=0.01,0.001,0.1"), part="optimizer.lr=0.01"),
    "sweep_killed": Asked(resume=("-m",), part="seed=0"),
    "search": Asked(resume=("-m", "sweep.points=3"), part="optimizer.lr=0.00994201"),
    "own_code": Asked(typed=OWN),
    "interrupted": Asked(resume=(), weights="last"),
    "killed": Asked(resume=(), weights="last"),
    "environment": Asked(),
}


def replay(name: str) -> dict[str, Any]:
    """Evaluate, predict and resume the run in ``runs/NAME``, and return what came of it."""
    asked, place, out = RUNS[name], Path("runs", name), Path("found", name)
    out.mkdir(parents=True)
    run = f"run={place / asked.part}", f"weights={asked.weights}", *asked.typed
    _do(out, "evaluate", *run, f"output={out}/evaluated", "figures=false")
    _do(out, "predict", *run, f"input={asked.input}", f"output={out}/predictions.csv")
    _do(out, *asked.resume, f"resume={place}", *asked.typed)
    _do(out, "compare", str(place))
    return {
        "with": versions(),
        "evaluate": _read(out / "evaluated/result.json")["metrics"],
        "predict": (out / "predictions.csv").read_text().splitlines(),
        "resume": _content(place),
    }


def found(name: str) -> dict[str, Any]:
    """What came of a run, or under ``failed`` why nothing did."""
    try:
        return replay(name)
    except (Failed, OSError, KeyError, ValueError) as error:
        return {"failed": f"{type(error).__name__}: {error}"}


class Failed(Exception):
    """A command did not do what it was asked."""


def _do(out: Path, *arguments: str) -> None:
    """Run a command in a process forked from this one, which has imported everything already."""
    child = os.fork()
    if child == 0:
        status = 1
        with open(out / "printed.txt", "a") as file:
            try:
                print("$ python -m runner", *arguments, file=file, flush=True)
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                status = main(list(arguments))
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)
    if status := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise Failed(f"it ended with {status}:\n{(out / 'printed.txt').read_text()}")


def main(arguments: list[str]) -> int:
    """`python -m runner` with these arguments."""
    from runner.__main__ import main as run

    return run(arguments)


def _content(place: Path) -> dict[str, Any]:
    """What a run, or those of a cross-validation or a sweep, came to. Times are left out."""
    found: dict[str, Any] = {"weights": {}, "metrics.jsonl": {}, "result.json": {}, "tables": {}}
    for path in sorted(place.rglob("*")):
        name = str(path.relative_to(place))
        if path.suffix == ".pt":
            found["weights"][name] = _sha256(path)
        elif path.name == "metrics.jsonl":
            found["metrics.jsonl"][name] = [json.loads(line) for line in path.read_text().splitlines()]
        elif path.name == "result.json":
            found["result.json"][name] = {key: _read(path).get(key) for key in ("state", "metrics")}
        elif path.suffix == ".csv":
            found["tables"][name] = _rows(path)
    return found


def _rows(table: Path) -> list[dict[str, str]]:
    """The lines of a table, without the column of seconds."""
    with open(table, newline="") as file:
        return [{name: text for name, text in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def _sha256(path: Path) -> str:
    """Of the weights that a checkpoint holds, with their names, and of those that are averaged."""
    import torch

    state, made = torch.load(path, weights_only=True), hashlib.sha256()
    for of in ("model", "ema"):
        for name, value in (state[of] or {}).items():
            made.update(f"{of}.{name} {value.dtype} {tuple(value.shape)}".encode())
            made.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return made.hexdigest()


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def versions() -> dict[str, str]:
    """Return what the last bits depend on."""
    import torch

    return {"torch": torch.__version__, "machine": platform.machine()}


def warm() -> None:
    """Import what the commands import, once for all that are forked from this process."""
    for name, value in ENVIRONMENT.items():
        os.environ[name] = value
    assert "torch" not in sys.modules, "it has read the environment already"
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        assert main(["dataset=iris", "model=mlp", "debug=dev_run", "device=cpu", "trainer.threads=1"]) == 0


if __name__ == "__main__":
    written, *names = sys.argv[1:]
    warm()
    content = json.dumps({name: found(name) for name in names}, indent=1, ensure_ascii=False)
    Path(written).write_text(content + "\n")
