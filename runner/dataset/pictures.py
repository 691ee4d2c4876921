"""Folders of pictures: decoded once, held as uint8."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch.utils.data import Dataset

from runner.dataset.arrays import ArrayDataset, Parts
from runner.dataset.tensors import as_input
from runner.errors import ConfigError, DataError, Problem, for_shell, reason_of, shown
from runner.files import absent, typed, write
from runner.part_names import part_named

log = logging.getLogger("runner")

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of files that are taken for pictures, as by torchvision's `ImageFolder`."""

UNDECODABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What PIL raises of a file that it cannot decode."""

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
FORMAT = 2
"""Version of the cache; another one makes another file."""

Fit = Literal["cut", "pad", "stretch"]

MUCH = 0.25
"""Share of a picture's area; where more is cut off, that is said."""

NAMED = 5
"""Files that a message names at most."""


def image_folder(
    root: str,
    channels: Literal[1, 3, 4] = 3,
    size: Sequence[int] | None = None,
    fit: Fit = "cut",
    on_error: Literal["stop", "skip"] = "stop",
    cache: str | None = "~/.cache/runner",
    memory_limit: float = 4e9,
) -> Parts | Dataset[Any]:
    """Pictures in one folder per class, or in folders ``train``, ``val`` and ``test`` of such.

    Pictures of one size, and pictures that are brought to one `size`, are decoded once and kept; a later run reads what
    was kept, wherever the same files lie. Pictures of many sizes are read one by one.

    Args:
        channels: 1 (grey), 3 (RGB) or 4 (RGBA); whatever a file holds is brought to it, 16-bit grey to 8 bits.
        size: (height, width) to bring all pictures to.
        fit: how `size` is reached: ``cut`` (the shorter side fitted, the middle cut out; a warning says where much is
            lost), ``pad`` (the longer side fitted, black beside it) or ``stretch``.
        on_error: ``stop`` at a file that cannot be decoded, or ``skip`` it and say so. Where pictures are read one by
            one, those are skipped that do not even begin like a picture.
        cache: where decoded pictures are kept; None to keep them in memory alone.
        memory_limit: bytes of decoded pictures above which they are read one by one.

    Raises:
        DataError: no pictures, classes that differ between the parts, or a file that cannot be decoded.
        ConfigError: a value that is not allowed.
    """
    if size is not None and not _is_size(size):
        numbers = re.findall(r"[1-9]\d*", str(size))[:2]
        remedy = for_shell(f"dataset.size=[{numbers[0]},{numbers[-1]}]") if numbers else ""
        raise ConfigError(
            Problem("dataset.size", f"{shown(size)} is not allowed", "[height, width] in pixels, or null", remedy)
        )
    wanted = None if size is None else (int(size[0]), int(size[1]))
    listed = _list(typed(root), channels, wanted, fit)
    shape = wanted or _common_size(list(listed.values()))
    made: dict[str, Any] = dict(listed)
    if shape is not None and sum(map(len, listed.values())) * channels * shape[0] * shape[1] <= memory_limit:
        read = []
        for part, pictures in listed.items():
            read.append(_read(pictures, shape, cache))
            made[part] = _held(pictures, read[-1], on_error)
        _say_cut(read)
    elif on_error == "skip":
        for pictures in listed.values():
            pictures.skip({path for path, _ in pictures.samples if _size(path) is None})
    return Parts(**made) if len(made) > 1 else made["train"]


def _is_size(size: object) -> bool:
    listed = size if isinstance(size, (list, tuple)) else ()
    return len(listed) == 2 and all(
        isinstance(length, (int, np.integer)) and not isinstance(length, bool) and length >= 1 for length in listed
    )


def _list(root: Path, channels: int, size: tuple[int, int] | None, fit: Fit) -> dict[str, Pictures]:
    """The pictures of each part: of the folders that are named like parts, or else of the root."""
    if problem := absent("dataset.root", root, "a folder with one subfolder per class", is_folder=True):
        raise DataError(problem)
    folders = _folders(root) or {"train": root}
    if "train" not in folders:
        what = f"'{root}' has {', '.join(folders)}, but no train folder"
        raise DataError(Problem("dataset.root", what, "folders train, and optionally val and test"))
    listed = {part: Pictures(folder, channels, size, fit) for part, folder in folders.items()}
    for part, pictures in listed.items():
        differing = sorted(set(pictures.classes) ^ set(listed["train"].classes))
        if differing:
            what = f"the classes of {part} and train differ: {', '.join(differing)}"
            raise DataError(Problem("dataset.root", what, "the same class folders in every part"))
    return listed


def _folders(root: Path) -> dict[str, Path]:
    """The folders that are named like parts, if any is."""
    inside = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    found: dict[str, Path] = {}
    for path in inside:
        part = part_named(path.name)
        if part in found:
            what = f"'{root}' has two folders for {part}, {found[part].name} and {path.name}"
            raise DataError(Problem("dataset.root", what, "one folder for each part"))
        if part is not None:
            found[part] = path
    others = [path.name for path in inside if path not in found.values() and any(map(_is_picture, path.rglob("*")))]
    if found and others:
        what = f"'{root}' has {', '.join(path.name for path in found.values())}, but also images in {', '.join(others)}"
        raise DataError(Problem("dataset.root", what, "either folders train, val and test, or one folder per class"))
    return found


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and path.is_file()


class Pictures(Dataset[Any]):
    """The files of a folder with one folder per class, decoded when they are asked for."""

    def __init__(self, root: Path, channels: int, size: tuple[int, int] | None = None, fit: Fit = "cut") -> None:
        self.root = root
        self.size = size
        self.fit = fit
        self.mode = MODES[channels]
        self.classes = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        self.samples = [
            (path, number)
            for number, name in enumerate(self.classes)
            for path in sorted((root / name).rglob("*"))
            if _is_picture(path)
        ]
        counts = np.bincount([target for _, target in self.samples], minlength=len(self.classes))
        empty = [name for name, count in zip(self.classes, counts, strict=True) if count == 0]
        if not self.samples or empty:
            what = f"no images in {root}" + (f"/{empty[0]}" if empty else "")
            allowed = f"image files in one folder per class: {', '.join(EXTENSIONS)}"
            remedy = "images in that folder, or remove it" if empty else ""
            raise DataError(Problem("dataset.root", what, allowed, remedy))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, target = self.samples[index]
        try:
            return decode(path, self.mode, self.size, self.fit), target
        except UNDECODABLE as error:
            remedy = "remove the file"
            if self.size is None:  # with one, and room for all, every file is decoded beforehand
                remedy += ', or "dataset.size=[HEIGHT,WIDTH]" dataset.on_error=skip'
            what = f"{path} cannot be decoded ({reason_of(error)})"
            raise DataError(Problem("dataset", what, remedy=remedy)) from error

    def skip(self, broken: set[Path]) -> None:
        """Leave out some files, and say so."""
        if broken:
            _say_skipped([path.relative_to(self.root).as_posix() for path in sorted(broken)], len(self))
            self.samples = [(path, target) for path, target in self.samples if path not in broken]

    @property
    def path(self) -> list[str]:
        """Each sample's file, under the root."""
        return [path.relative_to(self.root).as_posix() for path, _ in self.samples]

    @property
    def stamps(self) -> list[str]:
        """What tells each file from another of that place: its name and its size in bytes."""
        return [f"{name} {path.stat().st_size}" for name, (path, _) in zip(self.path, self.samples, strict=True)]


def decode(
    given: Path | str | Image.Image, mode: str, size: tuple[int, int] | None = None, fit: Fit = "cut"
) -> Image.Image:
    """A picture, or that in a file, in one mode, and of one (height, width) if asked for."""
    if not isinstance(given, Image.Image):
        with Image.open(given) as file:
            return decode(file, mode, size, fit)
    picture = given
    if picture.mode.startswith(("I", "F")):  # 16 bits or more: PIL's own conversion cuts off what is above 255
        values = np.asarray(picture, dtype=np.float64)
        scale = 257.0 if picture.mode.startswith("I;16") or values.max() > 255 else 1.0
        picture = Image.fromarray((values / scale).clip(0, 255).round().astype(np.uint8))
    elif picture.mode == "P":
        picture = picture.convert("RGBA")  # a palette may have a transparent colour
    picture = picture.convert(mode)
    return picture if size is None else _fitted(picture, *size, fit)


def _fitted(picture: Image.Image, height: int, width: int, fit: Fit) -> Image.Image:
    """Brought to a size: see `image_folder`."""
    if picture.size == (width, height):
        return picture
    scales = height / picture.height, width / picture.width
    scale = min(scales) if fit == "pad" else max(scales)
    fitted = (width, height)
    if fit != "stretch":
        bound = min if fit == "pad" else max
        fitted = (bound(width, round(picture.width * scale)), bound(height, round(picture.height * scale)))
    picture = picture.resize((max(1, fitted[0]), max(1, fitted[1])), Image.Resampling.BILINEAR, reducing_gap=2.0)
    # What lies outside of a picture is black.
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _lost(picture: Image.Image, size: tuple[int, int], fit: Fit) -> float:
    """The share of a picture's area that is cut off."""
    scales = size[0] / picture.height, size[1] / picture.width
    return 1 - min(scales) / max(scales) if fit == "cut" else 0.0


def _common_size(parts: Sequence[Pictures]) -> tuple[int, int] | None:
    """The (height, width) of all pictures, from the heads of their files; None if they differ."""
    found = None
    for path, _ in chain.from_iterable(pictures.samples for pictures in parts):
        size = _size(path)  # of a broken file, which is dealt with where it is decoded, there is none
        if None not in (size, found) and size != found:
            return None
        found = size or found
    return found


def _size(path: Path) -> tuple[int, int] | None:
    """The (height, width) in the head of a file; None if that is no picture's."""
    try:
        with Image.open(path) as file:
            return file.height, file.width
    except UNDECODABLE:
        return None


class Read(NamedTuple):
    """What the files of a part came to."""

    pixels: np.ndarray[Any, Any]
    """(N, C, H, W) uint8; black where a file is broken."""
    broken: dict[str, str]
    """Why a file could not be decoded."""
    cut: int
    """How many pictures lost much of their area."""
    lost: float
    """The share of their area that these lost, summed."""


def _read(pictures: Pictures, size: tuple[int, int], cache: str | None) -> Read:
    kept = None if cache is None else _place(pictures, size, typed(cache))
    found = None if kept is None else _kept(kept)
    if found is None:
        found = _decode_all(pictures, size)
        if kept is not None:
            _keep(kept, found)
    return found


def _held(pictures: Pictures, read: Read, on_error: str) -> ArrayDataset:
    broken = read.broken
    if broken and on_error == "stop":
        raise DataError(
            Problem(
                "dataset",
                _undecodable({str(pictures.root / name): reason for name, reason in broken.items()}, len(pictures)),
                remedy="dataset.on_error=skip, or remove the files",
            )
        )
    names, targets = np.array(pictures.path), torch.tensor([target for _, target in pictures.samples])
    inputs = torch.from_numpy(read.pixels)
    if broken:
        _say_skipped(list(broken), len(pictures))
        good = torch.tensor([name not in broken for name in pictures.path])
        inputs, targets, names = inputs[good], targets[good], names[good.numpy()]
    return ArrayDataset(inputs, targets, pictures.classes, columns={"path": names})


def _undecodable(broken: dict[str, str], total: int) -> str:
    named = [f"{path} ({reason})" for path, reason in list(broken.items())[:NAMED]]
    if len(broken) > NAMED:
        named.append("…")
    if len(broken) > 1:
        return f"{len(broken):,} of {total:,} files cannot be decoded: {', '.join(named)}"
    return "{} cannot be decoded ({})".format(*next(iter(broken.items())))


def _say_cut(parts: Sequence[Read]) -> None:
    cut = sum(part.cut for part in parts)
    if cut:
        lost = sum(part.lost for part in parts) / cut
        what = "with dataset.fit=cut, %s of %s images lose more than a quarter of their area (%.0f %% on average)"
        remedy = "\n  try: dataset.fit=pad or dataset.fit=stretch"
        log.warning(what + remedy, f"{cut:,}", f"{sum(len(part.pixels) for part in parts):,}", 100 * lost)


def _say_skipped(names: Sequence[str], total: int) -> None:
    what = "%s of %s images cannot be decoded and are skipped: %s"
    log.warning(what, f"{len(names):,}", f"{total:,}", ", ".join(names))


def _place(pictures: Pictures, size: tuple[int, int], cache: Path) -> Path:
    """Where the decoded pictures are kept: a name that follows from the files' content and the settings.

    So that a folder need not be read whole each time, what its content came to is remembered by the files' names,
    sizes and times. The time of the last change of a file's record (ctime) cannot be set back, as that of its content
    can by `touch` and `rsync`.
    """
    settings = repr((FORMAT, pictures.mode, size, pictures.fit))
    look, content = hashlib.sha256(settings.encode()), hashlib.sha256(settings.encode())
    for path, _ in pictures.samples:
        stat = path.stat()
        look.update(repr((str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)).encode())
    remembered = cache / f"{look.hexdigest()[:32]}.key"
    with contextlib.suppress(OSError, ValueError):
        return cache / f"{int(remembered.read_text(encoding='utf-8'), 16):032x}.npy"
    for (path, target), name in zip(pictures.samples, pictures.path, strict=True):
        content.update(repr((name, target)).encode())
        with path.open("rb") as file:
            content.update(hashlib.file_digest(file, "sha256").digest())
    key = content.hexdigest()[:32]
    with contextlib.suppress(OSError):  # said where the pictures themselves cannot be written
        write(remembered, key.encode())
    return cache / f"{key}.npy"


def _decode_all(pictures: Pictures, size: tuple[int, int]) -> Read:
    channels = len(Image.new(pictures.mode, (1, 1)).getbands())
    pixels = np.zeros((len(pictures), channels, *size), dtype=np.uint8)
    broken: dict[str, str] = {}
    lost = np.zeros(len(pictures))

    def read(number: int) -> str | None:
        try:
            picture = decode(pictures.samples[number][0], pictures.mode)
            pixels[number] = as_input(_fitted(picture, *size, pictures.fit)).numpy()
            lost[number] = _lost(picture, size, pictures.fit)
        except UNDECODABLE as error:
            return reason_of(error)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the decoders let other threads run
        reasons = pool.map(read, range(len(pictures)))
        for name, reason in zip(
            pictures.path, track(reasons, "decoding images", len(pictures), transient=True), strict=True
        ):
            if reason is not None:
                broken[name] = reason
    much = lost[lost > MUCH]
    return Read(pixels, broken, len(much), float(much.sum()))


def _kept(path: Path) -> Read | None:
    """What `_keep` wrote; None if there is nothing, or if it is not whole."""
    try:
        # Copy-on-write: pages are read when they are needed, and shared between runs.
        pixels = np.load(path, mmap_mode="c")
        return Read(pixels, **json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, EOFError):
        return None


def _keep(path: Path, read: Read) -> None:
    """Write what was decoded, each file whole or not at all; the pixels last, for they are what is looked for."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # of which nothing stays on a full disk
            np.save(Path(folder, path.name), read.pixels)
            listed = path.with_suffix(".json")
            beside = {"broken": read.broken, "cut": read.cut, "lost": read.lost}
            Path(folder, listed.name).write_text(json.dumps(beside))
            os.replace(Path(folder, listed.name), listed)
            os.replace(Path(folder, path.name), path)
    except OSError as error:
        log.warning("decoded images cannot be cached in %s (%s): the next run decodes them again", path.parent, error)
