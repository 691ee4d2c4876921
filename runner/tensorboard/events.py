"""An event file of TensorBoard's, which survives full disks and resumed runs."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from runner.files import append, write, writing
from runner.visible import log

NAME = "events.out.tfevents"


class EventFile:
    """The one event file of a folder with something in it; those that were there before are taken out of the way.

    What cannot be written, on a full disk, is kept and tried again.

    Args:
        folder: is made if it is not there.
        kept: events of the files that were there, which the new one begins with.
    """

    def __init__(self, folder: Path, kept: Iterable[Event] = ()) -> None:
        before = files(folder)
        with writing(folder):
            folder.mkdir(exist_ok=True)
        # A name behind those that are there: TensorBoard reads files in the order of their names.
        now = max([int(time.time()), *(int(path.name.split(".")[3]) + 1 for path in before[-1:])])
        self.path = folder / f"{NAME}.{now:010d}.{platform.node()}.{os.getpid()}.0"
        self._pending, self._failed = BytesIO(), False
        self._stamp(Event(file_version="brain.Event:2"))
        # At the second one that it meets, a TensorBoard that is running forgets what the file before told it.
        self._stamp(Event(session_log=SessionLog(status=SessionLog.START)))
        for event in kept:
            self._write(event)
        # A file that takes the place of others is there whole before they are gone.
        content, self._pending = self._pending.getvalue(), BytesIO()
        write(self.path, content)
        self._size = len(content)
        for path in before:
            # Emptied first, and removed only at the next start: a TensorBoard that is reading one which is gone stays
            # there, and never comes to the new one.
            if path.stat().st_size:
                with append(path) as file:
                    file.truncate(0)
            else:
                path.unlink()

    def add(self, summary: Summary, step: int = 0) -> None:
        """Take in what is written with the next `flush`."""
        self._stamp(Event(step=step, summary=summary))

    def flush(self) -> None:
        """Write what was added since the last time."""
        content = self._pending.getvalue()
        try:
            with append(self.path) as file:
                file.truncate(self._size)  # half a record, of an attempt that failed, would hide what comes after it
                file.write(content)
        except OSError as error:
            if not self._failed:
                log.warning("could not write %s (%s); it will be tried again", self.path, error.strerror)
            self._failed = True
            return
        self._size, self._pending, self._failed = self._size + len(content), BytesIO(), False

    def _stamp(self, event: Event) -> None:
        event.wall_time = time.time()
        self._write(event)

    def _write(self, event: Event) -> None:
        RecordWriter(self._pending).write(event.SerializeToString())


def files(folder: Path) -> list[Path]:
    """The event files of a folder, in the order in which TensorBoard reads them."""
    return sorted(folder.glob(f"{NAME}.*")) if folder.is_dir() else []


def read(folder: Path) -> Iterator[Event]:
    """The events of a folder. Records that a killed process left torn end their file."""
    for path in files(folder):
        for raw in RawEventFileLoader(str(path)).Load():
            yield Event.FromString(raw)
