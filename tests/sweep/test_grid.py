"""What was typed, as the overrides of each job, and the names that follow from it."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from runner.errors import ConfigError
from runner.sweep.grid import BESIDE, LONGEST, Job, expand


def jobs(*typed: str, **sweep: Any) -> list[Job]:
    options = {"method": "grid", "zip": [], "jobs": None, "points": 4, "seed": 0, **sweep}
    return expand(OmegaConf.create({"sweep": options}), list(typed), OverridesParser.create())


def test_every_combination_the_last_key_changing_first() -> None:
    made = jobs("model=mlp,cnn", "trainer.max_epochs=3", "seed=range(2)")
    expected = [
        ("trainer.max_epochs=3", f"model={m}", f"seed={s}") for m, s in itertools.product(["mlp", "cnn"], [0, 1])
    ]
    assert [job.overrides for job in made] == expected
    assert [job.name for job in made] == [f"model={m},seed={s}" for m, s in itertools.product(["mlp", "cnn"], [0, 1])]


def test_of_two_overrides_for_a_key_the_last_counts() -> None:
    assert [job.overrides for job in jobs("seed=0,1,2", "x=1", "seed=5,6", "x=2")] == [
        ("x=2", "seed=5"),
        ("x=2", "seed=6"),
    ]


def test_signs_stay() -> None:
    (first, _) = jobs("+a.b=1,2", "~loss.weight", "optimizer@second=adam")
    assert first.overrides == ("~loss.weight", "optimizer@second=adam", "+a.b=1")


def test_values_that_go_together() -> None:
    made = jobs(
        "optimizer.lr=0.1,0.2", "seed=0,1", "loader.batch_size=32,64", zip=["optimizer.lr", "loader.batch_size"]
    )
    assert [job.name for job in made] == [
        "optimizer.lr=0.1,loader.batch_size=32,seed=0",
        "optimizer.lr=0.1,loader.batch_size=32,seed=1",
        "optimizer.lr=0.2,loader.batch_size=64,seed=0",
        "optimizer.lr=0.2,loader.batch_size=64,seed=1",
    ]
    assert [job.name for job in jobs("a=1,1", "b=3,4", zip=["a", "b"])] == ["a=1,b=3", "a=1,b=4"]
    twice = jobs("a=1,2", "b=3,4", "c=5,6", "d=7,8", zip=[["a", "c"], ["b", "d"]])
    assert [job.name for job in twice] == ["a=1,c=5,b=3,d=7", "a=1,c=5,b=4,d=8", "a=2,c=6,b=3,d=7", "a=2,c=6,b=4,d=8"]


def test_jobs_by_their_names_for_every_seed() -> None:
    made = jobs(
        "seed=0,1", "model=cnn", jobs={"plain": [], "small": ["model=mlp", "model.hidden=[8,8]"], "other": {"x": 1}}
    )
    assert [(job.name, job.overrides) for job in made[:3]] == [
        ("plain,seed=0", ("model=cnn", "seed=0")),
        ("small,seed=0", ("model=mlp", "seed=0", "model.hidden=[8,8]")),
        ("other,seed=0", ("model=cnn", "seed=0", "x=1")),
    ]
    assert len(made) == 6


def test_jobs_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "jobs.yaml"
    path.write_text("a: [model=mlp]\nb: {model: cnn, 'model.channels': [4, 8]}\n")
    assert [job.overrides for job in jobs(jobs=str(path))] == [("model=mlp",), ("model=cnn", "model.channels=[4, 8]")]
    path.write_text("1: [x=1, ~loss.weight]\ntrue: {note: 'x,y', b: true, n: null, t: 'null'}\n")
    one, true = jobs(jobs=str(path))
    assert (one.name, one.overrides) == ("1", ("x=1", "~loss.weight"))
    assert (true.name, true.overrides) == ("true", ("note='x,y'", "b=true", "n=null", "t='null'"))


@pytest.mark.parametrize(
    ("typed", "sweep", "message"),
    [
        (["a=1,2", "b=1,2,3"], {"zip": ["a", "b"]}, "sweep.zip: a has 2 values, b has 3 values\n.* the same number"),
        (["seed=0,1"], {"zip": ["sed"]}, "sweep.zip: names sed, which does not have several values\n.*\n  try: seed"),
        (["a=interval(0,1)"], {}, "a=interval.0,1.: is a range, .*\n  try: sweep=random"),
        (["a=range(3,3)"], {}, "gives no values"),
        (["sweep.n_jobs=1,2"], {}, "sweep.n_jobs: applies to the whole sweep"),
        ([], {"jobs": "nowhere.yaml"}, "sweep.jobs: 'nowhere.yaml' cannot be read .No such file"),
        ([], {"jobs": {}}, "sweep.jobs: contains no jobs"),
        ([], {"jobs": {"a": "model=mlp"}}, "sweep.jobs: a: is not a list of overrides"),
        ([], {"jobs": {"a": ["model"]}}, "sweep.jobs: a: 'model' is not KEY=VALUE"),
        ([], {"jobs": "twice.yaml"}, "twice.yaml: has two jobs named 'a'"),
        (["x=tag(lgo,interval(0,1))"], {"method": "random"}, "x: .*: there is no tag 'lgo'\n  allowed: log"),
        (["x=int(interval(1.5,2.5))"], {"method": "random"}, "x: .*: its bounds are not whole numbers"),
        (["a=1,2", "b=1,2"], {"zip": ["a", "b"], "method": "random"}, "zip: names a, whose values the search draws"),
        ([], {"jobs": {"a": ["seed=0,1"]}}, "sweep.jobs: a: seed=0,1 has several values"),
        ([], {"jobs": {"a": ["x=}"]}}, "sweep.jobs: a: x=}:"),
        (["seed=0,1"], {"method": "random"}, "sweep: random has no ranges or lists of values to draw from"),
        (["x=interval(2,1)"], {"method": "random"}, "x: x=interval.2,1. is not a valid range"),
        (["x=tag(log,interval(0,1))"], {"method": "sobol"}, "is not a valid range\n  allowed: .* above 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_combined(
    typed: list[str], sweep: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("twice.yaml").write_text("a: []\nb: []\na: [x=1]\n")
    with pytest.raises(ConfigError, match=message):
        jobs(*typed, **sweep)


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=60), max_size=4))
def test_any_value_makes_a_name_that_every_file_system_takes(swept: dict[str, str]) -> None:
    name = Job((), swept).name
    assert re.fullmatch(r"[\w,=+@-][\w.,=+@-]*", name, re.ASCII)
    assert len(name) <= LONGEST
    assert name not in BESIDE


def test_names_differ_where_values_do() -> None:
    values = ["a/b", "a_b", "a b", "[a,b]", "a-b", "x" * 200, "x" * 200 + "y", "ä", "ö"]
    assert len({Job((), {"k": value}).name for value in values}) == len(values)
    assert Job((), {"job": "../../etc"}).name.startswith("_")
    assert Job((), {"job": "results.csv"}).name != "results.csv"
