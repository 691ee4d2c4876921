"""Launchers of Hydra's: jobs in processes that are started anew, here or elsewhere."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import QUICK, Run, failing_model, result_of, rows, states


def find_plugin(module: str) -> bool:
    return find_spec("hydra_plugins") is not None and find_spec(f"hydra_plugins.{module}") is not None


LAUNCHERS = {"submitit_local": "hydra_submitit_launcher", "ray": "hydra_ray_launcher"}
INSTALLED = [name for name, module in LAUNCHERS.items() if find_plugin(module)]
LAUNCHER = INSTALLED[0] if INSTALLED else ""
pytestmark = pytest.mark.skipif(not INSTALLED, reason="no launcher of Hydra's is installed (make launchers)")


def test_the_table_names_and_what_is_missing_are_those_of_any_sweep(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_model()
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    short = *QUICK[2:], f"hydra/launcher={LAUNCHER}", "hydra.sweep.dir=sweep", "sweep.n_jobs=2"
    own = "--config-dir", "mine", "allow_targets=[own_net.*]"
    assert run(*own, "-m", "model=own", *short, "model.how=fine,raise,kill") == 1
    assert states() == {"model.how=fine": "completed", "model.how=raise": "failed", "model.how=kill": "failed"}
    errors = {row["folder"]: row["error"] for row in rows()}
    assert errors["model.how=raise"] == "RuntimeError: no luck"
    lost = {"submitit_local": "UncompletedJobError: ", "ray": "WorkerCrashedError: "}
    assert errors["model.how=kill"].startswith(lost[LAUNCHER])
    Path("mended").touch()
    assert run(*own, "resume=sweep", f"hydra/launcher={LAUNCHER}") == 0
    assert "3 jobs, 1 of them done" in capsys.readouterr().out
    assert set(states().values()) == {"completed"}


def test_what_goes_on_is_typed_with_the_launcher(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    failing = "optimizer=sgd", "optimizer.lr=1e30", f"hydra/launcher={LAUNCHER}", "hydra.sweep.dir=sweep"
    assert run("-m", *QUICK, *failing) == 1
    assert f"python -m runner -m resume=sweep hydra/launcher={LAUNCHER}" in capsys.readouterr().out


def test_a_cross_validation_is_one_job(run: Run) -> None:
    folds = "split=kfold", "split.n_splits=2", f"hydra/launcher={LAUNCHER}", "hydra.sweep.dir=sweep"
    assert run("-m", *QUICK, *folds, "seed=0") == 0
    assert len(rows()) == 2
    result = result_of("sweep/job")
    assert result["state"] == "completed"
    assert "out_of_fold/accuracy" in result["metrics"]
