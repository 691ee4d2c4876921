from __future__ import annotations

import signal

import pytest

from runner.errors import Interrupted
from runner.signals import STOPPING, StopFlag


@pytest.mark.parametrize("signum", STOPPING)
def test_a_signal_is_noted_and_the_handlers_are_put_back(signum: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in STOPPING}
    with StopFlag() as stop:
        assert stop.signum is None
        signal.raise_signal(signum)
        assert stop.signum == signum
    assert {each: signal.getsignal(each) for each in STOPPING} == before


def test_a_second_ctrl_c_stops_at_once() -> None:
    with StopFlag():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGUSR2, 143)]
)
def test_exit_status(signum: int, status: int) -> None:
    assert Interrupted(signum).exit_status == status
