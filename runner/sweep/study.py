"""A search that Optuna leads: what was reached so far decides what is tried next, and what does not look good is
pruned. It is kept in the folder of the sweep, and goes on from there."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig, read_write
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.trial import TrialState

from runner import config
from runner.checks.before_data import measured
from runner.direction import direction, mode_of
from runner.draws import seed_of
from runner.errors import ConfigError, Problem, Pruned
from runner.ranking import comparable
from runner.sweep import folds, journal
from runner.sweep.grid import expand, looked_for
from runner.sweep.jobs import Jobs, parser, typed_of
from runner.sweep.journal import NAME, storage
from runner.sweep.processes import Work
from runner.sweep.record import Entry, Record, digest
from runner.sweep.run import Sweep
from runner.train import Watch
from runner.visible import log


class Study(Sweep):
    """A sweep whose jobs are made up as it goes. Arguments: see `Sweep`; `jobs` are those that were tried before."""

    def __init__(self, cfg: DictConfig, jobs: Jobs, record: Record) -> None:
        super().__init__(cfg, jobs, record)
        self._space = {key: distribution(o) for key, o in looked_for(typed_of(cfg), parser()).items()}
        if cfg.sweep.rank_by is None:  # the table at the end is by the same metric
            there = [f"val/{name}" for name in measured(cfg)]
            with read_write(cfg):
                cfg.sweep.rank_by = comparable(str(cfg.checkpoint.monitor), self._space, there)
        self.tag = str(cfg.sweep.rank_by)
        self._trials: dict[int, list[str]] = {}
        """The jobs of each trial that is not over, by its number."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)

    def plan(self) -> None:
        """Write nothing yet, and check that a search that goes on looks where it did."""
        if self.record.typed or self.record.entries:  # else it has no folder yet
            before = self._before()
            if before is not None:
                check_space(self._space, before)

    def _before(self) -> optuna.Study | None:
        """Return what is in the folder of the sweep, once it is known that it can be gone on with."""
        found = journal.read(self.record.folder)
        if found is not None:
            journal.check_sampler(self.cfg.sweep.sampler, found)
        return found

    def left(self) -> list[int]:
        return list(self.jobs.configs)

    def begin(self) -> None:
        options = self.cfg.sweep
        self._before()
        journal.mend(self.record.folder)
        self.study = self._opened()
        self._take_up()
        done = self._count(TrialState.COMPLETE, TrialState.PRUNED)
        self._points: int = options.points - done
        log.info("%s\n%d points to try%s", self.record.folder, options.points, f", {done} of them done" if done else "")

    def works(self) -> Iterator[Work]:
        for _ in range(self._points):
            trial = self.study.ask(self._space)
            try:
                yield from self._works_of_trial(trial)
            except ConfigError as error:
                log.warning("point %d cannot be tried: %s", trial.number, error)
                self.study.tell(trial, state=TrialState.FAIL)

    def settled(self, entry: Entry) -> None:
        for number in [number for number, names in self._trials.items() if entry.name in names]:
            self._tell(number)

    def _tell(self, number: int) -> None:
        """Tell Optuna what a trial reached, if it is over."""
        mine = self._trials[number]
        rows = [row for row in self.record.rows() if row.job in mine]
        wanted = sum(len(folds.each(self.configs[name])) for name in mine)
        states = {row.state for row in rows}
        if "interrupted" in states or len(rows) < wanted:
            return  # it is not over
        del self._trials[number]
        if states == {"pruned"}:
            self.study.tell(number, state=TrialState.PRUNED)
        elif states == {"completed"}:
            self.study.tell(number, statistics.fmean(row.figure(self.tag) for row in rows))  # of NaN it makes a failure
        else:
            self.study.tell(number, state=TrialState.FAIL)

    def _works_of_trial(self, trial: optuna.Trial) -> Iterator[Work]:
        """The runs of a point: one, or one for each seed, named job and fold."""
        drawn = {key: trial.params[key] for key in self._space}
        point = {key: f"{value:.6g}" if isinstance(value, float) else str(value) for key, value in drawn.items()}
        jobs = expand(self.cfg, typed_of(self.cfg), parser(), [point])
        made = [self.jobs.compose(job, trial.number) for job in jobs]
        hashes = [digest(config.install(cfg)) for cfg in made]
        entries = self.record.add(list(zip(jobs, hashes, strict=True)))
        self.record.write()
        out = {name for names in self._trials.values() for name in names}
        self._trials[trial.number] = [entry.name for entry in entries]
        found: list[Work] = []
        for entry in [entry for entry in entries if entry.name not in out]:  # one that is running tells both trials
            cfg = self.configs[entry.name] = made[hashes.index(entry.hash)]
            watch = self._watch(trial.number) if len(entries) == 1 and self.cfg.sweep.pruner is not None else None
            works = folds.works(entry.name, cfg, self.record.folder / entry.name, self.jobs.sources, watch)
            self.open(entry, works)
            found += works
        if not found:  # it is being tried, or has been before
            self._points -= 1
            self._tell(trial.number)
        yield from found

    def _watch(self, number: int) -> Callable[[], Watch]:
        place, options, tag = self.record.folder, self.cfg.sweep, self.tag
        return lambda: watcher(place, number, tag, options.pruner, self.cfg.trainer.max_epochs)

    def _total(self) -> int:
        return max(self._points, super()._total())

    def _opened(self) -> optuna.Study:
        """The study in the folder of the sweep."""
        mode = mode_of(self.tag, self.cfg.checkpoint.monitor, self.cfg.checkpoint.mode)
        return optuna.create_study(
            storage=storage(self.record.folder), study_name=NAME, load_if_exists=True,
            direction="minimize" if direction(self.tag, mode) == "min" else "maximize",
            sampler=self._sampler(), pruner=pruner(self.cfg.sweep.pruner),
        )  # fmt: skip

    def _sampler(self) -> optuna.samplers.BaseSampler:
        node = self.cfg.sweep.sampler
        # Another seed for each start, or a search that goes on would begin with the points that it began with before.
        seed = seed_of(self.cfg.sweep.seed, "sampler", len(self.record.entries)) % 2**32
        given = {"seed": seed} if "seed" in node else {}
        made: optuna.samplers.BaseSampler = config.factory(node, ("seed",))(**given)
        return made

    def _count(self, *states: TrialState) -> int:
        return len(self.study.get_trials(deepcopy=False, states=states))

    def _take_up(self) -> None:
        """Have what was running when the search was stopped, and what failed, tried again."""
        trials = self.study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state == TrialState.RUNNING:
                self.study.tell(trial.number, state=TrialState.FAIL)
        over = [trial.params for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        again = [t.params for t in trials if t.state in (TrialState.RUNNING, TrialState.FAIL) and t.params]
        for number, params in enumerate(again):
            if params not in over and params not in again[:number]:
                self.study.enqueue_trial(params)


def check_space(space: Mapping[str, BaseDistribution], study: optuna.Study) -> None:
    """That a search looks for the same kinds of values as before; the ends of a range may be others.

    Raises:
        ConfigError: with every key whose values Optuna could not compare with those that it knows.
    """
    found = {}
    for trial in study.get_trials(deepcopy=False):
        for key in trial.distributions.keys() & space.keys():
            before = trial.distributions[key]
            try:
                check_distribution_compatibility(before, space[key])
            except ValueError:
                what = f"{spelt(space[key])} is not compatible with the values that this search started with"
                found[key] = Problem(key, what, spelt(before), "leave out resume=, for a new search")
    if found:
        raise ConfigError(*found.values())


def pruner(node: DictConfig | None) -> optuna.pruners.BasePruner:
    made: optuna.pruners.BasePruner = optuna.pruners.NopPruner() if node is None else config.build(node)
    return made


def watcher(place: Path, number: int, tag: str, node: DictConfig, last: int | None) -> Watch:
    """Tells the study of a trial's evaluations, from the process in which it runs, and prunes it if that is wise.

    It reads the journal anew: of two processes that share what was read before a fork, each would take what the other
    writes for its own.
    """
    study = optuna.load_study(storage=storage(place), study_name=NAME, pruner=pruner(node))
    trial = optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)

    seen: set[int] = set()

    def watch(record: Mapping[str, Any]) -> None:
        # Once an epoch: of points with other sizes of batches the steps could not be compared.
        if math.isfinite(record.get(tag, math.nan)) and record["epoch"] not in seen:
            seen.add(record["epoch"])
            trial.report(record[tag], record["epoch"])
            if record["epoch"] != last and trial.should_prune():  # after the last one nothing is saved by it
                raise Pruned(f"pruned after epoch {record['epoch']}, with {tag} {record[tag]:.4f}")

    return watch


def distribution(override: Override) -> BaseDistribution:
    """What Optuna draws from."""
    swept = override.value()
    if not isinstance(swept, IntervalSweep):
        return CategoricalDistribution(list(dict.fromkeys(override.sweep_string_iterator())))
    start: Any = swept.start
    end: Any = swept.end
    log_scale = "log" in swept.tags
    if isinstance(start, int) and isinstance(end, int):
        return IntDistribution(start, end, log=log_scale)
    return FloatDistribution(start, end, log=log_scale)


def spelt(space: BaseDistribution) -> str:
    """What `distribution` was made of, as it is typed."""
    if isinstance(space, CategoricalDistribution):
        return ",".join(map(str, space.choices))
    assert isinstance(space, (FloatDistribution, IntDistribution))
    text = f"interval({space.low:g},{space.high:g})"
    text = f"int({text})" if isinstance(space, IntDistribution) else text
    return f"tag(log,{text})" if space.log else text
