"""What was typed: flags and overrides (``KEY=VALUE``), as people type them and as Hydra reads them."""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner import hydra_internals, options, project
from runner.errors import ConfigError, Problem, cut, for_shell, nearest
from runner.grammar import parse, quoted
from runner.keys import DEPTH, is_below, nesting
from runner.project import in_project

if TYPE_CHECKING:
    pass

WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
              "--info", "-i", "--experimental-rerun")  # fmt: skip
"""Hydra's flags that take the next argument."""

HYDRAS = ("hydra", "hydra.run", "hydra.sweep", "hydra.job", "hydra.runtime", "hydra.overrides", "hydra.help",
          "hydra.hydra_help")  # fmt: skip
"""Groups of keys of Hydra's, of which it needs each."""

OPTIONS = ("hydra.launcher", "hydra.sweeper", "hydra.job_logging", "hydra.hydra_logging")
"""Groups of Hydra's that have options."""

FIXED = {
    "hydra.callbacks": "runner checks the configuration there", "hydra.mode": "-m asks for a sweep",
    "hydra.sweep.subdir": "job folders are named after the values that differ",
    "hydra.launcher._target_": "hydra/launcher=OPTION chooses it",
    "hydra.sweeper._target_": "hydra/sweeper=OPTION chooses it", "facts": "it is determined from the data",
}  # fmt: skip
"""Keys that nobody sets, with the reason."""

LONGEST = 200
"""Bytes in a key. Hydra looks for a file of that name."""

CONFIG_DIR = ("--config-dir", "-cd")

FLAGS = ("--help", "--version", "-m", "--cfg", "--config-dir", "--config-name", "-v")
"""Those that are named where there is no such flag. Hydra has more, which nobody looks for that mistyped one."""


def check_typed(flags: Sequence[str], overrides: Sequence[str]) -> None:
    """That nothing was typed which Hydra would take, and which is not for anyone to take.

    Raises:
        ConfigError: something was.
    """
    found = [*_check_flags(flags), *_check_overrides(overrides)]
    if found:
        raise ConfigError(*found)


@functools.cache
def _known() -> Mapping[str, argparse.Action]:
    """Hydra's flags."""
    return hydra_internals.flags()


def check_sizes(overrides: Sequence[str]) -> None:
    """Check that no override is deeper or longer than Hydra's grammar, and a file system, can take.

    Raises:
        ConfigError: one is.
    """
    found = []
    for override in overrides:
        key = override.partition("=")[0]
        if max(nesting(override), key.count(".")) > DEPTH:
            found.append(Problem(cut(override, 80), "is nested too deeply", f"at most {DEPTH} levels"))
        elif len(key.encode(errors="surrogateescape")) > LONGEST:
            found.append(Problem(cut(override, 80), "has a key that is too long", f"at most {LONGEST} bytes"))
    if found:
        raise ConfigError(*found)


def _check_flags(flags: Sequence[str]) -> Iterator[Problem]:
    if any(flag.startswith("--experimental-rerun") for flag in flags):
        # It unpickles the file it is given, which may hold anything.
        yield Problem("--experimental-rerun", "is not available", remedy="resume=FOLDER")
        return
    if multirun(flags) and value_of(flags, "--cfg", "-c") is not None:
        yield Problem("--cfg", "shows a single configuration, and -m makes several", remedy="leave out -m")
        return
    known, rest = _known(), list(flags)
    while rest:
        name, equals, given = rest.pop(0).partition("=")
        value = given if equals else rest.pop(0) if rest and _takes(name, rest[0]) else None
        twice = [other.partition("=")[0] for other in flags].count(name) > 1
        if name in WITH_VALUE and twice and name not in CONFIG_DIR:
            yield Problem(name, "was given twice", "once")
            return
        if name not in known:
            # Of itself argparse would take the beginning of a name for the name.
            what = "there is no such flag" + ("" if value is None else f" (value {value!r})")
            names = [name for name in known if name not in ("--experimental-rerun", "--run", "-r")]
            remedy = _override(name.lstrip("-"), value) or nearest(name, names, cutoff=0.75)
            yield Problem(name, what, f"KEY=VALUE, {', '.join(FLAGS)}", remedy)
        elif known[name].nargs is None and not value:
            allowed = ", ".join(map(str, known[name].choices or ()))
            what = "job" if allowed else "NAME" if "name" in name else "FOLDER"
            yield Problem(name, "needs a value", allowed, f"{name} {what}")
        elif (choices := known[name].choices) is not None and value is not None and value not in choices:
            yield Problem(name, f"{value!r} is not allowed", ", ".join(map(str, choices)))


def _takes(flag: str, after: str) -> bool:
    """Whether a flag takes the argument after it. One that there is not does, for programs have ``--lr 0.01``."""
    return flag in WITH_VALUE or (flag not in _known() and "=" not in flag and not re.search(r"^-(?![.\d])|=", after))


def _override(key: str, value: str | None, command: str = "") -> str:
    """The override that was meant by a key and a value typed in another form, as ``--lr 0.01``, or nothing."""
    from runner.checks import schema

    key, value = key.replace("-", "_"), "VALUE" if value is None else value
    if len(key) == 1:
        return ""
    if command in schema.COMMANDS and key in typing.get_type_hints(schema.COMMANDS[command]):
        return for_shell(f"{key}={value}")
    from runner import compose
    from runner.checks.overrides import meant

    return meant(key, value, compose.default())


def _check_overrides(overrides: Sequence[str]) -> Iterator[Problem]:
    for is_pair, words in itertools.groupby(overrides, lambda word: bool(re.match(r"~|[^=]+=", word))):
        for word in words if is_pair else [" ".join(words)]:
            yield from _check_override(word) if is_pair else [_no_pair(word)]


def _no_pair(words: str) -> Problem:
    """What to say of words without =, as of a path without a key, or a value with spaces."""
    key = words if re.fullmatch(r"[A-Za-z][\w./]*", words) else "KEY"
    remedy = f"{key}=VALUE, without spaces, or in quotes for a value that has some"
    if ":" in words:
        remedy = for_shell(words.replace(":", "=", 1))
    elif Path(words).exists():
        remedy = f"{for_shell(f'KEY={words}')}, such as resume= (train), run= (evaluate, predict, export, reproduce), "
        remedy += "dataset.root= or dataset.path="
    return Problem(words, "is not KEY=VALUE", remedy=remedy)


def _is_group(key: str) -> bool:
    return (options.home() / key.partition("@")[0]).is_dir()


def _are_texts(override: str) -> bool:
    """Return whether a list, if it can be read, holds nothing but texts."""
    parsed = parse(override)
    value = [] if parsed is None or parsed.is_sweep_override() else parsed.value()
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _check_override(override: str) -> Iterator[Problem]:
    key, _, value = override.partition("=")
    key, remedy = key.lstrip("+~"), f"remove {override}"
    if reason := next((FIXED[each] for each in FIXED if is_below(key, each)), ""):
        yield Problem(key, f"cannot be set: {reason}", remedy=remedy)
    elif key.partition("@")[0] in HYDRAS or (override.startswith("~") and key.startswith("hydra")):
        yield Problem(key, "cannot be changed as a whole", "single keys, such as hydra.run.dir", remedy)
    elif value.startswith("[") and _is_group(key):
        several = f"-m {key}={re.sub(r'[][ ]', '', value)}"
        if not _are_texts(override):
            yield Problem(key, f"{value!r} is not an option", f"{key}=OPTION", remedy)
        elif "," in value and any("_target_" in tree for tree in options.of(key).values()):
            yield Problem(key, f"{value!r} is a list, and the group takes one option at a time", remedy=several)
    elif key in OPTIONS:
        remedy = "sweep=optuna" if (key, value) == ("hydra.sweeper", "optuna") else f"{key.replace('.', '/')}={value}"
        yield Problem(key, f"{value!r} is an option, which is chosen with a slash", remedy=remedy)
    elif key in ("hydra.run.dir", "hydra.sweep.dir") and value.strip("'\"") == "":
        yield Problem(key, "the name of the folder is empty", remedy=f"{key}=FOLDER")
    elif key == "hydra.verbose" and (
        re.fullmatch(r"\s*-?[\d.]+\s*|\{.*|null", value) or (value.startswith("[") and not _are_texts(override))
    ):
        yield Problem(key, f"{value} is not allowed", "true, false, or names of loggers")


def sort(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags (each with its value) and overrides apart. Hydra itself fails on a flag between two overrides."""
    flags: list[str] = []
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "-v":  # of ours alone: those of libraries would drown them
            overrides.append("hydra.verbose=[runner]")
            continue
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        flags.append(argument)
        if rest and _takes(argument, rest[0]):
            flags.append(rest.pop(0))
    return flags, overrides


def read(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags and overrides, as Hydra takes them.

    Raises:
        ConfigError: something was typed that Hydra would take, and that is not for anyone to take.
    """
    flags, overrides = sort(arguments)
    check_sizes(overrides)
    overrides = [quoted(override, multirun(flags)) for override in overrides]
    check_typed(flags, overrides)
    return flags, overrides


def read_for(command: str, arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The folders of the user's own, and overrides, for a command that has no other flag.

    Raises:
        ConfigError: there is another flag, or what was typed is not for anyone to take.
    """
    flags, _ = sort(arguments)
    others = [flag for flag in flags if flag.startswith("-") and flag.partition("=")[0] not in CONFIG_DIR]
    if others:
        name, what = others[0].partition("=")[0], f"{command} has no such flag"
        meant = "" if name in _known() else _override(name.lstrip("-"), value_of(flags, name), command)
        raise ConfigError(Problem(name, what, "--config-dir, -v, --help", meant or f"leave out {name}"))
    flags, overrides = read(arguments)
    return config_dirs(flags)[0], overrides


def config_dirs(flags: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The folders of the user's own, those that were typed and then those of the project, and the other flags."""
    typed: list[Path] = []
    rest = list(flags)
    while (at := next((n for n, flag in enumerate(rest) if flag.partition("=")[0] in CONFIG_DIR), None)) is not None:
        _, equals, value = rest.pop(at).partition("=")
        typed.append(Path(value if equals else rest.pop(at)))
    found: dict[str, Path] = {}
    for place in (*typed, *project.current().config_dirs):
        found.setdefault(os.path.realpath(place), place)
    return list(found.values()), rest


def of_project() -> list[str]:
    """The overrides of the project, as Hydra reads them.

    Raises:
        ConfigError: with what is wrong with them.
    """
    check_sizes(project.current().overrides)
    overrides = [quoted(override) for override in project.current().overrides]
    found = list(_check_overrides(overrides))
    for override in overrides:
        if (parsed := parse(override)) is not None and parsed.is_sweep_override():
            found.append(Problem(override, "gives several values", "one value", f"-m {for_shell(override)}, typed"))
    if found:
        raise ConfigError(*(in_project(problem) for problem in found))
    return overrides


def with_project(typed: Sequence[str]) -> list[str]:
    """The overrides of the project that nothing `typed` replaces, and those: the same key, or another option of the
    group that a key is in."""
    keys = [_dotted(override) for override in typed]
    return [*(override for override in of_project() if not is_below(_dotted(override), *keys)), *typed]


def _dotted(override: str) -> str:
    return override.partition("=")[0].lstrip("+~").partition("@")[0].replace("/", ".")


def multirun(flags: Sequence[str]) -> bool:
    """Whether a sweep was asked for."""
    return "-m" in flags or "--multirun" in flags


def value_of(flags: Sequence[str], *names: str) -> str | None:
    """The value of the flag of one of these `names`, if it was given: ``--flag value`` or ``--flag=value``."""
    for number, flag in enumerate(flags):
        name, equals, value = flag.partition("=")
        if name in names:
            return value if equals else next(iter(flags[number + 1 :]), None)
    return None
