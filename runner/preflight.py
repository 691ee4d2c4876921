"""Before a run: check what was asked for, and claim the folder. Nothing is made while anything is wrong.

Hydra calls `Preflight` (see `conf/entry.yaml`) after it has composed the configuration and before it makes a folder.
"""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from runner import compose, config, folder, schema
from runner.errors import ConfigError, InputError, Problem, nearest, shown
from runner.origin import marked
from runner.overrides import quote
from runner.targets import locate


class Preflight(Callback):
    """Checks the configuration of a run, or of every job of a sweep, and claims the folder.

    Hydra turns an exception of a callback into a warning and goes on; only `SystemExit` stops it.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _stopping():
            check(config)
            resumed = check_resume(config) if config.resume is not None else None
            nothing = config.debug in LEAVING_NOTHING or config.check == "only"
            run_dir = resumed or (_scratch() if nothing else _claim(config, "run"))
            folder.lock(run_dir, "hydra.run.dir" if resumed is None else "resume")
            with read_write(config), open_dict(config):
                config.hydra.run.dir = str(run_dir)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _stopping():
            _check_jobs(config)
            only = "check=only" in map(str, config.hydra.overrides.task)
            sweep_dir = _scratch() if only else _claim(config, "sweep")
            with read_write(config), open_dict(config):
                config.hydra.sweep.dir = str(sweep_dir)
                # Each job is composed anew from the overrides, and would get the folder of the default again.
                config.hydra.overrides.hydra.append("hydra.sweep.dir=" + quote(str(sweep_dir)))


LEAVING_NOTHING = ("dev_run", "overfit")
"""Values of ``debug`` for which the folder of the run is a temporary one."""


def _scratch() -> Path:
    """A folder that is removed when the process ends."""
    made = Path(tempfile.mkdtemp(prefix="runner-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@contextmanager
def _stopping() -> Iterator[None]:
    """End the process with a message, and the exit status that goes with it, if anything is raised inside."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from error
    except Exception as error:
        traceback.print_exc()
        raise SystemExit(1) from error


def check(cfg: DictConfig) -> None:
    """Check the configuration of one run.

    Raises:
        ConfigError: with everything that was found.
    """
    found = config.check(config.job(cfg))
    if not found:
        found = [*_check_relations(cfg), *_check_machine(cfg)]
    if not found:
        from runner.trial import try_declared

        found = try_declared(config.job(cfg))
    if found:
        raise ConfigError(*(marked(cfg, found) if "hydra" in cfg else found))


def check_resume(cfg: DictConfig) -> Path:
    """Check that what is resumed is the same experiment, and has something left to do.

    Raises:
        ConfigError: an override would make it another experiment.
        SystemExit: with status 0, when the run is complete; nothing is changed.
    """
    run_dir = folder.find(cfg.resume, "resume")
    old = OmegaConf.to_container(OmegaConf.create(config.load(run_dir / "config.yaml")), resolve=False)
    new = OmegaConf.to_container(config.job(cfg), resolve=False)
    may_differ = set(schema.resumable())
    differing = _differences(old, new, "")
    refused = [row for row in differing if not _within(row[0], may_differ)]
    if refused:
        remedy = f"without resume=, for a run of its own; model.weights={run_dir} starts it from these weights"
        raise ConfigError(
            *(Problem(key, f"is {shown(before)} in {run_dir} and cannot become {shown(after)}", remedy=remedy)
              for key, before, after in refused)
        )  # fmt: skip
    if folder.state(run_dir) == "completed" and not _has_more_to_do(cfg, run_dir):
        length = "max_epochs" if cfg.trainer.max_steps is None else "max_steps"
        print(f"{run_dir} is complete. To train on: {folder.resume_command(cfg, run_dir, f'trainer.{length}=MORE')}")
        raise SystemExit(0)
    for key, before, after in differing:
        if key not in ("resume", "allow_targets"):
            print(f"{key} is {shown(after)} from here on, and was {shown(before)}")
    return run_dir


def _check_jobs(cfg: DictConfig) -> None:
    """Compose and check every job of a sweep by Hydra's basic sweeper."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not str(cfg.hydra.sweeper._target_).endswith(".BasicSweeper"):
        return  # another sweeper decides as it goes; each of its jobs is checked when it starts
    loader = GlobalHydra.instance().config_loader()
    arguments = [f"{key}={value}" for key, value in (cfg.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create(config_loader=loader).parse_overrides([*arguments, *cfg.hydra.overrides.task])
    found: dict[Problem, list[int]] = {}
    for number, job in enumerate(BasicSweeper.split_arguments(overrides, None)[0]):
        problems: Sequence[Problem] = ()
        try:
            check(loader.load_sweep_config(cfg, list(job)))
        except ConfigError as error:
            problems = error.problems
        except compose.FAILURES:
            problems = compose.explain(partial(loader.load_sweep_config, cfg), list(job))
        for problem in problems:
            found.setdefault(problem, []).append(number)
    if found:
        raise ConfigError(
            *(replace(p, key=f"{p.key} (job {', '.join(map(str, numbers))})") for p, numbers in found.items())
        )


def _check_relations(cfg: DictConfig) -> list[Problem]:
    """What is wrong between groups that are each right by themselves."""
    found = []
    if cfg.trainer.max_epochs is None and cfg.trainer.max_steps is None:
        what = "is null, and so is trainer.max_steps: schedules would not know how long the run is"
        found.append(Problem("trainer.max_epochs", what, "one of the two", "trainer.max_epochs=30"))
    written = ["train/loss", "val/loss", *(f"val/{name}" for name in cfg.metric)]
    if cfg.checkpoint.monitor not in written:
        what = f"no evaluation writes {cfg.checkpoint.monitor!r}"
        remedy = nearest(cfg.checkpoint.monitor, written, "checkpoint.monitor=")
        found.append(Problem("checkpoint.monitor", what, ", ".join(written), remedy))
    if cfg.trainer.precision == "fp16" and (cfg.device == "cpu" or not _has_accelerator()):
        what = "'fp16' is for CUDA and MPS: a CPU computes slowly with it"
        found.append(Problem("trainer.precision", what, "fp32, bf16", "trainer.precision=bf16"))
    stopping = cfg.trainer.early_stopping.monitor
    if stopping is not None and stopping not in written:
        remedy = nearest(stopping, written, "trainer.early_stopping.monitor=")
        what = f"no evaluation writes {stopping!r}"
        found.append(Problem("trainer.early_stopping.monitor", what, ", ".join(written), remedy))
    if "lr_find" in cfg and cfg.lr_find.start >= cfg.lr_find.end:
        what = f"{cfg.lr_find.start:g} is not below lr_find.end, which is {cfg.lr_find.end:g}"
        found.append(Problem("lr_find.start", what, "a smaller rate"))
    rules = enumerate(cfg.optimizer.get("param_groups") or [])
    own = {f"optimizer.param_groups.{number}.scheduler": rule.get("scheduler") for number, rule in rules}
    for key, node in {"scheduler": cfg.scheduler, **own}.items():
        found += [] if node is None else _check_plateau(node, key, written)
    return found


def _has_accelerator() -> bool:
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


def _check_plateau(node: DictConfig, key: str, written: Sequence[str]) -> list[Problem]:
    """That a schedule that looks at a metric is told which, and that no other is."""
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    kind, monitor = locate(node._target_), node.get("monitor")
    if not (isinstance(kind, type) and issubclass(kind, ReduceLROnPlateau)):
        what = "does nothing: of torch's schedulers ReduceLROnPlateau alone looks at a metric"
        return [] if monitor is None else [Problem(f"{key}.monitor", what, "null", "scheduler=plateau")]
    if monitor in written:
        return []
    what = "is missing" if monitor is None else f"no evaluation writes {monitor!r}"
    remedy = f"{key}.monitor=val/loss" if monitor is None else nearest(monitor, written, f"{key}.monitor=")
    return [Problem(f"{key}.monitor", what, ", ".join(written), remedy)]


def _check_machine(cfg: DictConfig) -> list[Problem]:
    from runner.device import check_cudnn, resolve

    try:
        if resolve(cfg.device).type == "cuda" and cfg.trainer.cudnn:
            check_cudnn()
    except ConfigError as error:
        return list(error.problems)
    return []


def _claim(cfg: DictConfig, kind: str) -> Path:
    """Claim the folder of a run or a sweep. A folder that was named on the command line is taken literally."""
    try:
        return _take(cfg, kind)
    except OSError as error:
        what = f"'{cfg.hydra[kind].dir}' cannot be made ({error.strerror})"
        raise ConfigError(Problem(f"hydra.{kind}.dir", what, "a folder that can be written to")) from error


def _take(cfg: DictConfig, kind: str) -> Path:
    wanted = Path(str(cfg.hydra[kind].dir))
    if not any(str(override).startswith(f"hydra.{kind}.dir=") for override in cfg.hydra.overrides.hydra):
        return folder.claim(wanted)
    if folder.has_checkpoint(wanted):
        what = f"'{wanted}' has the checkpoints of an earlier run"
        raise ConfigError(Problem("hydra.run.dir", what, "a new folder", f"resume={wanted}, to go on with that run"))
    if kind == "sweep" and wanted.is_dir() and any(wanted.iterdir()):
        raise ConfigError(Problem("hydra.sweep.dir", f"'{wanted}' is not empty", "a new folder"))
    folder.make(wanted)
    return wanted


def _differences(old: Any, new: Any, path: str) -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys([*old, *new]))
        return [
            row
            for key in keys
            for row in _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if old == new else [(path, old, new)]


def _within(key: str, keys: set[str]) -> bool:
    return any(key == other or key.startswith(other + ".") for other in keys)


def _has_more_to_do(cfg: DictConfig, run_dir: Path) -> bool:
    result = folder.read_result(run_dir) or {}
    epochs, steps = cfg.trainer.max_epochs, cfg.trainer.max_steps
    by_epochs = epochs is None or epochs > result.get("epochs", 0)
    by_steps = steps is None or steps > result.get("steps", 0)
    return by_epochs and by_steps
