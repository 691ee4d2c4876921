"""A part of the data that a run was trained on, or other data with the same classes, for what is done with it later."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import open_dict, read_write
from torch import Tensor
from torch.utils.data import Dataset

from runner import data
from runner.batch import by
from runner.dataset import ArrayDataset, Samples, Stream
from runner.dataset.dialect import Codes
from runner.errors import DataError, Problem, counted, few, reason_of
from runner.files import read
from runner.keys import parse_json
from runner.loader import Loader
from runner.trained.opened import Opened
from runner.trained.reading import say_unknown
from runner.trained.run import Run, check
from runner.visible import log


@dataclass
class Part:
    """Samples, in the order of their indices.

    Args:
        samples: the data set that `indices` count in, with the classes of the run.
        loader: gives them as the model takes them.
        own: whether they are of the data that the run was trained on.
    """

    name: str
    samples: Samples
    indices: Tensor
    loader: Loader
    own: bool


def part_of(opened: Opened, run: Run, name: str) -> Part:
    """The part `name` of the run's own data by its own split; of other data their own such part, or all of them.

    Raises:
        InputError: the data are not those of the run, or not with its classes, or have no such part.
    """
    cfg = opened.cfg
    check(cfg, ("dataset", "split", "loader", "loss", "metric"))
    given = data.read(cfg, opened.sources)
    held = {part: each.head for part, each in given.items()}
    own = _fingerprint(opened.folder) == held["train"].fingerprint
    if not own and not opened.has_other_data:
        remedy = "dataset=OPTION with its dataset.root= or dataset.path=, to use them as new data"
        raise DataError(Problem("dataset", "the data have changed since training", remedy=remedy))
    if name == "train" and isinstance(given["train"], Stream):
        raise DataError(Problem("part", "the train part is a stream, which has no end", "val, test"))
    if own:
        with read_write(cfg), open_dict(cfg):
            cfg.split.path = str(opened.folder)  # as it was, whatever the function would make of it today
        split = data.make_split(cfg, held)
        samples, indices = held[name if name in split.official else "train"], torch.from_numpy(split.parts[name])
    else:
        samples, indices = _of_others(run, held, name)
    loader = data.evaluation_loader(cfg, samples, indices, run.transform, run.device)
    _check_shape(run, loader)
    return Part(name, samples, indices, loader, own)


def _fingerprint(run_dir: Path) -> str | None:
    """What tells the data of a run from others."""
    try:
        return str(parse_json(read(run_dir / "split.json"))["data"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"cannot be read ({reason_of(error)})"
        raise DataError(Problem(str(run_dir / "split.json"), what)) from error


def _of_others(run: Run, held: dict[str, Samples], name: str) -> tuple[Samples, Tensor]:
    if len(held) > 1 and name not in held:
        what = f"these data have no {name} part"
        raise DataError(Problem("part", what, ", ".join(held), f"part={next(iter(held))}"))
    samples = _alike(held[name] if len(held) > 1 else held["train"], run)
    if len(held) == 1:
        count, caution = f"{len(samples):,}", "if the run was trained on some of them, its figures are too good"
        log.info("the data set is not divided into parts: using all %s samples as %s (%s)", count, name, caution)
    return samples, torch.arange(len(samples))


def _alike(samples: Samples, run: Run) -> Samples:
    """Samples with the columns and the classes of a run."""
    facts = run.cfg.facts
    if samples.task != run.task:
        what = f"has {samples.task} targets, but the run was trained on {run.task} targets"
        raise DataError(Problem("dataset", what))
    source = samples.source
    if run.reader.codes is not None:
        source = _recoded(source, run)
    samples.check(len(samples.classes))
    if run.task == "regression":
        width = 1 if samples.targets.dim() == 1 else samples.targets.shape[1]
        if width != facts.num_outputs:
            what = f"has {counted(width, 'target')} per sample"
            raise DataError(Problem("dataset", what, f"{facts.num_outputs}, as in training"))
    elif samples.classes != run.classes:
        source = _renamed(source, samples, run.classes)
    keys = samples.keys if source is samples.source else None
    return Samples(source, keys, samples.layout, samples.ignore_index, samples.exact)


def _recoded(source: Any, run: Run) -> ArrayDataset:
    """A table with the columns of the run, in its codes."""
    if not isinstance(source, ArrayDataset) or source.features is None:
        raise DataError(Problem("dataset", f"is not a table, but the run was trained on {run.reader.words}"))
    assert run.reader.codes is not None
    run.reader.columns(list(source.columns))
    known = run.reader.codes
    codes = Codes(known.features, [None if n is None else list(n) for n in run.cfg.facts.categories], known.dialect)
    rows = list(zip(*(source.columns[name].tolist() for name in codes.features), strict=True))
    inputs, wrong = codes.read(rows)
    inputs = inputs.to(source.inputs.dtype)  # as the run has its own
    if wrong:
        raise DataError(Problem("dataset", f"row {min(wrong)}: {wrong[min(wrong)]}"))
    say_unknown(codes)
    return ArrayDataset(inputs, source.targets, source.classes, source.extra, source.columns)


def _renamed(source: Any, samples: Samples, classes: list[str]) -> Any:
    """The same samples with the class indices of the run, whose classes they name in another order or in part."""
    unknown = [name for name in samples.classes if name not in classes]
    lacking = [name for name in classes if name not in samples.classes]
    has_tags = samples.task == "multilabel" and len(getattr(samples.source, "goals", ())) == 1
    if unknown or not (samples.task == "classification" or has_tags):
        what = f"its classes are not those of the run: it has {few(unknown) or 'others'}, which the run does not have"
        what += f", and lacks {few(lacking)}" if lacking else ""
        raise DataError(Problem("dataset", what, few(classes, 20)))
    if lacking:
        log.info("of the run's %d classes, these data lack %s", len(classes), few(lacking))
    numbers = torch.tensor([classes.index(name) for name in samples.classes])
    if has_tags:  # of which a sample that does not count has none
        targets = torch.where((samples.targets[:, :1] < 0), samples.targets[:, :1], torch.zeros(1, len(classes)).long())
        targets[:, numbers] = samples.targets
    else:
        targets = numbers[samples.targets.clamp(0, len(numbers) - 1)]
        if samples.counted is not None:  # what stands for no class stays what it is
            targets = torch.where(samples.counted, targets, samples.targets)
    if isinstance(source, ArrayDataset):
        kept = (source.extra, source.columns, source.features, source.categories)
        return ArrayDataset(source.inputs, targets, classes, *kept)
    return _Renamed(samples, targets, classes)


class _Renamed(Dataset[Any]):
    def __init__(self, samples: Samples, targets: Tensor, classes: list[str]) -> None:
        self.samples, self.targets, self.classes = samples, targets, classes
        self.path = samples.held("path")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        given, _, extra = self.samples.raw(index)
        return {"input": given, "target": int(self.targets[index]), **extra}


def _check_shape(run: Run, loader: Loader) -> None:
    """That the model gets inputs of the shape that it was trained on."""
    found, wanted = list(next(loader.epoch()).input.shape[1:]), list(run.cfg.facts.input_shape)
    if found != wanted:
        shown = [by(shape) for shape in (found, wanted)]
        what = f"samples are {shown[0]} after the transforms, but the model was trained on {shown[1]}"
        remedy = '"dataset.size=[HEIGHT,WIDTH]", to resize a folder of images' if len(wanted) == 3 else ""
        raise DataError(Problem("dataset", what, shown[1], remedy))
