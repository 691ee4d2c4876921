"""The run folder: claiming one, finding one."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import re
import shlex
import shutil
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from runner import program, project
from runner.errors import Problem, RunFolderError, cut
from runner.files import TEMPORARY, append, own, read, refuse, typed, write
from runner.keys import parse_json
from runner.result import checked, started
from runner.visible import log

FOLD = re.compile(r"fold-(\d+)")

SWEEP = "sweep.json"
"""In the folder of a sweep: which jobs it has."""

JOURNAL_LOCK = "optuna.log.lock"
"""In the folder of a search that Optuna leads: it was a link, by design, and is taken away by `sweep.journal`."""

FILES = {
    "config.yaml", "result.json", "metrics.jsonl", "split.json", "split.npz", "predictions.npz", "out_of_fold.csv",
    "runner.log", ".lock", ".mark", "code", ".hydra", "checkpoints", "tensorboard", "figures", "profile", "evaluate",
}  # fmt: skip
"""Names of what a run has in its folder, beside its folds."""

_made: set[Path] = set()
"""The folders that this process has claimed, and may take back."""


def outputs() -> Path:
    """Return the folder of all runs: ``outputs`` in the working directory, or that of the project."""
    return project.current().outputs


def claim(folder: Path) -> Path:
    """Make `folder`, or the first of ``folder-1``, ``folder-2``, … that nobody has made yet, and return which.

    ``mkdir`` either makes a folder or fails, so that of two runs that start in the same second each gets its own.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        candidate = folder.with_name(f"{folder.name}-{number}") if number else folder
        try:
            candidate.mkdir()
        except FileExistsError:
            number += 1
        else:
            _made.add(candidate.resolve())
            return candidate


def make(folder: Path) -> None:
    """Make `folder` if it is not there, for a run that was given its name."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        _made.add(folder.resolve())


def disclaim(folder: Path) -> None:
    """Take back a folder in which nothing was run, if this process made it (or the sweep's that it is in)."""
    if not _made & {folder.resolve(), *folder.resolve().parents}:
        return
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, logging.FileHandler)]:
        root.removeHandler(handler)
        handler.close()
    unlock(folder)
    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    with contextlib.suppress(OSError):
        (folder / "runner.log").unlink(missing_ok=True)
    top = outputs().resolve()
    made = [folder, *(path for path in folder.resolve().parents if path.is_relative_to(top))]
    with contextlib.suppress(OSError):  # not empty
        for path in made:
            path.rmdir()


_starting: str | None = None
"""The kind of start that this process has been told to make: a new ``run``, or ``sweep``."""

LOCK = ".lock"

_locks: dict[Path, IO[str]] = {}
"""The folders that this process has to itself."""


def lock(folder: Path, key: str) -> None:
    """Keep every other process out of a run folder until this one ends, however it ends.

    A POSIX record lock: the system takes it back from a process that dies, and workers, which may outlive one by some
    seconds, do not inherit it.

    Args:
        key: of the configuration, by which the folder was named.

    Raises:
        RunFolderError: another process has it, or it cannot be written to.
        NotWritten: the disk is full.
    """
    if folder.resolve() in _locks:
        return
    path = folder / LOCK
    try:
        file = append(path, "a+", encoding="utf-8")
    except OSError as error:
        refuse(error, key, f"'{folder}' is not writable", "a writable folder")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        what = f"'{folder}' is in use by {read(path).strip() or 'another process'}"
        raise RunFolderError(Problem(key, what, "one process at a time in a run folder")) from error
    except OSError:  # a file system without locks
        file.close()
        return
    if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
        file.close()  # whoever had it before took the file away in between
        lock(folder, key)
        return
    with contextlib.suppress(OSError):  # a full disk: it is locked all the same, and nobody reads by whom
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
    _locks[folder.resolve()] = file
    _tidy(folder)
    for kind in ("run", "sweep"):
        with contextlib.suppress(OSError):
            _mark(kind).unlink(missing_ok=True)


def holder(folder: Path) -> str | None:
    """Say which other process has a run folder to itself just now; None if there is none."""
    if folder.resolve() in _locks:
        return None
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return None
    with open(descriptor, encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "another process"
        except OSError:  # a file system without locks
            return None
    return None


def _tidy(folder: Path) -> None:
    """Remove what a killed process had not yet written whole, and get the rest ready to be written."""
    with contextlib.suppress(OSError):
        for place in (folder, folder / "checkpoints", folder / "tensorboard"):
            for path in place.glob(TEMPORARY):
                path.unlink()
    part_from_others(folder)


def part_from_others(folder: Path) -> None:
    """Give the files that Hydra writes in place a content of their own, where they share it (hard links).

    Raises:
        NotWritten: there is no room for it.
    """
    for path in (folder / ".hydra").glob("*"):
        own(path)


def held() -> Path | None:
    """The folder that this process has had to itself for the longest time; None if it has none."""
    return next(iter(_locks), None)


def unlock(folder: Path) -> None:
    """Let others in."""
    file = _locks.pop(folder.resolve(), None)
    if file is not None:
        try:
            (folder / LOCK).unlink(missing_ok=True)
        except OSError as error:  # which is in nobody's way
            log.warning("%s could not be removed: %s", folder / LOCK, error.strerror)
        with contextlib.suppress(OSError):
            file.close()


def starting(kind: str) -> None:
    """Note that a new run or sweep is about to be started, which is going to be the newest one in ``outputs/``."""
    global _starting
    _starting = kind


def leave(stopped: bool = False) -> None:
    """At the end of a command: give up every lock, and take back the folders in which nothing came to be run.

    Args:
        stopped: by a signal. If nothing is left of what it had begun, ``last`` is not to be taken for it.
    """
    global _starting
    claimed = {*_locks, *_made}
    for folder in list(_locks):
        unlock(folder)
    for folder in [folder for folder in _made if folder.is_dir() and not (folder / "result.json").exists()]:
        disclaim(folder)
    _made.clear()
    if stopped and _starting and outputs().is_dir() and not any(folder.is_dir() for folder in claimed):
        with contextlib.suppress(OSError):
            write(_mark(_starting), f"stopped before training began, by process {os.getpid()}\n".encode())
    _starting = None


def _mark(kind: str) -> Path:
    """The file which says that the newest start left nothing; whoever gets a folder takes it away."""
    return outputs() / f".stopped-{kind}"


def _check_last(newest: Path | None, kind: str, words: str = "") -> None:
    """Check that ``resume=last`` means what was started last."""
    if newest is None or not os.path.lexists(_mark(kind)):
        return
    begun = (newest / SWEEP).stat().st_mtime if kind == "sweep" else _started(newest)[0]
    if _mark(kind).lstat().st_mtime > begun:
        what = "the newest start was stopped before training began and left nothing to resume"
        remedy = f"{words}resume={newest}, for the newest {kind} that is there"
        raise RunFolderError(Problem("resume", f"'last': {what}", "a folder", remedy))


def refuse_links(folder: Path, key: str, names: Collection[str] | None = None, deep: bool = True) -> None:
    """See to it, before anything is written to a folder, that all of that will be in it.

    A run that comes from a stranger may have links to files of whoever resumes it. The folder itself may be reached by
    links, and links from one place in it to another are harmless.

    Args:
        key: of the configuration, by which the folder was named.
        names: what in the folder, beside folds, will be written to; None if that may be anything.
        deep: whether that is so for what is in its folders, too.

    Raises:
        RunFolderError: a link leads out of it, or something in it is neither a file nor a folder.
    """
    try:
        found = list(islice(_astray(folder, names, deep), 6))
    except OSError as error:
        raise RunFolderError(Problem(key, f"'{error.filename}' cannot be read ({error.strerror})")) from error
    problems = []
    for path in found[:5]:
        remedy = f"rm {shlex.quote(str(path))}"
        what = f"'{path}' is neither a file nor a folder"
        if path.is_symlink():
            what = f"'{path}' is a link out of the folder, to '{os.readlink(path)}': nothing is written through it"
            if path.exists() and names is None:
                copy = folder.with_name(f"{folder.resolve().name}-copy")
                words = shlex.join(["cp", "-rL", str(folder), str(copy)])
                remedy += f"; or {words} && {program.line(f'resume={shlex.quote(str(copy))}')}, with what it leads to"
        problems.append(Problem(key, what, "a folder without such links", remedy))
    if problems:
        raise RunFolderError(*problems)


def _astray(folder: Path, names: Collection[str] | None, deep: bool) -> Iterator[Path]:
    """Yield what in a folder leads out of it, or would be waited for."""
    inside, places = os.path.realpath(folder), [folder]
    while places:
        place = places.pop()
        with os.scandir(place) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            if names is not None and place == folder and entry.name not in names and not FOLD.fullmatch(entry.name):
                continue
            if entry.is_symlink():
                if entry.name != JOURNAL_LOCK and not Path(os.path.realpath(entry.path)).is_relative_to(inside):
                    yield Path(entry.path)
            elif entry.is_dir(follow_symlinks=False):
                places += [Path(entry.path)] if deep else []
            elif not entry.is_file(follow_symlinks=False):
                yield Path(entry.path)


def has_checkpoint(folder: Path) -> bool:
    return any((folder / "checkpoints").glob("*.pt"))


def state(folder: Path) -> str | None:
    """``running``, ``completed``, ``interrupted`` or ``failed``, as ``result.json`` has it; None if it has nothing."""
    found = result(folder)
    return str(found["state"]) if "state" in found else None


def is_sweep(folder: Path) -> bool:
    return (folder / SWEEP).is_file()


def fold(folder: Path, number: int) -> Path:
    """The folder of a fold of a cross-validation."""
    return folder / f"fold-{number}"


def folds(folder: Path) -> list[tuple[int, Path]]:
    """The folds of a cross-validation that have a folder, by their numbers."""
    names = [FOLD.fullmatch(path.name) for path in folder.glob("fold-*") if path.is_dir()]
    return sorted((int(name[1]), folder / name[0]) for name in names if name)


def has_more_to_do(cfg: Any, run_dir: Path) -> bool:
    """Whether a completed run is shorter than its configuration now says."""
    reached = result(run_dir)
    epochs, steps = cfg.trainer.max_epochs, cfg.trainer.max_steps
    by_epochs = epochs is None or epochs > reached.get("epochs", 0)
    by_steps = steps is None or steps > reached.get("steps", 0)
    return by_epochs and by_steps


def result(folder: Path) -> dict[str, Any]:
    """Return what ``result.json`` says, without fields that no run writes so; nothing if none can be read."""
    return checked(_record(folder))[0]


def _record(folder: Path) -> dict[str, Any]:
    try:
        content = parse_json(read(folder / "result.json"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _typed(name: str, key: str) -> Path:
    """A folder as somebody typed it, which may not be there."""
    folder = typed(name)
    try:
        (folder / "config.yaml").stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        what = f"{cut(name, 200)!r} cannot be read: {getattr(error, 'strerror', error)}"
        raise RunFolderError(Problem(key, what, "a run folder, or last")) from error
    return folder


def find(name: str, key: str, alone: bool = False) -> Path:
    """The run folder that the value `name` of the override `key` means: a path, or ``last`` for the newest run.

    Args:
        alone: whether it was typed without a key, to the command `key`.

    Raises:
        RunFolderError: there is no such folder, or it is not the folder of a run.
    """
    if not name.strip():
        raise RunFolderError(Problem(key, f"{name!r} is not a folder", "a run folder, or last"))
    folder = newest() if name == "last" else _typed(name, key)
    if name == "last" and key == "resume":
        _check_last(folder, "run")
    if folder is None:
        problem = Problem(key, f"there is no run in {outputs()}/ yet", "a run folder", "" if alone else f"{key}=FOLDER")
        raise RunFolderError(problem)
    if not (folder / "config.yaml").is_file():
        what = "is not a run folder (no config.yaml in it)" if folder.exists() else "does not exist"
        remedy = ("last" if alone else f"{key}=last") if newest() else ""
        raise RunFolderError(Problem(key, f"{str(folder)!r} {what}", "a run folder, or last", remedy))
    if wrong := checked(_record(folder))[1]:
        what = f"is not the result of a run: {wrong[0]} has a value that no run writes"
        raise RunFolderError(Problem(str(folder / "result.json"), what, "what a run wrote, unchanged"))
    return folder


def newest() -> Path | None:
    """The run in ``outputs/`` that was started last. A job of a sweep is no run of its own, and neither is a fold."""
    found = [path.parent for depth in ("*", "*/*") for path in outputs().glob(f"{depth}/config.yaml")]
    runs = [run for run in found if not run.name.startswith(".") and not _is_part(run)]
    return max(runs, key=_started, default=None)


def _is_part(run: Path) -> bool:
    return any((run.parent / name).is_file() for name in (SWEEP, "multirun.yaml", "config.yaml"))


def find_sweep(name: str, wanted: bool) -> Path | None:
    """The folder of a sweep that the value `name` of the override ``resume`` means; None if it means a run.

    Args:
        wanted: whether it has to be a sweep: then ``last`` is the newest of them.

    Raises:
        RunFolderError: it has to be a sweep, and is none.
    """
    folder = newest_sweep() if name == "last" and wanted else None if name == "last" else _typed(name, "resume")
    if name == "last" and wanted:
        _check_last(folder, "sweep", "-m ")
    if folder is not None and is_sweep(folder):
        return folder
    if wanted:
        if folder is None:
            what, remedy = f"there is no sweep in {outputs()}/", ""
        elif not folder.exists():
            what, remedy = f"{str(folder)!r} does not exist", "resume=last" if newest_sweep() else ""
        else:
            what, remedy = f"{str(folder)!r} is not the folder of a sweep", "leave out -m"
        raise RunFolderError(Problem("resume", what, "the folder of a sweep, or last", remedy))
    return None


def newest_sweep() -> Path | None:
    """The sweep in ``outputs/`` that was started last, or gone on with."""
    found = [path for depth in ("*", "*/*", "*/*/*") for path in outputs().glob(f"{depth}/{SWEEP}")]
    return max((path.parent for path in found), key=lambda path: (path / SWEEP).stat().st_mtime, default=None)


def is_newer(sweep: Path, run: Path) -> bool:
    """Whether a sweep was begun, or gone on with, after a run."""
    return (sweep / SWEEP).stat().st_mtime > _started(run)[0]


def _started(folder: Path) -> tuple[float, list[str | int]]:
    when = started(result(folder))
    if when is None:  # it died before it could write its record
        when = float(int((folder / "config.yaml").stat().st_mtime))
    # Of runs that started in one second, -10 comes after -9.
    return when, [int(word) if word.isdigit() else word for word in re.split(r"(\d+)", folder.name)]


def resume_command(cfg: Any, folder: Path, *overrides: str) -> str:
    """What to type to go on in a run folder.

    Args:
        cfg: the run's configuration. What of it came from the environment is typed again.
    """
    from runner import config, consent

    again = config.to_type(cfg) if consent.secret() is None else []  # else its mark says that it is this user's
    return " ".join([command(cfg, f"resume={folder}", *overrides), *again])


def longer(cfg: Any, ended_by: str | None) -> str:
    """The override with which a completed run trains on: twice the limit that ended it.

    Args:
        ended_by: what ended it, as ``result.json`` says it.
    """
    options = cfg.trainer
    if ended_by == "max_time":
        return "trainer.max_time=MORE"
    if ended_by == "early_stopping":
        return f"trainer.early_stopping.patience={2 * options.early_stopping.patience}"
    by_steps = ended_by == "max_steps" or (ended_by != "max_epochs" and options.max_steps is not None)
    key = "max_steps" if by_steps else "max_epochs"
    return f"trainer.{key}={2 * options[key] if options[key] else 'MORE'}"


def command(cfg: Any, *words: str) -> str:
    """Return what to type, with what the code of a run's own needs where its folder cannot be marked."""
    from runner import consent

    allowed = [f"allow_targets=[{','.join(cfg.allow_targets)}]"] if cfg.allow_targets and not consent.secret() else []
    return program.line(*(shlex.quote(word) for word in (*words, *allowed)))
