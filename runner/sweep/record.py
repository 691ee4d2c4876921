"""``sweep.json``: which jobs a sweep has, and in which folders; written before the first of them starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from runner import __version__, config, consent, folder, moved
from runner.config import EARLIER, EXACT
from runner.errors import Problem, RunFolderError, reason_of
from runner.files import read, write
from runner.keys import parse_json
from runner.ranking import Row
from runner.result import ENDED_WELL, to_json
from runner.sweep.grid import Job

NAME = folder.SWEEP

NOT_OF_THE_RUN = {"sweep", "resume", "check", "allow_targets", "facts"}
"""Keys that may differ between two runs of which one need not be run."""


@dataclass(frozen=True)
class Entry:
    """A job of a sweep.

    Args:
        name: of its folder.
        hash: of its configuration.
        overrides, swept: see `runner.sweep.grid.Job`.
    """

    name: str
    hash: str
    overrides: tuple[str, ...]
    swept: Mapping[str, str]

    @property
    def keys(self) -> dict[str, str]:
        """All that was typed of it, by key: when a sweep is resumed, jobs may come that differ in other keys."""
        typed = [override.lstrip("+").partition("=") for override in self.overrides]
        rest = {key: value for key, _, value in typed if key.partition(".")[0] not in NOT_OF_THE_RUN}
        return {**self.swept, **rest}


@dataclass
class Record:
    """Every job that a sweep ever had, in the order in which they came."""

    folder: Path
    typed: list[str]
    """The overrides that the sweep was started with last."""
    entries: list[Entry]
    numbers: str = EXACT
    """The way its jobs read and scale numbers: the sweep of an earlier version goes on as it began."""
    is_mine: bool = False
    """Whether it was written here by whoever reads it, and not changed since; see `runner.consent`."""
    _read: dict[Path, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    """By its path, when a ``result.json`` was written and what it says: of a thousand jobs few are read again."""

    @classmethod
    def new(cls) -> Record:
        """Of a sweep that has no folder yet."""
        return cls(Path(), [], [])

    @classmethod
    def read(cls, sweep_dir: Path) -> Record:
        """That of a sweep that is there.

        Raises:
            RunFolderError: the file is none of ours.
        """
        path = sweep_dir / NAME
        try:
            content = parse_json(text := read(path))
            entries = [
                Entry(
                    str(e["name"]),
                    str(e["hash"]),
                    tuple(map(str, e["overrides"])),
                    {str(k): str(v) for k, v in dict(e["swept"]).items()},
                )
                for e in content["jobs"]
            ]
            unsafe = [e.name for e in entries if Path(e.name).name != e.name or e.name in ("", "..")]
            if unsafe:
                raise ValueError(f"{unsafe[0]!r} is not the name of a folder")
            numbers, is_mine = str(content.get("numbers", EARLIER)), consent.is_marked(path, text.encode())
            return cls(sweep_dir, list(map(str, content["typed"])), entries, numbers, is_mine)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"is not the record of a sweep ({reason_of(error)})"
            raise RunFolderError(Problem(str(path), what)) from error

    def add(self, jobs: Sequence[tuple[Job, str]]) -> list[Entry]:
        """Add jobs, with the hashes of their configurations, and return their entries: of those that were there, as
        they are, and of two that are the same one."""
        by_hash = {entry.hash: entry for entry in self.entries}
        wanted: dict[str, Entry] = {}
        for job, digest in jobs:
            if digest not in by_hash:
                taken = {entry.name for entry in self.entries}
                # An earlier run of another configuration keeps its folder.
                name = job.name if job.name not in taken else f"{job.name}-{digest[:8]}"
                by_hash[digest] = Entry(name, digest, job.overrides, job.swept)
                self.entries.append(by_hash[digest])
            wanted[digest] = by_hash[digest]
        return list(wanted.values())

    @property
    def is_complete(self) -> bool:
        """Whether every job has ended well."""
        states = (folder.state(self.folder / entry.name) for entry in self.entries)
        return all(state in ENDED_WELL for state in states)

    def write(self) -> None:
        jobs = [asdict(entry) for entry in self.entries]
        content = {"runner": __version__, "typed": self.typed, "numbers": self.numbers, "jobs": jobs}
        text = to_json(content, indent=1).encode() + b"\n"
        write(self.folder / NAME, text)
        consent.mark(self.folder / NAME, text)

    def rows(self) -> Iterator[Row]:
        """What is known of each job that has ended, of a cross-validation fold by fold."""
        for entry in self.entries:
            place = self.folder / entry.name
            held: list[tuple[int | None, Path]] = [*folder.folds(place)] or [(None, place)]
            for fold, path in held:
                result = self._result(path)
                if result.get("state", "running") != "running":
                    yield Row(entry.name, entry.keys, fold, result)

    def _result(self, run_dir: Path) -> dict[str, Any]:
        try:
            written = (run_dir / "result.json").stat().st_mtime_ns
        except OSError:
            return {}
        if self._read.get(run_dir, (0, {}))[0] != written:
            self._read[run_dir] = written, folder.result(run_dir)
        return self._read[run_dir][1]


def digest(cfg: DictConfig) -> str:
    """SHA-256 of the configuration of a job: two that have the same are the same run.

    Of what comes from the environment, where it comes from counts, and not what it is: it may differ between machines.
    """
    tree, _ = config.plain(cfg, hidden=True)
    kept: dict[str, Any] = {key: value for key, value in tree.items() if key not in NOT_OF_THE_RUN}
    return hashlib.sha256(json.dumps(moved.as_first_written(kept), sort_keys=True, default=repr).encode()).hexdigest()
