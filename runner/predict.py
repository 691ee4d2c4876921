"""`runner predict`: what trained runs say about pictures, tables, arrays, or a part of their data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import chain

import torch
from omegaconf import DictConfig

from runner.errors import ConfigError, Problem, counted
from runner.terminal import Status, error_console
from runner.trained.inputs import Piece, pieces
from runner.trained.opened import Opened
from runner.trained.reading import say_unknown
from runner.trained.run import Predictions, Run, open_run
from runner.trained.writing import Layout, Writer
from runner.visible import log


def main(opened: Sequence[Opened]) -> int:
    """Write what the runs say, and return how many samples could not be read.

    Args:
        opened: several runs are an ensemble: the mean of their probabilities, or values.

    Raises:
        InputError: a run, or what is to be predicted, is not what it has to be; nothing is written.
    """
    begun, options = time.perf_counter(), opened[0].options
    runs = [_ready(each) for each in opened]
    _check(options, runs)
    keep = [str(name) for name in options.keep]
    found = pieces(str(options.input), opened, runs, keep)
    first = next(found)  # what is wrong with all of it is found before there is an output
    is_part = first.truth is not None
    layout = runs[0].layout(
        tuple(first.keys), target=is_part, top_k=options.top_k, probabilities=options.probabilities, fails=not is_part,
        exact=any(run.is_exact for run in runs),
    )  # fmt: skip
    _check_names(keep, layout)
    with Writer(str(options.output), layout, formulas=options.formulas) as writer:
        count, failed = write(chain([first], found), runs, writer, list(options.flips))
    where = "" if writer.path is None else f": {writer.path}"
    log.info("%s in %.1f s%s", counted(count, "sample"), time.perf_counter() - begun, where)
    if runs[0].reader.codes is not None:
        say_unknown(runs[0].reader.codes)
    if failed:
        what = "%s of the %s could not be read; see the column error for the reasons"
        log.warning(what, f"{failed:,}", counted(count, "sample"))
    return failed


def write(found: Iterable[Piece], runs: Sequence[Run], writer: Writer, flips: Sequence[str] = ()) -> tuple[int, int]:
    """Write what the runs say of each piece, and return how many samples there were, and how many could not be read."""
    count, failed, begun = 0, 0, time.perf_counter()
    with Status(error_console) as status:
        for piece in found:
            said = _say(runs, piece, count, flips)
            writer.write(piece.keys, said.values, said.probabilities, piece.truth, piece.wrong)
            count, failed = count + len(next(iter(piece.keys.values()))), failed + len(piece.wrong)
            if status.is_due():
                status.show(f"{count:,} samples, {count / (time.perf_counter() - begun):,.0f} a second")
    return count, failed


def _ready(opened: Opened) -> Run:
    """A run of those that are asked, with its temperature."""
    options, wanted = opened.options, opened.options.temperature
    run = open_run(opened.cfg, opened.folder, options.weights, None if wanted == "val" else wanted)
    log.info("%s", run.words)
    if wanted == "val":
        from runner.evaluate import loss_of
        from runner.trained.calibration import fitted_temperature  # scikit-learn comes with them

        run.cool(fitted_temperature(opened, run, loss_of(run)))
    return run


def _check(options: DictConfig, runs: Sequence[Run]) -> None:
    """That the runs can be asked together, and asked this."""
    first = runs[0]
    for run in runs[1:]:
        if run.task != first.task or run.classes != first.classes or _width(run) != _width(first):
            differing = sorted(set(run.classes) ^ set(first.classes))
            words = "the same classes in another order"
            if differing:
                words = f"different classes: only one of them has {', '.join(differing[:5])}"
            what = f"{first.folder} and {run.folder} have {words}"
            if first.task != run.task or not run.classes:
                what = f"{first.folder} predicts {_outputs(first)}, but {run.folder} {_outputs(run)}"
            raise ConfigError(Problem("run", what, "runs with the same outputs"))
    chances = first.readout.gives_probabilities
    without = [run for run in runs if run.task != "regression" and not run.readout.gives_probabilities]
    if len(runs) > 1 and without:
        what = f"{without[0].folder} gives no probabilities to average"
        raise ConfigError(Problem("run", what, "one run, or runs that give probabilities"))
    ranked = len(first.classes) if chances and first.task in ("classification", "soft") else 1
    if options.top_k > ranked:
        what = f"{options.top_k} is not allowed"
        what += "" if ranked > 1 else ": this run has no ranked classes"
        raise ConfigError(Problem("top_k", what, f"1 … {ranked}, the classes of the run" if ranked > 1 else "1"))
    if options.probabilities and not chances:
        raise ConfigError(Problem("probabilities", "true, but this run gives no class probabilities", "false"))
    if options.flips and len(first.cfg.facts.input_shape) != 3:
        raise ConfigError(Problem("flips", f"are for images, but the run was trained on {first.reader.words}", "[]"))


def _check_names(keep: Sequence[str], layout: Layout) -> None:
    """That no column that is kept has the name of one of ours, among which it is in the layout."""
    ours = [*layout.names, *layout.chances, "probabilities", "error"]
    if twice := [name for name in keep if name == "index" or ours.count(name) > 1]:
        what = f"{twice[0]!r} is also the name of a column of the predictions"
        raise ConfigError(Problem("keep", what, "columns with other names"))


def _width(run: Run) -> int:
    return int(run.cfg.facts.num_outputs)


def _outputs(run: Run) -> str:
    if run.task == "regression":
        return counted(_width(run), "regression target")
    return f"{len(run.classes)} classes ({run.task})"


def _say(runs: Sequence[Run], piece: Piece, position: int, flips: Sequence[str]) -> Predictions:
    """What the runs say together of a piece that begins at a position."""
    if not piece.samples:
        return runs[0].read([])
    said = []
    for run, samples in zip(runs, piece.samples, strict=True):
        inputs = samples if piece.prepared else run.prepare(samples, position)
        said.append(run.say(inputs, flips).cpu())
    kind = reduce(torch.promote_types, [each.dtype for each in said])  # runs of earlier versions: float32
    return runs[0].read([said[0] if len(said) == 1 else torch.stack([each.to(kind) for each in said]).mean(0)])
