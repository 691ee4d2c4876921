"""What is wrong with a configuration that cannot be composed, in our words and all at once.

Hydra stops at the first override that it cannot apply. Here the overrides are applied one after the other, those that
fail are explained, and the keys of what remains are checked. Only ever run after Hydra has failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner import config
from runner.errors import ConfigError, Problem, nearest

Load = Callable[[list[str]], DictConfig]
"""Composes a configuration from overrides."""

FAILURES = (HydraException, OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError, ValueError)
"""What composing raises when the configuration is at fault."""


def loader(config_name: str, config_dir: str | None, multirun: bool) -> Load:
    """Composes as the command line does, without running anything."""
    search_path = create_config_search_path(str(config.folder()))
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise ConfigError(Problem("--config-dir", f"{config_dir!r} is not a folder"))
        path = f"file://{Path(config_dir).absolute()}"
        search_path.prepend("command-line", path, anchor=SearchPathQuery(provider="schema", path=None))
    loads = ConfigLoaderImpl(search_path)
    mode = RunMode.MULTIRUN if multirun else RunMode.RUN
    return lambda overrides: loads.load_configuration(config_name, overrides, run_mode=mode)


def explain(load: Load, overrides: Sequence[str]) -> list[Problem]:
    """Every problem of the configuration that `load` makes of `overrides`."""
    try:
        cfg = load([])
    except FAILURES as error:
        return [_describe("", error, None)]
    found: list[Problem] = []
    kept: list[str] = []
    # Options of groups first: they decide which keys there are.
    for override in sorted(overrides, key=lambda text: "." in text.partition("=")[0]):
        try:
            cfg = load([*kept, override])
        except FAILURES as error:
            found.append(_describe(override, error, cfg))
        else:
            kept.append(override)
    return found + config.check_keys(config.job(cfg))


def _describe(override: str, error: Exception, cfg: DictConfig | None) -> Problem:
    key, _, value = override.partition("=")
    key = key.lstrip("+~")
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        what = f"is not YAML: {error.problem} (column {mark.column + 1})"
        return Problem(f"{mark.name}, line {mark.line + 1}", what)
    if isinstance(error, UnicodeDecodeError):
        return Problem(key, f"the file of option {value!r} is not UTF-8 text ({first_line})")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = error.options or []
        if not group:
            what = f"there is no {option}.yaml beside runner's own config.yaml or in --config-dir"
            return Problem("--config-name", what, remedy="--config-dir FOLDER, in which it is")
        what, remedy = f"there is no option {option!r}", nearest(option, options, f"{group}=")
        return Problem(group, what, ", ".join(options) or "nothing yet: the group has no options", remedy)
    try:
        several = OverridesParser.create().parse_override(override).is_sweep_override()
    except HydraException:
        remedy = f"{key}='...' if the value is a text with special characters" if value else "KEY=VALUE"
        return Problem(override, f"cannot be read: {first_line}", remedy=remedy)
    if several:
        return Problem(
            key, f"{value!r} is several values", "one value", f"-m {override}, or {key}=[{value}] for a list"
        )
    if override.startswith("+"):
        return Problem(key, f"is there already, and cannot be added ({override})", remedy=override.lstrip("+"))
    if override.startswith("~"):
        return Problem(key, f"cannot be taken away: {first_line}")
    options = sorted(path.stem for path in (config.folder() / key).glob("*.yaml")) if key else []
    if options and value == "null":
        what = f"null is not allowed: {'without one there is none' if key == 'experiment' else 'no run is without one'}"
        remedy = {"scheduler": "scheduler=constant", "experiment": "the same without it"}.get(key, "")
        return Problem(key, what, ", ".join(options), remedy)
    if cfg is not None and "/" not in key:
        return _unknown_key(key, value, cfg)
    return Problem(override or "configuration", first_line)


def _unknown_key(key: str, value: str, cfg: DictConfig) -> Problem:
    """The first word of `key` that leads nowhere, and what could stand in its place."""
    words = key.split(".")
    for depth in range(len(words)):
        parent = ".".join(words[:depth])
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if not isinstance(node, DictConfig):
            return Problem(key, f"{parent} is no group of keys", remedy=f"{parent}={value}")
        if words[depth] not in node:
            names = _keys(node)
            close = nearest(words[depth], names, f"{parent}." if parent else "")
            remedy = ".".join([close, *words[depth + 1 :]]) + f"={value}" if close else ""
            return Problem(key, f"there is no such key (value {value!r})", ", ".join(names), remedy)
    return Problem(key, f"cannot be set to {value!r}")


def _keys(node: DictConfig) -> Iterable[str]:
    return sorted(str(name) for name in node if name not in ("_target_", "hydra"))
