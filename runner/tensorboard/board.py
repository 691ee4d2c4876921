"""What a run puts on its board."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from torch import Tensor
from torch.utils.tensorboard import summary

from runner.files import png, write
from runner.table import Table
from runner.tensorboard.events import EventFile, read
from runner.visible import redacted

Array = NDArray[Any]

VITALS = ("samples_per_second", "waiting_for_data", "gradient_norm", "update_to_weight", "memory_mib")
BETWEEN, HISTOGRAMS = "steps/", "histograms/"
"""Beginnings of the tags of points between evaluations, and of histograms."""


class Board:
    """Writes a run's event file.

    A run that is resumed writes it anew with what it has behind it: both of TensorBoard's loaders then show each point
    once, which they do not where ``purge_step`` asks them to forget some.

    What tells runs from one another is in a file of its own, a folder below: the HParams tab takes every curve beside
    it for a figure to compare.

    Args:
        folder: the run's ``tensorboard`` folder.
        steps: of the evaluations that a resumed run has behind it.
        reached: the step that it goes on from.
    """

    def __init__(self, folder: Path, steps: Collection[int] = (), reached: int = 0) -> None:
        self._events = EventFile(folder, _kept(folder, steps, reached))
        self._hparams: EventFile | None = None
        self.path = self._events.path

    def begin(self, metrics: Collection[str], hparams: Mapping[str, Any]) -> None:
        """Which curves share a chart among the custom scalars, those of train and val; what tells the run from others.

        Args:
            metrics: their names, without a part.
            hparams: values of the configuration by key.
        """
        charts = {name: ["Multiline", [rf"^(train|val|train_eval)/{re.escape(name)}$"]] for name in metrics}
        rates = {"of each group": ["Multiline", [r"^learning_rate/"]]}
        vitals = {name: ["Multiline", [rf"^vitals/{name}$"]] for name in VITALS}
        layout = {"train and val": charts, "learning rate": rates, "vitals": vitals}
        self._events.add(summary.custom_scalars(layout))
        # Without an experiment of their own TensorBoard finds the columns itself, in all runs that it is shown.
        _, start, _ = summary.hparams(redacted(dict(hparams)), {})
        self._hparams = EventFile(self.path.parent / "hparams")
        self._hparams.add(start)
        self._hparams.flush()

    def end(self, figures: Mapping[str, float], step: int) -> None:
        """Tell the HParams tab that the run is complete, and what it reached, by tag."""
        if self._hparams is not None:
            for tag, value in figures.items():
                self._hparams.add(summary.scalar(tag, value), step)
            self._hparams.add(summary.hparams({}, {})[2])
            self._hparams.flush()

    def record(self, record: Mapping[str, Any], rates: Mapping[str, float], vitals: Mapping[str, float]) -> None:
        """An evaluation's record as points of curves, over optimizer steps.

        Args:
            rates: the learning rate of each parameter group, by its name.
            vitals: how training goes: samples per second, the norm of the gradient, …
        """
        step = record["step"]
        for tag, value in record.items():
            if "/" in tag:
                self._scalar(tag, value, step)
        for group, rate in rates.items():
            self._scalar(f"learning_rate/{group}", rate, step)
        for name, value in vitals.items():
            self._scalar(f"vitals/{name}", value, step)
        self.flush()

    def step(self, step: int, loss: float, rates: Mapping[str, float]) -> None:
        """Points between evaluations."""
        self._scalar(f"{BETWEEN}train_loss", loss, step)
        for group, rate in rates.items():
            self._scalar(f"{BETWEEN}learning_rate/{group}", rate, step)

    def gradients(self, norms: Mapping[str, float], step: int) -> None:
        """The size of each layer's gradient as points of curves."""
        for layer, norm in norms.items():
            self._scalar(f"gradients/{layer}", norm, step)

    def histogram(self, tag: str, values: Tensor, step: int) -> None:
        """How the finite ones of some values are distributed."""
        flat = values.detach().float().flatten()
        finite = flat[flat.isfinite()].cpu()
        if len(finite):
            self._events.add(summary.histogram(f"{HISTOGRAMS}{tag}", finite.numpy(), bins=64), step)

    def image(self, tag: str, image: Tensor, step: int = 0) -> None:
        """An image, (3, height, width): floats of 0 … 1, or uint8."""
        self._events.add(summary.image(tag, image, dataformats="CHW"), step)

    def table(self, tag: str, table: Table, step: int = 0) -> None:
        """A table in the text tab."""
        self._events.add(summary.text(tag, table.markdown()), step)

    def text(self, tag: str, text: str, step: int = 0) -> None:
        """Preformatted text in the text tab."""
        self._events.add(summary.text(tag, "\n".join("    " + line for line in redacted(text).splitlines())), step)

    def points(
        self, name: str, points: Array, columns: Mapping[str, Sequence[Any]], sprites: Tensor | None = None
    ) -> None:
        """Put points into the projector of the run.

        Args:
            name: of the embedding.
            points: (N, D)
            columns: what is known of each point, N values a column.
            sprites: (3, n · side, n · side) uint8, a picture of each point, with n of `sprite_columns`.
        """
        folder, vectors = self.path.parent, StringIO()
        np.savetxt(vectors, points, delimiter="\t", fmt="%.6g")
        write(folder / "projector" / "vectors.tsv", vectors.getvalue().encode())
        # A tab or a line break in a value would begin another.
        values = ([" ".join(str(value).split()) for value in row] for row in zip(*columns.values(), strict=True))
        lines = ["\t".join(row) for row in (columns, *values)]
        write(folder / "projector" / "metadata.tsv", ("\n".join(lines) + "\n").encode())
        config = ProjectorConfig()
        embedding = config.embeddings.add()
        embedding.tensor_name = name
        embedding.tensor_path, embedding.metadata_path = "projector/vectors.tsv", "projector/metadata.tsv"
        if sprites is not None:
            write(folder / "projector" / "sprites.png", png(sprites))
            embedding.sprite.image_path = "projector/sprites.png"
            side = sprites.shape[2] // sprite_columns(len(points))
            embedding.sprite.single_image_dim.extend([side, side])
        write(folder / "projector_config.pbtxt", text_format.MessageToString(config).encode())

    def flush(self) -> None:
        self._events.flush()

    def close(self) -> None:
        self.flush()

    def _scalar(self, tag: str, value: float, step: int) -> None:
        self._events.add(summary.scalar(tag, value), step)


def _kept(folder: Path, steps: Collection[int], reached: int) -> Iterator[Event]:
    """Of what was written before, what is not measured again, each once."""
    seen: set[tuple[str, int]] = set()
    for event in read(folder):
        if not event.summary.value:
            continue
        value = event.summary.value[0]
        tag, between = value.tag, value.tag.startswith(BETWEEN)
        wanted = value.HasField("simple_value") or tag.startswith(HISTOGRAMS)
        behind = event.step <= reached if between else event.step in steps
        if wanted and behind and (tag, event.step) not in seen:
            seen.add((tag, event.step))
            yield event


def sprite_columns(points: int) -> int:
    """Pictures in a row of a sprite, which has as many rows."""
    return int(np.ceil(np.sqrt(points)))
