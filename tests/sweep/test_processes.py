"""Runs in processes of their own."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from runner.signals import StopFlag
from runner.sweep.processes import Work, run_all


def test_a_second_ctrl_c_ends_at_once_what_runs(tmp_path: Path) -> None:
    """With a place beside it in which nothing runs."""

    def interrupted(works: Sequence[Work]) -> None:
        raise KeyboardInterrupt

    work = Work("one", "one", tmp_path, lambda: time.sleep(20) or 0)
    with pytest.raises(KeyboardInterrupt):
        run_all(iter([work]), lambda work: True, StopFlag(), n_jobs=2, watch=interrupted)
    assert not multiprocessing.active_children()
