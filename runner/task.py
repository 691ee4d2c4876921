"""One run, or one cross-validation, in a folder that is there: what Hydra calls, and what a process of a sweep does."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from runner import config, folder, signals
from runner.errors import InputError, Interrupted, RunFolderError, RunnerError
from runner.result import Result
from runner.terminal import log_to

if TYPE_CHECKING:
    from runner.data import Sources
    from runner.train import Prepared, Watch

log = logging.getLogger("runner")

PATIENCE = 40.0
"""Seconds to wait for a folder that another process has: it may be about to end, after a sweep that was killed."""


def guarded(task: Callable[[], object]) -> int:
    """The exit status of one run. What goes wrong in it is said and logged here, and ends no other run of a sweep."""
    try:
        task()
    except Interrupted as error:
        raise SystemExit(error.exit_status) from error
    except RunnerError as error:
        log.error("error: %s", error)
        return error.exit_status
    except Exception:
        log.exception("error:")
        return 1
    return 0


def main(cfg: DictConfig) -> None:
    """What Hydra calls with the configuration of a run."""
    from runner import overfit, preflight, train
    from runner.sweep import folds

    run_dir = place()
    preflight.begin_log()
    if config.has_folds(cfg):
        folds.main(with_hydra(cfg), preflight.state().sources, run_dir)
        return
    prepared = preflight.state().take() or _prepare(cfg, run_dir)
    if cfg.debug == "overfit":
        overfit.main(prepared.cfg, prepared.experiment)
    else:
        train.main(prepared, run_dir)


def _prepare(cfg: DictConfig, run_dir: Path) -> Prepared:
    """Check and prepare a job of another sweeper, or of who gets here by a way without `runner.preflight`.

    Raises:
        InputError: something is wrong with it. Its folder, if it was made for it, is removed again.
    """
    from runner import train
    from runner.checks import before_data

    try:
        before_data.check(cfg)
        with signals.staying():
            return train.prepare(config.task(cfg), run_dir)
    except InputError:
        folder.disclaim(run_dir)
        raise
    except Exception as error:
        Result(run_dir).update(state="failed", error=_said(error))
        raise


def place() -> Path:
    """The folder that Hydra has made for the task that it has called."""
    from hydra.core.hydra_config import HydraConfig

    return Path(os.path.relpath(HydraConfig.get().runtime.output_dir))


def in_process(cfg: DictConfig, run_dir: Path, sources: Sources, watch: Watch | None = None) -> int:
    """Do a run in a process that is there for it alone, and return the exit status.

    Args:
        cfg: with Hydra's part.
        run_dir: of the run; the log is there.
        sources: data sets that were read already.
        watch: see `runner.train.main`.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):  # nothing goes to the terminal of the sweep
        root.removeHandler(handler)
    log_to(run_dir / "runner.log")
    config.enter(cfg)
    os.environ.update({str(name): str(value) for name, value in cfg.hydra.job.env_set.items()})
    return guarded(lambda: _train(cfg, run_dir, sources, watch))


def launched(cfg: DictConfig) -> int:
    """Do a run that a launcher of Hydra's has started somewhere, and return the exit status."""
    from runner.sweep import folds

    whole, run_dir = with_hydra(cfg), place()
    if config.has_folds(whole):
        return guarded(lambda: folds.main(whole, {}, run_dir))
    return guarded(lambda: _train(whole, run_dir, {}, None))


def with_hydra(cfg: DictConfig) -> DictConfig:
    """The configuration that Hydra hands to a task, with Hydra's own part again."""
    from hydra.core.hydra_config import HydraConfig

    made = cfg.copy()
    with read_write(made), open_dict(made):
        made.hydra = HydraConfig.get()
    return made


def _train(cfg: DictConfig, run_dir: Path, sources: Sources, watch: Watch | None) -> None:
    from runner import train

    _lock(run_dir)
    (run_dir / ".hydra").mkdir(exist_ok=True)
    OmegaConf.save(cfg.hydra.overrides.task, run_dir / ".hydra" / "overrides.yaml")
    try:
        with signals.staying():
            prepared = train.prepare(config.task(cfg), run_dir, sources)
    except Exception as error:
        # `train.main` writes how a run ended, and it has not begun.
        Result(run_dir, folder.read_result(run_dir)).update(state="failed", error=_said(error))
        raise
    train.main(prepared, run_dir, watch)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, RunnerError) else f"{type(error).__name__}: {error}"


def _lock(run_dir: Path) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return folder.lock(run_dir, "hydra.sweep.dir")
        except RunFolderError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
