"""Decoded pictures, kept from run to run by what the files hold."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from runner.files import write
from runner.visible import log

if TYPE_CHECKING:
    from runner.dataset.pictures import Pictures


FORMAT = 3
"""Version of the cache; another one makes another file."""


class Read(NamedTuple):
    """The outcome of reading the files of a part."""

    pixels: np.ndarray[Any, Any]
    """(N, C, H, W) uint8; black where a file is broken."""
    broken: dict[str, str]
    """Why a file could not be decoded."""
    cut: int
    """Number of pictures that lost much of their area."""
    lost: float
    """The share of their area that these lost, summed."""
    grey: int
    """Number of pictures that are grey."""
    frames: int
    """Number of files that have more than one picture."""


def place(pictures: Pictures, size: tuple[int, int], cache: Path) -> Path:
    """Return where the decoded pictures are kept: a name that follows from the files' content and the settings.

    So that a folder need not be read whole each time, what its content came to is remembered by the files' names,
    sizes and times. The time of the last change of a file's record (ctime) cannot be set back, as that of its content
    can by `touch` and `rsync`.
    """
    settings = repr((FORMAT, pictures.how, size))
    look, content = hashlib.sha256(settings.encode()), hashlib.sha256(settings.encode())
    for path, _ in pictures.samples:
        stat = path.stat()
        look.update(repr((str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)).encode())
    remembered = cache / f"{look.hexdigest()[:32]}.key"
    with contextlib.suppress(OSError, ValueError):
        return cache / f"{int(remembered.read_text(encoding='utf-8'), 16):032x}.npy"
    for (path, target), name in zip(pictures.samples, pictures.names, strict=True):
        content.update(repr((name, target)).encode())
        with path.open("rb") as file:
            content.update(hashlib.file_digest(file, "sha256").digest())
    key = content.hexdigest()[:32]
    with contextlib.suppress(OSError):  # said where the pictures themselves cannot be written
        write(remembered, key.encode())
    return cache / f"{key}.npy"


def load(path: Path) -> Read | None:
    """Load what `keep` wrote; None if there is nothing, or if it is not whole."""
    try:
        # Copy-on-write: pages are read when they are needed, and shared between runs.
        pixels = np.load(path, mmap_mode="c")
        return Read(pixels, **json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, EOFError):
        return None


def keep(path: Path, read: Read) -> None:
    """Write what was decoded, each file whole or not at all; the pixels last, for they are what is looked for."""
    pixels, beside = read.pixels, {name: value for name, value in read._asdict().items() if name != "pixels"}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # of which nothing stays on a full disk
            np.save(Path(folder, path.name), pixels)
            listed = path.with_suffix(".json")
            Path(folder, listed.name).write_text(json.dumps(beside))
            os.replace(Path(folder, listed.name), listed)
            os.replace(Path(folder, path.name), path)
    except OSError as error:
        log.warning("decoded images cannot be cached in %s (%s): the next run decodes them again", path.parent, error)
