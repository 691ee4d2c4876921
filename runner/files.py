"""Files: where one was typed that is not there; and those that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import Problem, for_shell, nearest

if TYPE_CHECKING:
    from torch import Tensor


_FOLDER = 0x10
"""Of the attributes that a zip archive has for each of its files."""


def typed(text: str | Path) -> Path:
    """A path as somebody typed it: ``~`` is home, and that of a user who is not there is a name like any other."""
    return Path(os.path.expanduser(text))


def absent(key: str, path: Path, allowed: str, is_folder: bool = False) -> Problem | None:
    """That there is no such file or folder, where it was looked for, and the nearest name; nothing if there is."""
    is_there = Path.is_dir if is_folder else Path.is_file
    try:
        if is_there(path):
            return None
    except OSError as error:  # a folder that one may not look into, or a name that is too long
        return Problem(key, f"{str(path)!r} cannot be read: {error.strerror}", allowed)
    looked = "" if path.is_absolute() else f" (looked for {path.absolute()})"
    near = _near(path, is_there)
    what = f"there is no {'folder' if is_folder else 'file'} {str(path)!r}{looked}"
    return Problem(key, what, allowed, for_shell(f"{key}={near}") if near else "")


def _near(path: Path, is_there: Callable[[Path], bool]) -> str:
    """The path that was meant, of which one folder or the file has a name like one that is there; or nothing."""
    with contextlib.suppress(OSError, StopIteration):  # a folder that one may not look into
        above = next(parent for parent in path.parents if parent.is_dir())
        first, *rest = path.relative_to(above).parts
        close = nearest(first, [name for name in os.listdir(above) if is_there(above.joinpath(name, *rest))])
        return str(above.joinpath(close, *rest)) if close else ""
    return ""


def write(path: Path, content: bytes) -> None:
    """Put `content` at `path` such that, whatever happens, the file is the old one or the new one, and whole.

    Raises:
        OSError: it cannot be written: no space, no permission. The old one is as it was.
    """
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()  # half a file would take the space that the next one needs
        raise
    folder = os.open(path.parent, os.O_RDONLY)  # the new name is on the disk only after its folder is
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check_archive(path: Path) -> None:
    """Look for damage in what `torch.save` wrote, which `torch.load` would load as other weights.

    `torch.load` verifies no checksum, and skips entries that are marked as folders; that mark is a single bit, which no
    checksum covers.

    Raises:
        zipfile.BadZipFile: it is damaged, or no archive.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        folders = [entry.filename for entry in archive.infolist() if entry.external_attr & _FOLDER]
        if folders:
            raise zipfile.BadZipFile(f"{folders[0]} is marked as a folder")


def png(pixels: Tensor) -> bytes:
    """A picture, (3, H, W) uint8, as a PNG file."""
    from PIL import Image

    held = BytesIO()
    Image.fromarray(pixels.cpu().permute(1, 2, 0).contiguous().numpy()).save(held, "PNG")
    return held.getvalue()
