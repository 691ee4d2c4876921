from __future__ import annotations

import subprocess
from pathlib import Path

import torch
from conftest import result_of

from runner.result import Result, end, git_commit, to_json


def test_nan_and_infinity_are_null() -> None:
    text = to_json({"a": float("nan"), "b": [float("inf"), 1.5, None], "c": "é", "d": True})
    assert text == '{"a": null, "b": [null, 1.5, null], "c": "é", "d": true}'


def test_a_record_is_on_the_disk_after_every_change(tmp_path: Path) -> None:
    result = Result(tmp_path)
    result.update(device="cpu")
    first = result_of(tmp_path)
    assert first["state"] == "running"
    assert first["device"] == "cpu"
    assert first["versions"]["torch"] == torch.__version__.partition("+")[0]
    result.update(state="completed", metrics={"test/accuracy": 0.5})
    last = result_of(tmp_path)
    assert (last["state"], last["metrics"], last["device"]) == ("completed", {"test/accuracy": 0.5}, "cpu")


def test_a_resumed_run_keeps_its_start_and_adds_its_seconds(tmp_path: Path) -> None:
    before = {"started": "2026-01-01T00:00:00+00:00", "seconds": 150.0, "state": "interrupted"}
    result = Result(tmp_path, before, 100.0)  # 50 of them were after the checkpoint
    result.update()
    content = result_of(tmp_path)
    assert content["started"] == "2026-01-01T00:00:00+00:00"
    assert 100 <= content["seconds"] < 110
    assert content["state"] == "running"


def test_the_commit_of_the_working_folder() -> None:
    assert git_commit() is None

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    Path("file").write_text("1")
    git("add", "file")
    git("commit", "-m", "x")
    assert git_commit() == {"commit": git("rev-parse", "HEAD"), "clean": True}
    Path("file").write_text("2")
    assert git_commit() == {"commit": git("rev-parse", "HEAD"), "clean": False}
    git("checkout", "file")
    Path("notes.txt").touch()
    Path("outputs").mkdir()
    Path("outputs/config.yaml").touch()
    assert git_commit() == {"commit": git("rev-parse", "HEAD"), "clean": True}
    Path("own_net.py").touch()  # code that git was not told of may be what ran
    assert git_commit() == {"commit": git("rev-parse", "HEAD"), "clean": False}


def test_a_run_that_cannot_begin_again_keeps_what_it_reached(tmp_path: Path) -> None:
    Result(tmp_path).update(state="completed", metrics={"test/accuracy": 0.5})
    end(tmp_path, result_of(tmp_path), RuntimeError("no memory"))
    content = result_of(tmp_path)
    assert (content["state"], content["error"]) == ("failed", "RuntimeError: no memory")
    assert content["metrics"] == {"test/accuracy": 0.5}
    (tmp_path / "result.json").unlink()
    end(tmp_path, None, RuntimeError("no memory"))
    assert result_of(tmp_path)["metrics"] == {}
