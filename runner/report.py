"""What a run says on the terminal, in its log and in TensorBoard."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from runner import __version__, compose, config, folder, metric, options, program
from runner.batch import by
from runner.dataset import ArrayDataset
from runner.dataset.dialect import is_number
from runner.device import describe
from runner.errors import counted, few
from runner.experiment import Experiment
from runner.keys import short, text
from runner.metric import Predicted
from runner.model import unsaved
from runner.optimizer import form
from runner.result import known
from runner.table import Table, cell
from runner.terminal import show
from runner.trainer import Progress
from runner.updates import samples_in_a_step
from runner.visible import log


def announce(
    cfg: DictConfig, experiment: Experiment, opt: torch.optim.Optimizer, run_dir: Path | None, progress: Progress
) -> None:
    """What is about to be run, in a few lines."""
    e, facts = experiment, cfg.facts
    threads = f"{e.threads} thread{'s' if e.threads > 1 else ''}"
    log.info(
        "runner %s · torch %s · %s · %s · seed %s", __version__, torch.__version__, describe(e.device), threads,
        config.entered(cfg, "seed"),
    )  # fmt: skip
    what = f"{facts.num_classes} classes" if facts.num_classes else "regression"
    shape = by(facts.input_shape) + (" numbers" if len(facts.input_shape) == 1 else "")
    name, loader = cfg.dataset.get("name") or short(cfg.dataset._target_), e.data.loaders["train"]
    samples = "stream of samples" if facts.num_samples is None else f"{facts.num_samples:,} samples"
    whole = " (all of train)" if 0 < len(e.data.split.parts["train"]) <= loader.order.batch_size else ""
    log.info(
        "%s: %s of %s, %s · %s loader, batch %d%s",
        name, samples, shape, what, type(loader).__name__.lower(), loader.order.batch_size, whole,
    )  # fmt: skip
    fold = "" if e.data.split.fold is None else f", fold {e.data.split.fold}"
    seed = "" if e.data.split.seed is None else f", seed {e.data.split.seed}"
    parts = " · ".join(f"{part} {len(rows):,}" for part, rows in e.data.split.parts.items())
    log.info("%s split%s%s: %s · %s", e.data.split.method, fold, seed, parts, e.data.split.hash[:12])
    how, named = form(opt), {group: short(cfg[group]._target_) for group in ("model", "optimizer", "scheduler")}
    losses = " + ".join(short(term._target_) for term in cfg.loss.get("terms") or [cfg.loss])
    losses += " of standardised targets" if e.loss.standardizes else ""
    short_ = " (dev run: two batches of each part)" if cfg.debug == "dev_run" else ""
    log.info(
        "%s, %s parameters · %s · %s · %s, %s in %s%s",
        named["model"], f"{sum(p.numel() for p in e.model.parameters()):,}",
        losses, named["optimizer"] + (f" ({how})" if how else ""), named["scheduler"],
        counted(facts.total_steps, "step"), counted(facts.total_epochs, "epoch"), short_,
    )  # fmt: skip
    if cfg.optimizer.get("scale_lr") is not None:
        count, found_with = samples_in_a_step(cfg), cfg.optimizer.scale_lr
        said = "learning rates × %.4g, because a step has %d samples instead of %d"
        log.info(said, count / found_with, count, found_with)
    if run_dir is not None:
        log.info("%s", run_dir)
    if progress.step:
        where = f"in epoch {progress.epoch + 1}" if progress.batch else f"the end of epoch {progress.epoch}"
        log.info("resumed after step %s of %s, %s", f"{progress.step:,}", f"{facts.total_steps:,}", where)
    for each, why in options.idle(config.value(cfg), differences(cfg)):
        log.warning("%s=%s has no effect with %s", each.key, text(each.value), why)


def cautions(experiment: Experiment, threads: int | None) -> None:
    """What may make a resumed run another one.

    Args:
        threads: of the CPU that it began with.
    """
    if threads is not None and threads != experiment.threads:
        log.warning(
            "the run was started with %s and now has %d: the last digits of its metrics will differ\n"
            "  try: trainer.threads=%d", counted(threads, "thread"), experiment.threads, threads,
        )  # fmt: skip
    if names := unsaved(experiment.model):
        log.warning(
            "not saved in checkpoints, because they are not in the model's state_dict: %s; if training changes them, "
            "use register_buffer, or a resumed run loses them", few(names),
        )  # fmt: skip


def split_table(experiment: Experiment) -> Table:
    """Samples per class and part, with the class weights of the loss if it has any."""
    counts, weights = experiment.data.counts, experiment.loss.class_weights
    columns = ["class" if counts["train"] else "", *counts, *([] if weights is None else ["weight"])]
    rows: list[list[Any]] = [[name, *(row[name] for row in counts.values())] for name in counts["train"]]
    if weights is not None:
        rows = [[*row, weight] for row, weight in zip(rows, weights.tolist(), strict=True)]
    total = ["all", *(len(rows) for rows in experiment.data.split.parts.values()), *([] if weights is None else [None])]
    return Table("Samples", columns, [*rows, total])


COLUMNS = 500
"""Columns of a table that are listed."""

NUMBERS = "%d of them numbers"
"""The words for categories that are numbers."""


def columns_table(experiment: Experiment) -> dict[str, Table]:
    """By tag, how the columns of a table were read; nothing for other data."""
    source = experiment.data.samples["train"].source
    if not isinstance(source, ArrayDataset) or source.features is None or source.categories is None:
        return {}
    places = {name: at for at, name in enumerate(source.features)}
    rows: list[list[Any]] = []
    for name in islice(source.columns, COLUMNS + 1):
        at = places.get(name)
        if at is None:
            rows.append([name, "target" if name in source.goals else "left out", None, None])
            continue
        values, categories = source.inputs[:, at], source.categories[at]
        known, gaps = values[~values.isnan()], int(values.isnan().sum())
        if categories is not None:
            numbers = sum(map(is_number, categories))
            kind = counted(len(categories), "category", "categories") + (f", {NUMBERS % numbers}" if numbers else "")
            rows.append([name, kind, few(categories, 5), gaps])
        else:
            span = f"{known.min():.6g} … {known.max():.6g}" if len(known) else None
            rows.append([name, "number", span, gaps])
    return {"data/columns": Table("Columns", ["column", "read as", "values", "missing"], rows).first(COLUMNS)}


def differences(cfg: DictConfig) -> list[options.Difference]:
    """What of a configuration is not as it would be if nothing had been typed."""
    chosen = config.value(cfg.facts.get("options") or {})
    return options.differences(config.written(cfg), config.written(compose.default()), chosen)


def difference_table(found: Iterable[options.Difference], facts: Mapping[str, Any]) -> Table:
    """Of `differences`.

    Args:
        facts: what the data said, which stands in place of references to it.
    """

    def shown(value: Any) -> str | None:
        name = str(value).removeprefix("${facts.").removesuffix("}")
        if value == f"${{facts.{name}}}" and name in facts:
            words = text(facts[name])
            return f"{words if len(words) <= WIDE else words[:WIDE] + ' …'} (from the data)"
        return None if value is options.ABSENT or value == "???" else text(value)

    rows = [[key, *map(shown, both)] for key, *both in found]
    return Table("What differs from the defaults", ["key", "value", "default"], rows)


WIDE = 60
"""Characters of a fact in a table."""

FITS = 24
"""Rows up to which a table is shown on the terminal."""


def show_if_short(table: Table) -> None:
    if 0 < len(table.rows) <= FITS:
        show(table)


def show_columns(table: Table) -> None:
    """Show how columns were read: all if they are few, else those that may not be as they were meant."""
    odd = [row for row in table.rows if row[1] == "left out" or row[3] or NUMBERS[2:] in row[1]]
    if len(table.rows) > FITS and odd:
        title = f"{table.title}: {len(odd)} of {len(table.rows)} left out, with gaps or numbers as categories"
        table = replace(table, title=title, rows=odd).first(FITS)
    show_if_short(table)


ALWAYS = ("dataset", "model", "loss", "optimizer")
"""Groups whose options are among what tells runs from one another, whether they are the default ones or not."""


def hparams(cfg: DictConfig, differing: Iterable[options.Difference]) -> dict[str, str | float]:
    """What tells a run from others: a few keys that always count, and all that differ from the defaults.

    Args:
        differing: see `differences`.
    """
    chosen = options.default() | config.value(cfg.facts.get("options") or {})
    found: dict[str, Any] = {group: chosen[group] for group in ALWAYS}
    always = (("optimizer.", cfg.optimizer, "lr"), ("loader.", cfg.loader, "batch_size"), ("", cfg, "seed"))
    found |= {f"{group}{key}": config.entered(node, key) for group, node, key in always}
    rows = [row for row in differing if row.key.partition(".")[0] not in ("tensorboard", "figures")]
    found |= {row.key: row.value for row in rows if row.value is not options.ABSENT}
    numbers = (int, float)
    return {k: v if isinstance(v, numbers) and not isinstance(v, bool) else text(v) for k, v in found.items()}


class EpochLines:
    """Evaluations as the lines of a table that grows: the names once at its head, then a line each.

    The best so far is marked with a star. Metrics for which a line has no room are in ``metrics.jsonl``.

    Args:
        monitor: the metric that decides what is best, which always has room.
    """

    max_width = 100

    def __init__(self, total_epochs: int, monitor: str) -> None:
        self.total_epochs = total_epochs
        self.monitor = monitor
        self._head = False

    def _shown(self, record: Mapping[str, Any]) -> list[str]:
        names = [name for name in record if "/" in name]
        names.sort(key=lambda name: not (name.endswith("/loss") or name == self.monitor))
        width, shown = 0, []
        for name in names:
            width += _width(name) + 2
            shown += [name] if width <= self.max_width else []
        return shown

    def add(self, record: dict[str, Any], samples_per_second: float, best: bool) -> None:
        values = {name: cell(record[name]) for name in self._shown(record)}
        cells = {"epoch": f"{record['epoch']}/{self.total_epochs}", **values, "samples/s": f"{samples_per_second:,.0f}"}
        if not self._head:
            self._head = True
            log.info("\n%s", "  ".join(name.rjust(_width(name)) for name in cells))
        line = "  ".join(text.rjust(_width(name)) for name, text in cells.items())
        log.info("%s", line + ("  *" if best else ""))


def _width(name: str) -> int:
    return max(len(name), 9)


def result_table(
    found: Mapping[str, float], baseline: Mapping[str, float], best: Mapping[str, Any], monitor: str, task: str
) -> Table:
    """The metrics of the best epoch on val, and the one look at test, beside what can be had without a model.

    Args:
        baseline: of the majority class, or of the mean.
    """
    names = [name.partition("/")[2] for name in found if name.startswith("val/")]
    title = f"Result, with the weights of epoch {best['epoch']} (best {monitor})"
    columns = ["metric", "val", "test", "baseline (mean)" if task == "regression" else "baseline (majority class)"]
    without = known(baseline)
    rows = [[n, found[f"val/{n}"], found[f"test/{n}"], without.get(f"test/{n}")] for n in names]
    return Table(title, columns, rows)


def part_tables(task: str, classes: Sequence[str], predicted: Mapping[str, Predicted]) -> dict[str, Table]:
    """The predictions for each part, class by class, by tag; nothing where values are predicted."""
    tables: dict[str, Table] = {}
    for part, each in predicted.items() if classes else ():
        tables[f"{part}/per_class"] = metric.per_class(part, each, classes)
        if task != "multilabel":
            tables[f"{part}/confusion"] = metric.confusion(part, each, classes)
    return {tag: table for tag, table in tables.items() if table.rows}  # of many classes, confusions alone are listed


def mistakes_table(
    task: str, classes: Sequence[str], part: str, predicted: Predicted, paths: metric.Array | None = None
) -> dict[str, Table]:
    """The wrong predictions that were surest, by tag; nothing if none is wrong. Of val alone, as `gallery.mistakes`."""
    if not classes or task == "multilabel":
        return {}
    table = metric.mistakes(part, predicted, classes, paths=paths)
    return {f"{part}/mistakes": table} if table.rows else {}


def farewell(cfg: DictConfig, run_dir: Path, seconds: float, ended_by: str | None = None) -> None:
    """Where everything is, and what one would type next.

    Args:
        ended_by: see `runner.folder.longer`.
    """
    if cfg.debug == "dev_run":
        log.info("\ndev run passed in %.1f s; nothing was kept", seconds)
        return
    log.info("\n%s in %.1f s", run_dir, seconds)
    log.info("  curves and tables  %s", shlex.join([*program.start("tensorboard"), "--logdir", str(run_dir)]))
    log.info("  use it             %s", folder.command(cfg, "predict", f"run={run_dir}", "input=FILE"))
    log.info("  train longer       %s", folder.resume_command(cfg, run_dir, folder.longer(cfg, ended_by)))


def ended_before(cfg: DictConfig, progress: Progress, ended_by: str | None) -> None:
    """Say why a run is shorter than its ``max_epochs``, if its length does not say so."""
    where = f"in epoch {progress.last_epoch} of {cfg.facts.total_epochs}, after {counted(progress.step, 'step')}"
    if ended_by == "early_stopping":
        stopping = cfg.trainer.early_stopping
        monitor, patience = stopping.monitor or cfg.checkpoint.monitor, counted(stopping.patience, "evaluation")
        log.info("stopped early, %s: no improvement in %s for %s", where, monitor, patience)
    if ended_by == "max_time":
        log.info("time is up, %s: trainer.max_time is %s", where, cfg.trainer.max_time)


def norm_gap(gap: dict[str, float] | None) -> None:
    """Say so if the running statistics of BatchNorm make a model worse than it is."""
    if gap is not None and gap["eval_mode"] > 1.2 * gap["batch_statistics"] + 0.05:
        log.warning(
            "on one train batch the loss is %.4f in eval mode, and %.4f with the batch's own mean and variance: the "
            "running ones of BatchNorm lag behind the weights\n"
            "  try: more epochs, or a larger momentum than 0.1 in the model's BatchNorm layers",
            gap["eval_mode"], gap["batch_statistics"],
        )  # fmt: skip
