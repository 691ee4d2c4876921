"""A target typed in place of that of an option: the group starts anew, with none of the option's arguments.

``model._target_=net.Net model.width=64`` is a model with that argument, whatever option was chosen. All that Hydra
composes comes by here, also what it or a launcher composes elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from runner import hydra_internals, options
from runner.grammar import parse
from runner.keys import is_below

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

CUSTOM = "custom"
"""The option of a group for a class of the user's own, given by ``_target_``."""

TARGET = "_target_"


def composed(load: Callable[[list[str]], DictConfig], overrides: Sequence[str]) -> DictConfig:
    """Compose a configuration in which what has another target than its option says starts anew.

    Args:
        load: composes one from overrides, as Hydra does.
    """
    typed = targets(overrides)
    if not typed:
        return load(list(overrides))
    values = [each for each in map(parse, overrides) if each is not None and _is_value(each, typed)]
    lines = {each.input_line for each in values}
    rest = [override for override in overrides if override not in lines]
    cfg = load(rest)
    values = [each for each in values if typed[_place(each, typed)] is not None]  # the jobs have the others
    fresh = [place for place, target in typed.items() if _is_other(cfg, place, target)]
    groups = [place for place in fresh if place in cfg.hydra.runtime.choices]
    if groups:
        kept = [override for override in rest if key_of(override) not in groups or "_target_" in override]
        cfg = load([*kept, *(f"{group}={CUSTOM}" for group in groups)])
    for place in fresh:
        _clear(cfg, place)
    hydra_internals.apply(cfg, [made for each in values for made in _forced(each, fresh, cfg)])
    hydra_internals.enter_typed(cfg, list(overrides), {place: CUSTOM for place in fresh if "." not in place})
    return cfg


def targets(overrides: Sequence[str]) -> dict[str, str | None]:
    """Return the places whose target was typed, and that; None for several, in a sweep. Of one inside another, the
    outer alone."""
    found: dict[str, str | None] = {}
    for parsed in (parse(override) for override in overrides if TARGET in override):
        if parsed is None or parsed.package is not None or parsed.is_delete():
            continue
        key, value = parsed.key_or_group, None if parsed.is_sweep_override() else parsed.value()
        if key.endswith(f".{TARGET}"):
            found[key.removesuffix(f".{TARGET}")] = value
        elif parsed.is_sweep_override() or (isinstance(value, dict) and TARGET in value):
            found[key] = value and value[TARGET]
    inner = [place for place in found if is_below(place, *(other for other in found if other != place))]
    return {place: target for place, target in found.items() if place not in inner and not is_below(place, "hydra")}


def started(cfg: DictConfig) -> list[str]:
    """Return the groups of a configuration that started anew by what was typed."""
    if "hydra" not in cfg:
        return []
    choices, typed = cfg.hydra.runtime.choices, OmegaConf.to_container(cfg.hydra.overrides.task, resolve=False)
    return [place for place in targets(typed) if choices.get(place) == CUSTOM]  # type: ignore[arg-type]


def key_of(override: str) -> str:
    """Return the key of an override, without what says in which way it is set."""
    return override.partition("=")[0].lstrip("+~")


def _is_value(override: Override, typed: dict[str, str | None]) -> bool:
    """Return whether an override is of a place whose target was typed, and no choice of an option, nor several."""
    is_option = override.key_or_group in typed and not isinstance(override.value(), dict)
    return is_below(override.key_or_group, *typed) and not is_option and not override.is_sweep_override()


def _place(override: Override, typed: dict[str, str | None]) -> str:
    """Return which of the places with a typed target an override is of."""
    return next(place for place in typed if is_below(override.key_or_group, place))


def _is_other(cfg: DictConfig, place: str, target: Any) -> bool:
    """Return whether a target is to start anew at a place: it is another than the one there."""
    if target is None or ("." not in place and CUSTOM not in options.names(place)):
        return False
    try:
        above, _, name = place.rpartition(".")
        parent = OmegaConf.select(cfg, above) if above else cfg
        is_there = name in set(parent) if isinstance(parent, DictConfig) else OmegaConf.select(cfg, place) is not None
        now = (
            OmegaConf.select(cfg, f"{place}.{TARGET}") if isinstance(OmegaConf.select(cfg, place), DictConfig) else None
        )
    except OmegaConfBaseException:  # which will be said
        return False
    return (is_there or above == "metric") and now != target


def _clear(cfg: DictConfig, place: str) -> None:
    """Leave of a place what every option of its group has, which is nothing elsewhere."""
    kept = options.of(place)[CUSTOM].keys() - {TARGET} if "." not in place else ()
    node = OmegaConf.select(cfg, place)
    if not isinstance(node, DictConfig):
        OmegaConf.update(cfg, place, {}, force_add=True)
        return
    if "." in place and TARGET not in node:  # a mapping that becomes an object
        return
    with open_dict(node):
        for key in [key for key in node if key not in kept]:
            del node[key]


def _forced(override: Override, fresh: Sequence[str], cfg: DictConfig) -> list[Any]:
    """Return an override as it is to be applied: of what starts anew each key is new, and none is left to remove."""
    if not is_below(override.key_or_group, *fresh):
        return [override]
    if override.is_delete():
        return [override] if OmegaConf.select(cfg, override.key_or_group) is not None else []
    return [parse(f"++{str(override.input_line).lstrip('+')}")]


hydra_internals.compose_by(composed)
