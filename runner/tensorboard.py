"""TensorBoard: the curves and tables of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from runner.table import Table


class Board:
    """Writes a run's event files.

    Args:
        folder: the run's ``tensorboard`` folder.
        step: where training goes on. What an earlier start wrote from there on is hidden, so that no point is drawn
            twice.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def record(self, record: Mapping[str, Any], rates: Mapping[str, float], vitals: Mapping[str, float]) -> None:
        """An evaluation's record as points of curves, over optimizer steps.

        Args:
            rates: the learning rate of each parameter group, by its name.
            vitals: how training goes: samples per second, the norm of the gradient, …
        """
        step = record["step"]
        for tag, value in record.items():
            if "/" in tag:
                self._writer.add_scalar(tag, value, step)
        for group, rate in rates.items():
            self._writer.add_scalar(f"learning_rate/{group}", rate, step)
        for name, value in vitals.items():
            self._writer.add_scalar(f"vitals/{name}", value, step)
        self._writer.flush()

    def gradients(self, norms: Mapping[str, float], step: int) -> None:
        """The size of each layer's gradient as points of curves."""
        for layer, norm in norms.items():
            self._writer.add_scalar(f"gradients/{layer}", norm, step)

    def image(self, tag: str, image: Tensor, step: int = 0) -> None:
        """An image, (3, height, width): floats of 0 … 1, or uint8."""
        self._writer.add_image(tag, image, step)

    def table(self, tag: str, table: Table, step: int = 0) -> None:
        """A table in the text tab."""
        self._writer.add_text(tag, table.markdown(), step)

    def text(self, tag: str, text: str, step: int = 0) -> None:
        """Preformatted text in the text tab."""
        self._writer.add_text(tag, "\n".join("    " + line for line in text.splitlines()), step)

    def close(self) -> None:
        self._writer.close()
