"""Own code: the source of what a run was trained with, kept in its folder, and what of it is another one by now."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from runner import consent
from runner.files import read, write
from runner.keys import parse_json
from runner.result import to_json
from runner.visible import log

FOLDER, WHERE = "code", "where.json"
"""In a run folder: copies of the modules, and in which folder each was found."""

MOST_FILES, MOST_BYTES = 200, 1 << 20
"""Modules that are kept, and the size of each."""

SHOWN = 40
"""Lines of a difference that are shown."""


def keep(named: Iterable[str], run_dir: Path) -> None:
    """Copy the modules of the user's own that are imported, from the folders in which the targets of a run are.

    Libraries have versions, which are in ``result.json``.
    """
    places = {place for name in named if consent.is_own(name) and (place := consent.place_of(name))}
    found = [(path, each) for path in sorted(set(_modules())) for each in places if path.startswith(each + os.sep)]
    where: dict[str, str] = {}
    for path, place in [(path, place) for path, place in found if not _is_of_library(path)][:MOST_FILES]:
        name = os.path.relpath(path, place)
        try:
            if os.path.getsize(path) <= MOST_BYTES:
                (run_dir / FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
                write(run_dir / FOLDER / name, Path(path).read_bytes())
                where[name] = place
        except OSError as error:  # a copy for later, and none that the run needs
            log.warning("the source of %s is not kept: %s", path, error)
    if where:
        write(run_dir / FOLDER / WHERE, to_json(where, indent=1).encode() + b"\n")


def _modules() -> Iterator[str]:
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and path.endswith(".py") and os.path.isabs(path):
            yield os.path.realpath(path)


def _is_of_library(path: str) -> bool:
    return any(part in ("site-packages", "dist-packages") for part in Path(path).parts) or path.startswith(
        os.path.realpath(os.path.dirname(os.__file__)) + os.sep
    )


def changes(run_dir: Path) -> list[str]:
    """Return what is to be said of the modules of a run that are elsewhere now, or other ones: with the difference."""
    try:
        where: Any = parse_json(read(run_dir / FOLDER / WHERE))
        both = [(Path(name), str(place)) for name, place in where.items()][:MOST_FILES]
    except (OSError, ValueError, AttributeError, TypeError):
        return []  # of an earlier version, or without code of its own
    both = [(name, place) for name, place in both if name.suffix == ".py" and not {"..", "/"} & {*name.parts}]
    return [said for name, place in both if (said := _change(run_dir / FOLDER / name, name, place))]


def _change(kept: Path, name: Path, place: str) -> str:
    here = consent.place_of(name.parts[0].removesuffix(".py"))
    now = Path(here, name)
    moved = "" if here == place else f" (in training: {Path(place, name)})"
    try:
        before = read(kept).splitlines()
        after = read(now).splitlines() if here and now.exists() else None
    except (OSError, ValueError) as error:
        return f"{name} cannot be compared with what it was in training: {error}"
    if after is None:
        return f"code: there is no {name} any more{moved}; as it was in training, it is {kept}"
    if before == after:
        return f"code: {now}{moved}" if moved else ""
    lines = list(difflib.unified_diff(before, after, "in training", "now", n=1, lineterm=""))[2:]
    more = f"\n  … {len(lines) - SHOWN} more lines: diff {kept} {now}" if len(lines) > SHOWN else ""
    body = "\n".join(f"  {line}" for line in lines[:SHOWN])
    return f"code: {now}{moved} has changed since training:\n{body}{more}"


def say_changes(run_dirs: Iterable[Path]) -> None:
    """Say what of the code of some runs changed since they were trained, once."""
    for text in dict.fromkeys(text for run_dir in run_dirs for text in changes(run_dir)):
        log.warning("%s", text)
