"""Composing a configuration where Hydra does not run it."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig

from runner import anew as anew
from runner import config, consent, hydra_internals
from runner.checks.origin import near
from runner.checks.overrides import FAILURES, Load, explain
from runner.errors import ConfigError, Problem
from runner.keys import check_yaml
from runner.options import home
from runner.project import placed

SAVED = "saved"
"""The name of the primary configuration that comes from a run folder."""


def save_as_primary(tree: Mapping[str, Any], *defaults: Mapping[str, str]) -> None:
    """Have Hydra know what a run folder says as the primary configuration `SAVED`, under our own Hydra settings.

    Args:
        defaults: groups of which another option is taken.
    """
    consent.begin(tree, tree["allow_targets"])
    hydra_internals.store(SAVED, {"defaults": ["entry", *defaults, "_self_"], **tree})


def composed(
    config_name: str, own: Sequence[Path], overrides: Sequence[str], besides: Collection[str] = ()
) -> DictConfig:
    """The configuration of a command that Hydra does not run.

    Args:
        own: folders of the user's with groups and options.
        besides: keys of the command, which no run has.

    Raises:
        ConfigError: with everything that is wrong with it.
    """
    check_names(own)
    load = loader(config_name, own, multirun=False)
    try:
        return load(list(overrides))
    except FAILURES as error:
        raise ConfigError(*placed(explain(load, overrides, own, config_name, besides), overrides)) from error


def check_names(own: Sequence[Path]) -> None:
    """Check that no file of the user's has the name of one of ours, or of another of theirs, of which Hydra would take
    one without a word.

    Raises:
        ConfigError: one has; or a folder is not there.
    """
    allowed = "a folder with your own groups and options"
    if absent := [place for place in own if not os.path.isdir(place)]:
        raise ConfigError(*(Problem("--config-dir", f"there is no folder {str(place)!r}", allowed) for place in absent))
    ours = home()
    names = [path.relative_to(ours) for path in sorted(ours.rglob("*.yaml"))]  # not theirs: it may be a whole project
    what = "has the same name as one of runner's own files, which would hide one of the two"
    same = [place / name for place in own for name in names if (place / name).is_file()]
    found = [Problem(str(near(path)), what, remedy="another name") for path in same]
    counts = Counter(name for place in own for name in _options(place)) if len(own) > 1 else Counter[Path]()
    for name in sorted(name for name, count in counts.items() if count > 1):
        first, *others = [str(near(place / name)) for place in own if (place / name).is_file()]
        what = f"has the same name as {', '.join(others)}, which would hide one of the two"
        found.append(Problem(first, what, remedy="another name"))
    if found:
        raise ConfigError(*found)


def _options(place: Path) -> Iterator[Path]:
    """The options of groups in a folder, relative to it; files beside its groups are of whatever else it is for."""
    for folder, names, files in os.walk(place):
        names[:] = [name for name in names if not name.startswith(".")]
        below = Path(folder).relative_to(place)
        yield from (below / name for name in files if name.endswith(".yaml") and below.name)


@functools.cache
def check_files() -> None:
    """Have Hydra look at each file that is not ours before it reads it: some lines can stand for billions."""

    def check(path: Path) -> None:
        if not path.is_relative_to(home()):
            check_yaml(path.read_text(encoding="utf-8"), str(near(path)))

    hydra_internals.check_files(check)


def loader(config_name: str, own: Sequence[Path], multirun: bool) -> Load:
    """Composes as the command line does, without running anything."""
    check_files()
    loads = hydra_internals.loader(hydra_internals.search_path(str(home()), own))
    mode = RunMode.MULTIRUN if multirun else RunMode.RUN
    return lambda overrides: loads.load_configuration(config_name, overrides, run_mode=mode)


@functools.cache
def default() -> DictConfig:
    """The configuration of a run for which nothing was typed."""
    cfg = loader("config", [], multirun=False)([])
    return config.job(cfg)
