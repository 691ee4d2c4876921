"""``runner new NAME``: a small project that runs, to be changed."""

from __future__ import annotations

import importlib.util
import keyword
import re
import secrets
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from runner import program
from runner.errors import ConfigError, Problem
from runner.files import refuse, typed
from runner.terminal import Parser
from runner.visible import say

PLACEHOLDERS = ("my-project", "my_project")
"""In the template, the name of a project and that of its package."""

FORM = "letters, digits, - and _, from a letter to a letter or a digit"


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Raises:
        InputError: there cannot be such a project.
        NotWritten: the disk is full.
    """
    said = "Write a small project that runs: a data set, a model and a loss, their options, a recipe, and tests."
    parser = Parser("new", said)
    parser.add_argument("name", help="a new folder, whose name the project gets, and its package: moons_2 for moons-2")
    place = typed(parser.parse_args(list(arguments)).name)
    _check(place)
    try:
        names = _write(place)
    except OSError as error:
        refuse(error, str(place), "cannot be written", "a writable folder")
    then = f"  cd {shlex.quote(str(place))}{_activation(place)}\n  {program.line('experiment=first')}"
    say(f"{place}: {', '.join(sorted(names))}\nnext:\n{then}", sys.stdout)
    return 0


def template() -> Path:
    """The folder of the template: among the examples in a checkout, inside the package when installed."""
    inside = Path(__file__).parent / "template"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "examples/project"


def _activation(place: Path) -> str:
    """Return how the environment is found there by `uv run`, which looks for it in that folder and those above."""
    home = Path(sys.prefix)
    is_above = home.name == ".venv" and place.absolute().is_relative_to(home.parent)
    by_uv = program.start("runner")[0] == "uv"
    return f" && source {shlex.quote(str(home / 'bin/activate'))}" if by_uv and not is_above else ""


def _check(place: Path) -> None:
    """Check that a project can have this folder and its name.

    Raises:
        ConfigError: it cannot.
    """
    name = place.name
    package, key = _package(name), f"new {shlex.quote(str(place))}"
    if not re.fullmatch(r"[A-Za-z]([\w-]*[A-Za-z0-9])?", name, re.ASCII):
        close = re.sub(r"[^\w-]+", "-", re.sub(r"^[^A-Za-z]+", "", name), flags=re.ASCII).strip("-_")
        remedy = program.line("new", shlex.quote(str(place.with_name(close)))) if close else ""
        raise ConfigError(Problem(key, f"{name!r} cannot be the name of a project", FORM, remedy))
    found = importlib.util.find_spec(package)
    is_module = found is not None and found.origin is not None  # a folder without code is none
    if keyword.iskeyword(package) or package in ("conf", "tests", "outputs") or is_module:
        what = f"its package would be called {package}, as something else is already"
        remedy = program.line("new", shlex.quote(str(place.with_name(f"{name}-project"))))
        raise ConfigError(Problem(key, what, "another name", remedy))
    if place.is_symlink() or (place.exists() and (not place.is_dir() or any(place.iterdir()))):
        raise ConfigError(Problem(key, "is there already, and is not an empty folder", "a new folder"))


def _package(name: str) -> str:
    return name.replace("-", "_")


def _write(place: Path) -> set[str]:
    """Write the project, as a whole or not at all, and return what is in its folder."""
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.{secrets.token_hex(8)}.tmp")
    values = dict(zip(PLACEHOLDERS, (place.name, _package(place.name)), strict=True))
    try:
        for source in [path for path in sorted(template().rglob("*")) if path.is_file()]:
            name = source.relative_to(template())
            if not {"__pycache__", ".pytest_cache", "outputs"} & set(name.parts):  # which somebody has made there
                target = part / _filled(str(name), values)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(_filled(source.read_text(encoding="utf-8"), values), encoding="utf-8")
        part.rename(place)
    except BaseException:
        with suppress(OSError):
            shutil.rmtree(part)
        raise
    return {path.name + "/" * path.is_dir() for path in place.iterdir()}


def _filled(text: str, values: dict[str, str]) -> str:
    return re.sub("|".join(values), lambda match: values[match[0]], text)
