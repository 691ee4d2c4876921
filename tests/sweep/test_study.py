"""A search that Optuna leads: it draws in its ranges, gives up what does not look good, and goes on after a kill."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import QUICK, Forked, Once, Run, result_of, rows, states, wait_for
from optuna.trial import TrialState

from runner.__main__ import main
from runner.sweep import study

SEARCH = ("-m", *QUICK, "sweep=optuna", "sweep.points=3", "optimizer.lr=tag(log,interval(1e-5,1e-1))",
          "loader.batch_size=32,64", "hydra.sweep.dir=sweep")  # fmt: skip


def trials(folder: str = "sweep") -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(storage=study.storage(Path(folder)), study_name=study.NAME).get_trials()


def direction() -> str:
    """Whether more is better."""
    found = optuna.load_study(storage=study.storage(Path("sweep")), study_name=study.NAME)
    return str(found.direction.name)


def _searched() -> None:
    assert main([*SEARCH, "sweep.rank_by=val/accuracy", "sweep.pruner=null"]) == 0


@pytest.fixture
def searched(once: Once) -> Path:
    """The folder of a completed search of three points, for the best accuracy: for the test alone."""
    return Path(shutil.copytree(once(_searched) / "sweep", "sweep"))


def test_what_was_reached_is_what_optuna_knows(searched: Path) -> None:
    assert [trial.state for trial in trials()] == [TrialState.COMPLETE] * 3
    for trial, row in zip(trials(), rows(), strict=True):
        assert 1e-5 <= trial.params["optimizer.lr"] <= 1e-1
        assert float(row["optimizer.lr"]) == pytest.approx(trial.params["optimizer.lr"], rel=1e-5)
        assert trial.value == float(row["val/accuracy"])
    found = optuna.load_study(storage=study.storage(Path("sweep")), study_name=study.NAME)
    assert found.direction == optuna.study.StudyDirection.MAXIMIZE
    assert found.best_value == max(float(row["val/accuracy"]) for row in rows())


def test_what_does_not_look_good_is_given_up(run: Run) -> None:
    pruner = "sweep.pruner.n_startup_trials=1", "trainer.max_epochs=4"
    assert run(*SEARCH, *pruner, "sweep.points=4", "optimizer.lr=tag(log,interval(1e-9,1e-1))") == 0
    given_up = [trial for trial in trials() if trial.state == TrialState.PRUNED]
    assert given_up
    for trial in given_up:
        rate = pytest.approx(trial.params["optimizer.lr"], rel=1e-5)
        (row,) = [row for row in rows() if float(row["optimizer.lr"]) == rate]
        assert row["state"] == "pruned"
        result = result_of(f"sweep/{row['folder']}")
        assert result["epochs"] < 4
        assert result["error"].startswith(f"pruned after epoch {result['epochs']}, with val/loss")
        lines = Path(f"sweep/{row['folder']}/metrics.jsonl").read_text().splitlines()
        reported = [json.loads(line)["val/loss"] for line in lines]
        assert list(trial.intermediate_values.values()) == reported


def test_more_points_go_on_from_those_that_were_tried_with_the_choices_that_it_began_with(
    run: Run, searched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, kept = rows(), (searched / "sweep.json").read_bytes()
    others = "loader.batch_size=32,64,128", "optimizer.lr=interval(0.001,0.1)", "sweep.points=4"
    assert run("resume=sweep", *others) == 2
    said = capsys.readouterr().err
    assert "batch_size: 32,64,128 is not compatible with the values that this search started with" in said
    assert "  allowed: 32,64\n" in said
    assert "  allowed: tag(log,interval(1e-05,0.1))\n" in said
    assert (searched / "sweep.json").read_bytes() == kept
    assert run("resume=sweep", "optimizer.lr=tag(log,interval(1e-2,1))", "sweep.points=4") == 0
    assert "4 points to try, 3 of them done" in capsys.readouterr().out
    assert [row["folder"] for row in rows()][:3] == [row["folder"] for row in before]
    assert len({row["optimizer.lr"] for row in rows()}) == 4
    assert len(trials()) == 4
    assert 1e-2 <= trials()[3].params["optimizer.lr"] <= 1


def test_a_point_is_tried_with_every_seed_and_it_searches_by_what_the_table_ranks_by(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mode of one metric says nothing of another."""
    ranked = "checkpoint.monitor=val/accuracy", "checkpoint.mode=max", "sweep.rank_by=val/loss"
    assert run(*SEARCH, "sweep.points=2", "seed=0,1", *ranked) == 0
    assert "Ranked by val/loss (" in capsys.readouterr().out
    assert len(rows()) == 4
    for trial in trials():
        rate = pytest.approx(trial.params["optimizer.lr"], rel=1e-5)
        mine = [row for row in rows() if float(row["optimizer.lr"]) == rate]
        assert {row["seed"] for row in mine} == {"0", "1"}
        assert trial.value == pytest.approx(sum(float(row["val/loss"]) for row in mine) / 2)
    assert direction() == "MINIMIZE"


def test_killed_in_the_middle_it_goes_on_with_what_it_was_at(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    long = "sweep.points=2", "trainer.max_epochs=12", "checkpoint.every=5 steps", "sweep.pruner=null"
    process = Forked(*SEARCH, *long)
    wait_for(Path("sweep/results.csv"))  # the first point has ended
    until = time.monotonic() + 120
    while len(list(Path("sweep").glob("*/checkpoints/last.pt"))) < 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    halves = {path.parent.parent.name for path in Path("sweep").glob("*/checkpoints/last.pt")}
    assert run(*SEARCH, *long) == 0
    assert "2 points to try, 1 of them done" in capsys.readouterr().out
    assert set(states().values()) == {"completed"}
    assert halves <= set(states())
    assert len(rows()) == 2
    assert [trial.state for trial in trials()].count(TrialState.COMPLETE) == 2


def test_a_value_that_may_be_drawn_and_is_wrong_is_found_before_anything_starts(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*SEARCH, "optimizer.weight_decay=interval(-1,0)") == 2
    assert "optimizer.weight_decay (" in (said := capsys.readouterr().err)
    assert "-1 is not allowed" in said
    assert not Path("sweep").exists()


def test_where_optuna_is_missing_that_is_said(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run(*SEARCH) == 2
    assert capsys.readouterr().err == (
        "error: sweep: needs optuna, which is not installed\n  try: uv pip install optuna\n"
    )


def test_only_samplers_and_pruners_can_be_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SEARCH, "sweep.sampler._target_=os.system") == 2
    assert "sweep.sampler._target_: 'os.system' is blocked for safety" in capsys.readouterr().err


def test_a_point_that_is_drawn_while_it_runs_is_told_and_not_run_again(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """Figures of two losses cannot be compared, in the search as little as in the table."""
    arguments = "-m", *QUICK, "sweep=optuna", "sweep.points=4", "sweep.n_jobs=2", "hydra.sweep.dir=sweep"
    assert run(*arguments, "loss=cross_entropy,focal", "sweep.pruner=null") == 0
    assert "Ranked by val/accuracy (" in capsys.readouterr().out
    assert direction() == "MAXIMIZE"
    reached = {row["loss"]: float(row["val/accuracy"]) for row in rows()}
    assert set(reached) == {"cross_entropy", "focal"}
    assert len(rows()) == len(set(reached.values())) == 2
    assert [trial.state for trial in trials()] == [TrialState.COMPLETE] * 4
    assert [trial.value for trial in trials()] == [reached[trial.params["loss"]] for trial in trials()]


def test_a_launcher_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine/hydra/launcher").mkdir(parents=True)
    Path("mine/hydra/launcher/cluster.yaml").write_text("_target_: hydra._internal.core_plugins.other.OtherLauncher\n")
    assert run("--config-dir", "mine", *SEARCH, "hydra/launcher=cluster") == 2
    assert "hydra/launcher: cluster cannot be combined with sweep=optuna" in capsys.readouterr().err
    assert not Path("sweep").exists()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("evil").absolute(),)


def test_a_foreign_sweep_that_names_the_sampler_runs_nothing(
    run: Run,
    searched: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = rows()
    held = json.loads(Path("sweep/sweep.json").read_text())
    held["typed"] += ["sweep.sampler._target_=optuna.samplers.CmaEsSampler", "sweep.points=9"]
    Path("sweep/sweep.json").write_text(json.dumps(held))
    entry = {
        "op_code": 9,
        "worker_id": "a",
        "trial_id": 0,
        "system_attr": {"cma:optimizer:0": pickle.dumps(Evil()).hex()},
    }
    lines = Path("sweep/optuna.log").read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if '"op_code":6' in line)
    Path("sweep/optuna.log").write_text("\n".join([*lines[:at], json.dumps(entry), *lines[at:]]) + "\n")
    assert run("resume=sweep") == 2
    assert "'optuna.samplers.CmaEsSampler' is not on the list of allowed targets" in capsys.readouterr().err
    assert run("resume=sweep", "allow_targets=[optuna.*]") == 2
    said = capsys.readouterr().err
    assert "would read pickles out of optuna.log" in said
    assert not Path("evil").exists()
    remedy = re.search("try: (sweep.sampler._target_=\\S+),", said)
    assert remedy
    assert run("resume=sweep", remedy[1], "sweep.points=3") == 0
    assert rows() == before
    shutil.copy("sweep/sweep.json", "sweep/optuna.log")
    assert run("resume=sweep", remedy[1]) == 2
    assert (
        "sweep/optuna.log: is no journal of a search of ours (ValueError: line 1 is not JSON)"
        in capsys.readouterr().err
    )
