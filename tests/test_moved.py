from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from conftest import QUICK, Run, composed, records_of, result_of

from runner import moved
from runner.sweep.record import digest

NOW, THEN = "runner.model.MLP", "runner.model.Perceptron"


@pytest.fixture
def alias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(moved.MOVED, THEN, NOW)


def written_then(run_dir: Path) -> None:
    """Have a run folder name the model as an earlier version did."""
    path = run_dir / "config.yaml"
    text = path.read_text()
    assert text.count(NOW) == 1
    path.write_text(text.replace(NOW, THEN))


def test_a_target_is_renamed_wherever_it_is_and_nothing_else_is() -> None:
    text = "a: {_target_: x.Old, b: [{_target_: x.Old}, {_target_: y.Old, c: x.Old}]}\n_target_: {d: x.Old}"
    tree = yaml.safe_load(text)
    expected = yaml.safe_load(text.replace("_target_: x.Old", "_target_: x.New"))
    assert moved._renamed(tree, {"x.Old": "x.New"}) == expected


def test_aliases_take_no_time(alias: None) -> None:
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40))
    read = moved.read(f"a0: &a0 {{_target_: {THEN}}}\n{levels}loop: &loop [*loop]")
    assert read["a1"] == [{"_target_": NOW}] * 9


def test_a_run_of_before_opens_everywhere(
    run: Run, digits: Path, alias: None, capsys: pytest.CaptureFixture[str]
) -> None:
    written_then(digits)
    before = result_of(digits)["metrics"]["test/accuracy"]
    assert run("evaluate", f"run={digits}", "output=evaluated", "figures=false") == 0
    assert result_of("evaluated")["metrics"]["test/accuracy"] == before
    assert run("compare", digits) == 0
    assert run("reproduce", f"run={digits}", "hydra.run.dir=again") == 0
    capsys.readouterr()
    assert run("diff", digits, "again") == 0
    assert THEN not in capsys.readouterr().out
    assert run(f"resume={digits}", "trainer.max_epochs=3") == 0
    assert [record["epoch"] for record in records_of(digits)] == [1, 2, 3]
    assert NOW in (digits / "config.yaml").read_text()


def test_without_an_entry_it_cannot_be_found(run: Run, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written_then(digits)
    assert run(f"resume={digits}", "trainer.max_epochs=3") == 2
    assert f"'{THEN}' cannot be found" in capsys.readouterr().err


def test_a_job_of_a_sweep_of_before_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = composed(*QUICK)
    then = composed(*QUICK)
    then.model._target_ = THEN
    before = digest(then)
    assert digest(now) != before
    monkeypatch.setitem(moved.MOVED, THEN, NOW)
    monkeypatch.setitem(moved.MOVED, "runner.model.Between", NOW)
    assert digest(now) == before
