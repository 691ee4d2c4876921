"""Before a sweep or a cross-validation: everything is checked and tried, in processes that leave nothing behind."""

from __future__ import annotations

import importlib.util
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, read_write

from runner import compose, config, data, folder, project, train
from runner.checks import schema, targets
from runner.checks.before_data import check_declared, measured
from runner.checks.origin import near, own_folders
from runner.data import Sources
from runner.errors import ConfigError, Problem, RunFolderError, nearest
from runner.grammar import quote
from runner.pictures import plots
from runner.sweep import attempts, folds, jobs, launcher
from runner.sweep.record import Record
from runner.sweep.run import Sweep
from runner.train import Prepared
from runner.visible import log


def warm(cfg: DictConfig) -> None:
    """Do once what every run does, so that the processes that are forked from this one need not."""
    torch.set_num_threads(1)  # a process in which code has computed with more cannot be forked
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # imports the compiler, which takes seconds
    compose.default()  # is kept, and every run asks what differs from it
    if cfg.tensorboard.enabled and cfg.tensorboard.pictures:
        plots.to_image(plots.schedule({"": np.ones(2)}, 1))  # imports matplotlib, and has it find its fonts


def go_on_with_numbers(cfg: DictConfig, before: Path) -> None:
    """Have the jobs of a sweep read and scale numbers as those before them did."""
    config.fill(cfg, {"numbers": Record.read(before).numbers})


def check(cfg: DictConfig) -> list[Problem]:
    """What is wrong with how a sweep is to be done."""
    if cfg.sweep.get("method") == "optuna" and importlib.util.find_spec("optuna") is None:
        return [Problem("sweep", "needs optuna, which is not installed", remedy="uv pip install optuna")]
    if cfg.sweep.get("method") == "optuna" and launcher.wanted(cfg):
        chosen = cfg.hydra.runtime.choices.get("hydra/launcher")
        what = f"{chosen} cannot be combined with sweep=optuna, whose jobs run on this machine"
        return [Problem("hydra/launcher", what, "basic", "sweep=random, or hydra/launcher=basic")]
    several = {key: cfg.hydra.launcher.get(key) or 1 for key in ("nodes", "tasks_per_node")}
    if launcher.wanted(cfg) and max(several.values()) > 1:
        what = "each task would train the whole job"
        keys = {f"hydra.launcher.{key}": number for key, number in several.items() if number > 1}
        return [Problem(key, f"{number}: {what}", "1", f"{key}=1") for key, number in keys.items()]
    tree, _ = config.plain(cfg)
    found = schema.problems(tree["sweep"], schema.Sweep, "sweep.")
    return found or targets.check({"sweep": tree["sweep"], "allow_targets": tree.get("allow_targets")})


def prepare(cfg: DictConfig, found: jobs.Jobs, before: Path | None) -> tuple[Sweep, dict[str, Any]]:
    """Check and try every job of a sweep that is not completed; return the sweep, and what is for it as a whole.

    Args:
        found: the jobs, whose configurations are right.
        before: the folder of the sweep that is gone on with; None for a new one.

    Raises:
        ConfigError: with everything that was found, and in which jobs.
    """
    options = _alike(found)
    _check_rank_by(cfg, found)
    kind: type[Sweep] = Sweep
    if cfg.sweep.method == "optuna":
        from runner.sweep.study import Study as kind  # which imports optuna, that need not be installed
    sweep = kind(cfg, found, Record.new() if before is None else Record.read(before))
    sweep.plan()
    leaves = [(number, fold) for number in sweep.left() for fold in folds.each(found.configs[number])]
    if not launcher.wanted(cfg):  # else they may run elsewhere
        words = [f"job {number + 1}" for number, _ in leaves]
        _try(dict(enumerate(fold for _, fold in leaves)), words, len(found.jobs), found.sources)
    return sweep, options


def try_folds(cfg: DictConfig, sources: Sources) -> None:
    """Try every fold of a cross-validation.

    Raises:
        ConfigError: with everything that was found, and in which folds.
    """
    found = folds.each(cfg)
    _try(dict(enumerate(found)), [f"fold {number}" for number in range(len(found))], None, sources)


def _alike(found: jobs.Jobs) -> dict[str, Any]:
    """The values of keys that are for a sweep as a whole."""
    kinds = {key: {cfg[key] for cfg in found.configs.values()} for key in ("check", "debug", "resume")}
    for key, values in kinds.items():
        if len(values) > 1:
            words = ", ".join("null" if value is None else str(value) for value in sorted(values, key=str))
            raise ConfigError(Problem(key, f"differs between jobs ({words})", "one value for all jobs"))
    if alone := kinds["debug"] & {"overfit", "ide"}:
        raise ConfigError(Problem("debug", f"{alone.pop()} works on a single run", "dev_run, anomaly", "leave out -m"))
    return {key: next(iter(values)) for key, values in kinds.items()}


def _check_rank_by(cfg: DictConfig, found: jobs.Jobs) -> None:
    """That every job has the metric by which they are to be ranked."""
    wanted = cfg.sweep.rank_by
    for number, job in found.configs.items():
        there = [f"{part}/{name}" for part in ("val", "test") for name in measured(job)]
        if wanted is not None and wanted not in there:
            what, remedy = f"no evaluation writes {wanted!r}", nearest(wanted, there, "sweep.rank_by=")
            problem = Problem(f"sweep.rank_by (job {number + 1} of {len(found.jobs)})", what, ", ".join(there), remedy)
            raise ConfigError(problem)


def mention_unfinished(typed: list[str]) -> None:
    """Say so if the newest sweep is the same, and has something left to do."""
    newest = folder.newest_sweep()
    if newest is None:
        return
    with suppress(RunFolderError):
        record = Record.read(newest)
        if record.typed == typed and not record.is_complete:
            log.info("%s is the same sweep, unfinished; to resume it instead: resume=%s", newest, quote(str(newest)))


def flags(cfg: DictConfig) -> list[str]:
    """With which the same configuration would be found again."""
    name = str(cfg.hydra.job.config_name)
    named = [] if name == "config" else ["--config-name", name]
    given = {path.resolve() for path in project.current().config_dirs}
    typed = [path for path in own_folders(cfg) if path.resolve() not in given]
    return [*named, *(word for path in typed for word in ("--config-dir", str(near(path))))]


def _try(leaves: dict[int, DictConfig], words: list[str], total: int | None, sources: Sources) -> None:
    """Try every run that will be a process forked from this one."""
    last: Prepared | None = None
    last_key = ""

    def read(cfg: DictConfig) -> None:
        data.read(config.task(cfg), sources)

    def attempt(cfg: DictConfig, key: str) -> None:
        nonlocal last, last_key
        task = config.task(cfg)
        with read_write(task):
            task.trainer.threads = 1  # of the trial, in a child process; see `runner.sweep.attempts`
        if last is not None and key == last_key:
            config.fill(task, last.cfg.facts)
            train.plan(task, last.experiment)
        else:
            # The folder matters to a run that is resumed, and no job is.
            last, last_key = train.prepare(task, Path(), sources), key

    if leaves:
        attempts.try_all(leaves, words, total, check_declared, read, attempt)
