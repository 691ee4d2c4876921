"""Private parts of Hydra and OmegaConf, and what differs between their releases: nothing else reaches into them.

A release may change any of it. `tests/test_hydra_internals.py` tries it with the one that is installed, without the
patches by which the other tests compose faster.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import re
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:  # all of which takes its time to import
    import argparse

    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.override_parser.types import Override
    from hydra.plugins.config_source import ConfigResult, ConfigSource
    from hydra.plugins.launcher import Launcher
    from omegaconf import DictConfig
    from omegaconf.basecontainer import BaseContainer

OF_HYDRA = ("runner.*", "logging.*", "rich.logging.RichHandler")
"""Targets Hydra calls for itself: `runner.preflight`, and what its logging is made of. It adds a few of its own."""


@functools.cache
def has_whitelist() -> bool:
    """Return whether it is Hydra 1.4, which wants to be told what it may call, and no longer which release to be."""
    import hydra

    return "execution_whitelist" in inspect.signature(hydra.main).parameters


def release() -> dict[str, Any]:
    """An argument of Hydra's functions: as which of its releases it shall work, as long as it is to be told."""
    return {} if has_whitelist() else {"version_base": "1.3"}


def main(config_path: str, config_name: str, allowed: Sequence[str]) -> Callable[[Callable[[DictConfig], Any]], Any]:
    """Hydra's decorator, without a word of it about its next releases.

    Args:
        allowed: patterns of what it may call. Where it is asked for them it takes no others than names and ``a.b.*``.
    """
    import hydra

    plain = [pattern for pattern in allowed if "*" not in pattern.removesuffix(".*") and pattern.strip("*.")]
    options = {"execution_whitelist": [*OF_HYDRA, *plain]} if has_whitelist() else release()
    return hydra.main(config_path=config_path, config_name=config_name, **options)


def refused(error: Exception) -> str:
    """The name that Hydra was not told it may call, in its logging or as a callback, if that is what is wrong."""
    said = r"arget '([^']+)'(?: \(resolved from '[^']+'\))? is not in the Hydra execution whitelist"
    found = re.search(said, str(error))
    return found[1] if found else ""


@contextlib.contextmanager
def judged() -> Iterator[None]:
    """While entered, Hydra builds what `runner.checks.targets` has judged; its own list of what is dangerous stays.

    Its whitelist would refuse more than is asked of it: also what a target returns, if that can be called, is to be on
    it by its class, which is that of any library.
    """
    if not has_whitelist():
        yield
        return
    import hydra.utils

    allowing: Callable[..., contextlib.AbstractContextManager[Any]] = vars(hydra.utils)["execution_whitelist"]
    with allowing(None, reset=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"(?s).*with no\s+_execution_whitelist_")
        yield


@contextlib.contextmanager
def mode_of_flags() -> Iterator[None]:
    """While entered, Hydra takes from the flags alone whether it is a sweep.

    Of itself 1.3 composes the whole configuration once more to read that one key, a third of the time to start.
    """
    from hydra._internal.hydra import Hydra

    before = Hydra.get_mode
    Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = before  # type: ignore[method-assign]


def flags() -> Mapping[str, argparse.Action]:
    """The flags of Hydra's command line."""
    from hydra._internal.utils import get_args_parser

    return get_args_parser()._option_string_actions


def store(name: str, tree: Mapping[str, Any]) -> None:
    """Have Hydra know a primary configuration that is in no file."""
    from hydra.core.config_store import ConfigStore

    options: dict[str, Any] = {"replace": True} if has_whitelist() else {}
    ConfigStore.instance().store(name, dict(tree), **options)


def search_path(home: str, own: Sequence[Path]) -> ConfigSearchPath:
    """Return where Hydra looks for files, if `home` is where ours are, and `own` are the folders of the user's."""
    from hydra._internal.utils import create_config_search_path

    return _with(own, create_config_search_path(home))


def _with(own: Sequence[Path], path: ConfigSearchPath) -> ConfigSearchPath:
    """Add folders to a search path at the place of that of ``--config-dir``, of which Hydra has one."""
    from hydra.core.config_search_path import SearchPathQuery

    for place in own:
        path.prepend("command-line", f"file://{place.absolute()}", anchor=SearchPathQuery(provider="schema", path=None))
    return path


@contextlib.contextmanager
def also_in(own: Sequence[Path]) -> Iterator[None]:
    """While entered, Hydra looks for files in the folders of the user's, too."""
    from hydra._internal import utils

    before = utils.create_automatic_config_search_path
    utils.create_automatic_config_search_path = lambda *given: _with(own, before(*given))
    try:
        yield
    finally:
        utils.create_automatic_config_search_path = before


def loader(path: ConfigSearchPath) -> ConfigLoaderImpl:
    """Composes configurations of the files of a search path."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    return ConfigLoaderImpl(path)


def compose_by(composed: Callable[[Callable[[list[str]], DictConfig], Sequence[str]], DictConfig]) -> None:
    """Have all that Hydra composes be composed by a function, which is given how Hydra does it, and the overrides."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    name = "_load_configuration" if has_whitelist() else "load_configuration"
    load = getattr(ConfigLoaderImpl, name)

    @functools.wraps(load)
    def made(
        self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *args: Any, **rest: Any
    ) -> DictConfig:
        if has_whitelist():  # which are those of `overrides`
            rest["parsed_overrides"] = None
        return composed(lambda now: load(self, config_name, now, *args, **rest), overrides)

    setattr(ConfigLoaderImpl, name, made)


def enter_typed(cfg: DictConfig, overrides: list[str], choices: Mapping[str, str]) -> None:
    """Enter into Hydra's part what was typed, and options that are not chosen there."""
    from hydra._internal import config_loader_impl as impl
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import open_dict

    task = [each for each in OverridesParser.create().parse_overrides(overrides) if not each.is_hydra_override()]
    job, how = cfg.hydra.job, cfg.hydra.job.config.override_dirname
    with open_dict(cfg.hydra):
        cfg.hydra.runtime.choices.update(choices)
        cfg.hydra.overrides.task = [each.input_line for each in task]
        if not has_whitelist():  # 1.4 takes it from what was typed when it is asked for
            job.override_dirname = impl.get_overrides_dirname(
                overrides=task, kv_sep=how.kv_sep, item_sep=how.item_sep, exclude_keys=how.exclude_keys
            )


def check_files(check: Callable[[Path], None]) -> None:
    """Have each file checked before it is read, and what then cannot be read be a `ValueError`."""
    from hydra._internal.sources_registry import SourcesRegistry
    from hydra.core.plugins import Plugins

    Plugins.instance()  # by which it knows of its sources
    source = SourcesRegistry.instance().resolve("file")
    load = source.load_config

    def checked(self: ConfigSource, config_path: str) -> ConfigResult:
        check(Path(self.path, self._normalize_file_name(config_path)))
        try:
            return load(self, config_path)
        except RecursionError as error:
            raise ValueError("is nested too deeply") from error
        except (LookupError, AttributeError, TypeError, ArithmeticError) as error:  # !!bool x, !!int '', 1:…:1.0
            raise ValueError(f"has a value that is none ({error})") from error

    source.load_config = checked  # type: ignore[method-assign]


def followed(error: RecursionError) -> str:
    """The option that was followed from defaults list to defaults list until there were too many; or nothing."""
    roots = [frame.f_locals.get("root") for frame, _ in traceback.walk_tb(error.__traceback__)]
    nodes: list[Any] = [n for root in roots if hasattr(n := getattr(root, "node", None), "get_config_path")]
    names = Counter(node.get_config_path() for node in nodes)
    (name, times) = next(iter(names.most_common(1)), ("", 0))
    return str(name) if times > 10 else ""


def current_loader() -> ConfigLoaderImpl:
    """Return the loader of the command line that Hydra runs now."""
    from hydra.core.global_hydra import GlobalHydra

    return cast("ConfigLoaderImpl", GlobalHydra.instance().config_loader())


def apply(cfg: DictConfig, overrides: list[Override]) -> None:
    """Change a composed configuration as overrides of values say: in a fifth of the time of composing it anew."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    ConfigLoaderImpl._apply_overrides_to_config(overrides, cfg)


def launcher(cfg: DictConfig, task: Callable[[DictConfig], Any]) -> Launcher:
    """The launcher that a sweep has chosen, to start `task` with."""
    from hydra._internal.callbacks import Callbacks
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext

    context = HydraContext(config_loader=current_loader(), callbacks=Callbacks(cfg))
    if has_whitelist():  # of which a job hears in no other way
        policy = importlib.import_module("hydra._internal.execution_policy")
        context.execution_whitelist = policy._get_active_execution_whitelist()  # type: ignore[attr-defined]
    return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=cfg)


def resolver(name: str, function: Callable[..., Any]) -> None:
    """Have OmegaConf call a function for ``${name:…}``, also instead of another one."""
    # 2.4 calls it by the name that in 2.3 is an older one's, and warns of that of 2.3.
    from omegaconf import OmegaConf

    is_new = "replace" in inspect.signature(OmegaConf.register_resolver).parameters
    register: Any = OmegaConf.register_resolver if is_new else OmegaConf.register_new_resolver
    register(name, function, replace=True)


def node(parent: BaseContainer, key: Any) -> Any:
    """Return what OmegaConf holds under a key, with a reference as it is written; None if there is nothing."""
    return parent._get_node(key)


def written(parent: BaseContainer, key: Any) -> Any:
    """A single value as it is written, also if it is a reference."""
    held = parent._get_node(key)
    return getattr(held, "_value", lambda: held)()


def root(node: BaseContainer) -> DictConfig:
    """The configuration that a node is of."""
    return cast("DictConfig", node._get_root())


def path(node: Any) -> str:
    """The dotted key of a node, such as ``loss.terms.0``; OmegaConf's own is ``loss.terms0``."""
    words = []
    while node is not None and node._key() is not None:
        words.append(str(node._key()))
        node = node._get_parent()
    return ".".join(reversed(words))
