"""`runner train`: one experiment from its configuration to its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from runner import config, consent, debugger, folder, optimizer, own_code, report, resume, summary
from runner.checkpoint import BEST, read, read_newest, sha256
from runner.data import Sources
from runner.device import environment, out_of_memory, resolve
from runner.errors import ConfigError, Interrupted, Problem, Pruned, RunFolderError, RunnerError, cause_of, reason_of
from runner.evaluation import norm_gap
from runner.experiment import Experiment, assemble
from runner.metric import Predicted
from runner.pictures import gallery, layers, plots
from runner.profile import STEPS, Profiler
from runner.recorder import Recorder, check_space
from runner.result import Result, end
from runner.signals import StopFlag
from runner.sweep import predictions
from runner.table import Table
from runner.tensorboard import Board
from runner.terminal import Bar, show
from runner.trainer import Progress, Trainer
from runner.trial import try_step
from runner.updates import checkpoint_every, limits_of, make_optimizer, make_schedule, make_trainer
from runner.visible import log, redacted

Watch = Callable[[Mapping[str, Any]], None]


@dataclass
class Prepared:
    """A run of which everything is built and was tried, and nothing is on the disk yet."""

    cfg: DictConfig
    """With the facts that the data say."""
    experiment: Experiment
    trainer: Trainer
    seconds: float = 0.0
    """That the run has taken before, if it is resumed."""


def main(prepared: Prepared, run_dir: Path, watch: Watch | None = None) -> None:
    """Train in `run_dir`, and leave ``result.json`` there whatever happens.

    Args:
        watch: called with the record of each evaluation; may raise `Pruned`, which ends the run.

    Raises:
        Interrupted: a signal stopped the run, and its state was saved.
    """
    cfg, experiment, trainer = prepared.cfg, prepared.experiment, prepared.trainer
    with StopFlag() as stop:
        result = Result(run_dir, folder.result(run_dir) if cfg.resume is not None else None, prepared.seconds)
        experiment.gap = trainer.gap = stop.gap

        def interrupted(why: str) -> str:
            end(run_dir, result.now, why, "interrupted")
            return f"{why}; to resume: {folder.resume_command(cfg, run_dir)}"

        stop.abandon, stop.is_busy = interrupted, lambda: False
        try:
            _run(cfg, run_dir, experiment, trainer, result, stop, watch)
        except Pruned as error:
            best = trainer.progress.best or {}
            reached = {tag: value for tag, value in best.items() if tag.startswith("val/")}
            at = {"epochs": trainer.progress.epoch, "steps": trainer.progress.step}
            end(run_dir, result.now, str(error), "pruned", metrics=reached, **at)
            log.info("%s", error)
        except (Interrupted, KeyboardInterrupt) as error:
            log.info("%s", interrupted(str(error) or "stopped by a second Ctrl-C"))
            raise
        except BaseException as error:
            what = _explained(error, cfg, experiment, run_dir)
            end(run_dir, result.now, f"{type(error).__name__}: {what or error}")
            if debugger.on:
                raise
            if what is not None:
                raise RunnerError(what) from error
            if isinstance(error, Exception) and not isinstance(error, RunnerError):
                log.error("", exc_info=True)
                where = f"at step {trainer.progress.step:,} of epoch {trainer.progress.epoch + 1}"
                lost = f"{cause_of(error, kind=True)}, {where}; the traceback is in {run_dir / 'runner.log'}"
                raise RunnerError(lost) from error
            raise
    if stop.signum is not None:  # came too late to stop this run, but a sweep goes no further
        raise SystemExit(Interrupted(stop.signum).exit_status)


def _explained(error: BaseException, cfg: DictConfig, experiment: Experiment, run_dir: Path) -> str | None:
    """What to say in place of a traceback, where that would not say it as well."""
    if isinstance(error, torch.OutOfMemoryError):
        cut = cfg.trainer.micro_batch == "auto"
        return out_of_memory(experiment.device, cfg.loader.batch_size, cfg.trainer.accumulate, cut)
    if isinstance(error, SystemExit):
        return f"code named by a _target_ called sys.exit({error.code!r})"
    if isinstance(error, OSError) and str(error.filename).startswith(str(run_dir)):
        return f"{error.filename} could not be written: {error.strerror}"
    return None


def prepare(cfg: DictConfig, run_dir: Path, sources: Sources | None = None) -> Prepared:
    """Build everything, try one batch, and load the state of a run that is resumed. Writes nothing, except for
    a best checkpoint that a resumed run has lost, and that another one can replace.

    Args:
        run_dir: the folder of the run, which need not be there yet if it is a new one.
        sources: data sets that were read for other jobs of a sweep; see `runner.data.read`.

    Raises:
        InputError: the data are not what the configuration needs, or the machine is not.
    """
    try:
        return _build(cfg, run_dir, sources)
    except debugger.foreign(torch.OutOfMemoryError) as error:
        what = f"{resolve(cfg.device)} has too little memory for the model and the data: {reason_of(error)}"
        remedy = "another device, a smaller model or input, or loader=workers, which keeps the data off the device"
        raise ConfigError(Problem("device", what, remedy=remedy)) from error


ALONE = (
    "debug=ide: one process and thread: loader.num_workers counts as 0, and trainer.threads=auto as 1; left out are "
    "what needs a copy of the model (a trial step, the table of memory), trainer.compile and trainer.cuda_graph"
)


def _build(cfg: DictConfig, run_dir: Path, sources: Sources | None) -> Prepared:
    if debugger.on:
        log.info(ALONE)
    resumed = cfg.resume is not None and folder.has_checkpoint(run_dir)
    state = read_newest(run_dir / "checkpoints") if resumed else None
    seconds = 0.0 if state is None else float(state["seconds"])
    experiment = assemble(cfg, resumed, sources)
    trainer = plan(cfg, experiment, seconds)
    order, example = experiment.data.loaders["train"].order, experiment.data.example
    whole = cfg.facts.total_steps >= cfg.facts.steps_per_epoch  # else the last batch never comes
    alone = whole and len(order.batches(0)[-1]) == 1 and len(example) > 1
    try_step(trainer.gradient, example.to(experiment.device), [len(example), *([1] if alone else [])])
    # At the end it is drawn for good; what cannot be drawn is better found now.
    gallery.inside(cfg, experiment.model, experiment.data.loaders["val"])
    if (layer := cfg.tensorboard.embeddings) is not None:
        layers.embed(experiment.model, experiment.data.loaders["val"], str(layer), 1)
    check_space(cfg, run_dir, trainer)
    if state is not None:
        resume.load(cfg, run_dir, experiment, trainer, state)
    return Prepared(cfg, experiment, trainer, seconds)


def plan(cfg: DictConfig, experiment: Experiment, seconds: float = 0.0) -> Trainer:
    """How an experiment will be trained: optimizer, schedule, limits.

    Raises:
        ConfigError: not in this way.
    """
    opt = make_optimizer(cfg, experiment.model, experiment.loss)
    config.fill(cfg, {"param_groups": redacted(optimizer.table(opt).records())})
    schedule, limits = make_schedule(cfg, opt), limits_of(cfg, seconds)
    checkpoint_every(cfg)
    return make_trainer(cfg, experiment, opt, schedule, limits, lambda model: _evaluate(experiment, model))


def _run(
    cfg: DictConfig, run_dir: Path, experiment: Experiment, trainer: Trainer, result: Result, stop: StopFlag,
    watch: Watch | None,
) -> None:  # fmt: skip
    fingerprint, threads = experiment.data.samples["train"].fingerprint, result.content.get("threads")
    experiment.data.split.save(run_dir, experiment.data.counts, fingerprint)
    config.save(cfg, run_dir / "config.yaml")
    own_code.keep(consent.names(config.written(cfg)), run_dir)
    result.update(
        device=str(experiment.device),
        threads=experiment.threads,
        seed=config.entered(cfg, "seed"),
        split=experiment.data.split.hash,
    )
    shown = None if cfg.debug == "dev_run" else run_dir  # which is a temporary one
    report.announce(cfg, experiment, trainer.optimizer, shown, trainer.progress)
    report.cautions(experiment, threads)
    differing = report.differences(cfg)
    of_config = report.difference_table(differing, config.value(cfg.facts))
    tables = {"config/difference": of_config, **_tables(cfg, experiment, trainer, result)}
    result.update(tables={tag: table.records() for tag, table in tables.items()})
    for tag in ("config/difference", "data/columns", "split", "model/layers", "optimizer/groups"):
        if tag in tables:
            (report.show_columns if tag == "data/columns" else report.show_if_short)(tables[tag])
    with Recorder(cfg, run_dir, experiment, trainer, lambda: result.seconds) as recorder:
        interrupted, stop.abandon = stop.abandon, lambda why: interrupted(why + recorder.rescue(stop.is_open))
        stop.is_busy = lambda: recorder.checkpoints.is_busy
        pictures = _pictures_before(cfg, experiment, trainer)
        recorder.begin(tables, pictures if cfg.tensorboard.pictures else {}, report.hparams(cfg, differing))
        if cfg.figures:
            gallery.save(pictures, run_dir / "figures")
        try:
            with stop.first():
                _fit(cfg, run_dir, experiment, trainer, recorder, stop, watch)
        except Interrupted:
            stop.ending.acquire()
            recorder.save()
            recorder.close()
            raise
        if not trainer.progress.step:
            what = f"{cfg.trainer.max_time!r} was over before the first step: nothing was trained"
            remedy = folder.resume_command(cfg, run_dir, "trainer.max_time=MORE")
            raise ConfigError(Problem("trainer.max_time", what, "a longer time", remedy))
        recorder.close()
        stop.abandon = interrupted  # from here on there is nothing to save, and the weights are the best ones
        with stop.first():
            _finish(cfg, run_dir, experiment, trainer, result, recorder.board)


def _tables(cfg: DictConfig, experiment: Experiment, trainer: Trainer, result: Result) -> dict[str, Table]:
    """What was built, by tag."""
    return {
        "environment": environment(experiment.device, result.content),
        **report.columns_table(experiment),
        "split": report.split_table(experiment),
        **summary.tables(cfg, experiment),
        "optimizer/groups": optimizer.table(trainer.optimizer),
    }


def _pictures_before(cfg: DictConfig, experiment: Experiment, trainer: Trainer) -> dict[str, Tensor]:
    if not gallery.wanted(cfg):
        return {}
    pictures = gallery.before(experiment)
    if curves := trainer.schedule.preview():
        pictures["optimizer/schedule"] = plots.to_image(plots.schedule(curves, cfg.facts.steps_per_epoch))
    return pictures


def _evaluate(experiment: Experiment, model: torch.nn.Module) -> dict[str, float]:
    """Val, and the train part once more in eval mode if that is wanted."""
    found = experiment.evaluate("val", model)
    if "train_eval" in experiment.data.loaders:
        found |= experiment.evaluate("train_eval", model)
    return found


def _fit(
    cfg: DictConfig, run_dir: Path, experiment: Experiment, trainer: Trainer, recorder: Recorder, stop: StopFlag,
    watch: Watch | None,
) -> None:  # fmt: skip
    """Train, write down what is found, and show how far it is."""
    progress = trainer.progress
    with Bar(cfg.facts.total_steps, progress.step) as bar, ExitStack() as stack:
        profiler = _profiler(cfg, run_dir, experiment.device, progress)
        if profiler is not None:
            stack.callback(profiler.close)
        begun, first = time.perf_counter(), progress.step
        # Read once: a value of the configuration costs more than the rest of what is done here in a step.
        interval, compiled, epochs = cfg.trainer.log_interval, cfg.trainer.compile, cfg.facts.total_epochs
        watched = f"val/{next(iter(experiment.metrics), 'loss')}"
        for record in trainer.fit():
            recorder.add(record)
            if record and watch is not None:
                watch(record)
            if record and watched in record:
                bar.evaluated(watched, record[watched])
            if record is None:
                if compiled and progress.step == first + 1:
                    log.info("compiled; the first step took %.1f s", time.perf_counter() - begun)
                if progress.step % interval == 0:
                    trainer.check()
                    epoch = f"{progress.epoch + 1}/{epochs}"
                    bar.update(progress.step, epoch, trainer.running_loss, trainer.vitals.speed)
                if profiler is not None and (table := profiler.step()) is not None:
                    show(table)
                    log.info("%s", profiler.path)
            elif record:
                epoch, speed = f"{record['epoch']}/{epochs}", trainer.measured["samples_per_second"]
                bar.update(progress.step, epoch, record["train/loss"], speed)
            if not trainer.finished:
                stop.check()


def _profiler(cfg: DictConfig, run_dir: Path, device: torch.device, progress: Progress) -> Profiler | None:
    if not cfg.trainer.profile:
        return None
    if (left := cfg.facts.total_steps - progress.step) < STEPS:
        log.warning("trainer.profile: not profiled, for that takes %d steps, and %d are left", STEPS, left)
        return None
    return Profiler(run_dir / "profile", device)


def _finish(
    cfg: DictConfig, run_dir: Path, experiment: Experiment, trainer: Trainer, result: Result, board: Board | None
) -> None:
    """Take the best weights, look at test once, and say what was reached."""
    report.ended_before(cfg, trainer.progress, trainer.over)
    progress, best_path = trainer.progress, run_dir / "checkpoints" / BEST
    assert progress.best is not None
    _take_best(best_path, progress.best["step"], experiment)
    found, predicted = dict[str, float](), dict[str, Predicted]()
    for part in ("val", "test"):
        values, predicted[part] = experiment.examine(part)
        found |= values
    split = experiment.data.split
    if split.fold is not None:
        predictions.keep(run_dir / predictions.NAME, "val" if "test" in split.official else "test", predicted)
    tables, pictures = _shown_at_the_end(cfg, run_dir, experiment, predicted, board)
    task = experiment.loss.task
    tables["result"] = report.result_table(found, experiment.baseline, progress.best, cfg.checkpoint.monitor, task)
    if board is not None:
        _on_board(board, progress, found, tables, pictures)
    gap = norm_gap(experiment.model, experiment.loss, experiment.data.example.to(experiment.device))
    result.update(
        state="completed", metrics=found, baseline=dict(experiment.baseline), batch_norm=gap,
        tables=result.content["tables"] | {tag: table.records() for tag, table in tables.items()},
        best_epoch=progress.best["epoch"], best_step=progress.best["step"], ended_by=trainer.over,
        epochs=progress.epoch, steps=progress.step, skipped_steps=progress.skipped, vitals=trainer.measured,
        samples_per_second=round(trainer.measured.get("samples_per_second", 0.0), 1),
        checkpoint={"path": f"checkpoints/{BEST}", "sha256": sha256(best_path)},
    )  # fmt: skip
    if "test/per_class" in tables:
        report.show_if_short(tables["test/per_class"])
    show(tables["result"])
    report.norm_gap(gap)
    report.farewell(cfg, run_dir, result.content["seconds"], trainer.over)


def _shown_at_the_end(
    cfg: DictConfig, run_dir: Path, experiment: Experiment, predicted: Mapping[str, Predicted], board: Board | None
) -> tuple[dict[str, Table], dict[str, Tensor]]:
    """By tag, the tables of the predictions, and the figures for TensorBoard; those that are wanted as files are
    written."""
    task, classes = experiment.loss.task, experiment.data.samples["train"].classes
    tables = report.part_tables(task, classes, predicted)
    val = experiment.data.samples["val"]
    tables |= report.mistakes_table(task, classes, "val", predicted["val"], val.held("path"))
    if (layer := cfg.tensorboard.embeddings) is not None:
        tables |= gallery.embeddings(experiment, str(layer), board)
    drawn, pictures = gallery.inside(cfg, experiment.model, experiment.data.loaders["val"]), dict[str, Tensor]()
    if gallery.wanted(cfg):
        pictures = gallery.after(task, classes, predicted)
        pictures |= gallery.mistakes(task, classes, "val", val, predicted["val"])
    if cfg.figures:
        gallery.save(drawn | pictures, run_dir / "figures")
    return tables, drawn | (pictures if cfg.tensorboard.pictures else {})


def _take_best(path: Path, step: int, experiment: Experiment) -> None:
    """Load the weights of the best evaluation, which was at `step`."""
    state = read(path)
    if state["progress"]["step"] != step:
        what = f"holds step {state['progress']['step']}, but the best evaluation was at step {step}"
        raise RunFolderError(Problem(str(path), what))
    experiment.model.load_state_dict(state["ema"] or state["model"])
    experiment.loss.load_state_dict(state["loss"])


def _on_board(
    board: Board, progress: Progress, found: Mapping[str, float], tables: Mapping[str, Table],
    pictures: Mapping[str, Tensor],
) -> None:  # fmt: skip
    """What was reached, as the last thing on the board."""
    for tag, table in tables.items():
        board.table(tag, table, progress.step)
    for tag, image in pictures.items():
        board.image(tag, image, progress.step)
    last = {f"with_last_weights/{tag}": value for tag, value in progress.history[-1].items() if "/" in tag}
    board.end({f"with_best_weights/{tag}": value for tag, value in found.items()} | last, progress.step)
    board.flush()  # before the run says that it is complete, and is left as it is
