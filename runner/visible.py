"""Text on its way to people: nothing in it can steer a terminal, and what came from the environment is named only.

Class names, paths and the files of a run folder may hold any character, and a message may repeat what it is about.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from io import TextIOWrapper
from typing import Any, TextIO, TypeVar
from urllib.parse import quote, quote_plus

Tree = TypeVar("Tree")

log = logging.getLogger("runner")
"""What runner says while it works; see `runner.terminal.ConsoleHandler`."""

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but for tab and line feed; what reverses the order of what follows, or breaks a line; halves of a
character. Marks that combine and joiners stay, of which words and emoji are made."""

SHORTEST = 6
"""Characters of a value that is kept out of texts. Shorter ones, such as 1, true or cuda, are in many by chance."""

_hidden: dict[str, str] = {}
"""Values from the environment, in the forms in which they may be met, and what is written in their place."""

_shown: set[str] = set()
"""Paths that are not hidden."""


def visible(text: str) -> str:
    """`text` with what would steer a terminal spelt out: ``\\x1b`` for the character that begins its commands."""
    return CONTROLS.sub(_spelt, text.replace("\r\n", "\n"))


def _spelt(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def hide(value: Any, reference: str) -> None:
    """Have `redacted` write `reference` for `value`, which came from the environment, or for the texts in it.

    What the command says, or where it was typed, is no secret, and is in what is to be typed next; see `show`.
    """
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            hide(each, reference)
    elif isinstance(value, str) and len(value) >= SHORTEST:
        shown = "\n".join([*sys.argv, _here(), *_shown])
        for form in _forms(value):
            if len(form) >= SHORTEST and form not in shown:
                _hidden.setdefault(form, reference)


def show(place: str) -> None:
    """Have `redacted` leave the parts of a path as they are: that of the run folder, wherever its name came from."""
    _shown.add(place)
    for form in [form for form in _hidden if form in place]:
        del _hidden[form]


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""


def _forms(value: str) -> Iterator[str]:
    """A value as it may be met in a message: in quotes, in JSON, in an address, as the path that it became."""
    yield from (value, repr(value)[1:-1], json.dumps(value)[1:-1], quote(value), quote_plus(value))
    with contextlib.suppress(ValueError, OSError):  # no path at all
        yield from (os.path.normpath(path := os.path.expanduser(value)), os.path.realpath(path))


def redacted(tree: Tree) -> Tree:
    """A text, or plain containers of texts, with references in the place of what came from the environment."""
    if not _hidden:
        return tree
    made: Any = tree
    if isinstance(made, dict):
        made = {redacted(key): redacted(child) for key, child in made.items()}
    elif isinstance(made, (list, tuple)):
        made = [redacted(child) for child in made]
    elif isinstance(made, str):
        for form in sorted(_hidden, key=len, reverse=True):  # what is in another one comes after it
            made = made.replace(form, _hidden[form])
    return made  # type: ignore[no-any-return]


def said(text: str) -> str:
    """`text` as it may be printed."""
    return visible(redacted(text))


class Spelt:
    """A terminal to which lines of a file are written: what would steer it is spelt out."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(visible(text))

    def flush(self) -> None:
        self._stream.flush()


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a text, on the error stream if no other one is given."""
    print(said(text), file=stream or sys.stderr)


def say_traceback() -> None:
    """Print where the error came from that is being handled."""
    say(traceback.format_exc().rstrip("\n"))


@contextlib.contextmanager
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
