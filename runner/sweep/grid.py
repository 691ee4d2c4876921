"""What was typed for a sweep, as the overrides of each of its jobs."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from runner.errors import ConfigError, Problem, counted, nearest, reason_of
from runner.files import typed
from runner.grammar import parse, quote
from runner.keys import is_below

REPEATED = ("seed", "split.seed", "split.fold")
"""Keys whose values are not looked for by a search: each of its points is trained with all of them."""

LONGEST = 120
"""Characters in the name of a job; file systems take 255 bytes, and tools put endings to names."""


BESIDE = {"results.csv", "results.md", "sweep.json", "sweep.log", "optuna.log", "tensorboard", "multirun.yaml"}
"""What else there is in the folder of a sweep."""


@dataclass(frozen=True)
class Job:
    """One of the runs of a sweep, or of its cross-validations.

    Args:
        overrides: of its configuration, in the order in which they are applied.
        swept: those that tell it from the others, by key; a job that was given a name has it as ``job``.
    """

    overrides: tuple[str, ...]
    swept: Mapping[str, str]

    @property
    def name(self) -> str:
        """What differs, as the name of a folder: ``model=mlp,optimizer.lr=0.1``."""
        swept = dict(self.swept)
        first = [swept.pop("job")] if "job" in swept else []
        full = ",".join([*first, *(f"{key}={value}" for key, value in swept.items())]) or "job"
        words = [*first, *(f"{key}={value.replace(',', '-')}" for key, value in swept.items())]
        safe = (
            re.sub(r"[^\w.,=+\-@]", "_", re.sub(r"[\[\]{}'\" ]", "", ",".join(words)), flags=re.ASCII).lstrip(".-")
            or "job"
        )
        if safe == full and len(safe) <= LONGEST and safe not in BESIDE:
            return safe
        # Two that differ in what a name cannot hold must not share a folder.
        return f"{safe[: LONGEST - 9]}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"


Axis = list[Job]
"""Alternatives, each with what it overrides."""


def expand(
    cfg: DictConfig, typed: Sequence[str], parser: OverridesParser, points: Sequence[Mapping[str, str]] | None = None
) -> list[Job]:
    """The jobs of a sweep, in the order in which the combinations of their values are counted: the last changes first.

    Args:
        cfg: of the sweep, which has the key ``sweep``.
        typed: the overrides; of two for one key the last counts.
        points: of a search, what each overrides; None for those that it draws before it starts.

    Raises:
        ConfigError: they cannot be combined.
    """
    overrides = _by_key(typed, parser)
    swept = {key: o for key, o in overrides.items() if o.is_sweep_override()}
    ours = [key for key in swept if key.partition(".")[0] == "sweep"]
    if ours:
        raise ConfigError(*(Problem(key, "applies to the whole sweep", "one value") for key in ours))
    fixed = Job(tuple(str(o.input_line) for key, o in overrides.items() if key not in swept), {})
    named = _named(cfg.sweep.jobs)
    axes: list[Axis] = [[fixed]]
    if str(cfg.sweep.method) == "grid":
        _check_finite(swept)
    else:
        from runner.sweep import search  # which imports numpy

        space = {key: swept.pop(key) for key in list(swept) if key not in REPEATED}
        _check_zip(space, cfg.sweep.zip)
        axes.append([_job(point, space) for point in (search.points(cfg.sweep, space) if points is None else points)])
    axes += _axes(swept, cfg.sweep.zip)
    axes += [named] if named else []
    return [_together(combination) for combination in itertools.product(*axes)]


def looked_for(typed: Sequence[str], parser: OverridesParser) -> dict[str, Override]:
    """Of a search: the overrides that stand for several values, or for a range of them, by key."""
    overrides = _by_key(typed, parser)
    return {key: o for key, o in overrides.items() if o.is_sweep_override() and key not in REPEATED}


def _by_key(typed: Sequence[str], parser: OverridesParser) -> dict[str, Override]:
    """Overrides as they were read; of two for one key the last."""
    read = parser.parse_overrides(list(typed))
    return {o.key_or_group + ("@" + o.package if o.package else ""): o for o in read}


def _axes(swept: Mapping[str, Override], zipped: Any) -> list[Axis]:
    """Of each key its values; of keys that go together theirs, at the place of the first."""
    flat = [key for key in zipped if isinstance(key, str)]
    groups: list[list[str]] = [*([flat] if flat else []), *(list(key) for key in zipped if not isinstance(key, str))]
    # One twice, too: what it goes together with may differ.
    values = {key: list(override.sweep_string_iterator()) for key, override in swept.items()}
    unknown = [key for group in groups for key in group if key not in values]
    if unknown:
        what = f"names {unknown[0]}, which does not have several values"
        remedy = nearest(unknown[0], values) or f"{unknown[0]}=a,b"
        raise ConfigError(Problem("sweep.zip", what, ", ".join(values) or "keys with several values", remedy))
    axes, done = [], set()
    for key in values:
        group = next((group for group in groups if key in group), [key])
        if key in done:
            continue
        done |= set(group)
        if len({len(values[each]) for each in group}) > 1:
            what = ", ".join(f"{each} has {counted(len(values[each]), 'value')}" for each in group)
            raise ConfigError(Problem("sweep.zip", what, "the same number of values for all keys"))
        rows = zip(*(values[each] for each in group), strict=True)
        axes.append([_job(dict(zip(group, row, strict=True)), swept) for row in rows])
    return axes


def _check_zip(space: Mapping[str, Override], zipped: Any) -> None:
    """That no keys go together of which a search draws each by itself."""
    keys = [key for group in zipped for key in ([group] if isinstance(group, str) else group) if key in space]
    if keys:
        what = f"names {keys[0]}, whose values the search draws"
        raise ConfigError(Problem("sweep.zip", what, ", ".join(REPEATED), "sweep=grid"))


def _job(values: Mapping[str, str], swept: Mapping[str, Override]) -> Job:
    # As it was typed, with a + in front and a @package behind.
    return Job(tuple(f"{swept[key].get_key_element()}={value}" for key, value in values.items()), dict(values))


def _together(jobs: Iterable[Job]) -> Job:
    """Of all of them; of two overrides for one key the last counts."""
    jobs = list(jobs)
    overrides = {each.partition("=")[0].lstrip("+"): each for job in jobs for each in job.overrides}
    return Job(tuple(overrides.values()), {key: value for job in jobs for key, value in job.swept.items()})


def _check_finite(swept: Mapping[str, Override]) -> None:
    endless = [o for o in swept.values() if not o.is_discrete_sweep()]
    if endless:
        what = "is a range, but sweep=grid needs single values"
        instead = [(str(o.input_line), f"sweep=random, or {o.get_key_element()}=0.1,0.01") for o in endless]
        raise ConfigError(*(Problem(key, what, remedy=remedy) for key, remedy in instead))
    empty = [o for o in swept.values() if not list(o.sweep_iterator())]
    if empty:
        raise ConfigError(*(Problem(str(o.input_line), "gives no values", "at least one") for o in empty))


def _named(given: Any) -> Axis:
    """Jobs by their names, from the configuration or from a file."""
    if given is None:
        return []
    place = "sweep.jobs"
    if isinstance(given, str):
        place, given = given, _read(typed(given))
    held = OmegaConf.to_container(given, resolve=False) if OmegaConf.is_config(given) else given
    if not isinstance(held, dict) or not held:
        raise ConfigError(Problem(place, "contains no jobs", "NAME: ['KEY=VALUE', ...]"))
    return [_named_job(place, str(name), overrides) for name, overrides in held.items()]


def _named_job(place: str, name: str, overrides: Any) -> Job:
    if isinstance(overrides, dict):  # KEY: VALUE, as in any YAML file
        overrides = [f"{key}={_typed(str(key), value)}" for key, value in overrides.items()]
    if not isinstance(overrides, list):
        raise ConfigError(Problem(f"{place}: {name}", "is not a list of overrides", "['KEY=VALUE', ...]"))
    for each in overrides:
        if not isinstance(each, str) or ("=" not in each and not each.startswith("~")):
            raise ConfigError(Problem(f"{place}: {name}", f"{each!r} is not KEY=VALUE", "['KEY=VALUE', ...]"))
        key = each.lstrip("+~").partition("=")[0]
        if is_below(key, "allow_targets") or key.startswith("hydra"):  # a jobs file, or a sweep, may come from anybody
            what = f"{key} can be set on the command line only"
            raise ConfigError(Problem(f"{place}: {name}", what, remedy=f"remove {each}"))
        try:
            several = OverridesParser.create().parse_override(each).is_sweep_override()
        except HydraException as error:
            raise ConfigError(Problem(f"{place}: {name}", f"{each}: {reason_of(error)}", "KEY=VALUE")) from error
        if several:
            raise ConfigError(Problem(f"{place}: {name}", f"{each} has several values", "one value for a named job"))
    return Job(tuple(overrides), {"job": name})


def _typed(key: str, value: Any) -> str:
    """A value as it is typed on the command line: a text in quotes if it would be read as something else."""
    if not isinstance(value, str):
        return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
    parsed = parse(f"{key}={value}")
    plain = parsed is not None and not parsed.is_sweep_override() and str(parsed.value()) == value
    return value if plain else quote(value)


def _read(path: Path) -> Any:
    """The jobs of a file, by their names as they are written: to YAML `1` and `true` would be the same."""
    try:
        text = path.read_text(encoding="utf-8")
        node, held = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else reason_of(error)
        allowed = "a YAML file that maps names of jobs to overrides, or {NAME: ['KEY=VALUE', ...]}"
        raise ConfigError(Problem("sweep.jobs", f"'{path}' cannot be read ({reason})", allowed)) from error
    if not isinstance(node, yaml.MappingNode):
        return held
    names = [str(key.value) for key, _ in node.value]
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if twice:
        raise ConfigError(Problem(str(path), f"has two jobs named {twice[0]!r}", "each name once"))
    return dict(zip(names, (_value(child) for _, child in node.value), strict=True))


def _value(node: yaml.Node) -> Any:
    """What a part of a YAML file holds."""
    return yaml.safe_load(yaml.serialize(node, Dumper=yaml.SafeDumper))
