"""Checkpoints: written whole or not at all, and checked when they are read."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from runner import debugger
from runner.errors import RE_SAVE, Problem, RunFolderError, RunnerError, is_not_plain, reason_of
from runner.files import check_archive, readable, write
from runner.visible import log

FORMAT = 2
"""Version of the layout, under the key ``format`` of every checkpoint."""

MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""By earlier format, what makes a checkpoint of the next one. One stays for ever: folders of every version open."""

LAST, BEST = "last.pt", "best.pt"


def kept_as(step: int) -> str:
    """The name under which one of several best checkpoints is kept."""
    return f"step-{step}.pt"


def read(path: Path) -> dict[str, Any]:
    """The checkpoint at `path`, on the CPU.

    Raises:
        RunFolderError: it is missing, damaged, not a checkpoint of ours, or of a format this version does not know.
    """
    try:
        check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Whatever a damaged file makes of zipfile, pickle and torch; none of it is more than "unreadable" to a user.
        what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({reason_of(error)})"
        remedy = RE_SAVE if is_not_plain(error) else ""
        raise RunFolderError(Problem(str(path), what, "a checkpoint written by runner", remedy)) from error
    if not isinstance(state, dict) or "format" not in state:
        raise RunFolderError(Problem(str(path), "is not a checkpoint written by runner", f"one of format {FORMAT}"))
    return _migrated(path, state)


def _migrated(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint in the format of this version."""
    given, by = state["format"], state.get("runner")
    number = given if isinstance(given, int) else -1
    while number in MIGRATIONS:
        state, number = MIGRATIONS[number](state), number + 1
    if number == FORMAT:
        return state | {"format": FORMAT}
    what = f"is a checkpoint of format {given}" + (f", written by runner {by}" if by else "")
    known = ", ".join(map(str, sorted({*MIGRATIONS, FORMAT})))
    remedy = (f"runner {by}, or a later one" if by else "a later version of runner") if number > FORMAT else ""
    raise RunFolderError(Problem(str(path), what, f"format {known}, which this version reads", remedy))


def read_newest(folder: Path) -> dict[str, Any]:
    """The last checkpoint in a run's ``checkpoints`` folder; where it is damaged or missing, the newest that is not.

    Raises:
        RunFolderError: none can be read; with what is wrong with each.
    """
    try:
        return read(folder / LAST)
    except RunFolderError as error:
        problems = list(error.problems)
    found: dict[Path, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.pt")):
        try:
            if path.name != LAST:
                found[path] = read(path)
        except RunFolderError as error:
            problems += error.problems
    if not found:
        raise RunFolderError(*problems)
    for problem in problems:
        log.warning("%s %s", problem.key, problem.what)
    newest = max(found, key=lambda path: int(found[path]["progress"]["step"]))
    log.warning("resuming from %s (step %s) instead", newest, f"{found[newest]['progress']['step']:,}")
    return found[newest]


def restore_best(folder: Path, state: dict[str, Any]) -> None:
    """See to it that a run which goes on from `state` will find its best weights.

    Raises:
        RunFolderError: they are in none of the checkpoints.
    """
    best = state["progress"]["best"]
    if best is None:
        return
    try:
        if read(folder / BEST)["progress"]["step"] >= best["step"]:
            return  # those; or those of a later step, at which the run will be again, and write them once more
        problem = Problem(str(folder / BEST), f"does not hold the best weights, which are of step {best['step']:,}")
    except RunFolderError as error:
        (problem,) = error.problems
    if state["progress"]["step"] == best["step"]:
        write(folder / BEST, _serialised(state))
    elif (folder / kept_as(best["step"])).exists():
        read(folder / kept_as(best["step"]))
        write(folder / BEST, (folder / kept_as(best["step"])).read_bytes())
    else:
        what = f"{problem.what}: the weights of the best evaluation so far, of step {best['step']:,}, are lost"
        remedy = f"a new run from the last weights: model.weights={folder / LAST}"
        raise RunFolderError(Problem(problem.key, what, remedy=remedy))
    log.warning("%s %s: restored from another checkpoint", problem.key, problem.what)


@dataclass(frozen=True)
class Every:
    """How often a checkpoint is written, besides those of the best evaluations and of the end. One is set."""

    epochs: int | None = None
    steps: int | None = None
    seconds: float | None = None

    def due(self, ended: int | None, step: int, since: float) -> bool:
        """Whether it is time.

        Args:
            ended: number of the epoch that has just ended; None inside an epoch.
            step: optimizer steps so far.
            since: seconds since the last one.
        """
        if self.epochs is not None:
            return ended is not None and ended % self.epochs == 0
        if self.steps is not None:
            return ended is None and step % self.steps == 0
        return self.seconds is not None and since >= self.seconds


class Checkpoints:
    """Writes a run's checkpoints in the background, one at a time.

    What cannot be written (a full disk, a folder that became read-only) leaves what was there before; it is said, and
    tried again with the next one.

    Args:
        folder: the run's ``checkpoints`` folder; made when the first checkpoint is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer = debugger.executor(1, "checkpoint")
        self._pending: Future[None] | None = None
        self._latest: Future[None] | None = None  # also when somebody waits for it already
        self._owed: dict[str, dict[str, Any]] = {}  # by file name, what is not on the disk yet
        self._files: set[str] = set()
        self.written: int | None = None
        """The step of the last checkpoint that is on the disk."""
        self.failed: OSError | None = None
        """Why the last attempt failed, if it did."""

    def save(self, state: Mapping[str, Any], best: bool = False, kept: Iterable[int] = ()) -> None:
        """Write `state` as the last checkpoint, and as the best one too if it is.

        The state is copied before this returns, so that training may go on. Waits for the checkpoint before.

        Args:
            kept: steps of the best checkpoints, where several are kept; other ones are removed.
        """
        self.wait()
        snapshot = _copy({"format": FORMAT, **state})
        step = snapshot["progress"]["step"]
        files = {kept_as(each) for each in kept}
        names = [*([BEST] if best else []), *files & {kept_as(step)}]
        # A best one that could not be written must not be forgotten: no later one holds its weights.
        owed = {name: held for name, held in self._owed.items() if name in (BEST, *files)}
        # The last one last: if it is not written any more, the run goes on from before it, and writes all again.
        self._owed = {**owed, **dict.fromkeys(names, snapshot)} | {LAST: snapshot}
        self._files = files
        self._pending = self._latest = self._writer.submit(self._write, files)

    @property
    def is_busy(self) -> bool:
        """Return whether one is being written."""
        return self._latest is not None and not self._latest.done()

    def wait(self) -> None:
        """Return when the checkpoint that is being written is on the disk, or was found not to be writable."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        try:
            pending.result()
            if self.failed is not None:
                log.info("checkpoints can be written again")
            self.failed = None
        except OSError as error:
            step, before, self.failed = self._owed[LAST]["progress"]["step"], self.failed, error
            log.log(
                logging.DEBUG if before else logging.WARNING,  # once is enough, until it works again
                "could not write the checkpoint of step %s (%s); the previous one is kept, training continues",
                f"{step:,}", error.strerror or error,
            )  # fmt: skip

    def close(self, remedy: str = "") -> None:
        """Wait for what is being written, and try once more what could not be.

        Args:
            remedy: what to do if it still cannot be.

        Raises:
            RunnerError: it cannot be written.
        """
        self.wait()
        if self.failed is not None:
            self._pending = self._latest = self._writer.submit(self._write, self._files)
            self.wait()
        if self.failed is not None:
            what = f"the last checkpoint could not be written to {self.folder} ({self.failed.strerror or self.failed})"
            raise RunnerError(what + (f"\n  try: {remedy}" if remedy else "")) from self.failed

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown()  # returns when what is being written is on the disk

    def prune(self, kept: Iterable[int]) -> None:
        """Remove those of evaluations that are not among the best."""
        with suppress(OSError):  # the next one that is written tries again
            self._remove({kept_as(each) for each in kept})

    def _remove(self, kept: set[str]) -> None:
        for path in self.folder.glob("step-*.pt"):
            if path.name not in kept:
                path.unlink()

    def _write(self, kept: set[str]) -> None:
        """Write what is owed, and remove what is not among the best any more."""
        content: dict[int, bytes] = {}
        for name, state in list(self._owed.items()):
            if id(state) not in content:
                content = {id(state): _serialised(state)}
            write(self.folder / name, content[id(state)])
            if name != LAST:
                del self._owed[name]
            else:
                self.written = state["progress"]["step"]
        self._remove(kept)


def sha256(path: Path) -> str:
    """Of the file's content, in hexadecimal."""
    with readable(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _serialised(state: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _copy(value: Any) -> Any:
    """Containers and tensors copied, the tensors to the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copy(item) for item in value)
    return value
