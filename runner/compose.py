"""Composing a configuration where Hydra does not run it."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import SearchPathQuery
from hydra.types import RunMode
from omegaconf import DictConfig

from runner import config, hydra_internals
from runner.checks.origin import near
from runner.checks.overrides import FAILURES, Load, explain
from runner.errors import ConfigError, Problem
from runner.keys import check_yaml
from runner.options import home

SAVED = "saved"
"""The name of the primary configuration that comes from a run folder."""


def save_as_primary(tree: Mapping[str, Any], *defaults: Mapping[str, str]) -> None:
    """Have Hydra know what a run folder says as the primary configuration `SAVED`, under our own Hydra settings.

    Args:
        defaults: groups of which another option is taken.
    """
    hydra_internals.store(SAVED, {"defaults": ["entry", *defaults, "_self_"], **tree})


def composed(
    config_name: str, config_dir: str | None, overrides: Sequence[str], besides: Collection[str] = ()
) -> DictConfig:
    """The configuration of a command that Hydra does not run.

    Args:
        besides: keys of the command, which no run has.

    Raises:
        ConfigError: with everything that is wrong with it.
    """
    check_names(config_dir)
    load = loader(config_name, config_dir, multirun=False)
    try:
        return load(list(overrides))
    except FAILURES as error:
        own = [] if config_dir is None else [Path(config_dir)]
        raise ConfigError(*explain(load, overrides, own, config_name, besides)) from error


def check_names(config_dir: str | None) -> None:
    """That no file of the user's has the name of one of ours, of which Hydra would take one without a word."""
    if config_dir is None:
        return
    place, ours = Path(config_dir), home()
    try:
        is_there = place.is_dir()
    except OSError:  # a name that is too long, or in a folder that one may not look into
        is_there = False
    if not is_there:
        allowed = "a folder with your own groups and options"
        raise ConfigError(Problem("--config-dir", f"there is no folder {config_dir!r}", allowed))
    names = [path.relative_to(ours) for path in sorted(ours.rglob("*.yaml"))]  # not theirs: it may be a whole project
    same = [name for name in names if (place / name).is_file()]
    if same:
        what = "has the same name as one of runner's own files, which would hide one of the two"
        raise ConfigError(*(Problem(f"{place / name}", what, remedy="another name") for name in same))


@functools.cache
def check_files() -> None:
    """Have Hydra look at each file that is not ours before it reads it: some lines can stand for billions."""

    def check(path: Path) -> None:
        if not path.is_relative_to(home()):
            check_yaml(path.read_text(encoding="utf-8"), str(near(path)))

    hydra_internals.check_files(check)


def loader(config_name: str, config_dir: str | None, multirun: bool) -> Load:
    """Composes as the command line does, without running anything."""
    check_files()
    search_path = hydra_internals.search_path(str(home()))
    if config_dir is not None:
        path = f"file://{Path(config_dir).absolute()}"
        search_path.prepend("command-line", path, anchor=SearchPathQuery(provider="schema", path=None))
    loads = hydra_internals.loader(search_path)
    mode = RunMode.MULTIRUN if multirun else RunMode.RUN
    return lambda overrides: loads.load_configuration(config_name, overrides, run_mode=mode)


@functools.cache
def default() -> DictConfig:
    """The configuration of a run for which nothing was typed."""
    cfg = loader("config", None, multirun=False)([])
    return config.job(cfg)
