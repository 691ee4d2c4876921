"""Everything `runner` raises on purpose, as one tree.

RunnerError             exit status 1
├── InputError          exit status 2: what was asked for, or the data, is wrong; a message, no traceback
│   ├── ConfigError     found in the configuration alone, before any data were read
│   ├── DataError       found in the data, before training
│   └── RunFolderError  a run folder or a checkpoint that is missing, in use or damaged
├── NotWritten          an `OSError`, too: the disk is full or broken, or the system refused to write a file
├── NonFinite           (in `trainer`) the loss or a gradient is not finite
└── BrokenGradient      (in `trainer`) what debug=anomaly found
Interrupted             exit status 128 + signal: stopped by a signal after the state was saved
Pruned                  a search gave the run up

An `InputError` carries a list of `Problem`, so that one start reports everything it found.
"""

from __future__ import annotations

import difflib
import os
import re
import signal
import sysconfig
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

FOR_THE_TRACEBACK = "the same command with -v, for the traceback"
"""The remedy where only the traceback can say more."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, what, what would be right, and what to do about it."""

    key: str
    """Dotted key (``optimizer.lr``), override or file that the problem was found at."""
    what: str
    """The value given, and what is wrong with it."""
    allowed: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        lines = [f"{cut(self.key)}: {cut(self.what)}"]
        if self.allowed:
            lines.append(f"  allowed: {cut(self.allowed)}")
        if self.remedy:
            lines.append(f"  try: {cut(self.remedy)}")
        return "\n".join(lines)


MANY = 30
"""Problems that are said; of more the first ones, and how many there are."""


def cut(text: str, length: int = 2_000) -> str:
    """A text without its middle if it is longer than anybody would read."""
    return text if len(text) <= length else f"{text[: length // 2]} … {text[-length // 2 :]}"


class RunnerError(Exception):
    exit_status = 1


class InputError(RunnerError):
    """What was asked for, or the data, is wrong.

    Args:
        problems: everything that was found, each printed in at most three lines, and no more of them than `MANY`.
    """

    exit_status = 2

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        said: dict[str, str] = {}
        more = len(self.problems) - MANY
        lines = [str(_once(problem, said)) for problem in self.problems[:MANY]]
        return "\n".join([*lines, f"and {more:,} more"] if more > 0 else lines)


LONG = 60
"""Characters above which what is allowed is listed once."""


def _once(problem: Problem, said: dict[str, str]) -> Problem:
    """A problem without the long list that one of those before it has."""
    if len(problem.allowed) <= LONG or said.setdefault(problem.allowed, problem.key) == problem.key:
        return problem
    return replace(problem, allowed=f"as for {said[problem.allowed]}")


class ConfigError(InputError):
    pass


class DataError(InputError):
    pass


class RunFolderError(InputError):
    pass


class NotWritten(RunnerError, OSError):
    """A file or folder that could not be written, by its name, which the system's own errors may lack."""

    def __str__(self) -> str:
        return f"{self.filename} could not be written: {self.strerror}"


class Interrupted(BaseException):
    """A signal asked the run to stop, and its state was saved.

    No `Exception`, as `KeyboardInterrupt` is none: it may come in the middle of code of the user's whose mistakes are
    explained, and is none of them.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum
        # SIGUSR1 and SIGUSR2 are how Slurm announces the end of a job: it means a termination, and counts as one.
        self.exit_status = 128 + (signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM)


class Pruned(Exception):
    """A search gave a run up, whose evaluations did not look as if it could be the best."""


OUT_OF_MEMORY = "%s\n  try: a smaller loader.batch_size, a smaller model or input, or device=cpu"
"""What is said of it outside training, where batches are cut until they fit."""


def nearest(name: str, names: Iterable[str], prefix: str = "", cutoff: float = 0.6) -> str:
    """The remedy for a misspelt name: the closest of `names` behind `prefix`, or nothing.

    Args:
        cutoff: how much alike they have to be, from 0 to 1.
    """
    if len(name) > 100:  # comparing takes the square of that
        return ""
    by_small_letters = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), by_small_letters, n=1, cutoff=cutoff)
    return prefix + by_small_letters[close[0]] if close else ""


def is_slip(typed: str, name: str) -> bool:
    """Return whether a word is almost surely a name with a slip in it: ``modle``, ``transforms``; not ``logger``,
    which is another word than ``loader``."""
    typed, name = typed.lower(), name.lower()
    return sorted(typed) == sorted(name) or difflib.SequenceMatcher(None, typed, name).ratio() >= 0.9


def for_shell(override: str) -> str:
    """An override as a shell takes it: in quotes if it has characters that mean something there."""
    if re.fullmatch(r"[\w@%+=:,./~-]*", override):
        return override
    return f"'{override}'" if '"' in override else f'"{override}"'


def reason_of(error: BaseException) -> str:
    """The first line of what an error of somebody else's says, or its kind if it says nothing."""
    if is_not_plain(error):  # torch's own words advise to load it nevertheless
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        return f"it holds {refused[1] + ', which' if refused else 'what'} is not plain data and could run code"
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    # What else torch says when memory runs out is of each other process on the card.
    return ". ".join(first.split(". ")[:2]) if is_out_of_memory(error) else first


RE_SAVE = "torch.save(model.state_dict(), FILE) in the program that made it, if you trust it, and model.weights=FILE"
"""The remedy for a file that holds more than plain data."""


def is_not_plain(error: BaseException) -> bool:
    """Return whether torch refused to load a file with ``weights_only=True``, because it holds more than plain data."""
    return type(error).__name__ == "UnpicklingError" and "weights_only" in str(error)


def of_memory(error: BaseException) -> str:
    """Return what is said of an error, whoever raised it, for want of memory; or nothing."""
    reason = reason_of(error) if is_out_of_memory(error) else lacking_memory(error)
    return OUT_OF_MEMORY % reason if reason else ""


def lacking_memory(error: BaseException) -> str:
    """Say what was asked for that this machine cannot hold, from the error of whoever asked; or nothing."""
    said = str(error)
    asked = re.search(r"allocate (\d+) bytes|Unable to allocate ([\d.]+ \w+)", said)
    if not (isinstance(error, MemoryError) or asked or "Storage size calculation overflowed" in said):
        return ""
    many = "more memory than can be counted" if "overflowed" in said else "more memory"
    needs = many
    if asked is not None:
        needs = asked[2].replace(". ", " ") if asked[2] else f"{int(asked[1]) / 2**30:,.1f} GiB of memory"
    return f"needs {needs}, and this machine has {memory() / 2**30:,.1f} GiB"


def memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is torch's, which is not imported for this."""
    return type(error).__name__ == "OutOfMemoryError"


def cause_of(error: BaseException, kind: bool = False) -> str:
    """What an error that code of the user's may have raised says, and where it did: ``reason (my_net.py, line 12)``.

    Args:
        kind: whether its kind comes first, for reasons that are not clear without: ``KeyError: 'image'``.
    """
    return f"{f'{type(error).__name__}: ' if kind else ''}{reason_of(error)}{_place_of(error)}"


def _place_of(error: BaseException) -> str:
    """Where code of the user's raised an error: `` (my_net.py, line 12)``; empty if it came from anybody else's."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        installed = any(path.is_relative_to(place) for place in NOT_OF_THE_USER) or not INSTALLED.isdisjoint(path.parts)
        if path.is_file() and not installed:
            near = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
            return f" ({near}, line {frame.lineno})"
    return ""


NOT_OF_THE_USER = Path(__file__).parent, Path(sysconfig.get_path("stdlib"))
"""Folders of this package and of Python; not all that is below where Python is, such as /usr."""

INSTALLED = {"site-packages", "dist-packages"}
"""Names of folders of what is installed, of which there may be several: of the user, and below ``uv run --with``."""


def counted(number: int, word: str, words: str | None = None) -> str:
    """``1 job``, ``2 jobs``; `words` where an s does not make it several."""
    return f"{number:,} {word if number == 1 else words or f'{word}s'}"


def few(names: Iterable[object], count: int = 5) -> str:
    """``a, b, c``; of more than `count` the first ones: ``a, b, …``."""
    first = [str(name) for name in islice(names, count + 1)]
    return ", ".join(first[:count]) + (", …" if len(first) > count else "")


def shown(value: object) -> str:
    """A value as YAML has it."""
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else repr(value)
