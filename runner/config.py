"""The configuration: from the composed tree to built parts, and to the record in the run folder.

Parts (data set, model, loss and so on) know neither Hydra nor OmegaConf: they are called here, with plain values.
"""

from __future__ import annotations

import io
import os
import pickle
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from runner import consent, debugger, hydra_internals, moved
from runner.checks import entries, schema, targets
from runner.checks.targets import HYDRA_KEYS, locate
from runner.errors import (
    FOR_THE_TRACEBACK,
    ConfigError,
    Problem,
    RunnerError,
    cause_of,
    is_out_of_memory,
    lacking_memory,
    reason_of,
)
from runner.files import read, write
from runner.keys import texts, walk
from runner.options import ABOUT_A_START
from runner.references import MustBeTyped, literal, of_keys, to_be_typed
from runner.tree import children, known
from runner.tree import entered as entered
from runner.tree import plain as plain
from runner.tree import recorded as recorded
from runner.tree import to_type as to_type
from runner.visible import log

REQUIRED = ("dataset", "model", "trainer")
"""Some groups that every run has: a file without any of them is no configuration of ours."""


def factory(node: DictConfig, without: Sequence[str] = ()) -> partial[Any]:
    """What a group's ``_target_`` names, with the group's other keys bound as its arguments, but for those of ours.

    Targets inside the arguments are built. This is the only place where the configuration calls anything.

    Args:
        without: arguments that are going to be given in another way.
    """
    from hydra.utils import instantiate

    path = hydra_internals.path(node)
    patterns = OmegaConf.select(hydra_internals.root(node), "allow_targets")
    tree = value(node)
    if leaf := next((key for key, text in texts(tree, path) if "${" in text), None):
        # Hydra would take it for a reference, and look it up: it may have been made by another one, or by the data.
        raise ConfigError(Problem(leaf, "is a text with ${, which stands for a reference", "a text without ${"))
    if patterns is not None:  # they were checked before; but a folder of a run may come from anybody
        targets.check_allowed(tree, path, patterns)
    others = {*HYDRA_KEYS, *targets.beside(path), *without}
    named = {key: child for key, child in tree.items() if key not in others}
    with hydra_internals.judged():
        positional = instantiate(tree["_args_"], _convert_="all") if "_args_" in tree else []
        if _is_for_hydra(named):
            named = instantiate(named, _convert_="all")
    return partial(locate(node._target_), *positional, **named)


def _is_for_hydra(tree: Any) -> bool:
    """Return whether there is anything in plain containers that Hydra would build, or refuse as missing.

    Its `instantiate` copies a node several times, and most have nothing for it to do.
    """
    held = [each for _, each in walk(tree)]
    return "???" in held or any(isinstance(each, dict) and not each.keys().isdisjoint(HYDRA_KEYS) for each in held)


@contextmanager
def calling(key: str, wrong: str = "cannot be built") -> Iterator[None]:
    """Tell what a target of the group `key` says of its arguments as a mistake in the configuration."""
    try:
        yield
    except RunnerError:
        raise
    except debugger.foreign() as error:  # whatever code of the user's may raise
        if is_out_of_memory(error):
            raise  # for which there is a message of its own
        log.debug("", exc_info=True)
        if lacking := lacking_memory(error):
            raise ConfigError(Problem(key, lacking, remedy="something smaller")) from error
        reason = cause_of(error)
        if not isinstance(error, (TypeError, ValueError)) and str(error).strip():
            reason = f"{type(error).__name__}: {reason}"
        raise ConfigError(Problem(key, f"{wrong}: {reason}", remedy=FOR_THE_TRACEBACK)) from error


def build(node: DictConfig) -> Any:
    """Call what `node` names."""
    return factory(node)()


def build_all(nodes: ListConfig) -> list[Any]:
    """Call what each of `nodes` names."""
    return [build(node) for node in nodes]


def fill(config: DictConfig, facts: Mapping[str, Any]) -> None:
    """Enter what became known into ``facts``, for the parts that are built from here on. Names that the data have may
    look like references, and are none."""
    held = config.facts  # of which alone what is known about flags is forgotten, and not of the whole configuration
    with read_write(held), open_dict(held):
        for name, value in facts.items():
            held[name] = literal(value)


EXACT, EARLIER = "float64", "float32"
"""Types in which all numbers are read and scaled; the second by earlier versions, whose runs say nothing of it."""


def is_exact(config: DictConfig) -> bool:
    """Return whether numbers keep all of their digits until they are scaled, as in all but runs of earlier versions."""
    return bool(OmegaConf.select(config, "facts.numbers", default=EXACT) != EARLIER)


def read_as(config: DictConfig) -> dict[str, Any]:
    """Arguments of a table: what it leaves out when it numbers its classes; or those with which a run of an earlier
    version reads it as it did, when that was a class."""
    if OmegaConf.select(config, "dataset._target_") != "runner.dataset.table":
        return {}
    if not is_exact(config):
        return {"categories": None}
    return {} if "ignore_index" in config.dataset else {"ignore_index": OmegaConf.select(config, "loss.ignore_index")}


def go_on_as_earlier(config: DictConfig) -> None:
    """Have a job that is new in a sweep of an earlier version do as those do that the sweep has."""
    fill(config, {"numbers": EARLIER})
    with read_write(config):
        for key, (then, now) in moved.ADDED.get(str(config.dataset.get("_target_")), {}).items():
            if key in config.dataset and then != now:
                config.dataset[key] = then


def mention_earlier(config: DictConfig) -> None:
    """Say so if a run scales numbers as earlier versions did. Pictures are bytes, of which nothing was lost."""
    if not is_exact(config) and (config.facts.sample_type != "uint8" or config.facts.task == "regression"):
        log.info(
            "numbers are scaled in float32, as by the earlier version that began this run: of large ones, such as "
            "times in milliseconds, digits are lost; a new run scales in float64"
        )


def has_folds(config: DictConfig) -> bool:
    """Whether a run is a cross-validation."""
    return bool(config.split.get("fold") == "all")


def take_fold(config: DictConfig, number: int = 0) -> None:
    """Make a cross-validation one of its folds."""
    with read_write(config):
        config.split.fold = number


def install(config: DictConfig) -> DictConfig:
    """Install a configuration with Hydra's part as the global `HydraConfig`, itself and no copy, so that ``${hydra:…}``
    resolves in it; and return it."""
    from hydra.core.hydra_config import HydraConfig

    # Not by set_config(), which copies the part: that took a tenth of the start of a run, and for each job of a sweep.
    HydraConfig.instance().cfg = typing.cast(Any, config)
    return config


def run_dir() -> Path:
    """Return the folder that Hydra has made for the task that it has called."""
    from hydra.core.hydra_config import HydraConfig

    return Path(os.path.relpath(HydraConfig.get().runtime.output_dir))


def with_hydra(cfg: DictConfig) -> DictConfig:
    """Return the configuration that Hydra hands to a task, with Hydra's own part again."""
    from hydra.core.hydra_config import HydraConfig

    made = copied(cfg)
    with read_write(made), open_dict(made):
        made.hydra = HydraConfig.get()
    return made


def value(node: Any) -> Any:
    """A value of the configuration as plain containers.

    Raises:
        MustBeTyped: with all that is to be typed again of it.
    """
    try:
        return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    except MustBeTyped:
        found: list[Problem] = []
        children(node, hydra_internals.path(node), found)
        raise MustBeTyped(*found) from None


def written(config: DictConfig) -> dict[str, Any]:
    """The configuration, or a group of it, as plain containers, with references as they are written."""
    return typing.cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))


def job(config: DictConfig) -> DictConfig:
    """The configuration without Hydra's own part."""
    ours = copied(config)
    with read_write(ours), open_dict(ours):
        ours.pop("hydra", None)
    return ours


def copied(config: DictConfig) -> DictConfig:
    """A copy of a whole configuration, by way of pickle: of itself OmegaConf takes three times as long."""
    return unpacked(packed(config))


def packed(config: DictConfig) -> bytes:
    """A configuration as bytes, of which `unpacked` makes copies in this process and its forks, and nowhere else."""
    file = io.BytesIO()
    _Packer(file, pickle.HIGHEST_PROTOCOL).dump(config)
    return file.getvalue()


def unpacked(data: bytes) -> DictConfig:
    """The configuration of which `packed` made bytes."""
    made: DictConfig = pickle.loads(data)
    return made


class _Packer(pickle.Pickler):
    """Takes a class for itself, and not for what its name leads to: Hydra loads the modules of its plugins anew, and in
    a process of a launcher's the ``hydra`` part is of the classes from before, which pickle of itself refuses."""

    def reducer_override(self, held: Any) -> Any:
        if not isinstance(held, type):
            return NotImplemented
        _CLASSES[id(held)] = held
        return _class, (id(held),)


_CLASSES: dict[int, type] = {}
"""By their `id`: those of packed configurations, which are kept so that the numbers stay theirs."""


def _class(number: int) -> type:
    return _CLASSES[number]


def task(config: DictConfig, ours: DictConfig | None = None) -> DictConfig:
    """The configuration of a run as `check` and `debug` have it, without Hydra's part, but with the options that were
    chosen.

    Args:
        ours: what `job` makes of it, to be changed; None to have it made.
    """
    made = job(config) if ours is None else ours
    enter_options(made, config)
    if not is_exact(made):
        go_on_as_earlier(made)
    if config.check == "only":  # nothing is downloaded or kept
        with read_write(made):
            made.dataset.update({k: v for k, v in {"download": False, "cache": None}.items() if k in made.dataset})
    if config.debug == "dev_run":  # two batches of every part
        with read_write(made), open_dict(made):
            made.trainer.update(limit_batches=2, accumulate=min(made.trainer.accumulate, 2))
    return made


def enter_options(made: DictConfig, config: DictConfig) -> None:
    """Enter the option of each group into the facts, as Hydra's part of `config` has them; one that is resumed knows
    them."""
    if not OmegaConf.is_missing(made.facts, "options"):
        return
    choices = {str(key): choice for key, choice in config.hydra.runtime.choices.items()} if "hydra" in config else {}
    groups = [key for key in sorted(choices, key=schema.place) if choices[key] and "/" not in key]
    fill(made, {"options": {key: choices[key] for key in groups if key not in ABOUT_A_START}})


def check(config: DictConfig) -> list[Problem]:
    """Everything that can be found wrong without looking at the data; if they are not there, what needs no torch."""
    tree, found = plain(config)
    found = _check_keys(tree, found)
    if missing := entries.check_places(tree):
        return found + missing  # now, and not after the import of torch
    said = {problem.key for problem in found}
    if isinstance(split := tree.get("split"), dict) and split.get("fold") == "all":
        tree = {**tree, "split": {**split, "fold": 0}}  # the function gets one after the other
    return found + [p for p in (*targets.check(tree), *entries.check_entries(tree)) if p.key not in said]


def check_keys(config: DictConfig) -> list[Problem]:
    """What is wrong with keys of ours, and values that are not there. Imports nothing heavy."""
    return _check_keys(*plain(config))


def _check_keys(tree: dict[str, Any], found: list[Problem]) -> list[Problem]:
    if not any(group in tree for group in REQUIRED):
        what = "the file sets none of runner's groups"
        remedy = "defaults: [config, _self_] as the first line of the file"
        return [Problem("--config-name", what, remedy=remedy)]
    found = schema.problems({**tree, "facts": None}) + found
    if isinstance(tree.get("experiment"), dict):  # keys of a recipe that were not put where they belong
        lost = Problem("experiment", "is not a recipe", remedy="# @package _global_ as the first line of its file")
        found = [lost if problem.key == "experiment" else problem for problem in found]
    said = {problem.key for problem in found}
    unset = [key for key, text in texts(tree) if text == "???" and key not in said]
    return found + [Problem(key, "is not given", remedy=f"{key}={schema.placeholder(key)}") for key in unset]


def grant(config: DictConfig) -> None:
    """Enter into ``allow_targets`` what is called by the user's own word, and need not be typed there."""
    if not isinstance(OmegaConf.select(config, "allow_targets"), ListConfig):  # of which the check will speak
        return
    ours = {str(name): child for name, child in written(config).items() if name not in ("hydra", "facts")}
    # What a folder says by a reference is not known as its word.
    literal_only = consent.is_of_folder()
    held = [f"{path}._target_" for path, n in targets.nodes(ours) if not literal_only or "${" not in n["_target_"]]
    with suppress(OmegaConfBaseException), read_write(config):
        named = [str(OmegaConf.select(config, path)) for path in held]
        config.allow_targets = list(dict.fromkeys([*config.allow_targets, *consent.wanted(named)]))


def save(config: DictConfig, path: Path) -> None:
    """Write the configuration with every reference resolved, but for what came from the environment.

    A value that was a reference to another key is entered twice: as the value it became, and under
    ``interpolations`` as the reference it was, so that a resumed run with more epochs gets a longer schedule. With a
    resolver (``${now:…}``) it is not: a run that goes on keeps the value it started with.
    """
    tree = moved.completed(known(plain(config, hidden=True)[0])) | {"facts": value(config.facts)}
    tree = {name: _target_first(tree[name]) for name in sorted(tree, key=schema.place)}
    tree["interpolations"] = dict(sorted((key, text) for key, text in texts(written(config)) if of_keys(text)))
    # What is written is how to run it, and not how it was started last.
    tree |= dict.fromkeys(tree.keys() & ({"resume", "debug"} if debugger.on else {"resume"}))
    content = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120).encode()
    write(path, content)
    consent.mark(path, content)


def _target_first(node: Any) -> Any:
    return {"_target_": node["_target_"], **node} if isinstance(node, dict) and "_target_" in node else node


OF_OTHERS = ("hydra", "defaults", "facts")
"""Keys beside those of a run, which no reference of a folder may set: what Hydra calls, what it composes, the data."""


def load(path: Path, facts: bool = False) -> dict[str, Any]:
    """Read what `save` wrote, with its references again in their places: ready to be run.

    Unless it is marked as this user's (see `runner.consent`), only references to its own keys are: no other one is
    resolved, whoever wrote the file (see `runner.references`); and ``allow_targets`` has what was allowed before.

    Args:
        facts: whether they stay as they were; else the data will say them anew, but for what the run began with: its
            options, and in what numbers are scaled.

    Raises:
        ConfigError: the file is not what `save` wrote.
    """
    try:
        is_mine = consent.is_marked(path, (content := read(path)).encode())
        saved = moved.read(content)
        if found := schema.problems_of_saved(saved):
            raise ConfigError(*(replace(each, key=f"{path}: {each.key}") for each in found))
        references = saved.pop("interpolations")
        facts_ = literal(saved.pop("facts"))  # names that the data have
        for name in ("hydra", "defaults"):  # they would be Hydra's, and could call or leave out what they like
            saved.pop(name, None)
        tree = OmegaConf.create({**to_be_typed(saved, is_mine), "facts": facts_})
        for key, reference in references.items():
            words = key.split(".")  # OmegaConf also knows a[b], by which any key could be meant
            if of_keys(reference) and words[0] not in OF_OTHERS and not {"", "_target_"} & {*words} and "[" not in key:
                OmegaConf.update(tree, key, reference, merge=False)
        # What may be called is the word of the user, not of the folder.
        tree.allow_targets = consent.allowed(consent.names(saved), is_mine)
        for name in () if facts else tree.facts.keys() - {"options", "numbers"}:
            tree.facts[name] = "???"
        tree.facts.setdefault("numbers", EARLIER)
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException, AttributeError, KeyError, TypeError) as error:
        what = f"is not the configuration of a run ({reason_of(error)})"
        raise ConfigError(Problem(str(path), what)) from error
    plain_tree = OmegaConf.to_container(tree, resolve=False)
    assert isinstance(plain_tree, dict)
    return typing.cast(dict[str, Any], plain_tree)
