"""Before a run: check what was asked for, build and try it, and claim the folder. Nothing is made while anything is
wrong.

Hydra calls `Preflight` (see `conf/entry.yaml`) after it has composed the configuration and before it makes a folder.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from runner import config, debugger, files, folder, handover, own_code, project, signals
from runner.checks import schema
from runner.checks.before_data import check, check_values, refuse
from runner.errors import ConfigError, Problem, RunnerError, counted, reason_of, shown
from runner.grammar import quote
from runner.keys import differing, is_below
from runner.references import is_to_be_typed, must_be_typed
from runner.sweep import jobs
from runner.terminal import Status
from runner.visible import log, say, say_traceback, show

if TYPE_CHECKING:
    from runner.train import Prepared


class Preflight(Callback):
    """Checks a run, or every job of a sweep, first by its configuration and then on its data, and claims the folder.

    Hydra turns an exception of a callback into a warning and goes on; only `SystemExit` stops it.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _stopping(config, " before training began; nothing was written"):
            ours = check(config)
            resumed = check_resume(config) if config.resume is not None else None
            if resumed is None:
                _check_place(config, "run")
            else:
                folder.lock(resumed, "resume")
            run_dir = resumed or Path(str(config.hydra.run.dir))
            with Status() as status:
                status.say("reading the data, building, trying one batch …")
                prepared = _prepare(config, ours, run_dir)
            if config.check == "only":
                _end_check(prepared, "" if prepared is not None else counted(config.split.n_splits, "fold"))
            if resumed is None:
                run_dir = _scratch() if config.debug in LEAVING_NOTHING else _claim(config, "run")
                folder.lock(run_dir, "hydra.run.dir")
            with read_write(config.hydra), open_dict(config.hydra):
                config.hydra.run.dir = str(run_dir)
            handover.current().prepared = prepared

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _stopping(config):
            if jobs.is_ours(config):
                raise signals.Exit(_sweep(config))
            _check_place(config, "sweep")
            if config.check == "only":
                _end_check(None)
            _put_in(config, _claim(config, "sweep"))


def _sweep(cfg: DictConfig) -> int:
    """Check a sweep, claim its folder, do it, and return the exit status."""
    from runner.sweep import start

    config.grant(cfg)
    start.warm(cfg)
    refuse(cfg, start.check(cfg))
    wanted = Path(str(cfg.hydra.sweep.dir))
    before = wanted if _is_named(cfg, "sweep") and folder.is_sweep(wanted) else None
    if before is not None:
        start.go_on_with_numbers(cfg, before)
    found = jobs.compose_all(cfg, check_values)
    _check_place(cfg, "sweep")
    sweep, options = start.prepare(cfg, found, before)
    if options["check"] == "only":
        _end_check(None, counted(len(sweep.jobs.jobs), "job"))
    typed = jobs.typed_of(cfg)
    if before is None:
        start.mention_unfinished(typed)
    sweep.record.folder = _scratch() if options["debug"] in LEAVING_NOTHING else _claim(cfg, "sweep")
    _put_in(cfg, sweep.record.folder)
    folder.lock(sweep.record.folder, "hydra.sweep.dir")
    handover.current().begin_log(sweep.record.folder / "sweep.log")
    return sweep.run(typed, start.flags(cfg))


def _put_in(cfg: DictConfig, sweep_dir: Path) -> None:
    """Have the jobs of a sweep in a folder, also those that others compose."""
    with read_write(cfg.hydra), open_dict(cfg.hydra):  # which Hydra 1.4 makes read-only on its own
        cfg.hydra.sweep.dir = str(sweep_dir)
        # Each is composed anew from the overrides, and would get the folder of the default again.
        cfg.hydra.overrides.hydra.append("hydra.sweep.dir=" + quote(str(sweep_dir)))


LEAVING_NOTHING = ("dev_run", "overfit")
"""Values of ``debug`` for which the folder of the run is a temporary one."""


def _scratch() -> Path:
    """A folder that is removed when the process ends."""
    made = Path(tempfile.mkdtemp(prefix="runner-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@contextmanager
def _stopping(cfg: DictConfig, where: str = "") -> Iterator[None]:
    """End the process with a message, and the exit status that goes with it, if anything is raised inside.

    Args:
        where: what is said behind the name of a signal, if one stops it.
    """
    handover.begin()
    config.install(cfg)
    if cfg.debug == "ide":
        signals.stay_alone()
    try:
        with signals.staying():
            project.announce()
            yield
    except signals.Exit as stop:
        stop.where = where
        raise
    except RunnerError as error:
        say(f"error: {error}")
        raise SystemExit(error.exit_status) from error
    except Exception as error:
        if not debugger.on:
            say_traceback()
        raise SystemExit(1) from error


def check_resume(cfg: DictConfig) -> Path:
    """Check that what is resumed is the same experiment, and has something left to do.

    Raises:
        ConfigError: an override would make it another experiment, or a trial.
        SystemExit: with status 0, when the run is complete; nothing is changed.
    """
    if cfg.debug in LEAVING_NOTHING:
        what = f"{cfg.debug} cannot be combined with resume=, because it keeps nothing"
        raise ConfigError(Problem("debug", what, "null, anomaly", "leave out resume="))
    run_dir = folder.find(cfg.resume, "resume")
    if cfg.debug == "ide" and config.has_folds(cfg):
        what = f"{run_dir} is a cross-validation, and debug=ide is for one run"
        raise ConfigError(Problem("resume", what, "the folder of a fold", f"resume={folder.fold(run_dir, 0)}"))
    new = OmegaConf.to_container(config.job(cfg), resolve=False)
    own_code.say_changes([run_dir])
    held = config.load(run_dir / "config.yaml")
    rows = [row for row in differing(held, new) if not is_to_be_typed(row[1])]
    # A value may come from the environment now that was typed before, if it is the same.
    again = [key for key, _, after in rows if isinstance(after, str) and must_be_typed(after)]
    rows = [row for row in rows if row[0] not in again or OmegaConf.select(cfg, row[0]) != row[1]]
    may_differ = list(schema.resumable())
    refused = [row for row in rows if not is_below(row[0], *may_differ)]
    if refused:
        remedy = f"leave out resume= to start a new run; model.weights={run_dir} starts it from these weights"
        raise ConfigError(
            *(Problem(key, f"is {shown(before)} in {run_dir} and cannot be changed to {shown(after)}", remedy=remedy)
              for key, before, after in refused)
        )  # fmt: skip
    if _is_complete(cfg, run_dir, [key for key, _, _ in rows]):
        result = folder.result(run_dir)
        more = folder.longer(OmegaConf.create(held), result.get("ended_by"))
        lengths = [(key, after) for key, _, after in rows if is_below(key, *schema.LENGTH)]
        if lengths:
            what = f"{run_dir} is complete with {result.get('epochs')} epochs, {result.get('steps')} steps"
            what += ", and would not be longer"
            what += f" (ended by {ended})" if (ended := result.get("ended_by")) else ""
            raise ConfigError(*(Problem(key, f"{shown(after)}: {what}", remedy=more) for key, after in lengths))
        say(f"{run_dir} is complete; to train longer: {folder.resume_command(cfg, run_dir, more)}", sys.stdout)
        raise signals.Exit(0)
    for key, before, after in rows:
        if key not in ("resume", "allow_targets"):
            say(f"{key}: {shown(before)} → {shown(after)} from here on", sys.stdout)
    return run_dir


def _is_complete(cfg: DictConfig, run_dir: Path, changed: Sequence[str]) -> bool:
    """Whether nothing is left to do, also for a run that stopped early."""
    if config.has_folds(cfg):
        from runner.sweep import folds

        return not folds.works("", cfg, run_dir, {}) and folds.is_whole(cfg, run_dir)
    is_longer = any(is_below(key, *schema.LENGTH) for key in changed) and folder.has_more_to_do(cfg, run_dir)
    return folder.state(run_dir) == "completed" and not is_longer


def _prepare(cfg: DictConfig, ours: DictConfig, run_dir: Path) -> Prepared | None:
    """Build and try a run; of a cross-validation every fold, of which nothing is kept."""
    from runner import train

    if config.has_folds(cfg) and cfg.debug in ("overfit", "ide"):
        log.info("debug=%s: fold 0 alone", cfg.debug)
        config.take_fold(cfg)
        config.take_fold(ours)
    if not config.has_folds(cfg):
        return train.prepare(config.task(cfg, ours), run_dir)
    from runner.sweep import folds, start

    if folds.works("", cfg, run_dir, {}):  # else only what they come to together is missing
        start.warm(cfg)
        start.try_folds(cfg, handover.current().sources)
    return None


def _end_check(prepared: Prepared | None, what: str = "") -> None:
    """Say what was checked, and end."""
    from runner import report

    if prepared is not None:
        done = prepared.trainer
        report.announce(prepared.cfg, prepared.experiment, done.optimizer, None, done.progress)
    elif what:
        log.info("%s", what)
    log.info("check passed; nothing was written")
    raise signals.Exit(0)


def _claim(cfg: DictConfig, kind: str) -> Path:
    """Claim the folder of a run or a sweep. A folder that was named on the command line is taken literally."""
    wanted = Path(str(cfg.hydra[kind].dir))
    _check_place(cfg, kind)  # again, for somebody may have been quicker
    try:
        if not _is_named(cfg, kind):
            return folder.claim(wanted)
        folder.make(wanted)
        return wanted
    except OSError as error:
        files.refuse(error, f"hydra.{kind}.dir", f"'{wanted}' cannot be created", "a writable folder")


def _is_named(cfg: DictConfig, kind: str) -> bool:
    typed = OmegaConf.to_container(cfg.hydra.overrides.hydra, resolve=False)
    return any(str(override).lstrip("+").startswith(f"hydra.{kind}.dir=") for override in cast("list[str]", typed))


def _check_place(cfg: DictConfig, kind: str) -> None:
    """That the folder of a run or a sweep can be made, and would overwrite nothing."""
    key = f"hydra.{kind}.dir"
    try:
        wanted = Path(str(cfg.hydra[kind].dir))
        there = next(path for path in (wanted.absolute(), *wanted.absolute().parents) if path.exists())
    except (OSError, ValueError, OmegaConfBaseException) as error:
        raise ConfigError(Problem(key, f"is not a path: {reason_of(error)}", "the path of a folder")) from error
    show(str(wanted))  # whatever its name was made of, one has to know where a run is
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = f"'{wanted}' cannot be created: '{there}' is not a writable folder"
        raise ConfigError(Problem(key, what, "a writable folder"))
    if _is_named(cfg, kind) and wanted.is_dir():
        # In any other folder of the user's a run will write what is its own, and has nothing to do with the rest.
        folder.refuse_links(wanted, key, None if folder.is_sweep(wanted) else folder.FILES)
    runs = [wanted, *(path for _, path in folder.folds(wanted))]
    if _is_named(cfg, kind) and any(map(folder.has_checkpoint, runs)):
        what = f"'{wanted}' already has the checkpoints of an earlier run"
        raise ConfigError(Problem(key, what, "a new folder", f"resume={wanted}, to resume that run"))
    if kind == "run" and _is_of_others(wanted / "config.yaml"):
        what = f"'{wanted}' has a config.yaml that was not written by a run and would be overwritten"
        raise ConfigError(Problem(key, what, "a new folder"))
    if kind == "sweep" and _is_named(cfg, kind) and wanted.is_dir() and any(wanted.iterdir()):
        if folder.is_sweep(wanted) and jobs.is_ours(cfg):
            return  # and is gone on with
        raise ConfigError(Problem("hydra.sweep.dir", f"'{wanted}' is not empty", "a new folder"))


def _is_of_others(path: Path) -> bool:
    try:
        return "\ninterpolations:" not in files.read(path)
    except UnicodeDecodeError:
        return True
    except OSError:
        return False
