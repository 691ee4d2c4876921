"""`debug=anomaly`: which operation broke the gradient, and where in the code it was called."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from runner.errors import RunnerError

FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.+)\n(?:    (?P<code>[^\n]*))?')
NOT_ASKED_FOR = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
"""Code between the call that somebody wrote and the operation, or before it."""


class BrokenGradient(RunnerError):
    """The backward pass failed, or made a gradient that is NaN."""


@contextmanager
def explained() -> Iterator[None]:
    """Turn what torch's anomaly detection finds in a backward pass into an error that says where it came from.

    Raises:
        BrokenGradient: it found something.
    """
    if not torch.is_anomaly_enabled():
        yield
        return
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            yield
        except torch.OutOfMemoryError:  # a RuntimeError too, and one that a smaller micro-batch may cure
            raise
        except RuntimeError as error:
            raise BrokenGradient(_explanation(str(error), "\n".join(str(w.message) for w in seen))) from error


def _explanation(error: str, trace: str) -> str:
    """What went wrong, and the line that called the operation."""
    found = re.search(r"Error detected in (\w+?)(Backward\d*)?\.", trace)
    if found is None:  # not an anomaly of a gradient
        return error
    if "inplace operation" in error:
        what = f"the result of {found[1]}, or what it was computed from, was changed in place before its gradient was"
        what += " computed"
        remedy = "\n  try: an operation that makes a new tensor: x = x + y for x += y, x.relu() for x.relu_()"
    else:
        what, remedy = f"the gradient of {found[1]} is NaN", ""
    frames = list(FRAME.finditer(trace))
    asked_for = [frame for frame in frames if not frame["file"].startswith(NOT_ASKED_FOR)] or frames
    if asked_for:
        last = asked_for[-1]
        what += f"\n  called in {last['file']}, line {last['line']}, in {last['function']}: {last['code'] or ''}"
        what = what.rstrip()
    return what + remedy
