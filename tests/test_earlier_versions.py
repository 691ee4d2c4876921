"""Runs that earlier versions made, in ``tests/earlier/runs``: each evaluates, predicts and goes on as recorded.

The weights are compared by their bytes, everything else to the last digit, as long as torch and the kind of processor
are those that it was recorded with. With others sums are added in another order: then figures and predictions are
compared with a tolerance, and weights not at all; the test's output says so.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Once
from earlier import replay

import runner

EARLIER = Path(__file__).with_name("earlier")

RECORDED: dict[str, dict[str, Any]] = json.loads((EARLIER / "recorded.json").read_text())


def _replayed() -> None:
    """Ask all of them, of copies, in one process that has its environment before it imports torch."""
    shutil.copytree(EARLIER, ".", dirs_exist_ok=True)
    path = os.pathsep.join([str(Path(runner.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | replay.ENVIRONMENT | {"PYTHONPATH": path}
    subprocess.run([sys.executable, "replay.py", "found.json", *RECORDED], env=environment, check=True)


def test_every_folder_is_asked() -> None:
    assert RECORDED.keys() == replay.RUNS.keys() == {place.name for place in (EARLIER / "runs").iterdir()}


@pytest.mark.parametrize("name", RECORDED)
def test_a_run_of_an_earlier_version_is_what_it_was(name: str, once: Once) -> None:
    import torch

    found = json.loads((once(_replayed) / "found.json").read_text())[name]
    assert "failed" not in found, found["failed"]
    recorded = RECORDED[name]
    exact = recorded["with"] == {"torch": torch.__version__, "machine": platform.machine()}
    if not exact:
        print(f"recorded with {recorded['with']}: compared with a tolerance, and without the bytes of the weights")
        recorded["resume"].pop("weights")
    for what in ("evaluate", "predict", "resume"):
        assert list(unlike(recorded[what], found[what], 0.0 if exact else 1e-4)) == []


def unlike(recorded: Any, found: Any, tolerance: float, where: str = "") -> Iterator[str]:
    """Say what is missing or other than it was. A newer version may write more keys and columns."""
    if isinstance(recorded, dict):
        for key, value in recorded.items():
            if key in found:
                yield from unlike(value, found[key], tolerance, f"{where}/{key}")
            else:
                yield f"{where}/{key} is missing"
    elif isinstance(recorded, list):
        if len(recorded) != len(found):
            yield f"{where}: {len(recorded)} became {len(found)}"
        for number, pair in enumerate(zip(recorded, found, strict=False)):
            yield from unlike(*pair, tolerance, f"{where}/{number}")
    elif recorded != found and not (tolerance and _is_close(recorded, found, tolerance)):
        yield f"{where}: {recorded!r} became {found!r}"


def _is_close(recorded: Any, found: Any, tolerance: float) -> bool:
    """Whether the numbers in two lines, or two numbers, are nearly the same, and all else is."""
    pieces = [str(value).split(",") for value in (recorded, found)]
    return len(pieces[0]) == len(pieces[1]) and all(
        a == b or _are_close(a, b, tolerance) for a, b in zip(*pieces, strict=True)
    )


def _are_close(one: str, other: str, tolerance: float) -> bool:
    try:
        return math.isclose(float(one), float(other), rel_tol=tolerance, abs_tol=1e-6)
    except ValueError:  # texts
        return False
