"""What Hydra made of the same files is made once in each process of the tests, of which composing was a third.

Four steps of Hydra's are remembered: what an override says, what a file of ours or of Hydra's holds, which files the
defaults lists come to, and what those files make together, also those alone that come first in every run. The latter
two are so with files of a test's own and with the configuration of a run folder, too, as long as they hold the same.
Values from the command line are applied anew each time. Nothing else is remembered of a run.
"""

from __future__ import annotations

import copy
import itertools
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from runner import compose, options

Plugins.instance()  # which loads the modules of its classes anew

STATE = ("override_choices", "known_choices", "known_choices_per_group", "override_metadata", "deletions")
"""What making a list of defaults leaves in the overrides."""


def remember() -> None:
    """Have Hydra remember the four steps."""
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined] # there is one, and all read it
    OverridesParser.parse_rule = _parsed(OverridesParser.parse_rule)  # type: ignore[method-assign]
    ConfigRepository.load_config = _files(ConfigRepository.load_config)  # type: ignore[method-assign]
    if hasattr(defaults_list, "_create_interpolation_map"):  # Hydra 1.4 makes none
        defaults_list._create_interpolation_map = _where_needed(defaults_list._create_interpolation_map)
    defaults_list._create_defaults_list = _lists(defaults_list._create_defaults_list)
    ConfigLoaderImpl._compose_config_from_defaults_list = _trees(  # type: ignore[method-assign]
        ConfigLoaderImpl._compose_config_from_defaults_list
    )


MANY = 100
"""Files of a test's own of which nothing is remembered any more."""


def _state(repo: Any) -> object:
    """What the files hold that are not ours; None if there are too many to look."""
    foreign = [source for source in repo.get_sources() if source.scheme() == "file"]
    foreign = [source for source in foreign if Path(source.path) != options.home()]
    held = [_held(source.path) for source in foreign]
    return None if None in held else [(source.provider, each) for source, each in zip(foreign, held, strict=True)]


def _held(place: str) -> object:
    found: dict[str, object] = {}
    for folder, _, names in os.walk(place, followlinks=True):
        found[os.path.relpath(folder, place)] = None  # a group may be empty
        for name in names:
            if name.endswith((".yaml", ".yml")):
                path = Path(folder, name)
                found[os.path.relpath(path, place)] = path.read_bytes()
        if len(found) > MANY:
            return None
    return sorted(found.items())


def _saved() -> DictConfig:
    """The configuration of a run folder that Hydra was given as the primary one."""
    node: DictConfig = ConfigStore.instance().repo[f"{compose.SAVED}.yaml"].node
    return node


def _parsed(parse: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[tuple[str, str], bytes] = {}

    def parsed(self: OverridesParser, text: str, rule: str) -> Any:
        if (text, rule) not in known:
            known[text, rule] = pickle.dumps(parse(self, text, rule))
        return pickle.loads(known[text, rule])

    return parsed


def _files(load: Callable[..., ConfigResult | None]) -> Callable[..., ConfigResult | None]:
    loaded: dict[tuple[str, str], bytes] = {}

    def files(self: Any, config_path: str) -> ConfigResult | None:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or not _is_fixed(source, config_path):
            return load(self, config_path)
        key = source.path, config_path
        if key not in loaded:
            loaded[key] = pickle.dumps(load(self, config_path))
        return replace(pickle.loads(loaded[key]), provider=source.provider)

    return files


def _is_fixed(source: Any, config_path: str) -> bool:
    """Whether it is a file of ours or of Hydra's: a test may have others, and what a run folder says is none."""
    return Path(source.path) == options.home() if source.scheme() == "file" else config_path.startswith("hydra/")


def _where_needed(make: Callable[..., Any]) -> Callable[..., Any]:
    """What has no reference is not looked up: Hydra makes the table for it all the same, a third of a defaults list."""

    def table(overrides: Any, entries: list[Any], self_added: bool) -> Any:
        return make(overrides, entries, self_added) if any(entry.is_interpolation() for entry in entries) else None

    return table


def _lists(make: Callable[..., Any]) -> Callable[..., Any]:
    made: dict[object, tuple[Any, dict[str, Any]]] = {}

    def lists(repo: Any, config_name: str | None, overrides: Any, **options: Any) -> Any:
        files = _state(repo)
        if files is None:
            return make(repo, config_name, overrides, **options)
        chosen = overrides.override_choices, overrides.append_group_defaults, overrides.deletions
        saved = _saved()["defaults"] if config_name == compose.SAVED else None
        key = config_name, repr(saved), repr(chosen), repr(options), repr(files)
        if key not in made:
            found = make(repo, config_name, overrides, **options)
            made[key] = found, {name: copy.deepcopy(getattr(overrides, name)) for name in STATE}
        found, state = made[key]
        for name in STATE:
            setattr(overrides, name, copy.deepcopy(state[name]))
        return copy.deepcopy(found[0]), found[1]

    return lists


SAME = ("hydra/", "entry", "keys")
"""How the files begin that come first in every run, and in most are the same."""


def _trees(make: Callable[..., Any]) -> Callable[..., Any]:
    made: dict[object, bytes] = {}

    def trees(self: Any, defaults: list[Any], repo: Any) -> Any:
        files = _state(repo)
        if files is None:
            return make(self, defaults=defaults, repo=repo)
        has_saved = any(default.config_path == compose.SAVED for default in defaults)
        key = repr(defaults), repr(files), pickle.dumps(_saved()) if has_saved else None
        if key not in made:
            same = list(itertools.takewhile(lambda default: default.config_path.startswith(SAME), defaults))
            rest = defaults[len(same) :]
            if same and rest:
                _begin_with(trees(self, same, repo))
            tree = make(self, defaults=rest or same, repo=repo)
            OmegaConf.clear_cache(tree)  # of the time at which it was made
            made[key] = pickle.dumps(tree)
        return pickle.loads(made[key])

    return trees


def _begin_with(tree: DictConfig) -> None:
    """Have Hydra merge the next files it is given into this instead of an empty configuration."""

    class Begun(OmegaConf):
        @staticmethod
        def create(*_: Any, **__: Any) -> Any:
            config_loader_impl.OmegaConf = OmegaConf  # type: ignore[misc]
            return tree

    config_loader_impl.OmegaConf = Begun  # type: ignore[misc]
