"""A picture as a file has it, brought to what a model is given: upright, 8 bits a channel, in one mode, of one size;
and decoded pictures, kept from run to run by what the files hold."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from runner.files import write
from runner.visible import log

if TYPE_CHECKING:
    from runner.dataset.pictures import Pictures

UNDECODABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""Errors that PIL raises of a file that it cannot decode."""

MODES = {1: "L", 3: "RGB", 4: "RGBA"}

READING: Literal[2] = 2
"""Version of how pictures are read now: 1, of runs that were trained with it, has another `earlier`."""

AS_EARLIER = "dataset.reading=1: images are read as by earlier versions, without EXIF orientation and linked folders"
"""Message about reading 1."""

Fit = Literal["cut", "pad", "stretch"]

NEED_GHOSTSCRIPT = ("EPS", "WMF")
"""Formats that PIL has other programs draw. It goes by what a file begins with, whatever its name is."""

BY_WAY_OF = {"P": "RGBA", "PA": "RGBA", "LAB": "RGB", "La": "LA", "RGBa": "RGBA"}
"""Modes that PIL converts to some only, or without what is transparent: to which they are brought first."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By the orientation in EXIF: what brings a picture upright, as `PIL.ImageOps.exif_transpose` does, which also writes
the tags anew, and fails where it cannot."""


class Head(NamedTuple):
    """Facts that the head of a file tells of its picture."""

    size: tuple[int, int]
    """(height, width), upright."""
    grey: bool
    frames: bool
    """Flag of a file with more pictures than the first one: it moves, or has pages."""
    deep: bool
    """Flag of a picture of which it is not known what is black and what is white."""


def head(file: Image.Image, reading: int = READING) -> Head:
    """The head of an open file."""
    width, height = file.size
    # Of a TIFF file the size is that of the upright picture as soon as it is open.
    if reading > 1 and file.format != "TIFF" and _orientation(file) in (5, 6, 7, 8):
        width, height = height, width
    grey = file.mode in ("1", "L", "LA", "La") or _is_deep(file)
    # Others, such as a phone's JPEG with a preview, have more in them that is not of the picture.
    moving = file.format in ("GIF", "PNG", "WEBP", "TIFF", "AVIF") and bool(getattr(file, "is_animated", False))
    return Head((height, width), grey, moving, _is_deep(file) and _known_range(file) is None)


def decode(
    given: Path | str | Image.Image, mode: str, size: tuple[int, int] | None = None, fit: Fit = "cut",
    value_range: tuple[float, float] | None = None, reading: int = READING,
) -> Image.Image:  # fmt: skip
    """A picture, or that in a file, in one mode, and of one (height, width) if asked for.

    Args:
        value_range, reading: see `runner.dataset.image_folder`.

    Raises:
        ValueError: among `UNDECODABLE`: what is black and what is white is not known.
    """
    if not isinstance(given, Image.Image):
        with Image.open(given) as file:
            return decode(file, mode, size, fit, value_range, reading)
    if given.format in NEED_GHOSTSCRIPT:
        raise ValueError(f"{given.format} files are drawings, which another program would have to draw")
    if reading == 1:
        picture = _as_earlier(given)
    else:
        given.load()  # of a broken file this fails, and a broken EXIF block is none
        turn = UPRIGHT.get(_orientation(given) or 1)
        picture = _eight_bits(given, value_range) if _is_deep(given) else given
        picture = picture.convert(BY_WAY_OF[picture.mode]) if picture.mode in BY_WAY_OF else picture
        picture = picture if turn is None else picture.transpose(turn)
    picture = picture.convert(mode)
    return picture if size is None else fitted(picture, *size, fit)


def _orientation(picture: Image.Image) -> int | None:
    try:
        # Not the method of PNG's, which decodes a picture that has no EXIF before it.
        found = Image.Image.getexif(picture).get(ExifTags.Base.Orientation)
    except Exception:  # whatever a damaged EXIF block makes of PIL
        return None
    return found if isinstance(found, int) else None


def _is_deep(picture: Image.Image) -> bool:
    """Return whether a value has more than 8 bits."""
    return picture.mode.startswith(("I", "F"))


def _known_range(picture: Image.Image) -> tuple[float, float] | None:
    """The values of black and white, as far as the kind of a file says them."""
    if picture.mode.startswith("I;16"):
        bits = getattr(picture, "tag_v2", {}).get(258, (16,))  # 12 bits are kept as they are
        return 0.0, float(2 ** min(bits[0], 16) - 1)
    return (0.0, 65535.0) if picture.mode == "I" and picture.format in ("PNG", "PPM") else None


def _eight_bits(picture: Image.Image, value_range: tuple[float, float] | None) -> Image.Image:
    """A grey picture of more than 8 bits in 8. PIL's own conversion cuts off what is above 255."""
    values = np.asarray(picture, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it contains NaN or infinity")
    found = value_range or _known_range(picture)
    if found is None:
        low, high = float(values.min()), float(values.max())
        usual = [(0.0, top) for top in (1.0, 255.0, 65535.0) if low >= 0 and high <= top]
        likely = usual[0] if usual else (low, high)
        kind = "floats" if picture.mode == "F" else "32-bit integers"
        what = f"its values are {kind} from {low:g} to {high:g}, of which it is not known what is black and white"
        raise ValueError(f"{what}: dataset.value_range=[{likely[0]:.9g},{likely[1]:.9g}] if these are")
    scaled = (values - found[0]) * (255 / (found[1] - found[0]))
    return Image.fromarray(scaled.clip(0, 255).round().astype(np.uint8))


def range_of(reasons: Iterable[str]) -> str:
    """The override for all files of which `decode` said that it needs one; empty if it said so of none."""
    found = re.findall(r"dataset\.value_range=\[(\S+),(\S+)\]", "\n".join(reasons))
    low, high = min((p[0] for p in found), key=float, default=""), max((p[1] for p in found), key=float, default="")
    return f'"dataset.value_range=[{low},{high}]"' if found else ""


def _as_earlier(picture: Image.Image) -> Image.Image:
    """Reading 1: as it is stored, whichever way is up; integers and floats by the largest of them."""
    if _is_deep(picture):
        values = np.asarray(picture, dtype=np.float64)
        scale = 257.0 if picture.mode.startswith("I;16") or values.max() > 255 else 1.0
        return Image.fromarray((values / scale).clip(0, 255).round().astype(np.uint8))
    return picture.convert("RGBA") if picture.mode == "P" else picture


def fitted(picture: Image.Image, height: int, width: int, fit: Fit) -> Image.Image:
    """Brought to a size: see `runner.dataset.image_folder`."""
    if picture.size == (width, height):
        return picture
    scales = height / picture.height, width / picture.width
    scale = min(scales) if fit == "pad" else max(scales)
    within = (width, height)
    if fit != "stretch":
        bound = min if fit == "pad" else max
        within = (bound(width, round(picture.width * scale)), bound(height, round(picture.height * scale)))
    picture = picture.resize((max(1, within[0]), max(1, within[1])), Image.Resampling.BILINEAR, reducing_gap=2.0)
    # What lies outside of a picture is black.
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def lost(picture: Image.Image, size: Sequence[int], fit: Fit) -> float:
    """The share of a picture's area that is cut off."""
    scales = size[0] / picture.height, size[1] / picture.width
    return 1 - min(scales) / max(scales) if fit == "cut" else 0.0


def is_range(given: Any) -> bool:
    """Return whether `given` is [BLACK, WHITE]: two different numbers."""
    numbers = [v for v in given if isinstance(v, (int, float)) and not isinstance(v, bool) and np.isfinite(v)] \
        if isinstance(given, (list, tuple)) else []  # fmt: skip
    return len(numbers) == 2 == len(given) and numbers[0] != numbers[1]


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
