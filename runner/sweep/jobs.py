"""The jobs of a sweep: what each overrides, its configuration, and what is wrong with that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from runner import anew, config
from runner.checks.origin import own_folders
from runner.checks.overrides import FAILURES, explain
from runner.errors import ConfigError
from runner.hydra_internals import apply, current_loader
from runner.sweep.attempts import Found
from runner.sweep.grid import Job, expand

if TYPE_CHECKING:
    from runner.data import Sources


@dataclass
class Jobs:
    """Every job of a sweep, and what they share."""

    jobs: list[Job]
    compose: Callable[[Job, int], DictConfig]
    """The configuration of one, which has a number; raises a `ConfigError`."""
    configs: dict[int, DictConfig] = field(default_factory=dict)
    """Of each by its number, with Hydra's part."""
    sources: Sources = field(default_factory=dict)
    """The data sets that they share."""


def compose_all(cfg: DictConfig, check: Callable[[DictConfig], None]) -> Jobs:
    """Compose and check every job from its configuration alone.

    Args:
        cfg: of the sweep.
        check: raises a `ConfigError` if it finds something.

    Raises:
        ConfigError: with everything that was found, and in which jobs.
    """
    composer = _Composer(cfg)

    def made(job: Job, number: int) -> DictConfig:
        overrides = list(job.overrides)
        try:
            of_job = composer(overrides)
        except FAILURES as error:
            load, own, name = (
                partial(current_loader().load_sweep_config, cfg),
                own_folders(cfg),
                cfg.hydra.job.config_name,
            )
            raise ConfigError(*explain(load, overrides, own, name)) from error
        with read_write(of_job), open_dict(of_job):
            of_job.hydra.job.num, of_job.hydra.job.id = number, str(number)
        if not config.is_exact(cfg):
            config.go_on_as_earlier(of_job)
        check(config.install(of_job))
        return of_job

    jobs = Jobs(expand(cfg, typed_of(cfg), parser()), made)
    found = Found([f"job {number}" for number in range(1, len(jobs.jobs) + 1)], len(jobs.jobs))
    for number, job in enumerate(jobs.jobs):
        try:
            jobs.configs[number] = made(job, number)
        except ConfigError as error:
            found.add([number], error.problems)
    found.raise_if_any()
    return jobs


def typed_of(cfg: DictConfig) -> list[str]:
    """The overrides of a sweep."""
    # Not resolved: a reference in an override is the job's, and not the sweep's.
    typed = cast("list[str]", OmegaConf.to_container(cfg.hydra.overrides.task, resolve=False))
    return [*(f"{key}={value}" for key, value in (cfg.hydra.sweeper.params or {}).items()), *typed]


def parser() -> OverridesParser:
    """Reads overrides, ``model=glob(*)`` too."""
    return OverridesParser.create(current_loader())


def is_ours(cfg: DictConfig) -> bool:
    """Whether the jobs of a sweep are known before it starts, and no other sweeper makes them up as it goes."""
    return str(cfg.hydra.sweeper._target_).endswith(".BasicSweeper")


class _Composer:
    """Composes the configurations of jobs. What their groups make is composed once for each combination of options."""

    def __init__(self, cfg: DictConfig) -> None:
        self._cfg = cfg
        self._made: dict[tuple[str, ...], bytes] = {}  # to load a configuration takes a quarter of copying it

    def __call__(self, overrides: list[str]) -> DictConfig:
        job = anew.composed(self._load, overrides)
        with read_write(job), open_dict(job):
            job.hydra.overrides.task = overrides
        return job

    def _load(self, overrides: list[str]) -> DictConfig:
        parsed = OverridesParser.create().parse_overrides(overrides)
        values = [override for override in parsed if not self._of_group(override)]
        chosen = tuple(str(override.input_line) for override in parsed if override not in values)
        if chosen not in self._made:
            self._made[chosen] = config.packed(current_loader().load_sweep_config(self._cfg, list(chosen)))
        job = config.unpacked(self._made[chosen])
        apply(job, values)
        return job

    def _of_group(self, override: Override) -> bool:
        """Whether Hydra takes an override for the choice of an option, and not for a value."""
        name = override.key_or_group
        known = name in self._cfg.hydra.runtime.choices or current_loader().repository.group_exists(name)
        return known and not isinstance(override.value(), dict)
