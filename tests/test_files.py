from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner import files
from runner.files import typed, write


def test_content_replaces_content_and_nothing_else_is_left(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        write(tmp_path / "folder/file", content)
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "folder").iterdir()] == [("file", b"new")]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    path = tmp_path / "file"
    write(path, b"old")

    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, failing, fail)
    with pytest.raises(OSError, match="No space"):
        write(path, b"new")
    assert path.read_bytes() == b"old"


def test_home_is_a_tilde_and_nobodys_home_is_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert typed("~/x") == Path("/home/me/x")
    assert typed("~nosuchuser/x") == Path("~nosuchuser/x")


def test_a_path_that_cannot_be_looked_at_is_a_problem_and_no_traceback() -> None:
    problem = files.absent("dataset.path", Path("x" * 300), "a file")
    assert problem is not None
    assert problem.what == f"'{'x' * 300}' cannot be read: File name too long"
    assert files.absent("dataset.path", Path(__file__), "a file") is None
    missing = files.absent("dataset.root", Path("/no/such/place"), "a folder", is_folder=True)
    assert missing is not None
    assert missing.what == "there is no folder '/no/such/place'"
