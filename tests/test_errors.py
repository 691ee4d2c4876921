"""What is said of errors that other people's code raised."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from runner.errors import ConfigError, Problem, cause_of, lacking_memory


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("net.py", "no luck (net.py, line 2)"),
        ("mine/deep/net.py", "no luck (mine/deep/net.py, line 2)"),
        ("home/lib/python3.11/site-packages/net.py", "no luck"),  # of the user alone, or below `uv run --with`
        ("usr/lib/python3/dist-packages/net.py", "no luck"),
    ],
)
def test_the_line_of_the_users_code_that_raised_it_is_named(place: str, said: str) -> None:
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("def fail():\n    raise RuntimeError('no luck')\n")
    spec = importlib.util.spec_from_file_location("net", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(RuntimeError) as raised:
        module.fail()
    assert cause_of(without_this_file(raised.value)) == said


def test_no_line_of_pythons_own_is() -> None:
    with pytest.raises(json.JSONDecodeError) as raised:
        json.loads("{")
    said = "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    assert cause_of(without_this_file(raised.value)) == said


def without_this_file(error: BaseException) -> BaseException:
    """With the places behind the call in this file, which is nobody's library."""
    assert error.__traceback__ is not None
    return error.with_traceback(error.__traceback__.tb_next)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "needs more memory, and"),
        (MemoryError("Unable to allocate 7.28 TiB for an array with shape (10,)"), "needs 7.28 TiB, and"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2199023255552 bytes."),
         "needs 2,048.0 GiB of memory, and"),
        (RuntimeError("Storage size calculation overflowed with sizes=[99, 64]"), "needs more memory than can be"),
        (RuntimeError("no luck"), ""),
    ],
)  # fmt: skip
def test_what_was_asked_for_is_said_whoever_could_not_allocate_it(error: Exception, said: str) -> None:
    assert lacking_memory(error).startswith(said)
    assert bool(lacking_memory(error)) is bool(said)


def test_many_problems_are_counted_and_long_ones_cut() -> None:
    output = str(ConfigError(*(Problem(f"key{number}", "x" * 100_000) for number in range(3_000))))
    assert output.endswith("\nand 2,970 more")
    assert "key29: " in output
    assert "key30" not in output
    assert len(output) < 70_000
