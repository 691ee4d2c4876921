from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from runner import folder, program
from runner.errors import RunFolderError


def make_run(name: str) -> Path:
    path = Path(name)
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("")
    return path


def test_a_folder_that_is_taken_gets_a_number() -> None:
    wanted = Path("outputs/2026-01-02/03-04-05")
    assert [folder.claim(wanted) for _ in range(3)] == [
        wanted,
        wanted.with_name("03-04-05-1"),
        wanted.with_name("03-04-05-2"),
    ]


def test_runs_that_start_together_never_share_a_folder() -> None:
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: folder.claim(Path("outputs/day/time")), range(64)))
    assert len(set(claimed)) == 64
    assert all(path.is_dir() for path in claimed)


def test_last_is_the_newest_run_and_never_a_job_of_a_sweep() -> None:
    for name in ("2026-01-02/09-00-00", "2026-01-02/10-00-00", "2026-01-02/10-00-00-9", "2026-01-02/10-00-00-10"):
        make_run(f"outputs/{name}")
    make_run("outputs/multirun/2026-12-31/00-00-00/0")
    make_run("outputs/named/.hydra")
    assert folder.find("last", "resume") == Path("outputs/2026-01-02/10-00-00-10")
    os.utime(make_run("outputs/2026-01-03/00-00-00") / "config.yaml", (9e9, 9e9))
    assert folder.find("last", "resume") == Path("outputs/2026-01-03/00-00-00")


def test_last_goes_by_the_time_of_the_start_and_not_by_names() -> None:
    for name, started in (
        ("zz/old", "2026-01-01T00:00:00+00:00"),
        ("2026-01-02/00-00-00", "2026-01-02T00:00:00+02:00"),
    ):
        (make_run(f"outputs/{name}") / "result.json").write_text(f'{{"started": "{started}"}}')
    assert folder.find("last", "resume") == Path("outputs/2026-01-02/00-00-00")
    make_run("outputs/sweep/0")
    Path("outputs/sweep/multirun.yaml").write_text("")
    assert folder.find("last", "resume") == Path("outputs/2026-01-02/00-00-00")


def test_a_folder_in_the_home_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make_run("my run")
    assert folder.find("~/my run", "resume") == tmp_path / "my run"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("last", "there is no run in outputs/ yet"),
        ("nowhere", "'nowhere' does not exist"),
        ("empty", "'empty' is not a run folder"),
        ("file", "'file' does not exist"),
    ],
)
def test_what_is_no_run(name: str, message: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(RunFolderError, match=message):
        folder.find(name, "resume")


def test_taking_back_a_folder_leaves_what_others_put_there() -> None:
    path = folder.claim(Path("outputs/day/time"))
    (path / ".hydra").mkdir()
    (path / ".hydra/config.yaml").write_text("")
    (path / "runner.log").write_text("")
    folder.disclaim(path)
    assert not Path("outputs").exists()

    folder.make(Path("named"))
    Path("named/thesis.tex").write_text("")
    folder.disclaim(Path("named"))
    assert [path.name for path in Path("named").iterdir()] == ["thesis.tex"]

    mine = Path("mine")
    (mine / ".hydra").mkdir(parents=True)
    (mine / "runner.log").write_text("of another run")
    folder.make(mine)
    folder.disclaim(mine)
    assert sorted(path.name for path in mine.iterdir()) == [".hydra", "runner.log"]


@pytest.mark.parametrize("content", [None, "", "{", "[1]"])
def test_a_result_that_cannot_be_read_says_nothing(content: str | None) -> None:
    if content is not None:
        Path("result.json").write_text(content)
    assert folder.result(Path()) == {}
    assert folder.state(Path()) is None


def test_the_command_to_go_on_can_be_pasted_into_a_shell(strangers: None) -> None:
    cfg = OmegaConf.create({"allow_targets": ["mine.*", "b"]})
    command = folder.resume_command(cfg, Path("my run (1)"), "trainer.max_epochs=9")
    assert shlex.split(command) == [
        "python", "-m", "runner", "resume=my run (1)", "trainer.max_epochs=9", "allow_targets=[mine.*,b]",
    ]  # fmt: skip
    cfg.dataset = {"root": "${oc.env:A_PLACE,/a b}", "path": "${.root}/x"}
    again = folder.resume_command(cfg, Path("r"))
    assert shlex.split(again)[3:] == ["resume=r", "allow_targets=[mine.*,b]", "dataset.root=${oc.env:A_PLACE,/a b}"]
    plain = folder.resume_command(OmegaConf.create({"allow_targets": []}), Path("outputs/a"))
    assert plain == "python -m runner resume=outputs/a"


HOLD = "import sys; from pathlib import Path; from runner import folder; folder.lock(Path('run'), 'resume'); "


def other(code: str) -> subprocess.Popen[str]:
    """Another process that takes the folder ``run``."""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", HOLD + code], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_a_command_begins_with_the_script_that_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = OmegaConf.create({"allow_targets": []})
    monkeypatch.setattr(program, "_script", None)
    for place in ("in use", "other"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "runner").write_text("#!/bin/sh\n")
        (tmp_path / place / "runner").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "in use"), prepend=os.pathsep)
    program.started_by(str(tmp_path / "in use/runner"))
    assert folder.command(cfg, "predict") == "runner predict"
    assert program.start("tensorboard") == ["tensorboard"]
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert folder.command(cfg, "predict") == "uv run runner predict"
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH")
    program.started_by("other/runner")  # not the one that the name alone would start
    assert folder.command(cfg, "predict") == "other/runner predict"
    program.started_by(str(tmp_path / "gone" / "my own" / "runner"))
    assert shlex.split(folder.command(cfg, "predict")) == [f"{tmp_path}/gone/my own/runner", "predict"]
    program.started_by(str(Path(folder.__file__).parent / "__main__.py"))
    assert folder.command(cfg, "predict") == "python -m runner predict"


def test_a_command_begins_as_the_one_that_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = OmegaConf.create({"allow_targets": []})
    assert folder.command(cfg, "predict") == "python -m runner predict"
    assert program.start("tensorboard") == ["tensorboard"]
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert folder.command(cfg, "predict") == "uv run -m runner predict"
    assert program.start("tensorboard") == ["uv", "run", "tensorboard"]


def test_one_process_at_a_time() -> None:
    Path("run").mkdir()
    with other("print('held', flush=True); input()") as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match=rf"resume: 'run' is in use by process {holder.pid} on "):
            folder.lock(Path("run"), "resume")
        holder.kill()  # which leaves the file, and it is in nobody's way
    assert Path("run/.lock").exists()
    folder.lock(Path("run"), "resume")
    folder.lock(Path("run"), "resume")
    with other("") as refused:
        assert "is in use by process" in refused.communicate()[1]
    folder.leave()
    assert not Path("run/.lock").exists()
    with other("print('held')") as next_one:
        assert next_one.communicate()[0] == "held\n"


def test_a_lock_that_was_taken_away_in_between_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever leaves takes the file away, of which another process may already have opened the old one."""
    Path("run").mkdir()
    really, taken = fcntl.lockf, []

    def lockf(file: Any, how: int) -> None:
        if not taken:
            taken.append(Path("run/.lock").unlink())
        really(file, how)

    monkeypatch.setattr(fcntl, "lockf", lockf)
    folder.lock(Path("run"), "resume")
    with other("") as refused:
        assert "is in use by process" in refused.communicate()[1]
    folder.leave()


def test_a_worker_that_outlives_its_run_holds_nothing() -> None:
    """A forked process has the open file, but not the lock."""
    Path("run").mkdir()
    code = "import os, time; child = os.fork(); child and print(child, flush=True); time.sleep(30)"
    with other(code) as holder:
        assert holder.stdout is not None
        worker = int(holder.stdout.readline())
        holder.kill()
        holder.wait()
        folder.lock(Path("run"), "resume")
        folder.leave()
        os.kill(worker, signal.SIGKILL)


def test_a_folder_that_cannot_be_written_to() -> None:
    with pytest.raises(RunFolderError, match=r"'nowhere' is not writable \(No such file or directory\)"):
        folder.lock(Path("nowhere"), "resume")


def test_a_command_leaves_no_folder_in_which_nothing_was_run() -> None:
    empty, used = folder.claim(Path("outputs/day/a")), folder.claim(Path("outputs/day/b"))
    (empty / "runner.log").write_text("")
    (used / "result.json").write_text("{}")
    folder.leave()
    assert [str(path) for path in Path("outputs/day").iterdir()] == ["outputs/day/b"]
