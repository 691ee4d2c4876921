"""What a process prints to. Imports nothing heavy."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TextIO

from runner.visible import log


@contextmanager
def prepared() -> Iterator[None]:
    """While entered, characters that the terminal has not become question marks, and a warning of a library is one line
    of ours, once."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    said: set[str] = set()

    def say(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        text = f"{category.__name__}: {' '.join(str(message).split())}"
        if text not in said:
            said.add(text)
            log.warning("%s (%s, line %d)", text, filename, lineno)

    before, warnings.showwarning = warnings.showwarning, say
    try:
        yield
    finally:
        warnings.showwarning = before
