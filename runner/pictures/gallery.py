"""Pictures of an experiment: its samples, and the predictions for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional
from torchvision.utils import make_grid

from runner import config, metric, transform
from runner.dataset import Samples
from runner.experiment import Experiment
from runner.files import png, write
from runner.loader import Loader
from runner.metric import Predicted
from runner.pictures import layers, plots
from runner.pictures.plots import to_image
from runner.table import Table
from runner.tensorboard import Board
from runner.tensorboard.board import sprite_columns
from runner.transform import Pipeline

SHOWN = 16
"""Samples on a picture."""


def wanted(cfg: DictConfig) -> bool:
    """Whether there is a place for pictures: the board, or files."""
    return bool(cfg.figures or (cfg.tensorboard.enabled and cfg.tensorboard.pictures))


def before(experiment: Experiment) -> dict[str, Tensor]:
    """Samples of train as they are stored and as the model gets them, by tag; nothing if they are no pictures."""
    data, example = experiment.data, experiment.data.example
    train, found = data.samples["train"], example.input[:SHOWN]
    if found.dim() != 4:
        return {}
    index = example.index[:SHOWN].tolist()
    if max(index) >= len(train):  # of a stream, beyond its head
        return {}
    stored = [train.read(i)[0] for i in index]
    if any(each.dim() != 3 for each in stored):
        return {}
    names = plots.labels(train.classes)
    captions = [
        f"{i}: {_name(names, int(target))}" if train.task == "classification" else str(i)
        for i, target in zip(index, example.target, strict=False)
    ]
    given = list(undone(found.float(), data.transform))
    span, theirs = _range(stored), _range(given)
    # On one scale, so that a change of brightness is seen; unless a transform has brought them to another one.
    same = 0.2 < (theirs[1] - theirs[0]) / max(span[1] - span[0], 1e-12) < 5
    rows = [_displayed(stored, span), _displayed(given, span if same else theirs)]
    title = "Training samples: index" + (" and class" if train.task == "classification" else "")
    figure = plots.pictures(rows, captions, ["stored", "model input"], title)
    return {"train/samples": to_image(figure)}


def _name(classes: Sequence[str], target: int) -> str:
    """The name of a class; a dash for a target that is ignored, which may be any number."""
    return classes[target] if 0 <= target < len(classes) else "–"


def after(task: str, classes: Sequence[str], predicted: Mapping[str, Predicted]) -> dict[str, Tensor]:
    """Figures of the predictions for each part, by tag; without what takes numbers of which some are not finite.

    Args:
        task: see `runner.dataset.Samples.task`.
    """
    made = {}
    for part, each in predicted.items():
        if task == "regression":
            if not np.isfinite(each.predictions).all():
                continue
            made[f"{part}/residuals"] = plots.residuals(each.truth, each.predictions, part)
            continue
        if task != "multilabel":
            matrix = metric.confusion_matrix(each, len(classes))
            made[f"{part}/confusion"] = plots.confusion(matrix, classes, part)
        if each.probabilities is not None and np.isfinite(each.probabilities).all():
            made[f"{part}/ranking"] = plots.ranking(each.truth, each.probabilities, classes, part)
    return {tag: to_image(figure) for tag, figure in made.items()}


def mistakes(task: str, classes: Sequence[str], part: str, samples: Samples, predicted: Predicted) -> dict[str, Tensor]:
    """The wrong predictions that were surest, as pictures; nothing if samples are none.

    Of val alone: who looks at the mistakes on test, and mends them, has no test any more.
    """
    if task not in ("classification", "soft") or predicted.index is None:
        return {}
    rows, names = metric.most_confident_mistakes(predicted, SHOWN), plots.labels(classes)
    stored = [samples.read(int(predicted.index[row]))[0] for row in rows]
    if not rows or any(each.dim() != 3 for each in stored):
        return {}
    sure, paths = predicted.probabilities, samples.held("path")
    index = {row: int(predicted.index[row]) for row in rows}
    called = {row: str(i) if paths is None else plots.file_label(str(paths[i]), i) for row, i in index.items()}
    captions = [
        f"{called[row]}: {names[predicted.truth[row]]}\n→ {names[predicted.predictions[row]]}"
        + ("" if sure is None else f" {sure[row].max():.0%}")
        for row in rows
    ]
    title = f"Most confident mistakes on {part}: {'index' if paths is None else 'file'}, true class, predicted class"
    return {f"{part}/mistakes": to_image(plots.pictures([_displayed(stored, _range(stored))], captions, [""], title))}


def inside(cfg: DictConfig, model: nn.Module, loader: Loader) -> dict[str, Tensor]:
    """Feature maps and Grad-CAM of some samples, as far as the configuration asks for them."""
    board = config.value(cfg.tensorboard)
    if not (cfg.figures or board["enabled"]):
        return {}
    # In a Sequential the layers' names are numbers, to YAML too.
    maps, cam = [str(name) for name in board["feature_maps"]], board["grad_cam"]
    return layers.draw(model, loader, maps, None if cam is None else str(cam), board["samples"])


def undone(inputs: Tensor, pipeline: Pipeline) -> Tensor:
    """Inputs as they were before they were normalised, (B, C, H, W); other transforms stay."""
    for step in reversed(pipeline.steps):
        if isinstance(step, transform.Normalize) or type(step).__name__ == "Normalize":  # torchvision's, too
            mean, std = (torch.as_tensor(v, device=inputs.device).view(1, -1, 1, 1) for v in (step.mean, step.std))
            inputs = inputs * std + mean
        elif isinstance(step, transform.Float):
            inputs = inputs / step.scale
    return inputs


def _range(pictures: list[Tensor]) -> tuple[float, float]:
    """What is black, and what is white: of bytes 0 and 255, where they come near it."""
    lowest, highest = min(float(each.min()) for each in pictures), max(float(each.max()) for each in pictures)
    if lowest >= 0 and 64 < highest <= 255:
        return 0.0, 255.0
    return (0.0, 1.0) if lowest >= 0 and 0.5 < highest <= 1 else (lowest, highest)


def _displayed(pictures: list[Tensor], span: tuple[float, float]) -> list[NDArray[Any]]:
    """Pictures, each (C, H, W), as (H, W) or (H, W, 3) of 0 … 1."""
    low, high = span
    scaled = [((each.cpu().float() - low) / max(high - low, 1e-12)).clamp(0, 1) for each in pictures]
    return [np.asarray(each[:3].permute(1, 2, 0) if len(each) >= 3 else each[0]) for each in scaled]


EMBEDDED = 5000
"""Samples of val in the projector."""


def embeddings(experiment: Experiment, layer: str, board: Board | None) -> dict[str, Table]:
    """Put what a layer makes of val into the projector.

    Returns:
        how far classes are from one another there, by tag.
    """
    data, train = experiment.data, experiment.data.samples["train"]
    points, target, index, inputs = layers.embed(experiment.model, data.loaders["val"], layer, EMBEDDED)
    columns: dict[str, list[Any]] = {"sample": index.tolist()}
    hard = train.task in ("classification", "soft")
    truth = target.argmax(1) if train.task == "soft" else target
    known = truth.tolist()
    columns["class" if hard else "target"] = [_name(train.classes, t) for t in known] if hard else known
    if board is not None:
        sprites = _sprites(undone(inputs, data.transform)) if inputs.dim() == 4 else None
        board.points(f"val/{layer}", points.numpy(), columns, sprites)
    if not hard:
        return {}
    tables = metric.class_distances(points.numpy(), truth.numpy(), train.classes)
    return {f"embeddings/{tag}": table for tag, table in tables.items()}


def _sprites(pictures: Tensor) -> Tensor:
    """One picture of many, (B, C, H, W): (3, rows · side, columns · side) uint8."""
    span = _range(list(pictures))
    side = min(max(pictures.shape[2:]), 48)
    small = functional.interpolate(layers.rgb(pictures, span[0], span[1] - span[0]), (side, side), mode="area")
    columns = sprite_columns(len(small))
    empty = small.new_zeros(columns**2 - len(small), 3, side, side)
    grid: Tensor = make_grid(torch.cat([small, empty]), columns, padding=0)
    return (grid * 255).round().to(torch.uint8)


def save(pictures: Mapping[str, Tensor], folder: Path) -> None:
    """Write pictures, (3, H, W) uint8 or floats of 0 … 1, as PNG."""
    for tag, picture in pictures.items():
        pixels = picture if picture.dtype == torch.uint8 else (picture * 255).round().to(torch.uint8)
        write(folder / f"{tag.replace('/', '-')}.png", png(pixels))
