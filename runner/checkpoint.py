"""Checkpoints: written whole or not at all, and checked when they are read."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from runner.errors import Problem, RunFolderError
from runner.files import write

FORMAT = 1
"""Version of the layout, under the key ``format`` of every checkpoint."""

LAST, BEST = "last.pt", "best.pt"


def read(path: Path) -> dict[str, Any]:
    """The checkpoint at `path`, on the CPU.

    Raises:
        RunFolderError: it is missing, damaged, not a checkpoint of ours, or of a format this version does not know.
    """
    try:
        # torch.load does not look at the checksums that the file holds: a flipped bit would be loaded as a weight.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"checksum of {damaged} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Whatever a damaged file makes of zipfile, pickle and torch; none of it is more than "unreadable" to a user.
        what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({_first_line(error)})"
        raise RunFolderError(Problem(str(path), what, "a checkpoint written by runner")) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else None
        raise RunFolderError(Problem(str(path), f"is a checkpoint of format {found}", f"format {FORMAT}"))
    return state


class Checkpoints:
    """Writes a run's checkpoints in the background, one at a time.

    Args:
        folder: the run's ``checkpoints`` folder; made when the first checkpoint is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, state: Mapping[str, Any], best: bool = False) -> None:
        """Write `state` as the last checkpoint, and as the best one too if it is.

        The state is copied before this returns, so that training may go on. Waits for the checkpoint before, and
        raises what went wrong with that one.
        """
        self.wait()
        snapshot = _copy({"format": FORMAT, **state})
        # The best one first: if the last one is not written any more, the run goes on from before it and writes both.
        self._pending = self._writer.submit(self._write, snapshot, [BEST, LAST] if best else [LAST])

    def wait(self) -> None:
        """Return when the checkpoint that is being written is on the disk."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.shutdown()  # returns when what is being written is on the disk

    def _write(self, state: dict[str, Any], names: list[str]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        for name in names:
            write(self.folder / name, buffer.getvalue())


def sha256(path: Path) -> str:
    """Of the file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(value: Any) -> Any:
    """Containers and tensors copied, the tensors to the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone() if value.device.type == "cpu" else value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copy(item) for item in value)
    return value


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
