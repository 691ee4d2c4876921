"""Runs as their folders have them, found below any folder. Imports nothing heavy, and reads a thousand in seconds."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from runner import moved
from runner.checks.values import fits, in_bounds
from runner.errors import Problem, RunFolderError, cut
from runner.files import read as read_text
from runner.keys import leaves, parse_json
from runner.part_names import PARTS
from runner.ranking import Repetition
from runner.result import checked

FOLD = re.compile(r"fold-\d+")

ALLOWED = "the folder of a run or a sweep, or a folder above them"
"""What a command that looks for runs can be given."""


@dataclass(frozen=True)
class Run:
    """A run, or one fold of a run.

    Args:
        path: its folder.
        config: the values of its ``config.yaml`` by their dotted keys, references resolved, without facts.
        references: those of them that were references to other keys, as they were.
        facts: what the data said.
        result: its ``result.json``, without its tables; with the ``parameters`` of the model, frozen ones among them,
            and the ``samples`` of each part.
        data: the hash of its samples.
    """

    path: Path
    config: Mapping[str, Any]
    references: Mapping[str, str]
    facts: Mapping[str, Any]
    result: Mapping[str, Any]
    data: str | None

    @property
    def state(self) -> str:
        return str(self.result.get("state"))

    @property
    def job(self) -> Path:
        """The folder of the run that it is, or of which it is a fold."""
        return self.path.parent if FOLD.fullmatch(self.path.name) and self.repetition.fold is not None else self.path

    @property
    def repetition(self) -> Repetition:
        fold = self.config.get("split.fold")
        split = self.result.get("split") or self.facts.get("split_hash")
        return Repetition(
            _plain(self.config.get("seed")), _plain(self.config.get("split.seed")),
            fold if isinstance(fold, int) else None, self.data, None if split is None else str(split),
        )  # fmt: skip


@dataclass
class Found:
    runs: list[Run] = field(default_factory=list)
    unreadable: dict[Path, str] = field(default_factory=dict)
    """Folders that hold runs, or may, and why they cannot be read."""


def find(paths: Sequence[Path]) -> Found:
    """Every run at or below `paths`, once.

    Raises:
        RunFolderError: a path that is no folder, that cannot be read, or that has no run in it.
    """
    found, seen, problems = Found(), set[Path](), list[Problem]()
    for top in paths:
        failed: list[OSError] = []
        places = list(_below(top, failed))
        found.unreadable |= {Path(error.filename): str(error.strerror) for error in failed}
        if not places:
            problems.append(_nothing(top, failed))
        for place in places:
            if place.resolve() in seen:
                continue
            seen.add(place.resolve())
            try:
                found.runs.append(read(place))
            except RunFolderError as error:
                why = [f"{Path(each.key).name} {each.what}" for each in error.problems]
                found.unreadable[place] = "; ".join(why)
    if problems:
        raise RunFolderError(*problems)
    return found


def _nothing(top: Path, failed: Sequence[OSError]) -> Problem:
    if not top.exists():
        return Problem(str(top), "does not exist", ALLOWED)
    if not top.is_dir():
        remedy = str(top.parent) if _is_run(os.listdir(top.parent)) else ""
        return Problem(str(top), "is not a folder", ALLOWED, remedy)
    if failed:
        return Problem(str(failed[0].filename), f"cannot be read ({failed[0].strerror})", "a readable folder")
    return Problem(str(top), "contains no run", ALLOWED)


def _below(top: Path, failed: list[OSError]) -> Iterator[Path]:
    """The folders of runs at or below one, of a cross-validation those of its folds. Other folders in a run, and those
    whose names begin with a dot, are not looked into; links are not followed."""
    for place, names, files in os.walk(top, onerror=failed.append):
        folds = [name for name in names if FOLD.fullmatch(name)]
        is_run = _is_run([*names, *files])
        names[:] = sorted(folds, key=lambda name: int(name[5:])) if is_run else sorted(n for n in names if n[0] != ".")
        if is_run and not folds:
            yield Path(place)


def _is_run(names: Sequence[str]) -> bool:
    ours = ({"config.yaml", "result.json"}, {"config.yaml", "checkpoints"}, {".hydra", "result.json"})
    return any(some <= set(names) for some in ours)


def read(place: Path) -> Run:
    """The run in a folder.

    Raises:
        RunFolderError: what is there cannot be read, or is not what a run leaves.
    """
    result = read_result(place)
    # One that failed before it began has no configuration.
    began = (place / "config.yaml").exists() or result.get("state") == "completed"
    config = read_config(place) if began else {}
    facts, references = config.pop("facts", None) or {}, config.pop("interpolations", None) or {}
    if not isinstance(facts, dict) or not isinstance(references, dict):
        raise RunFolderError(Problem(str(place / "config.yaml"), "is not the configuration of a run"))
    return Run(place, dict(leaves(config)), references, facts, _with_sizes(result, facts), _data(place))


def read_config(place: Path) -> dict[str, Any]:
    """What ``config.yaml`` says, with every reference resolved.

    Raises:
        RunFolderError: it is not there, or no such file.
    """
    return _mapping(place / "config.yaml", moved.read)


def read_json(path: Path) -> dict[str, Any]:
    """What a file says that a run wrote.

    Raises:
        RunFolderError: it is not there, or no such file.
    """
    return _mapping(path, parse_json)


def read_history(place: Path) -> list[dict[str, Any]]:
    """What ``metrics.jsonl`` says: an evaluation each.

    Raises:
        RunFolderError: it is not there, or no such file.
    """
    path = place / "metrics.jsonl"
    records = _parsed(path, lambda text: [parse_json(line) for line in text.splitlines()])
    for number, record in enumerate(records, 1):
        counts = [record.get(name) for name in ("epoch", "step")] if isinstance(record, dict) else [None]
        if not all(fits(count, int) and in_bounds(count, {"least": 0}) for count in counts):
            raise RunFolderError(Problem(f"{path}, line {number}", "is not what a run writes of an evaluation"))
        figures = {tag: value for tag, value in record.items() if "/" in tag}
        if wrong := [tag for tag, v in figures.items() if not (fits(v, float | None) and in_bounds(v, {}))]:
            raise RunFolderError(Problem(f"{path}, line {number}", f"{cut(wrong[0], 60)} is not a number"))
    return records  # type: ignore[no-any-return]


def read_result(place: Path) -> dict[str, Any]:
    """What ``result.json`` says.

    Raises:
        RunFolderError: it is not there, or no such file.
    """
    result = read_json(place / "result.json")
    _, wrong = checked(result)
    if wrong or "state" not in result:
        what = f"is not the result of a run ({', '.join(wrong) or 'state'})"
        raise RunFolderError(Problem(str(place / "result.json"), what))
    return result


def _mapping(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    content = _parsed(path, parse)
    if not isinstance(content, dict):
        raise RunFolderError(Problem(str(path), "is not a file that a run wrote"))
    return content


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(read_text(path))
    except OSError as error:
        what = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise RunFolderError(Problem(str(path), what)) from error
    except (ValueError, yaml.YAMLError) as error:
        raise RunFolderError(Problem(str(path), f"cannot be read ({' '.join(str(error).split())})")) from error


def _with_sizes(result: dict[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    parameters = _parameters(result.pop("tables", None), facts)
    samples = {part: count for part in PARTS if isinstance(count := facts.get(f"{part}_samples"), int)}
    known = {} if parameters is None else {"parameters": parameters}
    return {"metrics": {}, **result, **known, "samples": samples}


def _parameters(tables: Any, facts: Mapping[str, Any]) -> int | None:
    """Of the model: the last line of the table of its layers; without that, what the optimizer has, frozen ones not."""
    try:
        return int(tables["model/layers"][-1]["parameters"])
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        pass
    try:
        return sum(int(group["parameters"]) for group in facts["param_groups"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _data(place: Path) -> str | None:
    try:
        return str(read_json(place / "split.json")["data"])
    except (RunFolderError, KeyError):
        return None


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, str, type(None))) else str(value)
