"""Launchers of Hydra's: jobs in processes that are started anew, here or elsewhere."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import QUICK, Forked, Run, failing_model, result_of, rows, states, wait_for


def find_plugin(module: str) -> bool:
    return find_spec("hydra_plugins") is not None and find_spec(f"hydra_plugins.{module}") is not None


LAUNCHERS = {"submitit_local": "hydra_submitit_launcher", "ray": "hydra_ray_launcher"}
INSTALLED = [name for name, module in LAUNCHERS.items() if find_plugin(module)]
LAUNCHER = INSTALLED[0] if INSTALLED else ""
FEW = "+hydra.launcher.ray.init.num_cpus=1", "+hydra.launcher.ray.init.include_dashboard=false"
CHOSEN = (f"hydra/launcher={LAUNCHER}", *(FEW if LAUNCHER == "ray" else ()))
"""Each job of Ray's starts a Ray of its own, which is made of many processes: on two cores it is to have few."""

pytestmark = pytest.mark.skipif(not INSTALLED, reason="no launcher of Hydra's is installed (make launchers)")


def test_the_table_names_and_what_is_missing_are_those_of_any_sweep(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_model()
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()), prepend=os.pathsep)
    short = *QUICK[2:], *CHOSEN, "hydra.sweep.dir=sweep", "sweep.n_jobs=2"
    own = "--config-dir", "mine", "allow_targets=[own_net.*]"
    assert run(*own, "-m", "model=own", *short, "model.how=fine,raise,kill") == 1
    assert states() == {"model.how=fine": "completed", "model.how=raise": "failed", "model.how=kill": "failed"}
    errors = {row["folder"]: row["error"] for row in rows()}
    assert errors["model.how=raise"] == "RuntimeError: no luck"
    lost = {"submitit_local": "UncompletedJobError: ", "ray": "WorkerCrashedError: "}
    assert errors["model.how=kill"].startswith(lost[LAUNCHER])
    Path("mended").touch()
    assert run(*own, "resume=sweep", *CHOSEN) == 0
    assert "3 jobs, 1 of them done" in capsys.readouterr().out
    assert set(states().values()) == {"completed"}


def test_what_goes_on_is_typed_with_the_launcher(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    failing = "optimizer=sgd", "optimizer.lr=1e30", *CHOSEN, "hydra.sweep.dir=sweep"
    assert run("-m", *QUICK, *failing) == 1
    assert f"python -m runner -m resume=sweep hydra/launcher={LAUNCHER}" in capsys.readouterr().out


@pytest.mark.skipif(LAUNCHER != "submitit_local", reason="of no other one a job is several processes")
def test_several_processes_of_a_job_would_each_do_all_of_it(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-m", *QUICK, f"hydra/launcher={LAUNCHER}", "hydra.launcher.tasks_per_node=2", "seed=0,1") == 2
    said = capsys.readouterr().err
    assert "hydra.launcher.tasks_per_node: 2: each task would train the whole job" in said
    assert "try: hydra.launcher.tasks_per_node=1" in said
    assert not Path("outputs").exists()


def test_a_cross_validation_is_one_job(run: Run) -> None:
    folds = "split=kfold", "split.n_splits=2", *CHOSEN, "hydra.sweep.dir=sweep"
    assert run("-m", *QUICK, *folds, "seed=0") == 0
    assert len(rows()) == 2
    result = result_of("sweep/job")
    assert result["state"] == "completed"
    assert "out_of_fold/accuracy" in result["metrics"]


@pytest.mark.skipif(LAUNCHER != "submitit_local", reason="no other one queues a job again")
def test_a_job_that_submitit_queues_again_goes_on_where_it_was(run: Run) -> None:
    long = *QUICK, "trainer.max_epochs=200", "trainer.evaluate_every=20 epochs", "checkpoint.every=1 hour"
    sweep = Forked("-m", *long, "seed=0", f"hydra/launcher={LAUNCHER}", "hydra.sweep.dir=sweep")
    job = Path("sweep/job")
    wait_for(job / "metrics.jsonl")
    wait_for(job / "metrics.jsonl", newer_than=(job / "metrics.jsonl").stat().st_mtime_ns)  # it is begun empty
    os.kill(int((job / ".lock").read_text().split()[1]), signal.SIGUSR2)
    assert sweep.wait() == 0
    said = (job / "runner.log").read_text()
    assert "stopped by SIGUSR2" in said
    assert "resumed after step" in said
    assert run(*long, "hydra.run.dir=whole") == 0
    assert (job / "metrics.jsonl").read_bytes() == Path("whole/metrics.jsonl").read_bytes()
