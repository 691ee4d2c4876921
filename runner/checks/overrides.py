"""What is wrong with overrides, and with files of the user's, that Hydra cannot compose.

Hydra stops at the first override that it cannot apply. `explain` applies them one after the other, explains those that
fail, and checks the keys of what remains: everything in our words and at once.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from runner import anew, config, hydra_internals, program
from runner.checks.origin import default_line, near
from runner.errors import Problem, for_shell, is_slip, nearest, reason_of
from runner.grammar import parse
from runner.keys import DEPTH, Unusable, is_below
from runner.options import default as default_options
from runner.options import home
from runner.options import names as names_of
from runner.options import of as options_of

ELSEWHERE = {
    "trainer.max_epochs={}": "epochs num_epochs n_epochs num_train_epochs",
    "optimizer.lr={}": "learning_rate base_lr",
    "loader.batch_size={}": "bs batch batchsize train_batch_size",
    "loader.num_workers={}": "workers n_workers",
    "trainer.clip_norm={}": "grad_clip clip_grad clip_grad_norm gradient_clip_val max_grad_norm",
    "dataset.path={}": "root file csv csv_path",
    "dataset.root={}": "path folder data_dir data_path data_root image_dir",
    "dataset=table dataset.path={}": "path file csv csv_path",
    "dataset=image_folder dataset.root={}": "root folder data_dir data_path data_root image_dir",
    "split=stratified_kfold split.n_splits={}": "folds n_folds num_folds k_folds",
}
"""By what is typed here: the names that other programs have."""

NOTHING = {
    "scheduler": "scheduler=constant", "transform": "transform=none", "tensorboard": "tensorboard.enabled=false",
}  # fmt: skip
"""By group: what comes closest to none."""

Load = Callable[[list[str]], DictConfig]
"""Composes a configuration from overrides."""

FAILURES = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError, RecursionError)
"""What composing raises when the configuration is at fault."""


def explain(
    load: Load, overrides: Sequence[str], own: Iterable[Path] = (), name: str = "config", besides: Collection[str] = ()
) -> list[Problem]:
    """Every problem of the configuration that `load` makes of `overrides`.

    Args:
        own: folders of the user's, in whose files it may be.
        name: of the primary configuration.
        besides: keys of a command, which no run has.
    """
    own = list(own)
    found: list[Problem] = []
    # Options of groups first: they decide which keys there are. As a rule all of them are right.
    # So do targets that start anew, with whose arguments they go together.
    typed = anew.targets(overrides)
    options = [o for o in overrides if _is_option(o, own) or is_below(anew.key_of(o), *typed)]
    options.sort(key=lambda override: (not _is_option(override, own), "_target_" not in override))
    values = [override for override in overrides if override not in options]
    try:
        cfg, kept, options = load(options), options, []
    except FAILURES:
        try:
            cfg, kept = load([]), []
        except FAILURES as error:
            return [_describe("", error, None, _files(own, error, name))]
    if not any(group in cfg for group in config.REQUIRED):
        return config.check_keys(config.job(cfg))
    unknown: list[str] = []  # groups whose option is not there, so that nobody knows which keys they have
    for override in [*options, *values]:
        if override in values and is_below(_key(override), *unknown):
            continue
        try:
            if override in options:
                cfg = load([*kept, override])
                kept.append(override)
            elif (parsed := OverridesParser.create().parse_override(override)).is_sweep_override():
                load([override])
            else:  # as composing anew would, in a fifth of the time; what fails may have been done in part
                changed = config.copied(cfg)
                hydra_internals.apply(changed, [parsed])
                cfg = changed
        except FAILURES as error:
            option = override.lstrip("+").replace("=", "/")
            found.append(_describe(override, error, cfg, _files(own, error, option)))
            unknown += [_key(override)] if override in options else []
    if "hydra" in cfg:
        config.install(cfg)
    ours = config.job(cfg)
    with open_dict(ours):
        for key in besides:
            ours.pop(key, None)
    return found + config.check_keys(ours)


def _is_option(override: str, own: Sequence[Path]) -> bool:
    """Whether an override chooses an option of a group."""
    key = _key(override)
    return "/" in key or any((place / key).is_dir() for place in (home(), *own))


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def _files(own: Iterable[Path], error: Exception, *names: str) -> list[Path]:
    """The files of the user's in which a mistake may be."""
    inside = re.match(r"In '([^']+)'", str(error))
    stems = [*([inside[1]] if inside else []), *names]
    return [path for folder in own for stem in stems if (path := Path(folder) / f"{stem}.yaml").is_file()]


def _describe(override: str, error: Exception, cfg: DictConfig | None, files: Sequence[Path]) -> Problem:
    """What is wrong with an override, or with one of the files that it names."""
    key = override.partition("=")[0].lstrip("+~")
    said = _said(error)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        what = f"is not YAML: {error.problem} (column {mark.column + 1})"
        what = str(error.problem) if isinstance(error, Unusable) else what
        return Problem(f"{mark.name}, line {mark.line + 1}", what)
    if isinstance(error, RecursionError):
        if not (name := hydra_internals.followed(error)):
            return Problem(key or "configuration", "is nested too deeply", f"at most {DEPTH} levels")
        what = f"names itself in its defaults list, or another file there that names {name}"
        return Problem(f"{name}.yaml", what, remedy="remove one of these lines")
    if isinstance(error, UnicodeDecodeError):
        return Problem(str(near(files[0])) if files else key, f"is not UTF-8 text ({said})")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_option(error, files)
    if files and isinstance(error, (ConfigCompositionException, ValueError)):
        return _of_file(str(error).strip() or str(error.__cause__).strip() or said, files)
    return _of_override(override, said, cfg) if override else Problem("configuration", said)


def _said(error: Exception) -> str:
    """The first line of a reason."""
    if str(error).startswith("Error merging override") and error.__cause__ is not None:
        error = typing.cast(Exception, error.__cause__)
    return reason_of(error if str(error).strip() or error.__cause__ is None else error.__cause__)


def _no_option(error: MissingConfigException, files: Sequence[Path]) -> Problem:
    """That a group has no such option, or that there is no such group."""
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    options = error.options or names_of(group)
    if not group:
        what = f"there is no {option}.yaml in runner's own conf/ or in --config-dir"
        return Problem("--config-name", what, remedy="--config-dir FOLDER that contains it")
    place = default_line(files, option)
    if place and "/" in group:  # the file names a group as if it were beside it
        above, _, name = group.rpartition("/")
        what = f"there is no group {name!r} inside the group {above!r}"
        return Problem(place, what, remedy=f"override /{name}: {option}")
    what, remedy = f"there is no option {option!r}", nearest(option, options, f"{group}=")
    if not remedy and group not in ("experiment", "sweep") and "/" not in group:
        remedy = f"--config-dir FOLDER, if it is {group}/{option}.yaml in a folder of your own"
    if place:
        return Problem(f"{place}: {group}", what, ", ".join(options), remedy.replace("=", ": "))
    return Problem(group, what, ", ".join(options) or "nothing yet: the group has no options", remedy)


def _of_override(override: str, said: str, cfg: DictConfig | None) -> Problem:
    """What is wrong with an override."""
    key, _, value = override.partition("=")
    key, parsed = key.lstrip("+~"), parse(override)
    if parsed is None:
        remedy = f"{key}='...' if the value is a text with special characters" if value else "KEY=VALUE"
        return Problem(override, f"cannot be read: {said}", remedy=remedy)
    if parsed.is_sweep_override():
        remedy = program.line("-m", override)
        if not (home() / key).is_dir():  # of a group there is one option
            remedy += f", or {for_shell(f'{key}=[{value}]')} for a list"
        return Problem(key, f"{value!r} gives several values, which needs a sweep", "one value", remedy)
    if override.startswith("+"):
        return Problem(key, f"already exists, so it cannot be added with + ({override})", remedy=override.lstrip("+"))
    if override.startswith("~"):
        return Problem(key, f"there is no such key to remove ({override})", remedy=f"leave out {override}")
    options = ", ".join(names_of(key))
    if options and value == "null":
        remedy = NOTHING.get(key, f"leave out {override}")
        return Problem(key, "null is not allowed", options, remedy)
    if cfg is not None and "/" not in key:
        return _unknown_key(key, value, cfg, said)
    return Problem(override, said)


def _of_file(said: str, files: Sequence[Path]) -> Problem:
    """What is wrong in a file of the user's that Hydra cannot take up."""
    path, groups = str(near(files[0])), sorted(p.name for p in home().iterdir() if p.is_dir())
    match = re.search(r"Could not override '([^']+)'|Invalid Defaults List override '/?([^:']+):", said)
    if match and (group := match[1] or match[2]) not in groups:
        remedy = nearest(group, groups, "override /")
        return Problem(default_line(files, group) or path, f"there is no group {group!r}", ", ".join(groups), remedy)
    if match := re.search(r"Multiple values for (\S+)\. To override a value use '([^']+)'", said):
        what = f"{match[1]} is already in the defaults list"
        return Problem(default_line(files, match[1]) or path, what, remedy=match[2])
    if "Cannot merge DictConfig with ListConfig" in said or "Cannot merge incompatible container" in said:
        return Problem(path, "contains a list", "a mapping of keys to values")
    return Problem(path, f"cannot be read: {said.splitlines()[0]}")


def _unknown_key(key: str, value: str, cfg: DictConfig, reason: str) -> Problem:
    """The first word of `key` that leads nowhere, and what could stand in its place."""
    words = key.split(".")
    for depth in range(len(words)):
        parent = ".".join(words[:depth])
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if not isinstance(node, DictConfig):
            return Problem(key, f"{parent} is a single value and has no keys", remedy=f"{parent}={value}")
        if words[depth] not in node:
            names = _keys(node)
            remedy = _elsewhere_or_option(words, value, cfg)
            if not remedy and (place := _other_place(words, depth, names, cfg)) and _may_be(place, key, value):
                remedy = for_shell(f"{place}={value}")
            allowed = ", ".join(names)
            if "_target_" in node and depth == len(words) - 1:
                plus, other = f"+{parent}.KEY=VALUE for any", f"argument of {hydra_internals.node(node, '_target_')}"
                allowed += f"; {plus} other {other}" if names else f"{plus} {other}"
            return Problem(key, f"there is no such key (value {value!r})", allowed, remedy)
    return Problem(key, f"{value} cannot be read: {reason}")


def meant(key: str, value: str, cfg: DictConfig) -> str:
    """What to type for a key, or its name in another program, that was not typed as KEY=VALUE; or nothing."""
    words = key.split(".")
    if _has(cfg, key) or (len(words) > 1 and words[0] in cfg):  # of another option, perhaps
        return for_shell(f"{key}={value}")
    if found := _elsewhere_or_option(words, value, cfg):
        return found
    place = _other_place(words, 0, (), cfg)
    return for_shell(f"{place}={value}") if place else ""


def _elsewhere_or_option(words: Sequence[str], value: str, cfg: DictConfig) -> str:
    """What to type instead of a key that other programs have, or another option of the group; or nothing."""
    found, option = _elsewhere(words, value, cfg), _other_option(words, value)
    return found if found.startswith(f"{words[0]}.") else option or found


def _elsewhere(words: Sequence[str], value: str, cfg: DictConfig) -> str:
    for template, names in ELSEWHERE.items():
        *option, override = template.split()
        is_there = _has(cfg, override.partition("=")[0])
        # Other things have paths, too.
        is_meant = not template.startswith("dataset") or words[:-1] in ([], ["data"], ["dataset"])
        if words[-1] in names.split() and is_meant and (is_there or option):
            typed = [override] if is_there else [*option, override]
            return " ".join(for_shell(override.format(value)) for override in typed)
    return ""


def _other_option(words: Sequence[str], value: str) -> str:
    """What to type instead of a key that another option of its group has, or nothing."""
    if len(words) != 2 or words[0] not in default_options():
        return ""
    group, key = words
    found = [name for name, tree in options_of(group).items() if key in tree]
    if len(found) == 1:
        return f"{group}={found[0]} {for_shell(f'{group}.{key}={value}')}"
    return f"{group}=OPTION with that key: {', '.join(found)}" if 1 < len(found) < 6 else ""


def _other_place(words: Sequence[str], depth: int, names: Iterable[str], cfg: DictConfig) -> str:
    """The key that was meant: one of that name in another group, or a similar one in the same; or nothing."""
    has_own = words[-1] in ("path", "_target_") and len(words) > 1  # many things have one: that of another is not meant
    others = [] if has_own else [f"{group}.{words[-1]}" for group in _groups_with(words[-1], cfg)]
    if words[-1] in cfg and not isinstance(hydra_internals.node(cfg, words[-1]), DictConfig):
        others.insert(0, words[-1])
    if others:
        return others[0]
    close = nearest(words[depth], names, "".join(f"{word}." for word in words[:depth]))
    return ".".join([close, *words[depth + 1 :]]) if close else ""


def _may_be(place: str, key: str, value: str) -> bool:
    """Return whether a key may have been meant by another one: a group only with one of its options, or for a slip."""
    options = names_of(place)
    return not options or is_slip(key, place) or bool(nearest(value, options))


def _has(cfg: DictConfig, key: str) -> bool:
    """Whether there is a dotted key, whatever its value."""
    group, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, group) if group else cfg
    return isinstance(node, DictConfig) and name in set(node)  # a key without a value is not ``in node``


def _groups_with(key: str, cfg: DictConfig) -> list[str]:
    """The groups that have a key which was typed without one: ``lr=0.1``."""
    others = ("hydra", "facts", "transform")  # train and val of which are lists, and parts elsewhere
    nodes = {str(name): hydra_internals.node(cfg, name) for name in cfg if name not in others}
    there = {name: node for name, node in nodes.items() if isinstance(node, DictConfig) and key in node}
    return [name for name, node in there.items() if not isinstance(hydra_internals.node(node, key), DictConfig)]


def _keys(node: DictConfig) -> Iterable[str]:
    return sorted(str(name) for name in node if name not in ("_target_", "hydra", "facts"))
