"""Folders of pictures: decoded once, held as uint8."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch.utils.data import Dataset

from runner import debugger
from runner.dataset import decoding, image_files
from runner.dataset.decoding import Fit, Head, Read, decode, keep, load, place
from runner.dataset.tensors import ArrayDataset, Parts, as_input
from runner.errors import ConfigError, DataError, Problem, few, for_shell, reason_of, shown
from runner.files import absent, typed
from runner.part_names import PARTS, part_named
from runner.visible import log

MUCH = 0.25
"""Share of a picture's area; where more is cut off, that is said."""

NAMED = 5
"""Files that a message names at most."""

LOOKED_AT = 1000
"""Files whose heads are looked at, where all are brought to one size while they are read one by one."""


def image_folder(
    root: str, channels: Literal[1, 3, 4] = 3, size: Sequence[int] | None = None, fit: Fit = "cut",
    on_error: Literal["stop", "skip"] = "stop", cache: str | None = "~/.cache/runner", memory_limit: float = 4e9,
    parts: bool = True, value_range: Sequence[float] | None = None, reading: Literal[1, 2] = decoding.READING,
) -> Parts | Dataset[Any]:  # fmt: skip
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
        parts: whether folders named train, val and test are parts; else they are classes as all others.
        value_range: the values that are black and white in files of more than 8 bits; None for 0 and 65535 in those of
            16 bits: of others it is not known.
        reading: 1 for what was trained by versions that had no such key: pictures as they are stored, whichever way is
            up, hidden files too, no linked folders, fewer kinds of files.

    Raises:
        DataError: no pictures, a class that train does not have, or a file that cannot be decoded.
        ConfigError: a value that is not allowed.
    """
    _check_values(size, value_range)
    wanted = None if size is None else (int(size[0]), int(size[1]))
    ends = None if value_range is None else (float(value_range[0]), float(value_range[1]))
    how = How(decoding.MODES[channels], wanted, fit, ends, reading)
    listed = _list(typed(root), how, parts)
    heads = {} if wanted else _heads(listed.values(), how)
    # Of a broken file, which is dealt with where it is decoded, there is no head.
    sizes = {each.size for each in heads.values() if each is not None}
    shape = wanted or (sizes.pop() if len(sizes) == 1 else None)
    made: dict[str, Any] = dict(listed)
    if shape is not None and sum(map(len, listed.values())) * channels * shape[0] * shape[1] <= memory_limit:
        read = []
        for part, pictures in listed.items():
            read.append(_read(pictures, shape, cache))
            made[part] = _held(pictures, read[-1], on_error)
        _say_cut(read)
        _say_kinds(how.mode, sum(map(len, listed.values())), sum(r.grey for r in read), sum(r.frames for r in read))
    else:
        skips = on_error == "skip"
        heads = heads or _heads(listed.values(), how, None if skips else LOOKED_AT)
        for pictures in listed.values():
            pictures.check(heads, skips)
        there = [each for each in heads.values() if each is not None]
        _say_kinds(how.mode, len(there), sum(each.grey for each in there), sum(each.frames for each in there))
    return Parts(**made) if len(made) > 1 else made["train"]


class How(NamedTuple):
    """The way files are read: see `image_folder`, and for the mode `MODES`."""

    mode: str
    size: tuple[int, int] | None
    fit: Fit
    value_range: tuple[float, float] | None
    reading: int


def _check_values(size: object, value_range: object) -> None:
    if size is not None and not _is_size(size):
        numbers = re.findall(r"[1-9]\d*", str(size))[:2]
        remedy = for_shell(f"dataset.size=[{numbers[0]},{numbers[-1]}]") if numbers else ""
        problem = Problem("dataset.size", f"{shown(size)} is not allowed", "[height, width] in pixels, or null", remedy)
        raise ConfigError(problem)
    if value_range is not None and not decoding.is_range(value_range):
        what, remedy = f"{shown(value_range)} is not allowed", '"dataset.value_range=[0,65535]"'
        allowed = "[BLACK, WHITE], two different numbers, or null"
        raise ConfigError(Problem("dataset.value_range", what, allowed, remedy))


def _is_size(size: object) -> bool:
    listed = size if isinstance(size, (list, tuple)) else ()
    return len(listed) == 2 and all(
        isinstance(length, (int, np.integer)) and not isinstance(length, bool) and length >= 1 for length in listed
    )


def _list(root: Path, how: How, parts: bool) -> dict[str, Pictures]:
    """The pictures of each part: of the folders that are named like parts, or else of the root."""
    if problem := absent("dataset.root", root, "a folder with one subfolder per class", is_folder=True):
        raise DataError(problem)
    folders = (_folders(root) if parts else {}) or {"train": root}
    if "train" not in folders:
        what = f"'{root}' has {', '.join(folders)}, but no train folder"
        problem = Problem("dataset.root", what, "folders train, and optionally val and test", image_files.AS_CLASSES)
        raise DataError(problem)
    listed = {part: Pictures(folders[part], how, root, part, folders["train"]) for part in PARTS if part in folders}
    for pictures in listed.values():
        pictures.number_as(listed["train"].classes)
    if how.reading == 1:
        log.info("%s", decoding.AS_EARLIER)
    image_files.say_left_out(sum((each.left_out for each in listed.values()), Counter()))
    return listed


def _folders(root: Path) -> dict[str, Path]:
    """The folders that are named like parts, if any is; none if these are classes, as others beside them are."""
    inside = [path for path in sorted(root.iterdir()) if path.is_dir() and not image_files.is_dropping(path.name)]
    named = [path for path in inside if part_named(path.name)]
    others = [path.name for path in inside if path not in named and image_files.find(path).paths] if named else []
    if others and all({Path(each).parent for each in image_files.find(path).paths} == {path} for path in named):
        names = few(path.name for path in named)
        log.info("%s: taken for a class and not for a part, as images lie directly in the folder", names)
        return {}
    found: dict[str, Path] = {}
    for path in named:
        part = part_named(path.name)
        if part in found:
            what = f"'{root}' has two folders for {part}, {found[part].name} and {path.name}"
            raise DataError(Problem("dataset.root", what, "one folder for each part", image_files.AS_CLASSES))
        found[str(part)] = path
    if others:
        what = f"'{root}' has {', '.join(path.name for path in named)}, but also images in {', '.join(others)}"
        allowed = "either folders train, val and test, or one folder per class"
        raise DataError(Problem("dataset.root", what, allowed, image_files.AS_CLASSES))
    return found


class Pictures(Dataset[Any]):
    """The files of a folder with one folder per class, decoded when they are asked for.

    Args:
        base: the folder of the data set, which this one may be a part of.
        train: the folder of its train part, which may be this one.
    """

    def __init__(self, root: Path, how: How, base: Path, part: str, train: Path) -> None:
        self.root = root
        self.how = how
        inside = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        earlier = how.reading == 1
        self.classes = inside if earlier else [name for name in inside if not image_files.is_dropping(name)]
        look = image_files.find_as_earlier if earlier else image_files.find
        found = [look(root / name) for name in self.classes]
        self.samples = [(Path(path), number) for number, each in enumerate(found) for path in each.paths]
        self.left_out = sum((each.left_out for each in found), Counter[str]())
        self.prefix = "" if root == base else f"{root.relative_to(base).as_posix()}/"
        if not earlier:
            image_files.check_labels(root, self.classes, found, None if root == base else part, train)
        empty = [name for name, each in zip(self.classes, found, strict=True) if not each.paths and root == train]
        if not self.samples or empty:
            what = f"no images in {root}" + (f"/{empty[0]}" if empty else "")
            what += f" (left out: {image_files.words(self.left_out)})" if self.left_out else ""
            allowed = f"image files in one folder per class: {', '.join(image_files.suffixes())}"
            remedy = "images in that folder, or remove it" if empty else ""
            raise DataError(Problem("dataset.root", what, allowed, remedy))

    def number_as(self, classes: Sequence[str]) -> None:
        """Number the classes as train does, of which another part may lack some.

        Raises:
            DataError: there are pictures of a class that train does not have.
        """
        here = list(dict.fromkeys(self.classes[number] for _, number in self.samples))
        if unknown := [name for name in here if name not in classes]:
            what = f"{self.root} has images of {', '.join(unknown)}, of which train has none"
            remedy = f"images of {'these classes' if len(unknown) > 1 else 'this class'} in train, too, or none here"
            raise DataError(Problem("dataset.root", what, ", ".join(classes), remedy))
        numbers = {number: list(classes).index(name) for number, name in enumerate(self.classes) if name in here}
        self.samples = [(path, numbers[number]) for path, number in self.samples]
        self.classes = list(classes)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, target = self.samples[index]
        try:
            return decode(path, *self.how), target
        except decoding.UNDECODABLE as error:
            remedy = decoding.range_of([reason_of(error)])
            if not remedy:
                remedy = "remove the file"
                if self.how.size is None:  # with one, and room for all, every file is decoded beforehand
                    remedy += ', or "dataset.size=[HEIGHT,WIDTH]" dataset.on_error=skip'
            what = f"{path} cannot be decoded ({reason_of(error)})"
            raise DataError(Problem("dataset", what, remedy=remedy)) from error

    def check(self, heads: Mapping[Path, Head | None], skips: bool) -> None:
        """Leave out the files that cannot be read, by what is known of their heads, and say so; or refuse them."""
        deep = {path for path, each in heads.items() if each and each.deep and self.how.value_range is None}
        if skips:
            broken = {path for path, _ in self.samples if path in deep or heads.get(path) is None}
            if broken:
                names = [self.prefix + path.relative_to(self.root).as_posix() for path in sorted(broken)]
                _say_skipped(names, len(self))
                self.samples = [(path, target) for path, target in self.samples if path not in broken]
        elif self.how.reading > 1:
            for index in [number for number, (path, _) in enumerate(self.samples) if path in deep][:1]:
                self[index]

    @property
    def names(self) -> list[str]:
        """Each sample's file, under the root."""
        return [path.relative_to(self.root).as_posix() for path, _ in self.samples]

    @property
    def path(self) -> list[str]:
        """Each sample's file, under the folder of the data set, so that those of its parts are told apart."""
        return [self.prefix + name for name in self.names]

    @property
    def stamps(self) -> list[str]:
        """What tells each file from another of that place: its name and its size in bytes."""
        return [f"{name} {path.stat().st_size}" for name, (path, _) in zip(self.names, self.samples, strict=True)]


def _heads(parts: Iterable[Pictures], how: How, count: int | None = None) -> dict[Path, Head | None]:
    """Read what the heads of files say, of all or of so many of each part."""
    return {path: _head(path, how.reading) for each in parts for path, _ in islice(each.samples, count)}


def _head(path: Path, reading: int) -> Head | None:
    """Read what the head of a file says; None if that is no picture's."""
    try:
        with Image.open(path) as file:
            return decoding.head(file, reading)
    except decoding.UNDECODABLE:
        return None


def _read(pictures: Pictures, size: tuple[int, int], cache: str | None) -> Read:
    kept = None if cache is None else place(pictures, size, typed(cache))
    found = None if kept is None else load(kept)
    if found is None:
        found = _decode_all(pictures, size)
        if kept is not None:
            keep(kept, found)
    return found


def _held(pictures: Pictures, read: Read, on_error: str) -> ArrayDataset:
    broken = read.broken
    if broken and on_error == "stop":
        named = few((f"{pictures.root / name} ({reason})" for name, reason in broken.items()), NAMED)
        what = f"{len(broken):,} of {len(pictures):,} files cannot be decoded: {named}"
        if len(broken) == 1:
            what = "{} cannot be decoded ({})".format(pictures.root / next(iter(broken)), *broken.values())
        remedy = decoding.range_of(broken.values()) or "dataset.on_error=skip, or remove the files"
        raise DataError(Problem("dataset", what, remedy=remedy))
    paths, targets = np.array(pictures.path), torch.tensor([target for _, target in pictures.samples])
    inputs = torch.from_numpy(read.pixels)
    if broken:
        _say_skipped([pictures.prefix + name for name in broken], len(pictures))
        good = torch.tensor([name not in broken for name in pictures.names])
        inputs, targets, paths = inputs[good], targets[good], paths[good.numpy()]
    return ArrayDataset(inputs, targets, pictures.classes, columns={"path": paths})


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


def _say_kinds(mode: str, total: int, grey: int, frames: int) -> None:
    """Say what is not seen in the pixels: that all are grey, or that there are more than are read."""
    if mode != "L" and grey == total > 0:
        log.info("all %s images looked at are greyscale, read as %s (dataset.channels=1 reads one)", f"{total:,}", mode)
    if frames:
        log.warning("%s of %s images are animated or have pages: of these only the first is read", frames, f"{total:,}")


def _decode_all(pictures: Pictures, size: tuple[int, int]) -> Read:
    mode, wanted, fit, value_range, reading = pictures.how
    pixels = np.zeros((len(pictures), Image.getmodebands(mode), *size), dtype=np.uint8)
    broken: dict[str, str] = {}
    cut, kinds = np.zeros(len(pictures)), np.zeros((2, len(pictures)), dtype=bool)

    def read(number: int) -> str | None:
        try:
            with Image.open(pictures.samples[number][0]) as file:
                picture = decode(file, mode, None, fit, value_range, reading)
                said = decoding.head(file, reading)  # afterwards, or PIL would not look for EXIF behind the pixels
                kinds[:, number] = said.grey, said.frames
            if wanted is None and picture.size[::-1] != size:
                return f"it is {picture.height}×{picture.width}, but its head says {size[0]}×{size[1]}"
            pixels[number] = as_input(decoding.fitted(picture, *size, fit)).numpy()
            cut[number] = decoding.lost(picture, size, fit)
        except decoding.UNDECODABLE as error:
            return reason_of(error)
        return None

    with debugger.executor(os.cpu_count()) as pool:  # the decoders let other threads run
        reasons = pool.map(read, range(len(pictures)))
        with_bar = reasons if debugger.on else track(reasons, "decoding images", len(pictures), transient=True)
        for name, reason in zip(pictures.names, with_bar, strict=True):
            if reason is not None:
                broken[name] = reason
    much, (grey, frames) = cut[cut > MUCH], kinds.sum(1).tolist()
    return Read(pixels, broken, len(much), float(much.sum()), grey, frames)
