"""The program as it was started, for lines that can be typed."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path


def line(*words: str) -> str:
    """Return what to type to have this program called with some words, which are quoted already if they need it."""
    return " ".join([shlex.join(start("runner")), *words])


_script: str | None = None
"""The console script by which this process was started, as it is typed; None for ``python -m runner``, or Python."""


def started_by(path: str) -> None:
    """Note by which file the process was started, so that commands which are printed begin in the same way."""
    global _script
    found, is_script = shutil.which("runner"), Path(path).name == "runner"
    is_found = is_script and found is not None and Path(path).exists() and os.path.samefile(path, found)
    _script = "runner" if is_found else path if is_script else None


def start(name: str) -> list[str]:
    """Return how a program of the environment is started here: ``runner`` itself, or ``tensorboard``."""
    by_uv = "UV_RUN_RECURSION_DEPTH" in os.environ  # whoever typed `uv run` may have it in no other way
    if name == "runner" and _script is None:
        return [*(["uv", "run"] if by_uv else ["python"]), "-m", name]
    return [*(["uv", "run"] if by_uv else []), str(_script) if name == "runner" else name]
