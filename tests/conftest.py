from __future__ import annotations

import atexit
import contextlib
import copy
import csv
import fcntl
import functools
import gc
import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner.__main__ import main

if TYPE_CHECKING:
    from omegaconf import DictConfig

# torch and the like are imported where they are used: of the processes of `pytest -n 2` one only hands out the tests.

Run = Callable[..., int]
Once = Callable[[Callable[[], None]], Path]

if Path("/dev/shm").is_dir() and shutil.disk_usage("/dev/shm").free > 2 << 30:
    # Each checkpoint is synchronised to the disk, which takes a hundred times as long on one.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")

os.environ.pop("UV_RUN_RECURSION_DEPTH", None)  # by which messages would know that `uv run` started the tests


def _parsed_once(load: Callable[..., Any]) -> Callable[..., Any]:
    """A loader of scikit-learn's that parses its file once, for most tests train on digits."""
    loaded = functools.cache(load)
    return lambda **options: copy.deepcopy(loaded(**options))


def pytest_configure(config: pytest.Config) -> None:
    """Tests are of the CPU, also where ``device=auto`` would take a card, but for those of ``pytest -m cuda``."""
    if "cuda" not in config.option.markexpr:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        _prepare()


def _prepare() -> None:
    """What a process needs that runs tests."""
    import composing
    import sklearn.datasets
    import torch

    torch.set_num_threads(1)  # from the first fixture on: a fork after a computation with several threads can hang
    sklearn.datasets.load_digits = _parsed_once(sklearn.datasets.load_digits)
    composing.remember()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and `pytest -m cuda`"))


def pytest_collection_finish() -> None:
    """What was imported stays until the end: the garbage collector, which each run calls often, need not look at it."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # or libraries complain that theirs were never freed


@pytest.fixture(autouse=True)
def _own_process_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test works in an empty folder, and leaves torch, logging and the imported modules as it found them."""
    import torch

    from runner import visible

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", f"{tmp_path}-config")  # a user of its own
    monkeypatch.setattr(visible, "_hidden", {})
    monkeypatch.setattr(visible, "_shown", set())
    monkeypatch.setattr("sys.argv", ["pytest"])
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    before = set(sys.modules)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)
    # A module of the test's own, or the next test with a module of that name would be given this one.
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    _leave_logging()


def _leave_logging() -> None:
    logging.getLogger("runner").setLevel(logging.NOTSET)
    root = logging.getLogger()
    for handler in [h for h in root.handlers if type(h).__module__.startswith(("runner", "logging"))]:
        root.removeHandler(handler)
        handler.close()


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run folder is that of a stranger: nobody here has a secret to mark one with."""
    monkeypatch.setenv("XDG_CONFIG_HOME", "/dev/null")


@pytest.fixture
def run() -> Run:
    """The command line, in this process: ``run("model=mlp")`` is ``python -m runner model=mlp``."""
    return lambda *arguments: main([str(argument) for argument in arguments])


def composed(*overrides: str) -> DictConfig:
    """The configuration that these overrides make, to change as one likes."""
    from runner import config

    return config.copied(_composed(*overrides))


@functools.cache
def _composed(*overrides: str) -> DictConfig:
    from hydra import compose, initialize_config_dir

    from runner import hydra_internals, options

    with initialize_config_dir(str(options.home()), **hydra_internals.release()):
        return compose("config", list(overrides))


LIGHT = (
    "model=mlp", "model.hidden=[16]", "trainer.max_epochs=2", "trainer.threads=1", "tensorboard.pictures=false",
    "tensorboard.enabled=false", "hydra.output_subdir=null",
)  # fmt: skip
"""Overrides of a run that takes a fraction of a second."""

ONE_METRIC = ("~metric.balanced_accuracy", "~metric.macro_f1")
"""Overrides by which accuracy is left: the other two take scikit-learn as long as the training of a quick run."""

QUICK = (*LIGHT, *ONE_METRIC)
"""Overrides of a run where accuracy will do."""

BOARD = (*QUICK, "tensorboard.enabled=true")
"""That with curves and tables in TensorBoard."""

PICTURES = ("tensorboard.enabled=true", "tensorboard.pictures=true")
"""Overrides by which a run shows all of that."""

DRAWN = (*QUICK, *PICTURES)
"""The same, with pictures, too: a quick run that shows everything."""


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Calls a function in a new folder, and returns that: of the processes that run tests one does so for all."""
    own = tmp_path_factory.getbasetemp()
    above = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def called(make: Callable[[], None]) -> Path:
        place = above / f"{make.__module__}.{make.__name__}"
        half = Path(f"{place}.part")
        with open(f"{place}.lock", "w") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            if not place.exists():
                shutil.rmtree(half, ignore_errors=True)
                half.mkdir()
                with contextlib.chdir(half):
                    make()
                _leave_logging()  # or the first test that asks for this would see its lines twice
                half.rename(place)
        return place

    return called


def _trained() -> None:
    assert main([*QUICK, "hydra.run.dir=digits"]) == 0


@pytest.fixture
def digits(once: Once) -> Path:
    """A folder of a run that was trained on digits, moved from where it was made: for the test alone."""
    return Path(shutil.copytree(once(_trained) / "digits", "digits"))


def _swept() -> None:
    assert main(["-m", *QUICK, "optimizer.lr=0.01,0.001", "seed=0,1", "hydra.sweep.dir=sweep"]) == 0


@pytest.fixture
def sweep(once: Once) -> Path:
    """The folder of a completed sweep over two learning rates and two seeds: for the test alone."""
    return Path(shutil.copytree(once(_swept) / "sweep", "sweep"))


THREE_FOLDS = ("trainer.max_epochs=1", "split=stratified_kfold", "split.n_splits=3", "split.seed=7")
"""Overrides by which a run is a cross-validation."""

CROSS = (*QUICK, *THREE_FOLDS)
"""Overrides of a quick cross-validation."""


def _crossed() -> None:
    with open("printed.txt", "w") as file, contextlib.redirect_stdout(file):
        assert main([*CROSS, "hydra.run.dir=here"]) == 0


@pytest.fixture
def crossed(once: Once) -> Path:
    """The folder of a completed cross-validation, ``here``, beside what it ``printed.txt``: for the test alone."""
    shutil.copytree(once(_crossed), ".", dirs_exist_ok=True)
    return Path("here")


def _tabular() -> None:
    from sklearn.datasets import load_wine

    frame = load_wine(as_frame=True).frame
    frame = frame.assign(colour=[("red", None, "white")[row % 3] for row in range(178)])
    frame.loc[::7, "alcohol"] = None
    frame.to_csv("wine.csv", index=False)
    table = ("dataset=table", "dataset.path=wine.csv", "dataset.target=target", "transform=table", "hydra.run.dir=r")
    assert main([*QUICK, *table]) == 0


@pytest.fixture
def tabular(once: Once) -> Path:
    """A run on a table with a column of categories and gaps, ``r``, beside the table: for the test alone."""
    shutil.copytree(once(_tabular), ".", dirs_exist_ok=True)
    return Path("r")


def _diabetes() -> None:
    values = "dataset=diabetes", "loss=mse", "metric=regression", "split=random", "loss.standardize=true"
    assert main([*LIGHT, *values, "hydra.run.dir=r"]) == 0


@pytest.fixture
def diabetes(once: Once) -> Path:
    """A run of a regression of standardized values, in ``r``: for the test alone."""
    return Path(shutil.copytree(once(_diabetes) / "r", "r"))


def _resized() -> None:
    photos_of_several_sizes(60)
    steps = "[{_target_: torchvision.transforms.v2.Resize, size: [16, 16]}, {_target_: runner.transform.Normalize}]"
    over = ("dataset=image_folder", "dataset.root=photos", "dataset.cache=null", "split=random", "dataset.channels=1")
    assert main([*QUICK, *over, f"transform.train={steps}", f"transform.eval={steps}", "hydra.run.dir=r"]) == 0


@pytest.fixture
def resized(once: Once) -> Path:
    """A run whose transform resizes pictures of several sizes, ``r``, beside the ``photos``: for the test alone."""
    shutil.copytree(once(_resized), ".", dirs_exist_ok=True)
    return Path("r")


def only_run() -> Path:
    """The one run folder in ``outputs/``."""
    (folder,) = Path("outputs").glob("*/*/result.json")
    return folder.parent


def result_of(folder: str | Path) -> dict[str, Any]:
    """What ``result.json`` says."""
    found: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text())
    return found


def records_of(folder: str | Path) -> list[dict[str, Any]]:
    """The evaluations of a run, as ``metrics.jsonl`` has them."""
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def weights_of(folder: str | Path, name: str = "last.pt", of: str = "model") -> dict[str, Any]:
    """What a checkpoint holds under a key."""
    import torch

    found: dict[str, Any] = torch.load(Path(folder) / "checkpoints" / name, weights_only=True)[of]
    return found


def own_model(code: str) -> tuple[str, ...]:
    """Write a module that has a model ``Net(num_outputs)``, and return the overrides that name it."""
    Path("own_net.py").write_text(code)
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/own.yaml").write_text("_target_: own_net.Net\nnum_outputs: ${facts.num_outputs}\n")
    return "--config-dir", "mine", "model=own", "tensorboard.pictures=false", "allow_targets=[own_net.*]"


FAILING = """\
import os, time
from torch import nn

class Net(nn.Module):
    def __init__(self, num_outputs, how="fine"):
        super().__init__()
        self.layer, self.how, self.calls = nn.Linear(64, num_outputs), how, 0

    def forward(self, x):
        self.calls += 1
        if self.calls > 25 and not os.path.exists("mended"):  # later than in the trial
            if self.how == "raise":
                raise RuntimeError("no luck")
            if self.how == "exit":
                os._exit(3)
            if self.how == "kill":
                os.kill(os.getpid(), 9)
            if self.how == "hang":
                time.sleep(1000)
        return self.layer(x.flatten(1))
"""


def failing_model() -> tuple[str, ...]:
    """Write a model whose forms (``model.how``) fail after some batches, until there is a file ``mended``."""
    own = own_model(FAILING)
    Path("mine/model/own.yaml").write_text("_target_: own_net.Net\nnum_outputs: ${facts.num_outputs}\nhow: fine\n")
    return own


def rows(folder: str | Path = "sweep") -> list[dict[str, str]]:
    """The lines of the table of a sweep."""
    with open(Path(folder) / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def states(folder: str | Path = "sweep") -> dict[str, str]:
    """How each job of a sweep stands."""
    return {row["folder"]: row["state"] for row in rows(folder)}


def wait_for(path: Path, newer_than: int = 0) -> None:
    """Return when there is a file, for which a process is waited that makes it.

    Args:
        newer_than: nanoseconds; when the one that is there already was made.
    """
    until = time.monotonic() + 120
    while not (path.exists() and path.stat().st_mtime_ns > newer_than):
        assert time.monotonic() < until
        time.sleep(0.01)


def stopping(monkeypatch: pytest.MonkeyPatch, at: int, signum: int = signal.SIGINT) -> None:
    """Have a run be sent a signal in a step."""
    from runner.trainer import Trainer

    step = Trainer.step

    def stopped(self: Trainer, batches: Any) -> None:
        step(self, batches)
        if self.progress.step == at:
            signal.raise_signal(signum)

    monkeypatch.setattr(Trainer, "step", stopped)


@contextlib.contextmanager
def left_at(step: int) -> Iterator[None]:
    """While entered, a run leaves ``part``: a copy of its folder, when the checkpoint of a step is on the disk.

    That is what a run leaves that is killed then, without a second one that is: ``checkpoint.every`` has to be due.
    """
    import torch

    from runner import checkpoint

    write = checkpoint.write

    def copying(path: Path, data: bytes) -> None:
        write(path, data)
        if path.name == checkpoint.LAST and torch.load(path, weights_only=True)["progress"]["step"] == step:
            shutil.copytree(path.parents[1], "part")

    checkpoint.write = copying
    try:
        yield
    finally:
        checkpoint.write = write
    assert Path("part").is_dir()


def goes_on(run: Run, *options: str, step: int = 7) -> tuple[dict[str, Any], ...]:
    """Train in ``whole``, go on from a copy of it at a step in ``part``, and return the last checkpoints of both."""
    import torch

    with left_at(step):
        assert run(*options, f"checkpoint.every={step} steps", "hydra.run.dir=whole") == 0
    assert run("resume=part") == 0
    found = tuple(torch.load(f"{n}/checkpoints/last.pt", weights_only=True) for n in ("whole", "part"))
    assert found[0]["progress"]["step"] == found[1]["progress"]["step"] > step
    return found


def same_tensors(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two states hold the same tensors, bit for bit."""
    import torch

    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@functools.cache
def warm() -> None:
    """Import what a run imports, once: each process that is forked from this one would do it anew, for seconds."""
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        assert main([*QUICK, "debug=dev_run"]) == 0
    _leave_logging()


class Forked:
    """The command line in a process of its own, forked from this one, which has imported everything already.

    Args:
        stdin, stdout, stderr: open files; else what it prints, both ways, is in ``output.txt``.
        encoding: of the terminal.
    """

    def __init__(
        self, *arguments: str, stdin: int = 0, stdout: int | None = None, stderr: int | None = None,
        encoding: str = "utf-8",
    ) -> None:  # fmt: skip
        warm()
        self.pid = os.fork()
        if self.pid:
            return
        status = 1
        try:
            with open("output.txt", "wb", buffering=0) as file:
                for number, given in enumerate((stdin, stdout, stderr)):
                    os.dup2(file.fileno() if given is None else given, number)
            sys.stdout, sys.stderr = (
                open(number, "w", closefd=False, encoding=encoding)  # noqa: SIM115
                for number in (1, 2)
            )
            status = main(list(arguments))
            sys.stdout.flush()
        finally:
            os._exit(status)

    def wait(self, timeout: float = 120.0) -> int:
        """Its exit status, negative for a signal."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(self.pid, signal.SIGKILL)
        raise AssertionError(f"it still ran after {timeout} s: {Path('output.txt').read_text()}")


def photos_of_several_sizes(count: int) -> None:
    """The first digits, in a folder of ``photos`` for each class, brought to pictures of several widths."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    for number, (pixels, label) in enumerate(zip(bunch.images[:count], bunch.target[:count], strict=True)):
        path = Path(f"photos/{label}/{number:03}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8) * 15).resize((16 + number % 5, 18)).convert("RGB").save(path)
