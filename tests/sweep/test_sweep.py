"""A sweep loses nothing: whatever happens to a job is a row of the table, and what is missing is done the next time."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import QUICK, Forked, Run, failing_model, result_of, rows, same_tensors, states, wait_for
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runner.sweep import processes

IRIS = (*QUICK, "dataset=iris", "trainer.max_epochs=1")
"""Overrides of a run that takes still less, where it does not matter what it learns."""


def broken(*hows: str) -> tuple[str, ...]:
    """A sweep over a model of which some forms fail in the middle of the training."""
    own = failing_model()
    return "-m", *own, *QUICK[2:], f"model.how={','.join(hows)}", "hydra.sweep.dir=sweep"


def times(folder: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*") if path.is_file()}


def result(job: str, folder: str = "sweep") -> Any:
    return json.loads((Path(folder) / job / "result.json").read_text())


def test_one_of_five_jobs_ends_well_and_four_are_named_failures_and_none_is_done_twice(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = ["raise", "exit", "kill", "hang"]

    def clock() -> float:
        """Its time is over for the job that hangs as soon as the others have ended, however long they took."""
        others = [Path(f"sweep/{name}/result.json") for name in ["good", *bad] if name != "hang"]
        over = all(path.exists() and '"state": "running"' not in path.read_text() for path in others)
        return time.monotonic() + 7200 * over

    monkeypatch.setattr(processes, "time", SimpleNamespace(monotonic=clock, sleep=time.sleep))
    monkeypatch.setattr(processes, "GRACE", 0.2)
    arguments = [*broken("fine", "raise", "exit", "kill", "hang"), "sweep.timeout=1 hour", "sweep.n_jobs=2"]
    Path("jobs.yaml").write_text(
        "\n".join([f"{how}: [model.how={how}]" for how in ("hang", "raise", "exit", "kill")]
                  + [f"{name}: [model.how=fine]" for name in ("good", "same")])
    )  # fmt: skip
    assert run(*[a for a in arguments if not a.startswith("model.how=")], "sweep.jobs=jobs.yaml") == 1
    assert states() == {"good": "completed", **dict.fromkeys(bad, "failed")}
    errors = {row["folder"]: row["error"] for row in rows() if row["state"] == "failed"}
    assert errors == {
        "raise": "RuntimeError: no luck",
        "exit": "the process ended with exit status 3 before the run was complete",
        "kill": "killed by SIGKILL, possibly out of memory",
        "hang": "took longer than sweep.timeout (3600 seconds)",
    }
    said = capsys.readouterr().out
    for name, error in errors.items():
        assert f"{name}: failed: {error}" in said
        assert f"sweep/{name}/runner.log" in said
    assert "1 duplicate job left out: the same configuration as another job" in said
    assert "RuntimeError: no luck" in Path("sweep/raise/runner.log").read_text()
    assert "5 of 5 jobs ended, 4 runs failed." in Path("sweep/results.md").read_text()


def test_values_go_together_and_a_job_is_the_run_that_it_would_be_alone_with_its_share_of_the_cores(run: Run) -> None:
    """And what is better is what the runs were told."""
    same = *QUICK, "trainer.threads=auto", "model.dropout=0.2", "checkpoint.monitor=val/accuracy", "checkpoint.mode=min"
    together = "optimizer.lr=0.01,0.0001", "loader.batch_size=32,64", "seed=3,4"
    zipped = "sweep.zip=[optimizer.lr,loader.batch_size,seed]"
    assert run("-m", *same, *together, zipped, "hydra.sweep.dir=sweep", "sweep.n_jobs=3") == 0
    assert run(*same, "optimizer.lr=0.0001", "loader.batch_size=64", "seed=4", "hydra.run.dir=alone") == 0
    assert [(row["optimizer.lr"], row["loader.batch_size"], row["seed"]) for row in rows()] == [
        ("0.01", "32", "3"),
        ("0.0001", "64", "4"),
    ]
    first, second = (row["folder"] for row in rows())
    ours, alone = (torch.load(f"{f}/checkpoints/last.pt", weights_only=True) for f in (f"sweep/{second}", "alone"))
    assert same_tensors(ours["model"], alone["model"])
    assert Path(f"sweep/{second}/metrics.jsonl").read_bytes() == Path("alone/metrics.jsonl").read_bytes()
    assert result(second)["metrics"] == result_of("alone")["metrics"]
    assert result(first)["metrics"] != result(second)["metrics"]
    assert {result(job)["threads"] for job in (first, second)} == {1}
    table = Path("sweep/results.md").read_text()
    assert "Ranked by val/accuracy (lower is better)" in table
    assert "| 1 | 0.0001 |" in table


def test_the_table_has_what_the_jobs_have(sweep: Path) -> None:
    assert len(rows()) == 4
    for row in rows():
        found = result(row["folder"])
        assert {tag: float(row[tag]) for tag in found["metrics"]} == found["metrics"]
        assert row["folder"] == f"optimizer.lr={row['optimizer.lr']},seed={row['seed']}"
    ranked = Path("sweep/results.md").read_text().split("## Runs")[0].splitlines()
    means = {lr: sum(float(r["val/loss"]) for r in rows() if r["optimizer.lr"] == lr) / 2 for lr in ("0.01", "0.001")}
    first, second = [line.split(" | ") for line in ranked if line.startswith(("| 1", "| 2"))]
    assert means[first[1]] < means[second[1]]
    assert first[2] == "2 seeds"
    assert first[3].startswith(f"{means[first[1]]:.4f} ± ")
    board = EventAccumulator("sweep/tensorboard").Reload()
    text = board.Tensors("sweep/ranking/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text in Path("sweep/results.md").read_text()


def test_typed_again_it_does_what_is_missing_and_more_values_are_more_jobs(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = broken("fine", "exit", "raise")
    assert run(*arguments, "sweep.on_error=stop") == 1
    assert states() == {"model.how=fine": "completed", "model.how=exit": "failed"}
    assert "1 of 3 not started, because a job failed and sweep.on_error=stop" in capsys.readouterr().out
    before = times("sweep/model.how=fine")
    Path("mended").touch()
    again = [*(a for a in arguments if not a.startswith("model.how")), "model.how=fine,exit", "seed=0"]
    assert run(*again) == 0
    assert "2 jobs, 1 of them done, 1 to run" in capsys.readouterr().out
    assert before == times("sweep/model.how=fine")
    assert states() == {"model.how=fine": "completed", "model.how=exit": "completed"}
    (_, reached) = rows()
    shutil.rmtree("sweep/model.how=exit")
    assert run("--config-dir", "mine", "allow_targets=[own_net.*]", "resume=sweep", "seed=0,1") == 0
    assert "4 jobs, 1 of them done" in capsys.readouterr().out
    assert len(rows()) == 4
    assert {row["folder"] for row in rows()} >= {"model.how=fine", "model.how=fine,seed=1"}
    (anew,) = [row for row in rows() if row["folder"] == "model.how=exit"]
    assert {**anew, "seconds": ""} == {**reached, "seconds": "", "seed": ""}  # the column is new
    assert run("--config-dir", "mine", "allow_targets=[own_net.*]", "-m", "resume=sweep") == 0
    assert "4 jobs, 4 of them done, nothing left to run" in capsys.readouterr().out


def test_the_newest_run_is_resumed_and_an_unfinished_sweep_after_it_is_mentioned(
    run: Run, digits: Path, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("outputs/2026-01-01").mkdir(parents=True)
    digits.rename("outputs/2026-01-01/00-00-00")
    later = Path("outputs/multirun/2026-01-01/00-00-01")
    shutil.copytree(sweep, later)
    for record, expected in (("completed", False), ("running", True)):
        result = later / "optimizer.lr=0.01,seed=1/result.json"
        result.write_text(json.dumps({**result_of(result.parent), "state": record}))
        os.utime(later / "sweep.json", (time.time() + 5,) * 2)
        assert run("resume=last") == 0
        output = capsys.readouterr()
        assert "outputs/2026-01-01/00-00-00 is complete" in output.out
        words = f"the sweep {later} is newer and not complete; to resume it: python -m runner -m resume=last\n"
        assert output.err == words * expected
    (later / "sweep.json").write_text("of somebody else")
    assert run("resume=last") == 0
    assert capsys.readouterr().err == ""


def test_another_configuration_under_the_same_name_gets_a_folder_of_its_own_and_is_told_from_those_before(
    run: Run, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: (sweep / name / "metrics.jsonl").read_bytes() for name in states()}
    together = "optimizer.lr=0.01,0.001", "seed=0,1", "sweep.zip=[optimizer.lr,seed]", "loader.batch_size=32"
    assert run("-m", *QUICK, *together, "hydra.sweep.dir=sweep") == 0
    assert {name: (sweep / name / "metrics.jsonl").read_bytes() for name in before} == before
    assert len({row["folder"] for row in rows()}) == 6
    assert [(row["optimizer.lr"], row["seed"], row["loader.batch_size"]) for row in rows()] == [
        ("0.01", "0", ""), ("0.01", "1", ""), ("0.001", "0", ""), ("0.001", "1", ""),
        ("0.01", "0", "32"), ("0.001", "1", "32"),
    ]  # fmt: skip
    assert "|  | optimizer.lr | loader.batch&#95;size | runs |" in Path("sweep/results.md").read_text()
    assert "loader.batch_size=32" in capsys.readouterr().out.splitlines()[-1]  # the command of the best one


def test_a_folder_that_is_no_sweep_is_left_alone(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("sweep").mkdir()
    Path("sweep/notes.txt").write_text("mine")
    assert run("-m", *QUICK, "seed=0,1", "hydra.sweep.dir=sweep") == 2
    assert "hydra.sweep.dir: 'sweep' is not empty" in capsys.readouterr().err
    assert [path.name for path in Path("sweep").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not the record of a sweep"),
        ('{"jobs": [{"name": "../x", "hash": "", "overrides": [], "swept": {}}], "typed": []}', "not the name of"),
        ('{"jobs": [{"name": "..", "hash": "", "overrides": [], "swept": {}}], "typed": []}', "not the name of"),
        ('{"jobs": 3, "typed": []}', "is not the record of a sweep"),
    ],
)  # fmt: skip
def test_a_record_that_is_none(run: Run, capsys: pytest.CaptureFixture[str], content: str, message: str) -> None:
    Path("sweep").mkdir()
    Path("sweep/sweep.json").write_text(content)
    assert run("resume=sweep") == 2
    assert message in capsys.readouterr().err


def test_the_folder_of_an_unfinished_sweep_names_no_code_and_is_mentioned_when_it_is_typed_again(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = broken("raise")[:-1]
    assert run(*arguments) == 1
    (found,) = Path("outputs/multirun").glob("*/*/sweep.json")
    shutil.copytree(found.parent, "sweep")
    assert run("--config-dir", "mine", "resume=sweep") == 2
    assert "allow_targets=[own_net.*]" in capsys.readouterr().err
    record = json.loads(Path("sweep/sweep.json").read_text())
    record["typed"] = [
        "seed=0,1",
        "hydra.callbacks.x._target_=os.system",
        "+hydra.launcher.y=1",
        "allow_targets=[os.*]",
    ]
    Path("sweep/sweep.json").write_text(json.dumps(record))
    assert run("resume=sweep", "check=only") == 0
    capsys.readouterr()
    Path("mended").touch()
    assert run(*arguments) == 0
    assert re.match(
        r"outputs/multirun/\S+ is the same sweep, unfinished; to resume it instead: resume=", capsys.readouterr().out
    )
    assert run(*arguments) == 0
    assert "is the same sweep" not in capsys.readouterr().out


def test_a_search_trains_each_of_its_points_with_every_seed_and_can_be_gone_on_with_as_a_grid(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    space = "optimizer.lr=tag(log,interval(1e-4,1e-2))", "model.dropout=interval(0,0.5)"
    search = "sweep=sobol", "sweep.points=2", *space, "seed=0,1", "+sweep.rank_by=val/accuracy"
    assert run("-m", *IRIS, *search, "hydra.sweep.dir=sweep") == 0
    assert "sweep" not in capsys.readouterr().out.splitlines()[-1]  # the command of the best one, which is none
    assert len(rows()) == 4
    assert len({row["optimizer.lr"] for row in rows()}) == 2
    assert all(1e-4 <= float(row["optimizer.lr"]) <= 1e-2 for row in rows())
    assert run("resume=sweep", "sweep=grid", "optimizer.lr=0.1,0.2", "model.dropout=0.1", "seed=2") == 0
    assert len(rows()) == 6


def line(*jobs: str) -> list[str]:
    """A sweep of short jobs and of one, `long`, that may be met in the middle of its training."""
    longer = "'trainer.max_epochs=60', 'checkpoint.every=5 steps'"
    typed = {name: longer if name == "long" else f"'seed={number}'" for number, name in enumerate(jobs, 1)}
    listed = ", ".join(f"{name}: [{overrides}]" for name, overrides in typed.items())
    return ["-m", *QUICK, "trainer.max_epochs=1", f"sweep.jobs={{{listed}}}", "hydra.sweep.dir=sweep"]


def test_a_signal_saves_what_runs_and_typed_again_it_goes_on(run: Run) -> None:
    """Also SIGKILL, after which the job that runs ends by itself: no process is left behind."""
    typed = line("first", "long", "last")
    second = Path("sweep/long")
    last = second / "checkpoints/last.pt"
    for again, signum, status in (
        (typed, signal.SIGINT, 130),
        (["resume=sweep"], signal.SIGTERM, 143),
        (["resume=sweep"], signal.SIGKILL, -signal.SIGKILL),
    ):
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = Forked(*again)
        wait_for(last, newer_than=before)
        os.kill(process.pid, signum)
        assert process.wait() == status
        output = Path("output.txt").read_text()
        assert ("3 jobs, 1 of them done" in output) == (again != typed)
        if signum != signal.SIGKILL:
            assert "to resume: python -m runner -m resume=sweep" in output
            assert states() == {"first": "completed", "long": "interrupted"}
    assert run(*typed) == 0
    assert states() == {"first": "completed", "long": "completed", "last": "completed"}
    said = (second / "runner.log").read_text()
    # Once for each signal, unless it was at its end already when nobody was there any more.
    assert said.count("stopped by SIG") == said.count("resumed after step") >= 2


STRANGE = """\
import os, threading, time
from torch import nn

def deaf(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            time.sleep(1)
        except BaseException:
            pass

class Net(nn.Module):
    def __init__(self, num_outputs, how="fine"):
        super().__init__()
        if how == "go":
            os.chdir("/")
            os.environ["LEFT"] = "1"
        if how == "look" and ("LEFT" in os.environ or not os.path.exists("strange.py")):
            raise RuntimeError("what another job did is still there")
        if how == "thread":
            threading.Thread(target=time.sleep, args=(1000,)).start()
        print("made", how)
        self.layer, self.how, self.calls = nn.Linear(64, num_outputs), how, 0

    def forward(self, x):
        self.calls += 1
        if self.how == "hang" and self.calls > 25:
            open("hangs", "w").write(str(os.getpid()))
            deaf(1000)
        return self.layer(x.flatten(1))
"""


def strange(*hows: str) -> tuple[str, ...]:
    Path("strange.py").write_text(STRANGE)
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/own.yaml").write_text("_target_: strange.Net\nnum_outputs: ${facts.num_outputs}\nhow: fine\n")
    short = *QUICK[2:], "hydra.sweep.dir=sweep"
    own = "--config-dir", "mine", "allow_targets=[strange.*]", "model=own"
    return "-m", *own, *short, f"model.how={','.join(hows)}"


def test_what_a_job_leaves_behind_makes_no_difference_to_another(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    """Nor does a thread that never ends keep its process, or a print of its get between the lines of the sweep."""
    assert run(*strange("go", "thread", "look"), "trainer.max_epochs=1") == 0
    assert set(states().values()) == {"completed"}
    assert "made" not in capfd.readouterr().out
    assert "made look" in Path("sweep/model.how=look/runner.log").read_text()


def gone(process: int, within: float) -> bool:
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_job_that_hangs_outlives_no_sweep(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE", 0.5)
    typed = strange("hang", "fine")
    for signum, status in ((signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)):
        Path("hangs").unlink(missing_ok=True)
        process = Forked(*typed)
        wait_for(Path("hangs"))
        os.kill(process.pid, signum)
        assert process.wait() == status
        assert gone(int(Path("hangs").read_text()), within=30)
        if signum == signal.SIGTERM:
            assert states() == {"model.how=hang": "failed"}
    Path("strange.py").write_text(STRANGE.replace("deaf(1000)", "pass"))
    sys.modules.pop("strange", None)
    assert run("--config-dir", "mine", "allow_targets=[strange.*]", "resume=sweep") == 0
    assert states() == {"model.how=hang": "completed", "model.how=fine": "completed"}


def test_what_is_damaged_is_made_again_and_ends_nothing(run: Run, sweep: Path) -> None:
    def reached() -> dict[str, dict[str, str]]:
        return {row["folder"]: {**row, "seconds": ""} for row in rows()}

    before, jobs = reached(), [sweep / name for name in states()]
    (jobs[0] / "result.json").write_text('{"state": "completed"}')
    (jobs[1] / "result.json").write_text("{")
    (jobs[2] / "config.yaml").write_text("garbage: [")
    (jobs[3] / "config.yaml").unlink()
    assert run("resume=sweep") == 0
    assert reached() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sweep.rank_by=val/nonsense",), "sweep.rank_by (job 1 of 2): no evaluation writes 'val/nonsense'"),
        (("debug=overfit",), "debug: overfit works on a single run"),
        (("check=only,null",), "check: differs between jobs (null, only)"),
        (("resume=last,here",), "resume: differs between jobs (here, last)"),
        (("hydra.sweep.subdir=x",), "hydra.sweep.subdir: cannot be set: job folders are named after"),
        (("sweep.n_jobs=0",), "sweep.n_jobs: 0 is not allowed"),
        (("sweep.timeout=5",), "sweep.timeout: 5 is not allowed\n  allowed: a time such as 30 minutes or 2 hours"),
        (("sweep=nonsense",), "sweep: there is no option 'nonsense'"),
    ],
)  # fmt: skip
def test_what_is_no_sweep(
    run: Run, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run("-m", *QUICK, "seed=0,1", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_a_trial_of_a_sweep_leaves_nothing(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-m", *QUICK, "seed=0,1", "debug=dev_run") == 0
    assert "; nothing was kept" in capsys.readouterr().out
    assert not list(Path().iterdir())


def test_a_table_that_cannot_be_written_ends_no_sweep_and_losses_are_not_compared_in_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from runner.sweep import results

    write, calls = results.write, []

    def full(path: Path, content: bytes) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(results, "write", full)
    assert run("-m", *IRIS, "loss=cross_entropy,focal", "hydra.sweep.dir=sweep") == 0
    assert "what has been reached could not be written: [Errno 28] No space left on device" in capsys.readouterr().out
    assert list(states().values()) == ["completed"] * 2
    assert "Ranked by val/accuracy (higher is better)" in Path("sweep/results.md").read_text()


@pytest.mark.parametrize(
    "typed",
    [
        ["sweep.jobs={a: ['allow_targets=[timeit.*]', 'model._target_=timeit.timeit']}"],
        ["sweep.jobs={a: ['++hydra.callbacks.x._target_=timeit.timeit']}"],
        ["seed=0,1", "allow_targets.0=timeit.*", "model._target_=timeit.timeit"],
    ],
)
def test_its_jobs_name_no_code_either(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: list[str]
) -> None:
    called = []
    monkeypatch.setattr("timeit.timeit", lambda *_, **__: called.append(1))
    Path("sweep").mkdir()
    Path("sweep/sweep.json").write_text(json.dumps({"typed": typed, "jobs": []}))
    assert run("resume=sweep", "allow_targets=[mine.*]") == 2
    assert not called
    assert "Traceback" not in capsys.readouterr().err
