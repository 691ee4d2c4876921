"""Does a run that is killed, stopped or damaged end as if nothing had happened?

    uv run tests/reliability/bench.py                    # all, as long as the README's table: some minutes
    uv run tests/reliability/bench.py kills --count 20   # one of them, and how often

Every run is a process of its own, forked from this one, which has imported torch already: so it starts at once,
and a kill hits any of its moments. Each experiment prints one line, and the exit status is 1 if any figure is not 0.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import ctypes
import io
import json
import logging
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from runner import files
from runner.__main__ import main
from runner.checkpoint import read, read_newest
from runner.errors import RunFolderError
from runner.folder import state as state_of
from runner.loader import limits

COMMON = (
    "trainer.threads=1",
    "tensorboard.pictures=false",  # which take more time than the steps
    "trainer.max_epochs=4",
    "checkpoint.every=5 steps",
    "trainer.ema=0.9",
    "loss=weighted_ce",
)
MODELS = {
    "mlp": ("model=mlp", "model.hidden=[32]", "model.dropout=0.3"),
    "cnn": ("model=cnn", "model.channels=[4,8]", "model.dropout=0.3", "optimizer=sgd"),
}
OFTEN = ("trainer.max_epochs=6", "checkpoint.every=1 steps")
AUGMENTED = ("transform=crop_flip", "transform.train.0.padding=1")
LOADERS: dict[str, tuple[str, ...]] = {
    "resident": (),
    "0 workers": ("loader=workers",),
    "2 workers": ("loader=workers", "loader.num_workers=2"),
    "2 persistent workers": ("loader=workers", "loader.num_workers=2", "loader.persistent_workers=true"),
}


Outcome = tuple[str, int]
"""What an experiment found, in a line, and how much of it is wrong."""


def start(arguments: tuple[str, ...], before: Callable[[], None] = lambda: None) -> int:
    """`python -m runner` with these arguments, in a process group of its own, in this folder. Returns the process.

    Args:
        before: is called in it first.
    """
    child = os.fork()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.setpgid(child, child or os.getpid())  # by both, so that it is done before either goes on
    if child:
        return child
    with open("output.txt", "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    status = 1
    with contextlib.suppress(BaseException):
        before()
        status = main(list(arguments))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def ended(child: int, within: float = 120.0) -> int | None:
    """The exit status of a process, negative for a signal; None if it runs for longer than that."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def whole(folder: Path, arguments: tuple[str, ...]) -> float:
    """A run that nothing happens to. Returns the seconds that it took."""
    begun = time.monotonic()
    status = ended(start((*arguments, f"hydra.run.dir={folder}")))
    if status != 0:
        raise SystemExit(f"the run to compare with ended with {status}:\n{Path('output.txt').read_text()}")
    return time.monotonic() - begun


def go_on(folder: Path, arguments: tuple[str, ...]) -> int:
    """Start a run, or go on with it if there is something to go on with."""
    return start(
        (f"resume={folder}",) if (folder / "config.yaml").exists() else (*arguments, f"hydra.run.dir={folder}")
    )


def content(folder: Path) -> dict[str, Any]:
    """All that has to be the same, by what it is: times are not."""
    found: dict[str, Any] = {}
    for name in ("last.pt", "best.pt"):
        state = torch.load(folder / "checkpoints" / name, weights_only=True)
        for key in ("seconds", "config"):
            state.pop(key)
        found[name] = frozen(state)
    found |= {name: (folder / name).read_bytes() for name in ("metrics.jsonl", "split.json", "split.npz")}
    result = json.loads((folder / "result.json").read_text())
    for key in ("metrics", "tables", "baseline", "best_step", "best_epoch", "steps", "epochs", "state", "ended_by"):
        found[f"result.json, {key}"] = json.dumps(result[key])
    config = (folder / "config.yaml").read_text().splitlines()
    found["config.yaml"] = [line for line in config if not line.startswith("resume:")]
    curves = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "tensors": 0, "images": 0}).Reload()
    tags = curves.Tags()
    for tag in tags["scalars"]:
        if not tag.startswith("vitals/"):
            found[f"tensorboard, {tag}"] = [(event.step, event.value) for event in curves.Scalars(tag)]
        else:
            found[f"tensorboard, {tag}"] = [event.step for event in curves.Scalars(tag)]
    for tag in [tag for tag in tags["tensors"] if not tag.startswith("config")]:
        found[f"tensorboard, {tag}"] = [(e.step, e.tensor_proto.string_val[0]) for e in curves.Tensors(tag)]
    for tag in tags["images"]:
        found[f"tensorboard, {tag}"] = [(e.step, e.encoded_image_string) for e in curves.Images(tag)]
    return found


def frozen(value: Any) -> Any:
    """A state such that == compares bytes."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: frozen(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [frozen(item) for item in value]
    return repr(value)


def differing(folder: Path, expected: dict[str, Any]) -> list[str]:
    here = content(folder)
    return [name for name in expected.keys() | here.keys() if expected.get(name) != here.get(name)]


def kills(count: int, draw: random.Random) -> Outcome:
    """kill −9 of the process group at any moment."""
    cases = [(m, name) for m in MODELS for name in LOADERS]
    if count < len(cases):
        cases = draw.sample(cases, count)
    done = differences = runs = 0
    for number, (model, loader) in enumerate(cases):
        arguments = (*COMMON, *MODELS[model], *AUGMENTED, *LOADERS[loader])
        reference = Path(f"reference-{number}")
        seconds = whole(reference, arguments)
        expected = content(reference)
        share = count * (number + 1) // len(cases)
        folder = Path(f"killed-{number}-0")
        while done < share:
            child = go_on(folder, arguments)
            status = ended(child, draw.uniform(0.0, 1.1 * seconds))
            if status is None:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                done += 1
            elif status != 0:
                differences += 1
                print(f"  {folder} ended with {status}: see {folder.resolve().parent}/output.txt")
            if status is not None:
                differences += compared(folder, expected)
                runs += 1
                folder = Path(f"killed-{number}-{runs}")
        if folder.exists():
            if (status := ended(go_on(folder, arguments))) != 0:
                print(f"  {folder} ended with {status}")
            differences += compared(folder, expected)
            runs += 1
    return f"{done} × kill −9, {runs} runs: {differences} differences", differences


def compared(folder: Path, expected: dict[str, Any]) -> int:
    try:
        names = differing(folder, expected)
    except Exception as error:  # whatever is missing or broken
        names = [repr(error)]
    for name in names:
        print(f"  {folder}: {name} differs")
    return len(names)


def signals(count: int, draw: random.Random) -> Outcome:
    """A signal to the process or to its group, at any moment."""
    arguments = (*COMMON, *MODELS["cnn"], *AUGMENTED, *LOADERS["2 workers"])
    seconds = whole(Path("reference"), arguments)
    expected = content(Path("reference"))
    lost = steps_lost = unfinished = orphans = 0
    for number in range(count):
        folder, sent = Path(f"stopped-{number}"), draw.choice([signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
        to = draw.choice([os.kill, os.killpg])
        while True:
            child = start((*arguments, f"hydra.run.dir={folder}"))
            status = ended(child, draw.uniform(0.02, 0.95 * seconds))
            if status is None:
                break
            shutil.rmtree(folder)  # it had ended before
        with contextlib.suppress(ProcessLookupError):
            to(child, sent)
        status = ended(child)
        # The signal itself only before there is anyone to hear it; done only if it was over just then.
        heard, over = 130 if sent == signal.SIGINT else 143, state_of(folder)
        may = {heard, *((0, -sent) if over == "completed" else (-sent,) if over is None else ())}
        if status not in may:
            lost += 1
            print(f"  {folder}: exit status {status} after {sent.name}")
        orphans += left_behind(child)
        steps_lost += steps_after(folder)
        if ended(go_on(folder, arguments)) != 0 or compared(folder, expected):
            unfinished += 1
    said = f"{lost} wrong exits, {unfinished} runs that did not end alike, {steps_lost} steps lost, {orphans} orphans"
    return f"{count} signals: {said}", lost + unfinished + steps_lost + orphans


def left_behind(group: int) -> bool:
    """Whether a process of the group is still there some seconds later."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True


def steps_after(folder: Path) -> int:
    """Evaluations that ``metrics.jsonl`` has and the checkpoint has not, in steps."""
    if not (folder / "checkpoints/last.pt").exists() or not (folder / "metrics.jsonl").exists():
        return 0
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    seen = json.loads(lines[-1])["step"] if lines else 0
    return max(0, seen - int(read(folder / "checkpoints/last.pt")["progress"]["step"]))


def damage(count: int, draw: random.Random, spoil: Callable[[bytearray], bytearray], what: str) -> Outcome:
    """Each time something else is wrong with ``last.pt``. It is found, or makes no difference."""
    if not Path("damaged").exists():
        whole(Path("damaged"), (*COMMON, *MODELS["mlp"]))
    folder = Path("damaged/checkpoints")
    good = {name: (folder / name).read_bytes() for name in ("last.pt", "best.pt")}
    states = {name: frozen(read(folder / name)) for name in good}
    outcomes = dict.fromkeys(("harmless", "falls back", "ends in a message", "silently wrong"), 0)
    logging.disable(logging.WARNING)
    for number in range(count):
        (folder / "last.pt").write_bytes(spoil(bytearray(good["last.pt"])))
        (folder / "best.pt").unlink(missing_ok=True)
        if number % 2:  # without another one to fall back to there is a message
            (folder / "best.pt").write_bytes(good["best.pt"])
        try:
            same = frozen(read(folder / "last.pt")) == states["last.pt"]
            outcomes["harmless" if same else "silently wrong"] += 1
            continue
        except RunFolderError:
            pass
        try:
            same = frozen(read_newest(folder)) == states["best.pt"]
            outcomes["falls back" if same and number % 2 else "silently wrong"] += 1
        except RunFolderError:
            outcomes["ends in a message" if number % 2 == 0 else "silently wrong"] += 1
    logging.disable(logging.NOTSET)
    said = ", ".join(f"{number} {name}" for name, number in outcomes.items())
    return f"{count} × {what}: {said}", outcomes["silently wrong"]


def flips(count: int, draw: random.Random) -> Outcome:
    """Of one bit in ``last.pt``."""

    def spoil(content: bytearray) -> bytearray:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        return content

    return damage(count, draw, spoil, "a flipped bit")


def truncations(count: int, draw: random.Random) -> Outcome:
    """Of ``last.pt``, at any length."""
    return damage(count, draw, lambda content: content[: draw.randrange(len(content))], "a truncation")


def zeros(count: int, draw: random.Random) -> Outcome:
    """A page of 4 KiB that was never written."""

    def spoil(content: bytearray) -> bytearray:
        page = draw.randrange(len(content) // 4096 + 1) * 4096
        content[page : page + 4096] = bytes(len(content[page : page + 4096]))
        return content

    return damage(count, draw, spoil, "a zeroed page")


def foreign(count: int, draw: random.Random) -> Outcome:
    """An empty file, another program's checkpoint, and pickles that would run code."""

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, ("owned",)

    def torch_file(value: Any) -> bytes:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return buffer.getvalue()

    files = [
        b"", b"PK", pickle.dumps(Evil()), torch_file(Evil()), torch_file({"format": 2, "model": Evil()}),
        torch_file({"state_dict": nn.Linear(2, 2).state_dict()}), torch_file([1, 2]), torch_file({"format": 99}),
    ]  # fmt: skip
    made = iter(files)
    said, wrong = damage(len(files), draw, lambda content: bytearray(next(made)), "a foreign file")
    ran = Path("owned").exists()
    return f"{said}; {int(ran)} ran code", wrong + ran


@contextlib.contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """A file system of its own; needs root."""
    place = Path("disk").resolve()
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)
        place.rmdir()


@contextlib.contextmanager
def full(place: Path) -> Iterator[None]:
    for _ in range(3):  # what was being written just now leaves room once more
        with contextlib.suppress(OSError), open(place / "ballast", "ab", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        time.sleep(0.1)
    try:
        yield
    finally:
        (place / "ballast").unlink()


@contextlib.contextmanager
def read_only(place: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", place, place], check=True)
    while subprocess.run(["mount", "-o", "remount,bind,ro", place], capture_output=True, check=False).returncode:
        time.sleep(0.001)  # something is being written just now
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def disks(count: int, draw: random.Random) -> Outcome:
    """A file system that is full, or becomes read-only, while checkpoints are written."""
    arguments = (*COMMON, *MODELS["mlp"], *OFTEN)
    seconds = whole(Path("reference"), arguments)
    expected = content(Path("reference"))
    unreadable = unlike = silent = 0
    done = 0
    while done < count:
        try:
            with small_disk("1m") as place:
                Path("output.txt").unlink(missing_ok=True)
                child = start((*arguments, f"hydra.run.dir={place}/run"))
                over = ended(child, draw.uniform(0.3 * seconds, 0.7 * seconds))
                while over is None and not (place / "run/checkpoints/last.pt").exists():
                    over = ended(child, 0.01)
                if over is not None:
                    continue
                with full(place) if done % 2 else read_only(place / "run/checkpoints"):
                    if ended(child, 0.01) is not None:
                        continue
                    status = ended(child)
                    said = Path("output.txt").read_text()
                    silent += status in (0, None) or "could not be written" not in said or "Traceback" in said
                    try:
                        read(place / "run/checkpoints/last.pt")
                    except RunFolderError:
                        unreadable += 1
                done += 1
                if ended(go_on(place / "run", arguments)) != 0 or compared(place / "run", expected):
                    unlike += 1
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            return f"disks: left out, for there is none to mount ({error})", 0
    said = f"{unreadable} checkpoints lost, {silent} not said, {unlike} runs that did not end alike"
    return f"{count} full or read-only disks: {said}", unreadable + silent + unlike


def table(folder: Path) -> list[dict[str, str]]:
    """What a sweep reached, but for the times."""
    with open(folder / "results.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def sweeps(count: int, draw: random.Random) -> Outcome:
    """kill −9 of a sweep at any moment, and the same typed again."""
    jobs = (*COMMON, *MODELS["mlp"], "optimizer.lr=0.01,0.001")
    folds = ("split=stratified_kfold", "split.n_splits=2", "sweep.n_jobs=2")
    kinds = [("seed=0,1",), ("seed=0,1", "sweep.n_jobs=2"), ("seed=0,1", *folds)]
    if count < len(kinds):  # over one seed
        kinds = draw.sample([(), ("sweep.n_jobs=2",), folds], count)
    differences = runs = done = 0
    for number, kind in enumerate(kinds):
        begun = time.monotonic()
        arguments = ("-m", *jobs, *kind)
        if (status := ended(start((*arguments, f"hydra.sweep.dir=reference-{number}")))) != 0:
            raise SystemExit(f"the sweep to compare with ended with {status}:\n{Path('output.txt').read_text()}")
        seconds, expected = time.monotonic() - begun, table(Path(f"reference-{number}"))
        share = count * (number + 1) // len(kinds)
        while done < share:
            folder = Path(f"swept-{number}-{runs}")
            status = None
            while status is None:
                child = start((*arguments, f"hydra.sweep.dir={folder}"))
                status = ended(child, draw.uniform(0.0, 1.1 * seconds) if done < share else 120.0)
                if status is None:
                    os.kill(child, signal.SIGKILL)  # its jobs notice by themselves
                    os.waitpid(child, 0)
                    done += 1
            runs += 1
            if status != 0 or table(folder) != expected:
                differences += 1
                print(f"  {folder} ended with {status}, or its table differs")
    return f"{done} × kill −9 of a sweep, {runs} sweeps: {differences} tables differ", differences


def folds(count: int, draw: random.Random) -> Outcome:
    """kill −9 of a cross-validation, alone and as a job of a sweep, at a moment after its last fold."""
    split = ("split=stratified_kfold", "split.n_splits=2")
    arguments = (*COMMON, *MODELS["mlp"], *split)
    kinds = [arguments, ("-m", *arguments, "seed=0,1")]
    differences = done = 0
    for number, (kind, places) in enumerate(zip(kinds, ([""], ["seed=0", "seed=1"]), strict=True)):
        key, share = ("hydra.run.dir", "hydra.sweep.dir")[number], -(-count // 2) if number == 0 else count
        if (status := ended(start((*kind, f"{key}=reference-{number}")))) != 0:
            raise SystemExit(f"the run to compare with ended with {status}:\n{Path('output.txt').read_text()}")
        expected, tries = reached(Path(f"reference-{number}"), places), 0
        while done < share:
            folder, tries = Path(f"folds-{number}-{tries}"), tries + 1
            child = start((*kind, f"{key}={folder}"))
            while (status := ended(child, 0.01)) is None and state_of(folder / places[-1] / "fold-1") != "completed":
                pass
            if status is None and (status := ended(child, draw.uniform(0.0, 0.3))) is None:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                done, status = done + 1, ended(start((f"resume={folder}",)))
            if status != 0 or reached(folder, places) != expected:
                differences += 1
                print(f"  {folder} ended with {status}, or differs")
    return f"{done} × kill −9 after the last fold of a cross-validation: {differences} differences", differences


def reached(folder: Path, places: list[str]) -> dict[str, Any]:
    """What cross-validations have come to, by their places in a folder."""
    found: dict[str, Any] = {}
    for place in (folder / name for name in places):
        result = json.loads((place / "result.json").read_text()) if (place / "result.json").exists() else {}
        result["folds"] = [{k: v for k, v in fold.items() if k != "seconds"} for fold in result.get("folds", [])]
        found |= {f"{place.name}, {key}": result.get(key) for key in ("state", "metrics", "baseline", "folds", "steps")}
        lines = place / "out_of_fold.csv"
        found[f"{place.name}, out of fold"] = lines.read_bytes() if lines.exists() else None
    return {name.removeprefix(folder.name): value for name, value in found.items()}


OWN_DATA = """\
import ctypes
import os
import time
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import Dataset


class Data(Dataset):
    def __init__(self, width):
        self.inputs = torch.randn(800, width, generator=torch.Generator().manual_seed(0))
        how, at = Path("stall").read_text().split() if Path("stall").exists() else ("", 0)
        self.how, self.left = how, int(at)

    def __len__(self):
        return 800

    def __getitem__(self, index):
        self.left -= 1
        if self.left == 0:
            self.stall()
        return self.inputs[index], index % 3

    def stall(self):
        Path(f"stalled-{os.getpid()}").touch()
        while self.how == "Python":
            time.sleep(1000)
        libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
        libc.pthread_mutex_lock(mutex)
        libc.pthread_mutex_lock(mutex)  # from where no handler of Python's is called
"""
"""A data set that stalls at a read, in Python or in C, if there is a file that says so."""


def own_data(*overrides: str, width: int = 8) -> tuple[str, ...]:
    """The overrides of a run on a data set of one's own, (800, `width`), which is read by workers."""
    Path("own_data.py").write_text(OWN_DATA)
    Path("mine/dataset").mkdir(parents=True, exist_ok=True)
    Path("mine/dataset/own.yaml").write_text(f"_target_: own_data.Data\nwidth: {width}\n")
    given = ("--config-dir", "mine", "dataset=own", "allow_targets=[own_data.*]", "loader=workers")
    return (*given, *COMMON, *MODELS["mlp"], "loader.batch_size=32", *overrides)


def go_on_with_own(folder: Path, arguments: tuple[str, ...]) -> int:
    """See `go_on`; that its code may be called is said again."""
    allowed = tuple(argument for argument in arguments if argument.startswith("allow_targets="))
    there = (folder / "config.yaml").exists()
    return start((*allowed, f"resume={folder}") if there else (*arguments, f"hydra.run.dir={folder}"))


def stalls(count: int, draw: random.Random) -> Outcome:
    """SIGINT or SIGTERM while the data set stalls, in this process or in workers, in Python or in C."""
    expected: dict[int, dict[str, Any]] = {}
    wrong = orphans = unlike = done = 0
    longest = 0.0
    while done < count:
        workers, how = draw.choice([(0, "Python"), (0, "C"), (2, "Python"), (2, "C")])
        arguments = own_data(f"loader.num_workers={workers}")
        if workers not in expected:
            Path("stall").unlink(missing_ok=True)
            whole(Path(f"reference-{workers}"), arguments)
            expected[workers] = content(Path(f"reference-{workers}"))
        # What a worker has read is what this process had before, and its share of one epoch.
        Path("stall").write_text(f"{how} {draw.randrange(820, 2400) if workers == 0 else draw.randrange(400, 1000)}")
        folder, sent = Path(f"run-{done}"), draw.choice([signal.SIGINT, signal.SIGTERM])
        shutil.rmtree(folder, ignore_errors=True)
        child = start((*arguments, f"hydra.run.dir={folder}"))
        over = ended(child, 0.02)
        while over is None and not any(Path().glob("stalled-*")):
            over = ended(child, 0.02)
        over = ended(child, draw.uniform(0.0, 1.0)) if over is None else over
        for path in Path().glob("stalled-*"):
            path.unlink()
        if over is not None:  # it did not come to the read that stalls
            continue
        begun = time.monotonic()
        draw.choice([os.kill, os.killpg])(child, sent)
        status = ended(child, 60.0)
        longest = max(longest, time.monotonic() - begun)
        if status != (130 if sent == signal.SIGINT else 143):
            wrong += 1
            print(f"  {folder}: exit status {status} after {sent.name}, stalled in {how}, {workers} workers")
        orphans += left_behind(child)
        if status is None:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
        Path("stall").unlink()
        if ended(go_on_with_own(folder, arguments)) != 0 or compared(folder, expected[workers]):
            unlike += 1
        done += 1
    said = f"{wrong} wrong exits, {orphans} orphans, {unlike} runs that did not end alike"
    return f"{count} stalls: ended within {longest:.1f} s; {said}", wrong + orphans + unlike + (longest > 15)


def shm(count: int, draw: random.Random) -> Outcome:
    """/dev/shm of 16 MB, and batches that fit into it, or nearly, or not; and few open files."""
    hung = silent = unlike = done = refused = failed = 0
    for number in range(count):
        few_files = number % 4 == 3
        width = 8 if few_files else draw.choice([8, 10_000, 25_000, 50_000, 100_000])
        arguments = (*own_data(f"loader.num_workers={draw.randint(1, 3)}", width=width), "trainer.max_epochs=2")
        folder = Path(f"run-{number}")
        Path("output.txt").unlink(missing_ok=True)
        # What is estimated before the run is left out half of the time, so that it is found where it happens.
        checked = number % 2 == 0
        child = start((*arguments, f"hydra.run.dir={folder}"), partial(starve, few_files, draw, checked))
        status = ended(child, 60.0)
        if status is None:
            hung += 1
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            print(f"  {folder} hung with {width} values in a sample")
            continue
        said = Path("output.txt").read_text()
        done, refused, failed = done + (status == 0), refused + (status == 2 and checked), failed + (status != 0)
        named = "/dev/shm" in said or "ulimit -n" in said
        if (
            status not in (0, 2)
            or (status == 2 and not (named and "loader.num_workers=0" in said))
            or "Traceback" in said
        ):
            silent += 1
            print(f"  {folder} ended with {status}: {said[-600:]}")
        if status == 2 and ended(start((*arguments, "loader.num_workers=0", f"hydra.run.dir={folder}-0"))) != 0:
            unlike += 1  # the remedy does not work
    said = f"{done} trained, {failed} ended in a message; {hung} hung, {silent} without one, {unlike} remedies in vain"
    return f"{count} runs with 16 MB of /dev/shm, or few open files: {said}", hung + silent + unlike


def starve(few_files: bool, draw: random.Random, checked: bool) -> None:
    """Have this process too little of what workers need."""
    if not checked:
        limits.check = lambda *_: None
    if few_files:
        files = len(os.listdir("/proc/self/fd")) + draw.randint(8, 30)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        return
    ctypes.CDLL(None).unshare(CLONE_NEWNS)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", "/dev/shm"], check=True)


CLONE_NEWNS = 0x00020000
"""Of Linux: a process gets mounts of its own."""


CALLS = {
    "write": ("ENOSPC", "EIO", "EINTR"), "fsync": ("ENOSPC", "EIO", "EINTR"), "openat": ("ENOSPC", "EIO", "EMFILE"),
    "?rename,renameat,renameat2": ("ENOSPC", "EIO"), "?unlink,unlinkat": ("EIO", "EROFS"),
    "?mkdir,mkdirat": ("ENOSPC", "EROFS"),
}  # fmt: skip
"""System calls, and the errors that are injected into them."""


def errors(count: int, draw: random.Random) -> Outcome:
    """Errors of system calls on the files of a run, once or from then on; afterwards the run is resumed without."""
    if shutil.which("strace") is None:
        return "errors: left out, for there is no strace", 0
    arguments = (*COMMON, *MODELS["mlp"], "trainer.max_epochs=2")
    whole(Path("reference"), arguments)
    expected = content(Path("reference"))
    unlike = silent = unnamed = done = ended_well = 0
    tried = 0
    while done < count:
        tried += 1
        folder, call = Path(f"run-{tried}"), draw.choice(list(CALLS))
        first = draw.choice([1, 2, 3, draw.randint(1, 10), draw.randint(1, 40)])
        error = draw.choice(CALLS[call])
        ever = [f"{first}+"] if error != "EINTR" else []  # after which a call is tried again, without end
        what = f"{call}:error={error}:when={draw.choice([str(first), f'{first}..{first + 2}', *ever])}"
        Path("output.txt").unlink(missing_ok=True)
        child = start((*arguments, f"hydra.run.dir={folder}"), partial(inject, folder, call, what))
        status = ended(child, 120.0)
        if status == UNTRACED:
            return f"errors: left out, for strace cannot attach: {Path('strace.err').read_text().strip()}", 0
        said, injected = Path("output.txt").read_text(), "(INJECTED)" in Path("strace.txt").read_text()
        done, ended_well = done + injected, ended_well + (injected and status == 0)
        wrong = []
        if status not in (0, 1, 2) or "Traceback" in said:
            silent, wrong = silent + 1, [f"ended with {status}"]
        if status != 0 and str(folder) not in said:
            unnamed, wrong = unnamed + 1, [*wrong, "names no file"]
        if status != 0:
            status = ended(go_on(folder, arguments))
        if status != 0 or compared(folder, expected):
            unlike, wrong = unlike + 1, [*wrong, f"resumed with {status}, or differs"]
        if wrong:
            print(f"  {folder}, {what}: {', '.join(wrong)}:\n{said[-1500:]}")
    said = f"{silent} tracebacks, {unnamed} messages without a file, {unlike} runs that did not end alike"
    return (
        f"{count} runs with failing system calls, {ended_well} completed all the same: {said}",
        silent + unnamed + unlike,
    )


UNTRACED = 77
"""Exit status of a process to which strace could not attach."""


def inject(folder: Path, call: str, what: str) -> None:
    """Have system calls of this process fail that are of files in the folder of its run."""
    files.secrets.token_hex = lambda *_: "0"  # type: ignore[assignment]  # or temporary files could not be named here
    names = ["result.json", "metrics.jsonl", "config.yaml", "split.json", "split.npz", "runner.log", ".lock"]
    names += ["checkpoints/last.pt", "checkpoints/best.pt", "checkpoints", "tensorboard", ".hydra", "."]
    paths = [folder / name for name in names] + [files.temporary(folder / name) for name in names if name != "."]
    given = [option for path in paths for option in ("-P", str(path), "-P", str(path.absolute()))]
    given += ["-e", f"trace={call}", "-e", f"inject={what}"]
    with open("strace.err", "w") as said:
        tracer = subprocess.Popen(
            ["strace", "-f", "-qq", "-o", "strace.txt", "-p", str(os.getpid()), *given],
            stderr=said,
            start_new_session=True,
        )
    while "TracerPid:\t0" in Path("/proc/self/status").read_text():
        if tracer.poll() is not None:
            os._exit(UNTRACED)
        time.sleep(0.01)


EXPERIMENTS: dict[str, tuple[Callable[[int, random.Random], Outcome], int]] = {
    "kills": (kills, 208), "signals": (signals, 50), "flips": (flips, 2000), "truncations": (truncations, 300),
    "zeros": (zeros, 300), "foreign": (foreign, 8), "disks": (disks, 6), "sweeps": (sweeps, 60),
    "folds": (folds, 20), "stalls": (stalls, 60), "shm": (shm, 60), "errors": (errors, 100),
}  # fmt: skip


def command() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help=f"of {', '.join(EXPERIMENTS)}; or all")
    parser.add_argument("--count", type=int, help="how often")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    if unknown := set(options.experiments) - EXPERIMENTS.keys():
        parser.error(f"{', '.join(unknown)}: choose from {', '.join(EXPERIMENTS)}")
    torch.set_num_threads(1)  # a fork after a computation with several threads can hang
    torch.optim.AdamW([nn.Parameter(torch.zeros(1))])  # imports the compiler, which takes seconds
    import runner.train  # noqa: F401

    failed = False
    for name in options.experiments or EXPERIMENTS:
        function, count = EXPERIMENTS[name]
        place = Path(tempfile.mkdtemp(prefix=f"reliability-{name}-"))
        with contextlib.chdir(place):
            said, wrong = function(options.count or count, random.Random(options.seed))
        print(said if wrong == 0 else f"{said}; see {place}", flush=True)
        failed = failed or wrong > 0
        if wrong == 0:
            shutil.rmtree(place, ignore_errors=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(command())
