"""Run folders with links to files of others, with pipes, on a full disk: nothing outside is written, nothing waits, and
the file is named."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import DRAWN, LIGHT, QUICK, Once, Run, result_of

from runner import files, folder
from runner.__main__ import main
from runner.errors import NotWritten, RunFolderError

LONGER = "trainer.max_epochs=3"
EVERYTHING = ("figures=true", "trainer.profile=true", "checkpoint.keep=2", "hydra.output_subdir=.hydra")


def _full() -> None:
    assert main([*DRAWN, *EVERYTHING, "split.fold=0", "split=stratified_kfold", "hydra.run.dir=run"]) == 0
    assert main(["evaluate", "run=run"]) == 0


@pytest.fixture
def full(once: Once) -> Path:
    """A run with every file that there may be in one."""
    return Path(shutil.copytree(once(_full) / "run", "run"))


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    """Whoever waits for a pipe waits for ever."""

    def late(*_: Any) -> None:
        pytest.fail("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 120, 5)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def contents(place: Path) -> dict[str, tuple[Any, ...]]:
    """Everything in a folder: what it is, which file, when it was written, and what it says."""
    found = {}
    for path in sorted(place.rglob("*")):
        held = path.lstat()
        said = path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(place))] = held.st_mode, held.st_ino, held.st_mtime_ns, said
    return found


def linked(place: Path, link: Callable[[Path, Path], object]) -> Path:
    """Move the files of a folder to ``others``, and put a link to each in its place."""
    others = Path("others") / place
    shutil.move(place, others)
    for path in sorted(others.rglob("*")):
        here = place / path.relative_to(others)
        here.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            link(path.resolve(), here)
    return others


def symbolic(path: Path, here: Path) -> None:
    here.symlink_to(path)


def hard(path: Path, here: Path) -> None:
    here.hardlink_to(path)


def names_of(place: Path) -> list[str]:
    """The paths in a folder of all that any command writes there."""
    there = [str(path.relative_to(place)) for path in place.rglob("*")]
    more = [".lock", "sweep.log", "fold-0", "fold-0/result.json", "tensorboard/events.out.tfevents.9.x.0", "model.onnx"]
    return [*there, *(f"{name}.tmp" for name in there), *more]


def pipe(here: Path) -> None:
    os.mkfifo(here)


KINDS: dict[str, Callable[[Path], object]] = {
    "to a file": lambda here: here.symlink_to(Path("canary/file").resolve()),
    "to a folder": lambda here: here.symlink_to(Path("canary").resolve()),
    "to nothing": lambda here: here.symlink_to(Path("canary/new").resolve()),
    "by way of ..": lambda here: here.symlink_to(os.path.relpath("canary/file", here.parent)),
    "a pipe": pipe,
}


@pytest.fixture
def canary() -> Iterator[Path]:
    """A folder of somebody else's, which nobody touches."""
    place = Path("canary")
    place.mkdir()
    (place / "file").write_text("theirs")
    before = contents(place)
    yield place
    assert contents(place) == before


@contextlib.contextmanager
def planted(here: Path, kind: str) -> Iterator[None]:
    """While entered, something else is in the place of what a run has, or may come to have, there."""
    here.parent.mkdir(parents=True, exist_ok=True)
    if there := os.path.lexists(here):
        here.rename("away")
    KINDS[kind](here)
    yield
    here.unlink()
    if there:
        Path("away").rename(here)


@pytest.mark.usefixtures("canary")
@pytest.mark.parametrize("kind", KINDS)
def test_each_is_found_under_every_name(full: Path, kind: str) -> None:
    for name in names_of(full):
        with planted(full / name, kind):
            for names in (None, folder.FILES):
                if names is None or name.partition("/")[0] in {*folder.FILES, "fold-0"}:
                    with pytest.raises(RunFolderError) as refused:
                        folder.refuse_links(full, "resume", names)
                    assert f"'{full / name}'" in str(refused.value)
    folder.refuse_links(full, "resume")


def test_all_that_a_run_has_in_its_folder_is_known(full: Path, crossed: Path) -> None:
    for place in (full, crossed):
        assert {path.name for path in place.iterdir() if not folder.FOLD.fullmatch(path.name)} <= folder.FILES


@pytest.mark.usefixtures("canary")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["config.yaml.tmp", "runner.log", "checkpoints", "checkpoints/step-9.pt", ".lock"])
def test_a_run_with_one_is_not_resumed(
    digits: Path, run: Run, kind: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with planted(digits / name, kind):
        before = contents(digits)
        assert run(f"resume={digits}", LONGER) == 2
        assert contents(digits) == before
    said = capsys.readouterr().err
    assert said.startswith(f"error: resume: '{digits / name}' is ")
    assert f"try: rm {digits / name}" in said


@pytest.mark.usefixtures("canary")
def test_nor_is_a_sweep_or_a_cross_validation(
    sweep: Path, crossed: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    job = next(path.parent.name for path in sweep.glob("*/result.json"))
    for name in ("results.csv.tmp", "tensorboard", f"{job}/.hydra", job):
        with planted(sweep / name, "to a folder"):
            assert run("-m", f"resume={sweep}", "seed=5") == 2
            assert f"'{sweep / name}' is a link out of the folder" in capsys.readouterr().err
    for name in ("out_of_fold.csv", "fold-1", "fold-2/checkpoints/last.pt"):
        with planted(crossed / name, "to a file"):
            assert run(f"resume={crossed}", "trainer.max_epochs=2") == 2
            assert f"'{crossed / name}' is a link out of the folder" in capsys.readouterr().err


@pytest.mark.usefixtures("canary")
def test_a_run_is_not_evaluated_into_another_folder(digits: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with planted(digits / "evaluate", "to a folder"):
        assert run("evaluate", f"run={digits}") == 2
        assert "run: 'digits/evaluate' is a link out of the folder" in capsys.readouterr().err
        assert run("evaluate", f"run={digits}", "output=found", "part=val", "figures=false") == 0


@pytest.mark.usefixtures("canary")
@pytest.mark.parametrize("name", ["runner.log", ".hydra", "tensorboard", ".lock"])
def test_nor_is_a_named_folder_begun_in(run: Run, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    Path("mine/data").symlink_to(Path("canary").resolve())  # what is the user's own may be where it likes
    with planted(Path("mine", name), "to a folder"):
        assert run(*QUICK, "hydra.run.dir=mine") == 2
    assert f"hydra.run.dir: 'mine/{name}' is a link out of the folder" in capsys.readouterr().err
    if name == ".lock":
        assert run(*QUICK, "hydra.run.dir=mine", "trainer.max_epochs=1") == 0
        assert Path("mine/data").is_symlink()


def test_the_copy_that_is_suggested_is_resumed(digits: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    digits.rename("my run")
    (moved := Path("elsewhere")).mkdir()
    Path("my run/result.json").rename(moved / "result.json")
    Path("my run/result.json").symlink_to((moved / "result.json").resolve())
    before = contents(moved)
    assert run("resume=my run", LONGER) == 2
    copying, resuming = capsys.readouterr().err.split("; or ")[1].split(", with ")[0].split(" && ")
    assert subprocess.run(copying, shell=True, check=True).returncode == 0
    assert run(*shlex.split(resuming)[3:], LONGER) == 0
    assert result_of("my run-copy")["epochs"] == 3
    assert contents(moved) == before


def test_links_to_a_folder_and_those_within_it_are_followed(digits: Path, run: Run) -> None:
    (digits / "mine").mkdir()
    (digits / "mine/latest").symlink_to("../checkpoints")
    (digits / "optuna.log.lock").symlink_to("/nowhere/optuna.log")  # which an earlier version left, by design
    Path("scratch").mkdir()
    digits.rename("scratch/run")
    Path("outputs").symlink_to("scratch")
    assert run("resume=outputs/run", LONGER) == 0
    assert result_of("scratch/run")["epochs"] == 3
    assert run(*QUICK, "trainer.max_epochs=1") == 0
    assert len(list(Path("scratch").glob("*/*/result.json"))) == 1


COMMANDS = {
    "evaluate": ["evaluate", "run=run", "part=val"], "reproduce": ["reproduce", "run=run"],
    "predict": ["predict", "run=run", "input=val", "output=p.csv"],
    "export": ["export", "run=run", "format=safetensors", "output=model.safetensors"],
    "compare": ["compare", "run"], "resume": ["resume=run", LONGER],
}  # fmt: skip


def test_other_names_of_a_file_keep_its_content(full: Path, run: Run) -> None:
    """A copy by hard links (``cp -al``, a backup) is a run of its own."""
    others = linked(full, hard)
    before = contents(others)
    for name, typed in COMMANDS.items():
        assert run(*typed) == 0, name
        assert contents(others) == before
    assert result_of(full)["epochs"] == 3


def test_so_do_those_of_sweeps_and_folds(sweep: Path, crossed: Path, run: Run) -> None:
    others = [linked(place, hard) for place in (sweep, crossed)]
    before = [contents(place) for place in others]
    assert run(f"resume={sweep}", LONGER) == 0
    assert run(f"resume={crossed}", "trainer.max_epochs=2") == 0
    assert [contents(place) for place in others] == before


def test_no_write_follows_a_link_that_was_not_seen(
    full: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one that came in between: whatever the run has is read by way of it, and nothing written."""
    others = linked(full, symbolic)
    before = contents(others)
    monkeypatch.setattr(folder, "refuse_links", lambda *_, **__: None)
    for path in (full / "tensorboard").rglob("events*"):
        path.unlink()  # of these the old ones are emptied, which is refused
    assert run(*COMMANDS["resume"]) == 0
    assert "runner.log could not be written: it is a symbolic link" in capsys.readouterr().err
    assert result_of(full)["epochs"] == 3
    assert contents(others) == before
    for name in (
        "config.yaml",
        "result.json",
        "metrics.jsonl",
        "split.npz",
        "checkpoints/last.pt",
        "profile/trace.json",
    ):
        assert not (full / name).is_symlink()


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "resume"])
def test_what_only_reads_a_run_follows_its_links(full: Path, run: Run, command: str) -> None:
    others = linked(full, symbolic)
    before = contents(others)
    assert run(*COMMANDS[command]) == 0
    assert contents(others) == before


@pytest.mark.parametrize("name", ["result.json", "config.yaml", "metrics.jsonl", "split.json", "checkpoints/best.pt"])
def test_nobody_waits_for_a_pipe(full: Path, run: Run, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (full / name).unlink()
    os.mkfifo(full / name)
    statuses = {command: run(*typed) for command, typed in COMMANDS.items() if command != "reproduce"}
    statuses["diff"] = run("diff", "run", "run")
    if name == "split.json":
        statuses["split"] = run(*QUICK, f"split.path=run/{name}", "check=only")
    else:
        statuses["reproduce"] = run(*COMMANDS["reproduce"])
    if name == "checkpoints/best.pt":
        statuses["weights"] = run(*QUICK, "model.weights=run", "check=only")
    assert statuses["resume"] == 2
    assert set(statuses.values()) <= {0, 2}
    assert "Traceback" not in capsys.readouterr().err


def test_what_is_no_file_or_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("result.json")
    path.write_text("{}")
    assert files.read(path) == "{}"
    monkeypatch.setattr(files, "MOST", 1 << 20)
    os.truncate(path, (1 << 20) + 1)
    with pytest.raises(OSError, match="larger than 1 MiB"):
        files.read(path)
    for place in ("/dev/zero", "."):
        with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
            files.read(Path(place))


def test_a_file_that_is_written_bit_by_bit_is_no_link_and_no_pipe(canary: Path) -> None:
    for kind in ("to a file", "to nothing", "a pipe"):
        with planted(Path("log"), kind), pytest.raises(NotWritten, match=r"^log could not be written: "):
            files.append(Path("log"))
    Path("log").hardlink_to(canary / "file")
    with files.append(Path("log")) as file:
        file.write(b", and ours")
    assert Path("log").read_text() == "theirs, and ours"


def test_what_a_killed_process_left_is_removed_by_the_next(digits: Path) -> None:
    for place in (digits, digits / "checkpoints"):
        files.temporary(place / "last.pt").write_text("half")
    (digits / ".mine.tmp").write_text("")
    folder.lock(digits, "resume")
    assert [str(path) for path in digits.rglob("*.tmp")] == [f"{digits}/.mine.tmp"]
    folder.leave()


def failing(monkeypatch: pytest.MonkeyPatch, function: str, name: str) -> None:
    """Have the disk be full whenever a file or folder of a name is made."""
    real = getattr(os, function)

    def fails(*arguments: Any, **options: Any) -> Any:
        if any(os.path.basename(str(each)) == name for each in arguments[:2]):
            raise OSError(errno.ENOSPC, "No space left on device", str(arguments[0]))
        return real(*arguments, **options)

    monkeypatch.setattr(os, function, fails)


@pytest.mark.parametrize(
    ("function", "name"),
    [("replace", name) for name in ("split.npz", "split.json", "config.yaml", "result.json")]
    + [("mkdir", ".hydra"), ("mkdir", "tensorboard"), ("mkdir", "run"), ("open", ".lock")],
)
def test_a_file_that_cannot_be_made_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, function: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, function, name)
    assert run(*LIGHT, "tensorboard.enabled=true", "hydra.output_subdir=.hydra", "hydra.run.dir=run") == 1
    said = capsys.readouterr().err
    what = "run" if name == "run" else f"run/{name}"
    assert f"{what} could not be written: No space left on device" in said
    assert "Traceback" not in said


def test_a_lock_that_stays_ends_no_run(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, "unlink", ".lock")
    assert run(*QUICK, "trainer.max_epochs=1", "hydra.run.dir=run") == 0
    assert "run/.lock could not be removed: No space left on device" in capsys.readouterr().out
    monkeypatch.undo()


def test_without_a_log_a_run_goes_on(
    digits: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, "open", "runner.log")
    assert run(f"resume={digits}", LONGER) == 0
    said = capsys.readouterr()
    assert "runner.log could not be written: No space left on device" in said.err
    assert "Traceback" not in said.err


def test_folds_and_evaluations_name_it_too(
    crossed: Path, digits: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, "replace", "config.yaml")
    assert run(f"resume={crossed}", "trainer.max_epochs=2") == 1
    assert "here/config.yaml could not be written: No space left on device" in capsys.readouterr().err
    failing(monkeypatch, "mkdir", "evaluate")
    assert run("evaluate", f"run={digits}", "figures=false") == 1
    said = capsys.readouterr().err
    assert "digits/evaluate could not be written: No space left on device" in said
    assert "Traceback" not in said


def test_no_output_that_was_typed_is_written_through_a_link(
    canary: Path, digits: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("p.csv").symlink_to(canary / "new.csv")
    assert run("predict", f"run={digits}", "input=val", "output=p.csv") == 2
    assert "'p.csv' already exists" in capsys.readouterr().err
    Path("mine").mkdir()
    Path("results").symlink_to("mine")  # a folder, by way of one, is
    assert run("predict", f"run={digits}", "input=val", "output=results/p.csv") == 0
    assert Path("mine/p.csv").is_file()
