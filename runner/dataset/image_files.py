"""The files of a folder that are pictures, in the order of torchvision's `ImageFolder`, and those left out."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image

from runner.errors import DataError, Problem, counted, few
from runner.visible import log

FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP")
"""Formats of pictures, as PIL calls them. It also opens drawings, films, fields of numbers and icons."""

OTHER_IMAGES = (".heic", ".heif", ".jxl", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".dcm", ".exr")
"""Suffixes of pictures that PIL itself does not know."""

OF_READING_1 = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

DROPPINGS = ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found")
"""Names that systems leave, besides hidden ones such as ``.DS_Store``, ``._1.png``, ``.ipynb_checkpoints``."""

TABLES = (".csv", ".tsv", ".txt", ".json", ".jsonl")
"""Suffixes of files that labels may be in."""

NUMBER_OF_TABLES = 10

AS_CLASSES = "dataset.parts=false, if every folder is a class"

SORTED = "images sorted into one folder per class; docs/data.md has a script that does it by a CSV of labels"


@cache
def suffixes() -> tuple[str, ...]:
    """Return the suffixes of files that are taken for pictures, in small letters."""
    return tuple(sorted(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS))


def is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes()


def is_dropping(name: str) -> bool:
    """Return whether a file or folder is no data of anybody's."""
    return name.startswith(".") or name.strip().lower() in DROPPINGS


@dataclass
class Found:
    """The pictures in a folder and the folders in it, and what else is there, by kind."""

    paths: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def words(left_out: Counter[str]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in left_out.most_common())


def find(folder: Path, key: str = "dataset.root") -> Found:
    """Look for pictures in a folder and all folders in it; links are followed.

    Args:
        key: by which the folder was named.

    Raises:
        DataError: a folder cannot be read.
    """
    found, seen = Found(), set[str]()
    # torchvision sorts the folders by their whole paths, in which a- comes before a/b.
    for place, names in sorted(_walk(str(folder), seen, found.left_out, key)):
        for name in names:
            if is_picture(name):
                found.paths.append(os.path.join(place, name))
            else:
                found.left_out[os.path.splitext(name)[1].lower() or "without a suffix"] += 1
    return found


def _walk(folder: str, seen: set[str], left_out: Counter[str], key: str) -> list[tuple[str, list[str]]]:
    """Each folder with the files in it, by name."""
    real = os.path.realpath(folder)
    if real in seen:
        left_out["links to a folder that is read already"] += 1
        return []
    seen.add(real)
    try:
        with os.scandir(folder) as inside:
            entries = sorted((entry for entry in inside if not is_dropping(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(Problem(key, f"{folder!r} cannot be read ({error.strerror})", "a readable folder")) from error
    folders = [entry.path for entry in entries if os.path.isdir(entry)]
    files = [entry.name for entry in entries if not os.path.isdir(entry)]
    if key == "dataset.root":  # of what is to be predicted, each gets its line
        there = [name for name in files if os.path.isfile(os.path.join(folder, name))]
        if broken := len(files) - len(there):
            left_out["links to nothing or no files"] += broken
        files = there
    return [(folder, files), *(each for path in folders for each in _walk(path, seen, left_out, key))]


def say_left_out(left_out: Counter[str]) -> None:
    """Say which files were left out."""
    if not left_out:
        return
    what = f"{counted(left_out.total(), 'file is', 'files are')} left out: {words(left_out)}"
    known = {*Image.registered_extensions(), *OTHER_IMAGES}
    if images := [kind for kind in left_out if kind in known]:
        log.warning("%s\n  try: %s converted to .png, to have them read", what, ", ".join(images))
    else:
        log.info("%s", what)


def find_as_earlier(folder: Path) -> Found:
    """Reading 1: links are not followed, and hidden files are pictures like any other."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in OF_READING_1 and path.is_file())
    return Found(list(map(str, paths)))


def check_labels(root: Path, classes: Sequence[str], found: Sequence[Found], part: str | None, train: Path) -> None:
    """Check that it is the folders that say the classes, and not a table beside them.

    Args:
        root: the folder of a part, or of the data set.
        found: for each class, what is in its folder.
        part: None if the data set has no parts of its own.
        train: the folder of its train part.

    Raises:
        DataError: pictures lie directly in `root`, or all of them in one folder, and a table has their labels.
    """
    loose = [name for name in sorted(os.listdir(root)) if is_picture(name) and not is_dropping(name)]
    filled = [each.paths for each in found if each.paths]
    if not filled and not loose:
        return
    one = len(filled) < 2  # of numbers for names, any table has some
    places = (root,) if filled else (root, root.parent)
    beside = [p for place in places for p in sorted(place.iterdir()) if p.suffix.lower() in TABLES and p.is_file()]
    tables = [t for t in beside[:NUMBER_OF_TABLES] if any(_lists(t, paths, one) for paths in filled or [loose])]
    unread = f"; the labels in {tables[0]} are not read" if tables else ""
    if not filled:
        what = f"images lie directly in {root} ({len(loose):,}), and not in one folder per class{unread}"
        remedy = SORTED + ("; or " + AS_CLASSES if part else "")
        if part in ("val", "test"):  # there is a train part with classes
            remedy = f"dataset.root={train}, to have that divided into parts"
        raise DataError(Problem("dataset.root", what, f"image files as in {root}/CLASS/{loose[0]}", remedy))
    if tables and len(classes) == 1:
        what = f"all images lie in {root / classes[0]}, which makes one class{unread}"
        raise DataError(Problem("dataset.root", what, "a folder for each of several classes", SORTED))
    if tables and not any(name in row for row in _rows(tables[0]) for name in classes):
        log.warning("%s lists the images, but is not read: the classes are the folders %s", tables[0], few(classes))
    if loose:
        log.warning("%s directly in %s left out: only those in folders have a class",
                    counted(len(loose), "image is", "images are"), root)  # fmt: skip


def _lists(table: Path, names: Sequence[str], anywhere: bool) -> bool:
    """Return whether most rows at the start of a table have one of some names in them, or one without its suffix."""
    rows = _rows(table)
    whole = {os.path.basename(name) for name in names}
    stems = {os.path.splitext(name)[0] for name in whole}
    has = [
        not stems.isdisjoint(row if anywhere else row[:1]) or any(os.path.basename(w) in whole for w in row)
        for row in rows
    ]
    return sum(has) > len(rows) / 2


def _rows(table: Path) -> list[list[str]]:
    """The words of the rows at the start of a table, without its head."""
    try:
        with table.open(encoding="utf-8", errors="replace") as file:
            return [re.split(r"[][{}:,;\"\s]+", row.strip('"')) for row in file.read(2**16).splitlines()[1:100]]
    except OSError:
        return []
