"""The jobs of a sweep: what each overrides, its configuration, and what is wrong with it.

All are checked before the first one starts. What costs is done once for all jobs that have it in common: composing
groups, reading a data set, building a model.
"""

from __future__ import annotations

import copy
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from runner import compose, config
from runner.checks.origin import own_folders
from runner.errors import ConfigError, Problem, RunnerError, reason_of
from runner.signals import staying
from runner.sweep.grid import Job, expand

if TYPE_CHECKING:
    from runner.data import Sources

MODELS = {"dataset", "transform", "model"}
"""Keys that say what goes into a model, and which."""

TRAINED_WITH = {"seed", "optimizer", "scheduler", "tensorboard"}
"""Keys in which jobs may differ that are the same experiment up to how it is trained."""


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
        except compose.FAILURES as error:
            load, own, name = partial(_loader().load_sweep_config, cfg), own_folders(cfg), cfg.hydra.job.config_name
            raise ConfigError(*compose.explain(load, overrides, own, name)) from error
        with read_write(of_job), open_dict(of_job):
            of_job.hydra.job.num = of_job.hydra.job.id = number
        check(config.enter(of_job))
        return of_job

    jobs = Jobs(expand(cfg, typed_of(cfg), parser()), made)
    found = _Found([f"job {number}" for number in range(1, len(jobs.jobs) + 1)], len(jobs.jobs))
    for number, job in enumerate(jobs.jobs):
        try:
            jobs.configs[number] = made(job, number)
        except ConfigError as error:
            found.add([number], error.problems)
    found.tell()
    return jobs


def typed_of(cfg: DictConfig) -> list[str]:
    """The overrides of a sweep."""
    # Not resolved: a reference in an override is the job's, and not the sweep's.
    typed = cast("list[str]", OmegaConf.to_container(cfg.hydra.overrides.task, resolve=False))
    return [*(f"{key}={value}" for key, value in (cfg.hydra.sweeper.params or {}).items()), *typed]


def parser() -> OverridesParser:
    """Reads overrides, ``model=glob(*)`` too."""
    return OverridesParser.create(_loader())


def is_ours(cfg: DictConfig) -> bool:
    """Whether the jobs of a sweep are known before it starts, and no other sweeper makes them up as it goes."""
    return str(cfg.hydra.sweeper._target_).endswith(".BasicSweeper")


def try_all(
    configs: Mapping[int, DictConfig],
    words: Sequence[str],
    total: int | None,
    declared: Callable[[DictConfig], object],
    read: Callable[[DictConfig], object],
    attempt: Callable[[DictConfig, str], object],
) -> None:
    """Try every run, in a child process, which a crash or what they leave behind ends with.

    Args:
        configs: with Hydra's part.
        words: what each is called in a message, ``job 3``.
        total: how many jobs there are, those that are not tried among them; None for folds.
        declared: tries the model of a job without data.
        read: reads the data set of a job, in this process, from which the jobs are going to have it.
        attempt: builds a job and tries it. It also gets a text that is the same for jobs that are the same experiment,
            trained in other ways; they come one after the other.

    Raises:
        ConfigError: with everything that was found, and in which jobs.
    """
    found = _Found(words, total)

    def entered(number: int) -> DictConfig:
        return config.enter(configs[number])

    trees = {number: config.plain(config.job(cfg))[0] for number, cfg in configs.items()}
    for numbers, problems in _in_child("model", _alike(trees, MODELS), lambda n: declared(entered(n))):
        found.add(numbers, problems)
    found.tell()
    keys = {key for tree in trees.values() for key in tree}
    once = _alike(trees, keys - {"seed"})
    for numbers in once:
        try:
            read(entered(numbers[0]))
        except RunnerError as error:
            found.add(numbers, _problems(error))
    experiments = {numbers[0]: _text(trees[numbers[0]], keys - TRAINED_WITH) for numbers in once}
    left = [numbers for numbers in once if not found.has(numbers[0])]
    left.sort(key=lambda numbers: (experiments[numbers[0]], numbers))
    for numbers, problems in _in_child("configuration", left, lambda n: attempt(entered(n), experiments[n])):
        found.add(numbers, problems)
    found.tell()


def _alike(trees: Mapping[int, dict[str, Any]], names: Collection[str]) -> list[list[int]]:
    """Jobs that have these keys in common, together."""
    found: dict[str, list[int]] = {}
    for number, tree in trees.items():
        found.setdefault(_text(tree, names), []).append(number)
    return list(found.values())


def _text(tree: dict[str, Any], names: Collection[str]) -> str:
    return repr({name: tree[name] for name in tree if name in names})


def _in_child(
    key: str, groups: Sequence[list[int]], attempt: Callable[[int], object]
) -> Iterator[tuple[list[int], Sequence[Problem]]]:
    """What is wrong with each of `groups`, found in a process of its own; another one goes on where one dies.

    Args:
        key: what is tried.
    """
    rest = list(groups)
    context = multiprocessing.get_context("fork")
    while rest:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_attempt_each, args=(key, rest, attempt, theirs))
        child.start()
        theirs.close()
        try:
            while rest:
                problems = ours.recv()
                yield rest.pop(0), problems
        except EOFError:
            child.join()
            status = child.exitcode or 0
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            yield rest.pop(0), [Problem(key, f"the process that tried it died ({how})")]
        finally:
            child.kill()
            child.join()
            ours.close()


def _attempt_each(key: str, groups: Iterable[list[int]], attempt: Callable[[int], object], pipe: Connection) -> None:
    import torch

    torch.set_num_threads(1)  # with more it hangs, if the parent has ever computed with more
    logging.disable()  # each says it again when it is run
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    here, environment = os.getcwd(), dict(os.environ)
    for numbers in groups:
        problems: Sequence[Problem] = ()
        os.chdir(here)  # what code of the user's does to one must not make a difference to the next
        os.environ.clear()
        os.environ.update(environment)
        try:
            with staying():
                attempt(numbers[0])
        except RunnerError as error:
            problems = _problems(error)
        except KeyboardInterrupt:  # which the parent has, too
            return
        except Exception as error:  # whatever code of the user's may raise
            problems = [Problem(key, f"cannot be built: {type(error).__name__}: {reason_of(error)}")]
        pipe.send(problems)


def _problems(error: RunnerError) -> Sequence[Problem]:
    return getattr(error, "problems", None) or [Problem("configuration", str(error))]


class _Found:
    """What is wrong, and with which jobs."""

    def __init__(self, words: Sequence[str], total: int | None) -> None:
        self._jobs: dict[Problem, list[int]] = {}
        self._words, self._of = words, "" if total is None else f" of {total}"

    def add(self, jobs: Iterable[int], problems: Iterable[Problem]) -> None:
        for problem in problems:
            self._jobs.setdefault(problem, []).extend(jobs)

    def has(self, job: int) -> bool:
        return any(job in jobs for jobs in self._jobs.values())

    def tell(self) -> None:
        if self._jobs:
            raise ConfigError(*(replace(p, key=f"{p.key} ({self._said(jobs)})") for p, jobs in self._jobs.items()))

    def _said(self, jobs: Iterable[int]) -> str:
        """``jobs 5 and 6 of 8``; folds count from 0, as their folders do, and by their numbers alone."""
        kind = self._words[0].partition(" ")[0]
        numbers = list(dict.fromkeys(self._words[job].partition(" ")[2] for job in sorted(set(jobs))))
        if len(numbers) == 1:
            return f"{kind} {numbers[0]}{self._of}"
        shown = f"{', '.join(numbers[:5])}, …" if len(numbers) > 5 else f"{', '.join(numbers[:-1])} and {numbers[-1]}"
        return f"{kind}s {shown}{self._of}"


class _Composer:
    """Composes the configurations of jobs. What their groups make is composed once for each combination of options."""

    def __init__(self, cfg: DictConfig) -> None:
        self._cfg = cfg
        self._made: dict[tuple[str, ...], DictConfig] = {}

    def __call__(self, overrides: list[str]) -> DictConfig:
        parsed = OverridesParser.create().parse_overrides(overrides)
        values = [override for override in parsed if not self._of_group(override)]
        chosen = tuple(str(override.input_line) for override in parsed if override not in values)
        if chosen not in self._made:
            self._made[chosen] = _loader().load_sweep_config(self._cfg, list(chosen))
        job = copy.deepcopy(self._made[chosen])
        ConfigLoaderImpl._apply_overrides_to_config(values, job)
        with read_write(job), open_dict(job):
            job.hydra.overrides.task = overrides
        return job

    def _of_group(self, override: Override) -> bool:
        """Whether Hydra takes an override for the choice of an option, and not for a value."""
        name = override.key_or_group
        known = name in self._cfg.hydra.runtime.choices or _loader().repository.group_exists(name)
        return known and not isinstance(override.value(), dict)


def _loader() -> ConfigLoaderImpl:
    loader = GlobalHydra.instance().config_loader()
    assert isinstance(loader, ConfigLoaderImpl)
    return loader
