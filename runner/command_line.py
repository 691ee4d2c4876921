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
from typing import TYPE_CHECKING, Any

from runner import folder, hydra_internals
from runner.errors import ConfigError, Problem, cut, for_shell, nearest
from runner.keys import DEPTH, nesting

if TYPE_CHECKING:
    from hydra.core.override_parser.overrides_parser import OverridesParser

WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
              "--info", "-i", "--experimental-rerun")  # fmt: skip
"""Hydra's flags that take the next argument."""

HYDRAS = ("hydra", "hydra.run", "hydra.sweep", "hydra.job", "hydra.runtime", "hydra.overrides", "hydra.help",
          "hydra.hydra_help")  # fmt: skip
"""Groups of keys of Hydra's, of which it needs each."""

LONGEST = 200
"""Bytes in a key. Hydra looks for a file of that name."""

CONFIG_DIR = ("--config-dir", "-cd")

FLAGS = ("--help", "--version", "-m", "--cfg", "--config-dir", "--config-name", "-v")
"""Those that are named where there is no such flag. Hydra has more, which nobody looks for that mistyped one."""


def quoted(override: str, sweep: bool = False) -> str:
    """`override`, with its value in quotes if Hydra's grammar cannot read it as it is: ``input=my (1).png``.

    Args:
        sweep: whether commas stand between values.
    """
    key, equals, value = override.partition("=")
    if sweep and parse(override) is None and equals and "," in value and not value.startswith(("[", "{")):
        alternatives = re.split(r",(?![^{]*\})", value)  # a comma in a reference is part of it
        parts = [part if parse(f"{key}={part}") is not None else quote(part) for part in alternatives]
        return f"{key}={','.join(parts)}"
    if parse(override) is None and equals and not value.startswith(("[", "{", "'", '"')):
        return f"{key}={quote(value)}"
    return override


def quote(text: str) -> str:
    """`text` in quotes, as Hydra's grammar reads it: a backslash counts for itself but before a quote."""
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", text)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return "'" + escaped + "\\" * trailing + "'"


def parse(override: str) -> Any:
    """What Hydra's grammar makes of an override; None if it cannot read it."""
    from hydra.errors import HydraException

    try:
        return _parser().parse_override(override)
    except (HydraException, ValueError):  # a number of too many digits
        return None


@functools.cache
def _parser() -> OverridesParser:
    """Made once: it looks at the signatures of all functions that Hydra's grammar has."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create()


def check_typed(flags: Sequence[str], overrides: Sequence[str]) -> None:
    """That nothing was typed which Hydra would take, and which is not for anyone to take.

    Raises:
        ConfigError: something was.
    """
    found = [*_check_flags(flags), *_check_overrides(overrides, multirun(flags))]
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
        if name in WITH_VALUE and twice:
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
            yield Problem(
                name, "needs a value", allowed, f"{name} {'job' if allowed else 'NAME' if 'name' in name else 'FOLDER'}"
            )
        elif (choices := known[name].choices) is not None and value is not None and value not in choices:
            yield Problem(name, f"{value!r} is not allowed", ", ".join(map(str, choices)))


def _takes(flag: str, after: str) -> bool:
    """Whether a flag takes the argument after it. One that there is not does, for programs have ``--lr 0.01``."""
    return flag in WITH_VALUE or (flag not in _known() and "=" not in flag and not re.search(r"^-(?![.\d])|=", after))


def _override(key: str, value: str | None, command: str = "") -> str:
    """The override that was meant by a key and a value typed in another form (``--lr 0.01``, ``lr 0.01``), or nothing.

    Args:
        value: None if there was none.
        command: which has keys of its own.
    """
    from runner.checks import schema

    key, value = key.replace("-", "_"), "VALUE" if value is None else value
    if len(key) == 1:
        return ""
    if command in schema.COMMANDS and key in typing.get_type_hints(schema.COMMANDS[command]):
        return for_shell(f"{key}={value}")
    from runner import compose
    from runner.checks.overrides import meant

    return meant(key, value, compose.default())


def _check_overrides(overrides: Sequence[str], sweep: bool) -> Iterator[Problem]:
    rest, before = list(overrides), ""
    while rest:
        words, remedy = _spaced(before, rest, sweep)
        if not remedy:
            words, remedy = _apart(rest)
        if not remedy:
            words, remedy = _torn(before, rest)
        if remedy:
            yield Problem(" ".join(words), "is not KEY=VALUE", remedy=remedy)
        else:
            yield from _check_override(rest[0])
        before, rest = rest[0], rest[max(1, len(words)) :]


def _apart(arguments: Sequence[str]) -> tuple[list[str], str]:
    """A key and its value at the beginning of `arguments` that are not one word (``model mlp``, ``model = mlp``), and
    what to type instead; nothing if there are none."""
    match = re.match(r"([A-Za-z_][\w./]*)( = | =|= | )([^ =][^ ]*)( |$)", " ".join(arguments[:3]))
    if match is None or "=" in match[3] or any(" " in argument for argument in arguments[:3]):
        return [], ""
    key, between, value = match.groups()[:3]
    remedy = _override(key, value)
    if not remedy or (remedy.startswith("dataset") and not key.startswith("dataset")):
        return [], ""  # a path with a space in it may have such a word
    return list(arguments[: 3 if between == " = " else 2]), remedy + (", without spaces around =" * ("=" in between))


def _is_group(key: str) -> bool:
    from runner import options

    return (options.home() / key.partition("@")[0]).is_dir()


def _are_texts(override: str) -> bool:
    """Return whether a list, if it can be read, holds nothing but texts."""
    parsed = parse(override)
    value = [] if parsed is None or parsed.is_sweep_override() else parsed.value()
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_one_of_several(group: str) -> bool:
    """Whether a group of ours has options of which each is a thing of its own, and no two can be taken together."""
    from runner import options

    return (options.home() / group).is_dir() and any("_target_" in tree for tree in options.of(group).values())


PATHS = ("root", "path", "input", "output", "run", "resume", "weights", "dir")
"""What keys end in that are given a path."""


def _spaced(before: str, arguments: Sequence[str], sweep: bool) -> tuple[list[str], str]:
    """The rest of several values with spaces between them (``seed=1, 2``), and what to type instead; nothing if there
    is none.

    Args:
        before: the argument before these.
        sweep: whether ``-m`` was typed.
    """
    before = re.sub(r"='(.*,)'$", r"=\1", before)  # `quoted` could not read it
    words = list(itertools.takewhile(lambda argument: "=" not in argument, arguments))
    if "=" not in before or not words or not (before.endswith(",") or words[0].startswith(",")):
        return [], ""
    together = "".join([before, *words]).strip(",")
    flag = "" if sweep or "=[" in before or "={" in before else "-m "
    return words, f"{flag}{for_shell(together)}, without spaces between the values"


def _torn(before: str, arguments: Sequence[str]) -> tuple[list[str], str]:
    """The rest of a path with spaces that was typed without quotes, and what to type instead; nothing if none was.

    Args:
        before: the argument before these.
    """
    key, equals, start = before.partition("=")
    words = list(itertools.takewhile(lambda argument: re.fullmatch(r"[^~+:=][^:=]*", argument), arguments))
    # A word that is a path by itself as a rule lacks a key of its own.
    if not equals or not words or key.rpartition(".")[2] not in PATHS or os.path.exists(words[0]):
        return [], ""
    return words, for_shell(f"{key}={' '.join([start, *words])}")


def _check_override(override: str) -> Iterator[Problem]:
    key, equals, value = override.partition("=")
    key, remedy = key.lstrip("+~"), f"remove {override}"
    if equals and not key:
        yield Problem(override, "has no key", remedy="KEY=VALUE")
    elif not equals and ":" in key and not override.startswith("~"):
        yield Problem(override, "has no =", remedy=override.replace(":", "=", 1))
    elif not equals and not override.startswith("~"):
        # A path without a key, or the second word of a value with a space.
        close = f"{key}=VALUE; quote values with spaces"
        if Path(override).exists():
            close = f"{for_shell(f'KEY={override}')}, such as resume= (train), run= (evaluate, predict, export, "
            close += "reproduce), dataset.root= or dataset.path="
        yield Problem(override, "is not KEY=VALUE", remedy=close)
    elif key == "hydra.callbacks" or key.startswith("hydra.callbacks."):
        yield Problem(key, "cannot be changed: runner checks the configuration there", remedy=remedy)
    elif key.partition("@")[0] in HYDRAS or (override.startswith("~") and key.startswith("hydra")):
        yield Problem(key, "cannot be changed as a whole", "single keys, such as hydra.run.dir", remedy)
    elif value.startswith("[") and _is_group(key) and not _are_texts(override):
        yield Problem(key, f"{value!r} is not an option", f"{key}=OPTION", remedy)
    elif value.startswith("[") and "," in value and _is_one_of_several(key):
        what = f"{value!r} is a list, and the group takes one option at a time"
        yield Problem(key, what, remedy=folder.line("-m", f"{key}={re.sub(r'[][ ]', '', value)}"))
    elif key in ("hydra.launcher._target_", "hydra.sweeper._target_"):
        yield Problem(key, "cannot be set directly", remedy=f"{key.removesuffix('._target_').replace('.', '/')}=OPTION")
    elif key.partition(".")[0] == "facts":
        yield Problem(key, "is determined from the data and cannot be set", remedy=remedy)
    elif key in ("hydra.launcher", "hydra.sweeper", "hydra.job_logging", "hydra.hydra_logging"):
        remedy = "sweep=optuna" if (key, value) == ("hydra.sweeper", "optuna") else f"{key.replace('.', '/')}={value}"
        yield Problem(key, f"{value!r} is an option, which is chosen with a slash", remedy=remedy)
    elif key in ("hydra.run.dir", "hydra.sweep.dir") and value.strip("'\"") == "":
        yield Problem(key, "the name of the folder is empty", remedy=f"{key}=FOLDER")
    elif key == "hydra.mode":
        yield Problem(key, "cannot be set: use -m for a sweep", remedy="-m" if "MULTIRUN" in value.upper() else remedy)
    elif key == "hydra.sweep.subdir":
        yield Problem(key, "cannot be set: job folders are named after the values that differ", remedy=remedy)
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


def read_for(command: str, arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The folder of the user's own, and overrides, for a command that has no other flag.

    Raises:
        ConfigError: there is another flag, or what was typed is not for anyone to take.
    """
    flags, _ = sort(arguments)
    others = [flag for flag in flags if flag.startswith("-") and flag.partition("=")[0] not in CONFIG_DIR]
    if others:
        name, what = others[0].partition("=")[0], f"{command} has no such flag"
        meant = "" if name in _known() else _override(name.lstrip("-"), value_of(flags, name), command)
        raise ConfigError(Problem(name, what, "--config-dir, -v, --help", meant or f"leave out {name}"))
    return value_of(flags, *CONFIG_DIR), read(arguments)[1]


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
