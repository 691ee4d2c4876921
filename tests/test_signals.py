from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import QUICK, Run, composed, result_of
from omegaconf import DictConfig, open_dict, read_write

from runner import config, folder, signals
from runner.batch import Batch
from runner.errors import Interrupted
from runner.signals import STOPPING, StopFlag, Watch, exiting
from runner.sweep import launcher
from runner.trainer import Trainer


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


def test_it_is_read_where_it_is_safe_to_stop() -> None:
    with StopFlag() as stop:
        stop.check()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGTERM"):
            stop.check()


def test_where_nothing_is_half_done_it_stops_on_the_spot() -> None:
    reached: list[str] = []

    def wait(stop: StopFlag, is_told_before: bool = False, is_user_in_the_way: bool = False) -> None:
        if is_told_before:
            signal.raise_signal(signal.SIGTERM)
        with stop.gap:
            reached.append("began to wait")
            try:
                signal.raise_signal(signal.SIGTERM)
                reached.append("went on")
            except BaseException as error:
                if is_user_in_the_way:
                    raise ValueError("code of the user's that makes something else of it") from error
                raise

    for how in ({}, {"is_told_before": True}, {"is_user_in_the_way": True}):
        with StopFlag() as stop, pytest.raises(Interrupted, match="SIGTERM"):
            wait(stop, **how)
    assert reached == ["began to wait", "began to wait"]


def deadlock() -> None:
    """Wait in C, from where no handler of Python's is called."""
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)


def compute() -> None:
    until = time.process_time() + 0.6
    while time.process_time() < until:
        pass


def status_of(do: Callable[[], object], signum: int = signal.SIGTERM) -> int:
    """With what a process ends that does this, and is sent a signal when it has begun to."""
    begun, beginning = os.pipe()
    child = os.fork()
    if child == 0:
        status = 99
        try:
            signals.GRACE = 0.3
            signals.Watch.poll = 0.05
            with exiting():
                os.write(beginning, b"b")
                do()
                status = 0
        except SystemExit as stop:
            status = int(str(stop.code))
        finally:
            os._exit(status)
    os.read(begun, 1)
    os.close(begun)
    os.close(beginning)
    time.sleep(0.05)
    os.kill(child, signum)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("it still ran")


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_process_that_waits_in_c_is_ended(signum: int, status: int) -> None:
    assert status_of(deadlock, signum) == status


@pytest.mark.parametrize("is_open", [False, True])
def test_a_run_that_waits_is_ended_and_told_whether_its_state_is_whole(is_open: bool) -> None:
    def run() -> None:
        with StopFlag() as stop:
            stop.is_busy = lambda: False
            stop.abandon = lambda why: Path("said").write_text(f"{why}, {stop.is_open}") and why
            with stop.gap if is_open else contextlib.nullcontext():
                deadlock()

    assert status_of(run) == 143
    assert Path("said").read_text() == f"stopped by SIGTERM, {is_open}"


def test_a_run_that_computes_or_writes_is_left_to_end_by_itself() -> None:
    def run(is_busy: bool, do: Callable[[], object]) -> None:
        with StopFlag() as stop:
            stop.is_busy = lambda: is_busy
            do()
            Path("ended").touch()
            stop.check()

    for is_busy, do in ((False, compute), (True, lambda: time.sleep(0.6))):
        Path("ended").unlink(missing_ok=True)
        with contextlib.suppress(Interrupted):
            status_of(lambda is_busy=is_busy, do=do: run(is_busy, do))  # type: ignore[misc]
        assert Path("ended").exists()


def test_the_watch_does_not_see_a_fork_and_what_comes_to_a_child_is_none_of_its_parent() -> None:
    with exiting():
        watch = Watch.current
        assert watch is not None
        assert threading.active_count() > 1
        child = os.fork()
        if child == 0:
            alone = threading.active_count() == 1 and Watch.current is None
            signal.signal(signal.SIGTERM, lambda *_: None)
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0 if alone else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        time.sleep(0.05)
        assert watch.signum is None
    assert Watch.current is None


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_would_end_the_process_on_the_spot_cleans_up_first_and_says_so(
    capsys: pytest.CaptureFixture[str], signum: int, status: int
) -> None:
    before = signal.getsignal(signum)
    with pytest.raises(SystemExit) as left, exiting():
        signal.raise_signal(signum)
    assert left.value.code == status
    assert signal.getsignal(signum) == before
    assert capsys.readouterr().err == f"stopped by {signal.Signals(signum).name}\n"


def test_a_signal_ends_it_whatever_code_makes_of_it() -> None:
    @contextlib.contextmanager
    def failing_to_clean_up() -> Iterator[None]:
        try:
            yield
        finally:
            raise KeyError("left half done")

    with pytest.raises(SystemExit) as left, exiting(), failing_to_clean_up():
        signal.raise_signal(signal.SIGTERM)
    assert left.value.code == 143
    with pytest.raises(SystemExit) as left, exiting(), contextlib.suppress(SystemExit):
        signal.raise_signal(signal.SIGTERM)
    assert left.value.code == 143


@pytest.mark.parametrize("where", ["building", "importing"])
def test_a_run_that_is_stopped_before_it_begins_leaves_nothing(
    where: str, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if where == "building":
        monkeypatch.setattr("runner.train.prepare", lambda *_: signal.raise_signal(signal.SIGINT))
    Path("own.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\nNet = object\n")
    own = ["model._target_=own.Net", "allow_targets=[own.*]"] if where == "importing" else []
    assert run(*own) == 130
    assert capsys.readouterr().err == "stopped by SIGINT before training began; nothing was written\n"
    assert not Path("outputs").exists()


def test_last_is_not_what_was_started_before_a_start_that_was_stopped(
    run: Run, digits: Path, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor of sweeps; and it is again when something else was started, or what is there was resumed by its name."""
    place, swept = Path("outputs/2026-01-01/00-00-00"), Path("outputs/multirun/2026-01-01/00-00-00")
    place.parent.mkdir(parents=True)
    digits.rename(place)
    shutil.copytree(sweep, swept)
    longer = "trainer.max_epochs=3"
    own = Path("own")
    own.symlink_to("nowhere")
    elsewhere = {"run": ("check=only", "hydra.run.dir=here"), "sweep": ("debug=dev_run", "hydra.sweep.dir=there")}
    for words, kind in (((), "run"), (("-m",), "sweep")):
        Path(f"outputs/.stopped-{kind}").symlink_to(own)  # which is not followed
        for apart in elsewhere[kind]:
            assert _stopped(run, *words, *QUICK, apart) == 143  # `last` would not mean these
        assert Path(f"outputs/.stopped-{kind}").is_symlink()
        assert _stopped(run, *words, *QUICK, "seed=7") == 143
        assert Path(f"outputs/.stopped-{kind}").is_file()
        capsys.readouterr()
        before = {path: path.read_bytes() for path in Path("outputs").rglob("*") if path.is_file()}
        assert run(*words, "resume=last", longer) == 2
        said = capsys.readouterr().err
        assert "the newest start was stopped before training began" in said
        assert {path: path.read_bytes() for path in Path("outputs").rglob("*") if path.is_file()} == before
        assert folder.find("last", "run") == place  # of what is only read
        remedy = said.rpartition("  try: ")[2].partition(", ")[0].split()
        assert remedy == [*words, f"resume={swept if words else place}"]
        assert run(*remedy, longer) == 0
        assert _stopped(run, *words, "resume=last", "trainer.max_epochs=4") == 143  # of what is there
        assert run(*words, "resume=last") == 0
    assert _stopped(run, *QUICK) == 143
    assert run(*QUICK, "trainer.max_epochs=1", "tensorboard.enabled=false") == 0
    capsys.readouterr()
    assert run("resume=last") == 0
    assert str(place) not in capsys.readouterr().out
    assert not own.exists()


def _stopped(run: Run, *arguments: str) -> int:
    """Start something, and send it a signal while it is built."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("runner.checks.before_data.check_values", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
        patched.setattr("runner.preflight.check", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
        patched.setattr("runner.preflight.refuse", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
        return run(*arguments)


@pytest.mark.parametrize(("signum", "heard"), [(signal.SIGUSR2, True), (signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_launcher_hears_of_a_signal_after_the_state_is_saved_and_what_it_starts_again_is_resumed(
    digits: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, signum: signal.Signals, heard: bool
) -> None:
    """As submitit does: it has a handler by which the job is queued again."""
    told: list[tuple[int, str]] = []
    before = signal.getsignal(signum)
    cfg = composed(*QUICK)
    monkeypatch.setattr(config, "run_dir", lambda: Path("here"))
    monkeypatch.setattr(config, "with_hydra", _with_hydra)
    Path("here").mkdir()
    if signum != signal.SIGINT:
        signal.signal(signum, lambda number, _: told.append((number, result_of("here")["state"])))
    try:
        with pytest.MonkeyPatch.context() as patched:
            step = Trainer.step

            def stopping(self: Trainer, batches: list[Batch]) -> None:
                step(self, batches)
                if self.progress.step == 20:
                    signal.raise_signal(signum)

            patched.setattr(Trainer, "step", stopping)
            with pytest.raises(SystemExit) as stop:
                launcher.launched(cfg)
        assert stop.value.code == (130 if signum == signal.SIGINT else 143)
        assert told == [(signum, "interrupted")] * heard
        folder.leave()
        with caplog.at_level("INFO"):
            assert launcher.launched(cfg) == 0
        assert "resumed after step 20 of 34" in caplog.text
    finally:
        signal.signal(signum, before)
        folder.leave()
    assert Path("here/metrics.jsonl").read_bytes() == (digits / "metrics.jsonl").read_bytes()


def _with_hydra(cfg: DictConfig) -> DictConfig:
    made = config.copied(cfg)
    with read_write(made), open_dict(made):
        made.hydra = {"overrides": {"task": []}, "runtime": {"choices": {}}}
    return made
