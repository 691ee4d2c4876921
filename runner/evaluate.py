"""`runner evaluate`: a trained run on a part of its data, or on other data with the same classes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runner import checkpoint, config, folder, metric, report
from runner.errors import ConfigError, Problem, RunFolderError, counted
from runner.evaluation import examine
from runner.experiment import WEIGHTS, make_loss, make_metrics, on_device
from runner.files import refuse, typed, write, writing
from runner.keys import short
from runner.loss import Loss
from runner.metric import Predicted
from runner.pictures import gallery
from runner.result import git_commit, to_json, versions
from runner.table import Table
from runner.terminal import show
from runner.trained.calibration import fitted_temperature
from runner.trained.opened import Opened
from runner.trained.part import Part, part_of
from runner.trained.run import Run, open_run
from runner.trained.writing import Writer
from runner.visible import log, redacted


def main(opened: Opened) -> None:
    """Measure a run, say what was found, and write it down.

    Raises:
        InputError: the run, its checkpoint or the data are not what they have to be.
    """
    begun, options, cfg = time.perf_counter(), opened.options, opened.cfg
    place = Folder(opened)
    run = open_run(cfg, opened.folder, options.weights, None if options.temperature == "val" else options.temperature)
    part = _part(opened, run, options.part)
    where = cfg.dataset.get("root") or cfg.dataset.get("path") or short(cfg.dataset._target_)
    what = f"{part.name} of the run's own data" if part.own else f"other data, from {where}"
    log.info("%s\n%s: %s", run.words, what, counted(len(part.indices), "sample"))
    if part.own and part.name == options.temperature == "val":
        log.warning("the temperature is fitted on the same samples that it is evaluated on: it looks better than it is")
    loss = loss_of(run)
    metrics = make_metrics(cfg, loss)
    tables: dict[str, Table] = {}
    if options.temperature == "val":
        run.cool(fitted_temperature(opened, run, loss))
    loss.ignore_index = part.samples.ignore_index
    found, predicted = examine(run.model, loss, metrics, part.loader, run.cooled)
    values = {f"{part.name}/{name}": value for name, value in found.items()}
    if options.temperature is not None:
        tables[f"{part.name}/calibration"] = _calibration(run, loss, part, predicted)
    tables |= report.part_tables(run.task, run.classes, {part.name: predicted})
    if _may_show_mistakes(part):
        tables |= report.mistakes_table(run.task, run.classes, part.name, predicted, part.samples.held("path"))
    record = _record(opened, run, part, values, tables)
    pictures = _pictures(run, part, predicted) if options.figures else {}
    _show(part, values, tables, run.readout.temperature)
    with place:
        record["seconds"] = round(time.perf_counter() - begun, 3)
        write(place.path / "result.json", (to_json(redacted(record), 2) + "\n").encode())
        gallery.save(pictures, place.path / "figures")
        _write_predictions(place.path / "predictions.csv", run, part, predicted)
    log.info("\n%s", place.final)


def _part(opened: Opened, run: Run, name: str) -> Part:
    """See `part_of`. Whoever has no targets wants another command."""
    try:
        return part_of(opened, run, name)
    except ConfigError as error:
        raise ConfigError(*(_or_predict(opened, problem) for problem in error.problems)) from error


def _or_predict(opened: Opened, problem: Problem) -> Problem:
    is_lacking = problem.key == "dataset.target" and problem.what.startswith("the table has no column")
    if not is_lacking or problem.remedy:  # a column with such a name may be meant
        return problem
    words = "predict", f"run={opened.folder}", f"input={opened.cfg.dataset.path}"
    return replace(problem, remedy=f"{folder.command(opened.cfg, *words)}, for data without targets")


def loss_of(run: Run) -> Loss:
    """The loss that a run was trained with, its class weights as they are in the checkpoint. What its `ignore_index`
    is depends on the data."""

    def weights(node: Any, number: int) -> dict[str, Tensor | None]:
        names = [name for name in WEIGHTS if name in node]
        return {name: run.weights.loss.get(f"terms.{number}.criterion.{name}") for name in names}

    scaling = None
    if run.task == "regression" and run.cfg.loss.get("standardize", False):
        scaling = run.weights.loss["mean"], run.weights.loss["std"]
    loss = make_loss(run.cfg, weights, scaling=scaling)
    return on_device(loss, run.device)


def _calibration(run: Run, loss: Loss, part: Part, predicted: Predicted) -> Table:
    """Log loss and calibration error with the temperature, and without."""
    _, before = examine(run.model, loss, {}, part.loader, run.forward)
    rows: list[list[Any]] = []
    for name, each in (("1", before), (f"{run.readout.temperature:.4f}", predicted)):
        assert each.probabilities is not None
        error = metric.calibration_error(each.truth, each.probabilities) if each.truth.ndim == 1 else None
        rows.append([name, metric.log_loss(each.truth, each.probabilities), error])
    return Table(f"Calibration, {part.name}", ["temperature", "log loss", "calibration error"], rows)


def _may_show_mistakes(part: Part) -> bool:
    # Who looks at the mistakes on test, and mends them, has no test any more.
    return not (part.own and part.name == "test")


def _pictures(run: Run, part: Part, predicted: Predicted) -> dict[str, Tensor]:
    made = gallery.after(run.task, run.classes, {part.name: predicted})
    if _may_show_mistakes(part):
        made |= gallery.mistakes(run.task, run.classes, part.name, part.samples, predicted)
    return made | gallery.inside(run.cfg, run.model, part.loader)


def _show(part: Part, values: Mapping[str, float], tables: Mapping[str, Table], temperature: float) -> None:
    for tag in (f"{part.name}/per_class", f"{part.name}/calibration"):
        if tag in tables:
            report.show_if_short(tables[tag])
    cooled = "" if temperature == 1.0 else f", temperature {temperature:.4f}"
    rows = [[tag.partition("/")[2], value] for tag, value in values.items()]
    show(Table(f"Result, {part.name}{cooled}", ["metric", "value"], rows))


def _record(
    opened: Opened, run: Run, part: Part, values: Mapping[str, float], tables: Mapping[str, Table]
) -> dict[str, Any]:
    """What ``result.json`` says: what was measured, of what, with what."""
    held = run.weights
    weights = {"path": str(held.path), "sha256": checkpoint.sha256(held.path), "epoch": held.epoch, "step": held.step}
    return {
        "run": str(opened.folder.resolve()), "weights": weights, "part": part.name, "own_data": part.own,
        "dataset": config.recorded(opened.cfg.dataset), "samples": len(part.indices),
        "temperature": run.readout.temperature, "metrics": dict(values),
        "tables": {tag: table.records() for tag, table in tables.items()},
        "evaluated": datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": str(run.device), "threads": torch.get_num_threads(), "versions": versions(), "git": git_commit(),
    }  # fmt: skip


def _write_predictions(path: Path, run: Run, part: Part, predicted: Predicted) -> None:
    """The prediction for each sample, in the order of the data set."""
    layout = run.layout(("index",), target=True, probabilities=True)
    assert predicted.index is not None
    with Writer(str(path), layout) as writer:
        index = {"index": predicted.index.tolist()}
        writer.write(index, predicted.predictions, predicted.probabilities, predicted.truth)


class Folder:
    """The folder of what is found, which is there when all of it is, and not before.

    Raises:
        RunFolderError: it cannot be made, or already exists.
    """

    def __init__(self, opened: Opened) -> None:
        wanted = opened.options.output
        place = opened.folder / "evaluate" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        self.final = typed(wanted) if wanted is not None else place
        self._named = wanted is not None
        self.path = self.final.with_name(f".{self.final.name}.{os.getpid()}")
        if not self._named:
            folder.refuse_links(opened.folder, "run", ["evaluate"], deep=False)
        elif os.path.lexists(self.final):
            raise RunFolderError(Problem("output", f"'{self.final}' already exists", "a new folder"))

    def __enter__(self) -> Folder:
        key = "output" if self._named else "run"
        try:
            self.path.mkdir(parents=True)
        except OSError as error:
            remedy = "output=FOLDER, somewhere else"
            refuse(error, key, f"'{self.path.parent}' is not writable", remedy=remedy)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        with writing(self.final):
            if not self._named:
                self.final = folder.claim(self.final)  # empty, and replaced
            os.rename(self.path, self.final)
