"""TensorBoard: the curves and tables of a run."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Collection, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard import summary

from runner.files import write
from runner.table import Table

log = logging.getLogger("runner")

EVENTS = "events.out.tfevents"


class Board:
    """Writes a run's event file.

    There is one file with something in it. A run that is resumed writes it anew with the points that it has behind it:
    both of TensorBoard's loaders then show each point once, which they do not where ``purge_step`` asks them to forget
    some.

    What cannot be written, on a full disk, is kept and tried again.

    Args:
        folder: the run's ``tensorboard`` folder.
        steps: of the evaluations that a resumed run has behind it.
    """

    def __init__(self, folder: Path, steps: Collection[int] = ()) -> None:
        before = sorted(folder.glob(f"{EVENTS}.*")) if folder.is_dir() else []
        folder.mkdir(exist_ok=True)
        self.path = _new_name(folder, before)
        self._pending, self._failed = BytesIO(), False
        self._add(Event(file_version="brain.Event:2"))
        # At the second one that it meets, a TensorBoard that is running forgets what the file before told it.
        self._add(Event(session_log=SessionLog(status=SessionLog.START)))
        for event in _points(before, steps):
            self._write(event)
        # A file that takes the place of others is there whole before they are gone.
        content, self._pending = self._pending.getvalue(), BytesIO()
        write(self.path, content)
        self._size = len(content)
        for path in before:
            # Emptied first, and removed only at the next start: a TensorBoard that is reading one which is gone stays
            # there, and never comes to the new one.
            if path.stat().st_size:
                path.write_bytes(b"")
            else:
                path.unlink()

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

    def gradients(self, norms: Mapping[str, float], step: int) -> None:
        """The size of each layer's gradient as points of curves."""
        for layer, norm in norms.items():
            self._scalar(f"gradients/{layer}", norm, step)

    def image(self, tag: str, image: Tensor, step: int = 0) -> None:
        """An image, (3, height, width): floats of 0 … 1, or uint8."""
        self._add(Event(step=step, summary=summary.image(tag, image, dataformats="CHW")))

    def table(self, tag: str, table: Table, step: int = 0) -> None:
        """A table in the text tab."""
        self._add(Event(step=step, summary=summary.text(tag, table.markdown())))

    def text(self, tag: str, text: str, step: int = 0) -> None:
        """Preformatted text in the text tab."""
        self._add(Event(step=step, summary=summary.text(tag, "\n".join("    " + line for line in text.splitlines()))))

    def flush(self) -> None:
        """Write what was added since the last time."""
        content = self._pending.getvalue()
        try:
            with self.path.open("ab") as file:
                file.truncate(self._size)  # half a record, of an attempt that failed, would hide what comes after it
                file.write(content)
        except OSError as error:
            if not self._failed:
                log.warning("%s could not be written (%s): it will be tried again", self.path, error.strerror)
            self._failed = True
            return
        self._size, self._pending, self._failed = self._size + len(content), BytesIO(), False

    def close(self) -> None:
        self.flush()

    def _scalar(self, tag: str, value: float, step: int) -> None:
        self._add(Event(step=step, summary=summary.scalar(tag, value)))

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._write(event)

    def _write(self, event: Event) -> None:
        RecordWriter(self._pending).write(event.SerializeToString())


def _new_name(folder: Path, before: list[Path]) -> Path:
    """A name behind those that are there: TensorBoard reads files in the order of their names."""
    now = int(time.time())
    if before:
        now = max(now, int(before[-1].name.split(".")[3]) + 1)
    return folder / f"{EVENTS}.{now:010d}.{platform.node()}.{os.getpid()}.0"


def _points(paths: list[Path], steps: Collection[int]) -> Iterator[Event]:
    """The points of curves at `steps`, each once. Records that a killed process left torn end their file."""
    seen: set[tuple[str, int]] = set()
    for path in paths:
        for raw in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(raw)
            key = (event.summary.value[0].tag if event.summary.value else "", event.step)
            points = event.summary.value and event.summary.value[0].HasField("simple_value")
            if points and event.step in steps and key not in seen:
                seen.add(key)
                yield event
