"""Runs in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from runner import folder
from runner.signals import StopFlag
from runner.sweep import launcher
from runner.sweep.processes import Work, run_all
from runner.sweep.record import Entry


def test_a_second_ctrl_c_ends_at_once_what_runs(tmp_path: Path) -> None:
    """With a place beside it in which nothing runs."""

    def interrupted(works: Sequence[Work]) -> None:
        raise KeyboardInterrupt

    work = Work("one", "one", tmp_path, lambda: time.sleep(20) or 0)
    with pytest.raises(KeyboardInterrupt):
        run_all(iter([work]), lambda work: True, StopFlag(), n_jobs=2, watch=interrupted)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("left", [False, True])
def test_a_job_that_is_still_running_elsewhere_is_waited_for_and_started_again_only_if_it_is_not_completed(
    monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    """By a process that has the folder to itself; what it has not written is not written for it."""
    Path("job").mkdir()
    ours, theirs = multiprocessing.Pipe()
    other = multiprocessing.get_context("fork").Process(target=_hold, args=(theirs,))
    other.start()
    ours.recv()
    assert folder.holder(Path("job")) == f"process {other.pid} on {os.uname().nodename}"
    waited: list[float] = []
    launched: list[list[str]] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        assert not launched
        if len(waited) == 3:
            ours.send("end")
            other.join()

    monkeypatch.setattr(launcher.time, "sleep", sleep)
    monkeypatch.setattr(launcher.signal, "signal", lambda *_: None)
    elsewhere = SimpleNamespace(launch=lambda jobs, initial_job_idx: launched.extend(jobs))
    monkeypatch.setattr(launcher.hydra_internals, "launcher", lambda cfg, task: elsewhere)
    job = OmegaConf.create({"allow_targets": ["mine.*", "b"]})
    work = launcher.work(OmegaConf.create(), job, Entry("job", "", ("seed=0",), {}), Path("job"), lambda: left)
    assert work.call() == 0
    assert len(waited) == 3
    assert launched == ([["seed=0", "allow_targets=[mine.*,b]", "hydra.sweep.subdir='job'"]] if left else [])
    assert folder.holder(Path("job")) is None
    waited.clear()
    assert work.call() == 0  # nobody has it: it is not waited for
    assert not waited
    assert len(launched) == 1 + left


def _hold(pipe: Any) -> None:
    folder.lock(Path("job"), "resume")
    pipe.send("mine")
    pipe.recv()


def test_the_record_of_a_job_that_goes_on_elsewhere_is_left_to_it(tmp_path: Path) -> None:
    ours, theirs = multiprocessing.Pipe()
    Path("job").mkdir()
    other = multiprocessing.get_context("fork").Process(target=_hold, args=(theirs,))
    other.start()
    ours.recv()
    Path("job/result.json").write_text('{"state": "running"}')
    with StopFlag() as stop:
        run_all(iter([Work("job", "job", Path("job"), lambda: 143)]), lambda work: True, stop)
    assert folder.state(Path("job")) == "running"
    ours.send("end")
    other.join()
    with StopFlag() as stop:
        run_all(iter([Work("job", "job", Path("job"), lambda: 143)]), lambda work: True, stop)
    assert folder.state(Path("job")) == "interrupted"
