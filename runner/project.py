"""The project of the working directory: ``[tool.runner]`` of a ``pyproject.toml``, or a ``runner.toml``."""

from __future__ import annotations

import functools
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner import hidden
from runner.errors import ConfigError, Problem, nearest
from runner.files import readable, typed
from runner.grammar import quoted
from runner.visible import log, say

NAMES = ("runner.toml", "pyproject.toml")
"""Names of project files. In one folder the first one is taken."""

ALLOWED = {
    "config_dir": "a folder, or a list of folders, relative to the file",
    "allow": 'a list of patterns, such as ["my_package.*"]',
    "outputs": "a folder, relative to the file",
    "overrides": 'a list of overrides, such as ["optimizer.lr=0.01"]',
}

MOST = 1 << 20
"""Bytes of a project file that is read."""

OF_A_START = r"(resume|check|allow_targets|hydra(?![./]launcher\b))\b"
"""Keys that are for whoever starts something, or stand under another name in the file."""


@dataclass(frozen=True)
class Project:
    """A project file.

    Args:
        file: None where there is none, and everything is as it is by default.
        config_dirs: folders with groups and options of the user's own.
        allow: patterns of code that run folders which are opened here may name.
        outputs: the folder of runs, as one would type it from the working directory.
        overrides: ``KEY=VALUE``, of new runs.
    """

    file: Path | None = None
    config_dirs: tuple[Path, ...] = ()
    allow: tuple[str, ...] = ()
    outputs: Path = Path("outputs")
    overrides: tuple[str, ...] = ()

    @property
    def folder(self) -> Path | None:
        return None if self.file is None else self.file.parent

    @property
    def name(self) -> str:
        """The file, as one would type it from the working directory; empty without one."""
        return "" if self.file is None else str(_near(self.file, self.file.parent))


def current() -> Project:
    """Return the project of the working directory, whose file is read once.

    Raises:
        ConfigError: the file cannot be used, with everything that is wrong with it.
    """
    return read(os.getcwd())


def announce() -> None:
    """Say which project file is used, if any."""
    if name := current().name:
        log.info("project: %s", name)


@functools.cache
def read(place: str) -> Project:
    """Return the project that a folder belongs to: that of the nearest file in it or above. Raises: see `current`."""
    for folder in (Path(place), *Path(place).parents):
        for path in (folder / name for name in NAMES):
            if (table := _table(path, str(_near(path, folder)))) is not None:
                return _made(path, str(_near(path, folder)), table)
    return Project()


def _near(path: Path, project: Path) -> Path:
    """Return a path as one would type it from the working directory, with ``..`` only inside the folder `project`."""
    here = Path.cwd()
    inside = path.is_relative_to(here) or (path.is_relative_to(project) and here.is_relative_to(project))
    return Path(os.path.relpath(path)) if inside else path


def _table(path: Path, name: str) -> dict[str, Any] | None:
    """Return what a file says to runner; None if there is none, if it says nothing, or if it is somebody else's."""
    try:
        with readable(path) as file:
            others = {os.fstat(file.fileno()).st_uid, path.lstat().st_uid} - {0, os.getuid()}
            content = file.read(MOST + 1)
    except OSError as error:
        if isinstance(error, PermissionError) and os.access(path, os.F_OK):
            raise ConfigError(Problem(name, f"cannot be read ({error.strerror})", "a readable file")) from error
        return None  # as a rule it is not there; or it is a folder, a pipe, or a link that leads nowhere
    is_ours = path.name == NAMES[0]
    if not is_ours and b"runner" not in content:
        return None
    try:
        if len(content) > MOST:
            raise ValueError(f"it is larger than {MOST >> 20} MiB")
        tree = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        if not others:
            raise ConfigError(Problem(name, f"is not TOML: {error}")) from error
        tree = {}
    table = tree if is_ours else tool.get("runner") if isinstance(tool := tree.get("tool"), dict) else None
    if others and table is not None:
        say(f"{name} is not used: it belongs to another user (uid {others.pop()}); yours and those of root are")
        return None
    if not isinstance(table, dict | None):
        raise ConfigError(Problem(f"{name}: tool.runner", f"{table!r} is not a table", "[tool.runner]"))
    return table


def _made(path: Path, name: str, table: Mapping[str, Any]) -> Project:
    """Return the project that a file describes."""
    found = []
    for key in table.keys() - ALLOWED.keys():
        what = f"there is no such key (value {table[key]!r})"
        found.append(Problem(f"{name}: {key}", what, ", ".join(ALLOWED), nearest(key, ALLOWED)))
    said: dict[str, list[str]] = {}
    for key, allowed in ALLOWED.items():
        value = table.get(key, [])
        is_one = isinstance(value, str) and key in ("config_dir", "outputs")
        given = [value] if is_one else value if key != "outputs" or key not in table else None
        said[key] = given if isinstance(given, list) and all(map(_is_plain, given)) else []
        if said[key] is not given:
            found.append(Problem(f"{name}: {key}", f"{value!r} is not allowed", allowed))
    dirs, outputs = ([path.parent / typed(text) for text in said[key]] for key in ("config_dir", "outputs"))
    found += [_no_folder(f"{name}: config_dir", place, path.parent) for place in dirs if not os.path.isdir(place)]
    if outputs and (("${" in said["outputs"][0]) or (os.path.lexists(outputs[0]) and not os.path.isdir(outputs[0]))):
        found.append(Problem(f"{name}: outputs", f"{said['outputs'][0]!r} is not a folder", ALLOWED["outputs"]))
    found += [problem for text in said["overrides"] if (problem := _wrong(text, f"{name}: overrides"))]
    if found:
        raise ConfigError(*found)
    place = _near(Path(os.path.normpath(outputs[0])), path.parent) if outputs else Project.outputs
    return Project(path, tuple(dirs), tuple(said["allow"]), place, tuple(said["overrides"]))


def _is_plain(text: Any) -> bool:
    return isinstance(text, str) and bool(text.strip()) and "\0" not in text


def _no_folder(key: str, place: Path, folder: Path) -> Problem:
    close = nearest(place.name, [each.name for each in folder.iterdir() if each.is_dir()])
    return Problem(key, f"there is no folder '{place}'", ALLOWED["config_dir"], close and f'config_dir = "{close}"')


def _wrong(override: str, key: str) -> Problem | None:
    """Return what is wrong with an override, as far as that can be seen without a configuration."""
    name = override.lstrip("+~").partition("=")[0]
    if not re.match(r"\+{0,2}[\w@./-]+=|~[\w@./-]+", override):
        return Problem(key, f"{override!r} is not KEY=VALUE", ALLOWED["overrides"])
    if re.match(OF_A_START, name):
        others = {"allow_targets": "allow = [PATTERN]", "hydra.run.dir": "outputs = FOLDER"}
        remedy = others.get(name, f"remove it, and type {override} where it is wanted")
        return Problem(key, f"{override!r} cannot be set for a whole project", remedy=remedy)
    return None


def find_own_code() -> None:
    """Have Python find code of the user's own: in the working directory, as `python -m` does, then in the project's.

    Raises:
        SystemExit: a module of the user's would be imported in place of one that is needed.
    """
    if (here := os.getcwd()) not in sys.path:
        hidden.refuse(here)
        sys.path.insert(0, here)
    if (folder := current().folder) is not None and str(folder) not in sys.path:
        hidden.refuse(str(folder))
        sys.path.insert(sys.path.index(here) + 1, str(folder))


def in_project(problem: Problem) -> Problem:
    """A problem of an override of the project, with the file at its key."""
    return replace(problem, key=f"{current().name}: overrides: {problem.key}")


def placed(problems: Iterable[Problem], overrides: Sequence[str]) -> list[Problem]:
    """The problems, with the file at those that come from what the project file overrides.

    Args:
        overrides: all of them.
    """
    texts = {quoted(override) for override in current().overrides}.intersection(overrides)
    keys = {text.partition("=")[0].lstrip("+~") for text in texts} | texts
    return [in_project(problem) if problem.key in keys else problem for problem in problems]
