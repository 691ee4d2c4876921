"""Where a key of the configuration was written: the user's file, and the line in it."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf

from runner.errors import MANY, Problem
from runner.keys import LOADER, is_below
from runner.project import placed


def marked(cfg: DictConfig, problems: Iterable[Problem]) -> list[Problem]:
    """The problems, with file and line at those whose key stands in a file of the user's own.

    Args:
        cfg: with Hydra's part, which says what was composed from where.
    """
    # Not resolved: a reference that leads nowhere may be the very problem.
    overrides = cast("list[str]", OmegaConf.to_container(cfg.hydra.overrides.task, resolve=False))
    typed = [override.lstrip("+~").partition("=")[0] for override in overrides]
    found = []
    for number, problem in enumerate(problems):
        own = is_below(problem.key, *(key for key in typed if "." in key))
        is_said = number < MANY and not own and problem.key not in typed
        place = _place(cfg, problem.key.split(".")) if is_said else None
        found.append(problem if place is None else replace(problem, key=f"{place}: {problem.key}"))
    return placed(found, overrides)


def _place(cfg: DictConfig, words: Sequence[str]) -> str | None:
    """``FILE, line N`` of the last file that sets the key."""
    files = list(_files(cfg, words))
    for path, inside in files:
        line = _line(path, inside)
        if line is not None:
            return f"{near(path)}, line {line}"
    # The key is in no file: name the option that should have it.
    options = [path for path, inside in files if len(inside) < len(words) and path.is_file()]
    return str(near(options[0])) if options else None


def near(path: Path) -> Path:
    """A path as one would type it from here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def default_line(files: Iterable[Path], name: str) -> str | None:
    """``FILE, line N`` of the first entry of a defaults list that has to do with a group or an option."""
    for path in files:
        node = _yaml(path)
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        entries = [entry for key, value in pairs if key.value == "defaults" for entry in value.value]
        for entry in entries:
            words = [entry.value] if isinstance(entry, yaml.ScalarNode) else [n.value for p in entry.value for n in p]
            if any(re.split(r"[\s/]", str(word))[-1] == name for word in words):
                return f"{near(path)}, line {entry.start_mark.line + 1}"
    return None


def own_folders(cfg: DictConfig) -> list[Path]:
    """The folders of the user's that a configuration was composed from."""
    from runner import options

    folders = [Path(s.path) for s in cfg.hydra.runtime.config_sources if s.schema == "file" and s.path]
    return [folder for folder in folders if folder != options.home()]


def _files(cfg: DictConfig, words: Sequence[str]) -> Iterator[tuple[Path, Sequence[str]]]:
    """The user's files that may have set a key, and the rest of the key inside of each. The primary one wins."""
    for folder in own_folders(cfg):
        yield folder / f"{cfg.hydra.job.config_name}.yaml", words
        for group, option in cfg.hydra.runtime.choices.items():
            if isinstance(option, str) and group == words[0]:
                yield folder / group / f"{option}.yaml", words[1:]
            elif isinstance(option, str) and group == "experiment":
                yield folder / group / f"{option}.yaml", words


def _yaml(path: Path) -> Any:
    """The nodes of a file, which know their lines; None if it cannot be read."""
    try:
        return _nodes(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None


@functools.lru_cache(maxsize=8)
def _nodes(text: str) -> Any:
    return yaml.compose(text, LOADER)


def _line(path: Path, words: Sequence[str]) -> int | None:
    """The line, from 1, in which a nested key stands; None if the file has no such key."""
    node, line = _yaml(path), None
    for word in words:
        if isinstance(node, yaml.SequenceNode) and word.isdigit() and int(word) < len(node.value):
            node = node.value[int(word)]
            line = node.start_mark.line + 1
            continue
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        match = [(key, value) for key, value in pairs if key.value == word]
        if not match:
            return None
        line, node = match[-1][0].start_mark.line + 1, match[-1][1]
    return line
