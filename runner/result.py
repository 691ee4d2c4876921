"""`result.json`: how a run stands, what it reached, and with what."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from runner import debugger, project
from runner.checks.values import fits, in_bounds
from runner.errors import Interrupted, RunnerError, of_memory
from runner.files import write
from runner.visible import log, redacted

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "hydra-core", "omegaconf", "tensorboard")


ENDED_WELL = ("completed", "pruned")
"""States of a run that is over and did not fail: a search may have given it up."""


FIGURES = dict[str, float | None]

FIELDS: Mapping[str, Any] = {
    "state": str, "metrics": FIGURES, "baseline": FIGURES, "vitals": FIGURES, "started": str,
    "versions": dict[str, str],
    "git": dict[str, Any] | None, "device": str, "threads": int, "seconds": float, "split": str, "epochs": int,
    "steps": int, "best_epoch": int | None, "best_step": int | None, "tables": dict[str, list[dict[str, Any]]],
    "checkpoint": dict[str, str | None], "ended_by": str | None, "error": str | None, "folds": list[dict[str, Any]],
}  # fmt: skip
"""Types that ``result.json`` may hold for each field that is read again."""


def checked(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return what ``result.json`` says without the fields that no run writes so, and the names of these."""
    wrong = [name for name in FIELDS if name in content and not _is_right(name, content[name])]
    return {name: value for name, value in content.items() if name not in wrong}, wrong


def _is_right(name: str, value: Any) -> bool:
    is_count = FIELDS[name] in (int, float, int | None)
    return fits(value, FIELDS[name]) and in_bounds(value, {"least": 0} if is_count else {})


class Result:
    """The record of a run, on the disk from the moment it is known to be one, rewritten whole when its state changes.

    Args:
        folder: the run folder.
        before: what an earlier start of the same run left in ``result.json``, if this one resumes it.
        seconds: that the run had taken when the state was saved from which it goes on.
    """

    def __init__(self, folder: Path, before: Mapping[str, Any] | None = None, seconds: float = 0.0) -> None:
        self.path = folder / "result.json"
        self._since = time.perf_counter()
        self._seconds = seconds
        self.content: dict[str, Any] = {
            "state": "running",
            "metrics": {},
            "started": (before or {}).get("started") or datetime.now().astimezone().isoformat(timespec="seconds"),
            "versions": versions(),
            "git": git_commit(),
        }
        if before is not None and "threads" in before:
            self.content["threads"] = before["threads"]

    def update(self, **content: Any) -> None:
        """Enter `content`, and the seconds so far if it does not have them, and write the file."""
        self.content = self.now | content
        write(self.path, to_json(redacted(self.content), indent=2).encode() + b"\n")

    @property
    def now(self) -> dict[str, Any]:
        """The content, with the seconds so far."""
        return self.content | {"seconds": round(self.seconds, 3)}

    @property
    def seconds(self) -> float:
        """That the run has taken, over all its starts."""
        return self._seconds + time.perf_counter() - self._since


def end(
    run_dir: Path, before: Mapping[str, Any], error: Exception | str, state: str = "failed", **content: Any
) -> None:
    """Write how a run ended that was not completed. What it reached stays.

    Args:
        before: what ``result.json`` says; nothing if it is not there.
        content: what else it is to say.
    """
    why = str(error) if isinstance(error, str | RunnerError) else f"{type(error).__name__}: {error}"
    said = dict(before or Result(run_dir).content) | {"state": state, "error": why} | content
    with contextlib.suppress(OSError):  # a full disk, which may be what is wrong, and is said
        write(run_dir / "result.json", to_json(redacted(said), indent=2).encode() + b"\n")


def started(content: Mapping[str, Any]) -> float | None:
    """When a run began, in seconds since 1970, as ``result.json`` says it; None if it does not."""
    try:
        return datetime.fromisoformat(str(content.get("started"))).timestamp()
    except (ValueError, OverflowError, OSError):  # none, or of a year that no clock has
        return None


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that every reader accepts: NaN and the infinities, which JSON does not have, become null."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def from_json(value: float | None) -> float:
    """A figure as it was before `to_json`, which makes null of NaN."""
    return math.nan if value is None else float(value)


def known(figures: Mapping[str, float]) -> dict[str, float]:
    """Those that have a value. NaN is what has none: a rank correlation of predictions that are all the same."""
    return {tag: value for tag, value in figures.items() if not math.isnan(value)}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@functools.cache
def versions() -> dict[str, str]:
    """Of everything that a figure may depend on."""
    from runner import __version__

    others = {name: metadata.version(name) for name in PACKAGES}
    return {"runner": __version__, "python": platform.python_version(), **others}


def git_commit() -> dict[str, Any] | None:
    """Commit of the working folder, and whether the files were as in that commit; None outside a repository."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
        # Code and configuration that git has not been told of is what may have run, too; outputs are not.
        outputs = project.current().outputs
        but = [] if outputs.is_absolute() or ".." in outputs.parts else [f":!{outputs}"]
        added = _git("ls-files", "--others", "--exclude-standard", "--", "*.py", "*.yaml", ":!**/.venv/**", *but)
        return {"commit": commit, "clean": not (changed or added)}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def guarded(task: Callable[[], object]) -> int:
    """The exit status of one run. What goes wrong in it is said and logged here, and ends no other run of a sweep."""
    try:
        task()
    except Interrupted as error:
        raise SystemExit(error.exit_status) from error
    except RunnerError as error:
        log.error("error: %s", error)
        return error.exit_status
    except debugger.foreign() as error:
        if said := of_memory(error):
            log.error("error: %s", said)
        else:
            log.exception("error:")
        return 1
    return 0
