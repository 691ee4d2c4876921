"""Files: where one was typed that is not there; and those of a run folder, which may come from a stranger: every one
is read, and written, by way of the functions here, which follow no link when they write and wait for nobody when they
read."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from runner.errors import NotWritten, Problem, RunFolderError, for_shell, nearest

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


OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
"""Errors at which neither what was typed nor the permissions of a folder are wrong."""

MOST = 64 << 20
"""Bytes of a text file of a run that is read; what a run writes has a few thousand."""

TEMPORARY = ".*.????????????????.tmp"
"""Pattern of the names of files that are not yet whole."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """While entered, an error of the system is one about `path`.

    Raises:
        NotWritten: there was one.
    """
    try:
        yield
    except NotWritten:
        raise
    except OSError as error:
        raise NotWritten(error.errno, error.strerror or str(error), str(path)) from error


def refuse(error: OSError, key: str, what: str, allowed: str = "", remedy: str = "") -> NoReturn:
    """Say that a place cannot be written to.

    Args:
        key, what, allowed, remedy: the problem, if it is the place's, and not one of the disk.

    Raises:
        RunFolderError: another place would do.
        NotWritten: it would not.
    """
    if error.errno in OF_THE_DISK:
        raise NotWritten(error.errno, error.strerror, str(error.filename)) from error
    raise RunFolderError(Problem(key, f"{what} ({error.strerror})", allowed, remedy)) from error


def write(path: Path, content: bytes) -> None:
    """Put `content` at `path` such that, whatever happens, the file is the old one or the new one, and whole.

    Raises:
        NotWritten: no space, no permission. The old one is as it was.
    """
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as file:
            file.write(content)


def temporary(path: Path) -> Path:
    """Return where to write a file that will take the place of `path`: under a name that nobody can have foreseen."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file, which takes the place of what is at `path`, also of a link, if nothing is raised meanwhile.

    Raises:
        OSError: it cannot be written. What was there before still is.
    """
    part = temporary(path)
    with part.open("xb") as file:  # which follows no link
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()  # half a file would take the space that the next one needs
            raise
    folder = os.open(path.parent, os.O_RDONLY)  # the new name is on the disk only after its folder is
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def append(path: Path, mode: str = "ab", **options: Any) -> Any:
    """Open a file that is written where it is, bit by bit: a log. Never one that is elsewhere, by whatever link.

    Args:
        mode: ``a``, ``ab`` or ``a+``.
        options: of `open`.

    Raises:
        NotWritten: it cannot be; it is a link, or no file.
    """
    own(path)
    with writing(path):
        return open(path, mode, opener=_opened_to_write, **options)


def own(path: Path) -> None:
    """Give a file content of its own, if it has that in common with another one (a hard link).

    Raises:
        NotWritten: there is no room for it.
    """
    with writing(path), contextlib.suppress(FileNotFoundError):
        held = path.lstat()
        if stat.S_ISREG(held.st_mode) and held.st_nlink > 1:
            with path.open("rb") as file, replacing(path) as copy:
                shutil.copyfileobj(file, copy)


def _opened_to_write(name: str, flags: int) -> int:
    try:
        return _regular(os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link") from error
        raise


def readable(path: Path) -> BufferedReader:
    """Open a file of a run to be read.

    Raises:
        OSError: there is none; or it is no file, but a pipe for example, which would have to be waited for.
    """
    return open(path, "rb", opener=lambda name, flags: _regular(os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)))


def _regular(descriptor: int) -> int:
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is not a regular file")


def read(path: Path) -> str:
    """The text in a file of a run.

    Raises:
        OSError: it cannot be read, is no file, or larger than any that a run writes.
        UnicodeDecodeError: it is no text.
    """
    with readable(path) as file:
        if os.fstat(file.fileno()).st_size > MOST:
            raise OSError(errno.EFBIG, f"it is larger than {MOST >> 20} MiB")
        return file.read().decode("utf-8")


def check_archive(path: Path) -> None:
    """Look for damage in what `torch.save` wrote, which `torch.load` would load as other weights.

    `torch.load` verifies no checksum, and skips entries that are marked as folders; that mark is a single bit, which no
    checksum covers.

    Raises:
        OSError: it is not there, or no file.
        zipfile.BadZipFile: it is damaged, or no archive.
    """
    with readable(path) as file, zipfile.ZipFile(file) as archive:
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
