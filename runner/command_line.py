"""What was typed: flags and overrides (``KEY=VALUE``), as people type them and as Hydra reads them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from runner.errors import ConfigError, Problem, for_shell, nearest

WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
              "--info", "-i", "--experimental-rerun")  # fmt: skip
"""Hydra's flags that take the next argument."""

CONFIG_DIR = ("--config-dir", "-cd")


def quoted(override: str, sweep: bool = False) -> str:
    """`override`, with its value in quotes if Hydra's grammar cannot read it as it is: ``input=my (1).png``.

    Args:
        sweep: whether commas stand between values.
    """
    key, equals, value = override.partition("=")
    if sweep and parse(override) is None and equals and "," in value and not value.startswith(("[", "{")):
        parts = [part if parse(f"{key}={part}") is not None else quote(part) for part in value.split(",")]
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
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def check_typed(flags: Sequence[str], overrides: Sequence[str]) -> None:
    """That nothing was typed which Hydra would take, and which is not for anyone to take.

    Raises:
        ConfigError: something was.
    """
    found = [*_check_flags(flags), *(problem for override in overrides for problem in _check_override(override))]
    if found:
        raise ConfigError(*found)


def _check_flags(flags: Sequence[str]) -> Iterator[Problem]:
    from hydra._internal.utils import get_args_parser

    if any(flag.startswith("--experimental-rerun") for flag in flags):
        # It unpickles the file it is given, which may hold anything.
        yield Problem("--experimental-rerun", "is not available", remedy="resume=FOLDER")
        return
    if multirun(flags) and value_of(flags, "--cfg", "-c") is not None:
        yield Problem("--cfg", "shows a single configuration, and -m makes several", remedy="leave out -m")
        return
    known: dict[str, argparse.Action] = get_args_parser()._option_string_actions
    rest = iter(flags)
    for flag in rest:
        name, equals, given = flag.partition("=")
        value = given if equals else next(rest, None) if name in WITH_VALUE else None
        twice = [other.partition("=")[0] for other in flags].count(name) > 1
        if name in WITH_VALUE and twice:
            yield Problem(name, "was given twice", "once")
            return
        if name not in known:
            # Of itself argparse would take the beginning of a name for the name.
            names = [*(name for name in known if name not in ("--experimental-rerun", "--run", "-r")), "-v"]
            yield Problem(name, "there is no such flag", ", ".join(names), nearest(name, names))
        elif known[name].nargs is None and value is None:
            allowed = ", ".join(map(str, known[name].choices or ()))
            yield Problem(
                name, "needs a value", allowed, f"{name} {'job' if allowed else 'NAME' if 'name' in name else 'FOLDER'}"
            )
        elif (choices := known[name].choices) is not None and value is not None and value not in choices:
            yield Problem(name, f"{value!r} is not allowed", ", ".join(map(str, choices)))


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
    elif key == "hydra.verbose" and re.fullmatch(r"\s*-?[\d.]+\s*|\{.*|null", value):
        yield Problem(key, f"{value} is not allowed", "true, false, or names of loggers")


def sort(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags (each with its value) and overrides apart. Hydra itself fails on a flag between two overrides."""
    flags: list[str] = []
    overrides: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "-v":  # of ours alone: those of libraries would drown them
            overrides.append("hydra.verbose=[runner]")
            continue
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        flags.append(argument)
        if argument in WITH_VALUE:
            flags += [value for value in [next(rest, None)] if value is not None]
    return flags, overrides


def read(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags and overrides, as Hydra takes them.

    Raises:
        ConfigError: something was typed that Hydra would take, and that is not for anyone to take.
    """
    flags, overrides = sort(arguments)
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
        what = f"{command} has no such flag"
        raise ConfigError(Problem(others[0], what, "--config-dir, -v, --help", f"leave out {others[0]}"))
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
