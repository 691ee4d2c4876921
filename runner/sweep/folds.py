"""Cross-validation: ``split.fold=all`` trains every fold, each as a run of its own in ``fold-0``, ``fold-1``, …"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, read_write

from runner import config, folder, report
from runner.checks.schema import LENGTH
from runner.data import Sources
from runner.errors import ConfigError, Interrupted, Problem, RunFolderError, RunnerError, counted
from runner.files import writing
from runner.ranking import Figure
from runner.result import Result, from_json, known, to_json
from runner.runs import read_config
from runner.sweep import predictions
from runner.sweep.child import in_process
from runner.sweep.processes import Work, at_a_time
from runner.sweep.progress import Progress
from runner.table import Table
from runner.tensorboard import Board
from runner.terminal import show
from runner.train import Watch
from runner.visible import log


def each(cfg: DictConfig) -> list[DictConfig]:
    """The configuration of each fold; of a run that is no cross-validation, its own.

    Raises:
        ConfigError: it is not known how many there are.
    """
    if not config.has_folds(cfg):
        return [cfg]
    if cfg.split.get("n_splits") is None:
        raise ConfigError(Problem("split.fold", "'all' needs a k-fold split", remedy="split=stratified_kfold"))
    if cfg.split.get("path") is not None:
        what = "is a single split and cannot be combined with split.fold=all"
        raise ConfigError(Problem("split.path", what, "null", "split.fold=0"))
    made = [config.copied(cfg) for _ in range(cfg.split.n_splits)]
    for number, of_fold in enumerate(made):
        config.take_fold(of_fold, number)
    return made


def works(
    name: str, cfg: DictConfig, run_dir: Path, sources: Sources, watch: Callable[[], Watch] | None = None
) -> list[Work]:
    """What is left to do of a run: itself, or those of its folds that are not completed.

    Args:
        name: by which people know it.
        cfg: with Hydra's part.
        watch: called in the process of a run that is no cross-validation, returns what looks at its evaluations.
    """
    if not config.has_folds(cfg):
        return [] if _is_done(cfg, run_dir) else [_work(name, name, cfg, run_dir, sources, watch)]
    found = []
    for number, of_fold in enumerate(each(cfg)):
        of_its_own = folder.fold(run_dir, number)
        if not _is_done(of_fold, of_its_own):
            found.append(_work(f"{name} fold {number}".strip(), name, of_fold, of_its_own, sources))
    return found


def _is_done(cfg: DictConfig, run_dir: Path) -> bool:
    """Whether a run is completed, was as long as it is to be, and has what a completed one has."""
    result = folder.result(run_dir)
    if result.get("state") == "pruned":
        return True
    if result.get("state") != "completed" or not result.get("metrics"):
        return False
    if cfg.split.get("fold") is not None and not (run_dir / predictions.NAME).is_file():
        return False
    try:
        before = read_config(run_dir).get("trainer")  # references resolved, as they are in cfg
    except RunFolderError:
        return False  # and is written again
    now, names = config.recorded(cfg.trainer), [key.partition(".")[2] for key in LENGTH]
    return isinstance(before, dict) and all(before.get(name) == now.get(name) for name in names)


def is_whole(cfg: DictConfig, run_dir: Path) -> bool:
    """Return whether a cross-validation whose folds are completed has what they come to together: it may have been
    killed after the last of them."""
    said, found = folder.result(run_dir), json.loads(to_json(_of_folds(cfg, run_dir)))
    metrics = found.pop("metrics")
    has_files = (run_dir / predictions.TOGETHER).is_file() and (
        not cfg.tensorboard.enabled or (run_dir / "tensorboard").is_dir()
    )
    return has_files and said == said | found | {"metrics": said.get("metrics", {}) | metrics}


def _work(
    name: str, job: str, cfg: DictConfig, run_dir: Path, sources: Sources, watch: Callable[[], Watch] | None = None
) -> Work:
    absolute = run_dir.absolute()  # code of the user's may go to another folder

    def call() -> int:
        with read_write(cfg), read_write(cfg.hydra):
            there = (run_dir / "config.yaml").is_file() or folder.has_checkpoint(run_dir)
            cfg.resume = str(absolute) if there else None
            cfg.hydra.runtime.output_dir = str(absolute)
        return in_process(cfg, absolute, sources, None if watch is None else watch())

    return Work(name, job, run_dir, call, str(cfg.device) in ("auto", "cuda"))


def main(cfg: DictConfig, sources: Sources, run_dir: Path) -> None:
    """Train every fold that is not completed, and say what they reached together.

    Args:
        cfg: with Hydra's part.

    Raises:
        Interrupted: a signal stopped it; what has been done stays done.
        RunnerError: a fold failed.
    """
    begin(cfg, run_dir)
    left = works("", cfg, run_dir, sources)
    count = cfg.split.n_splits
    done = [f"{count - len(left)} of them done"] if len(left) < count else []
    log.info("%s\n%s", run_dir, ", ".join([counted(count, "fold"), *done]))

    summarise(cfg, run_dir)
    n_jobs = at_a_time(cfg.sweep.n_jobs, any(work.on_card for work in left))
    progress = Progress(len(left), cfg.checkpoint.monitor)
    signum = progress.drive(iter(left), cfg, n_jobs, lambda work: summarise(cfg, run_dir))
    content = summarise(cfg, run_dir)
    if signum is not None:
        log.info("stopped; to resume: %s", folder.resume_command(cfg, run_dir))
        raise Interrupted(signum)
    show(fold_table(content, cfg.checkpoint.monitor))
    if content["state"] != "completed":
        raise RunnerError(f"{content['error']}\n  try: {folder.resume_command(cfg, run_dir)}, to train that fold again")
    report.farewell(cfg, run_dir, content["seconds"])


def begin(cfg: DictConfig, run_dir: Path) -> None:
    """Write down what a cross-validation is, before its folds begin: it can be resumed from there."""
    with writing(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
    first = folder.fold(run_dir, 0) / "config.yaml"
    if cfg.resume is not None and OmegaConf.is_missing(cfg.facts, "options") and first.is_file():
        with suppress(ConfigError):  # an earlier version wrote them for the folds alone
            config.fill(cfg, {"options": config.load(first)["facts"]["options"]})
    config.enter_options(cfg, cfg)
    config.save(config.job(cfg), run_dir / "config.yaml")


def summarise(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Write the ``result.json`` of a cross-validation from those of its folds, and what was said of every sample by
    the model that had not seen it; and return what ``result.json`` says."""
    made = Result(run_dir, folder.result(folder.fold(run_dir, 0)) or None)
    made.content |= _of_folds(cfg, run_dir)
    if made.content["state"] == "completed":
        places = [folder.fold(run_dir, number) for number in range(cfg.split.n_splits)]
        try:
            made.content["metrics"] |= predictions.together(cfg, places, run_dir)
        except RunnerError as error:
            made.content |= {"state": "failed", "error": str(error)}
        else:  # before it says that it is completed
            if cfg.tensorboard.enabled:
                board = Board(run_dir / "tensorboard")
                board.table("folds", fold_table(made.content, cfg.checkpoint.monitor))
                board.close()
    made.update(seconds=made.content["seconds"])
    return made.content


def _of_folds(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Sum up what the folds of a cross-validation say in their ``result.json``, without their predictions."""
    numbers = [number for number in range(cfg.split.n_splits) if folder.fold(run_dir, number).is_dir()]
    results = {number: folder.result(folder.fold(run_dir, number)) for number in numbers}
    states = [results.get(number, {}).get("state", "running") for number in range(cfg.split.n_splits)]
    completed = [result.get("metrics", {}) for result in results.values() if result.get("state") == "completed"]
    broken = [f"fold {number}: {result.get('error')}" for number, result in results.items() if result.get("error")]
    return {
        "state": next((s for s in ("failed", "interrupted", "running") if s in states), "completed"),
        "metrics": _over_folds(completed),
        "baseline": _mean([result.get("baseline", {}) for result in results.values()]),
        "folds": [{"fold": number, **_kept(result)} for number, result in results.items()],
        "epochs": max((result.get("epochs", 0) for result in results.values()), default=0),
        "steps": max((result.get("steps", 0) for result in results.values()), default=0),
        "seconds": round(sum(result.get("seconds", 0.0) for result in results.values()), 3),
        **({"error": broken[0]} if broken else {}),
    }


def _kept(result: Mapping[str, Any]) -> dict[str, Any]:
    names = ("state", "error", "metrics", "best_epoch", "epochs", "seconds")
    return {name: result[name] for name in names if name in result}


def _mean(found: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """The mean of each figure over the folds that have it."""
    tags = dict.fromkeys(tag for figures in found for tag in figures)
    return {tag: Figure.of([from_json(each[tag]) for each in found if tag in each]).mean for tag in tags}


def _over_folds(found: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """Mean and standard deviation (of a sample, n − 1) of every metric."""
    figures: dict[str, float] = {}
    for tag in found[0] if found else ():
        figure = Figure.of([from_json(metrics.get(tag)) for metrics in found])
        figures |= {tag: figure.mean, f"{tag}_std": figure.std}
    return figures


def fold_table(content: Mapping[str, Any], monitor: str) -> Table:
    """A row for each fold, and what they reached together.

    Args:
        content: of the ``result.json`` of the cross-validation.
        monitor: the metric of val that stands beside those of test.
    """
    metrics = content["metrics"]
    tags = [tag for tag in metrics if tag == monitor or (tag.startswith("test/") and not tag.endswith("_std"))]
    rows: list[list[Any]] = [
        [str(each["fold"]), each.get("best_epoch"), *(each.get("metrics", {}).get(tag) for tag in tags)]
        for each in content["folds"]
    ]
    rows.append(["mean", None, *(metrics[tag] for tag in tags)])
    rows.append(["std", None, *(metrics[f"{tag}_std"] for tag in tags)])
    baseline = known(content["baseline"])
    rows.append(["baseline", None, *(baseline.get(tag) for tag in tags)])
    has_ensemble = any(tag.startswith("ensemble/") for tag in metrics)
    together = {"out of fold": ("out_of_fold", "val" if has_ensemble else "test")}
    together |= {"ensemble": ("ensemble", "test")} if has_ensemble else {}
    for title, (part, held_out) in together.items():
        own = [f"{part}/{tag.partition('/')[2]}" if tag.startswith(f"{held_out}/") else "" for tag in tags]
        rows.append([title, None, *map(metrics.get, own)])
    return Table("Folds", ["fold", "best epoch", *tags], rows)
