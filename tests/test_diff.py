"""Two runs, and in what they differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Run

from runner.diff import configuration, environment_differences, figures


def make(name: str, config: dict[str, Any], data: str = "d" * 64, **result: Any) -> Path:
    folder = Path(name)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "interpolations": {"a": f"${{{name}}}"}}))
    said = {"state": "completed", "versions": {"torch": "2.11"}, "device": "cpu", "threads": 1, "git": None, **result}
    (folder / "result.json").write_text(json.dumps(said))
    (folder / "split.json").write_text(json.dumps({"data": data, "hash": "s" * 64}))
    return folder


def test_every_key_that_differs_facts_too_and_no_other() -> None:
    a = make(
        "a", {"seed": 0, "model": {"_target_": "x.A", "p": 1}, "rules": [{"lr": 1, "on": True}], "facts": {"n": 3}}
    )
    b = make(
        "b", {"seed": 0, "model": {"_target_": "x.A", "q": None}, "rules": [{"lr": 2, "on": True}], "facts": {"n": 4}}
    )
    assert {record["key"]: (record["a"], record["b"]) for record in configuration(a, b).records()} == {
        "model.p": ("1", None), "model.q": (None, "null"), "rules.0.lr": ("1", "2"), "facts.n": ("3", "4"),
    }  # fmt: skip
    assert configuration(a, a).rows == []


def test_keys_of_a_group_stand_together() -> None:
    a, b = make("a", {"m": {"p": 1}, "z": 1}), make("b", {"m": {"q": 1}, "z": 2})
    assert [record["key"] for record in configuration(a, b).records()] == ["m.p", "m.q", "z"]


def test_what_they_were_computed_with() -> None:
    a = make("a", {}, git={"commit": "abc", "clean": True})
    said = [{"what": "device", "value": "cuda:0 (H200)"}, {"what": "os", "value": "x"}]
    b = make("b", {}, data="e" * 64, git={"commit": "abc", "clean": False}, threads=2,
             versions={"torch": "2.15", "numpy": "2"}, device="cuda:0",
             tables={"environment": said})  # fmt: skip
    assert {record["what"]: (record["a"], record["b"]) for record in environment_differences(a, b).records()} == {
        "torch": ("2.11", "2.15"), "numpy": (None, "2"), "device": ("cpu", "cuda:0 (H200)"), "threads": ("1", "2"),
        "git commit": ("abc", "abc, with changes"), "os": (None, "x"), "data": ("d" * 12, "e" * 12),
    }  # fmt: skip
    assert environment_differences(b, b).rows == []


def test_figures_side_by_side() -> None:
    a = make("a", {}, metrics={"val/loss": 0.5, "val/f1": None}, seconds=2.0)
    b = make("b", {}, metrics={"val/loss": 0.75, "test/f1": 0.1}, seconds=2.5)
    found = {record["metric"]: (record["a"], record["b"], record["b − a"]) for record in figures(a, b).records()}
    assert found["val/loss"] == (0.5, 0.75, 0.25)
    assert found["val/f1"][1:] == (None, None)
    assert found["test/f1"] == (None, 0.1, None)
    assert found["seconds"] == (2.0, 2.5, 0.5)


def test_the_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    make("one", {"seed": 0}, metrics={"val/loss": 0.5})
    make("outputs/day/two", {"seed": 1}, metrics={"val/loss": 0.25})
    assert run("diff", "one", "last") == 0
    assert capsys.readouterr().out == (
        "a  one (completed)\n"
        "b  outputs/day/two (completed)\n"
        "\n"
        "Configuration\n"
        " key    a   b\n"
        " ────────────\n"
        " seed   0   1\n"
        "\n"
        "Environment\n"
        "no differences\n"
        "\n"
        "Metrics\n"
        " metric          a        b     b − a\n"
        " ────────────────────────────────────\n"
        " val/loss   0.5000   0.2500   -0.2500\n"
    )


def test_a_run_that_left_no_result(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    make("one", {})
    (make("two", {}) / "result.json").unlink()
    assert run("diff", "one", "two") == 0
    assert "b  two (no result.json)\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("one", "diff: the following arguments are required: RUN\n  try: python -m runner diff --help\n"),
        ("one nowhere", "diff: 'nowhere' does not exist\n  allowed: a run folder, or last\n"),
        ("one last", "diff: there is no run in outputs/ yet\n  allowed: a run folder\n"),
        ("one one --md", "diff: unrecognized arguments: --md\n  try: python -m runner diff --help\n"),
        ("one bad", "bad/config.yaml: is not a file that a run wrote\n"),
        ("one torn", "torn/result.json: cannot be read (Expecting value: line 1 column 11 (char 10))\n"),
    ],
)
def test_mistakes(run: Run, capsys: pytest.CaptureFixture[str], typed: str, said: str) -> None:
    make("one", {})
    (make("bad", {}) / "config.yaml").write_text("- 1")
    (make("torn", {}) / "result.json").write_text('{"state": ')
    assert run("diff", *typed.split()) == 2
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "error: " + said)


def test_help(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("diff", "--help") == 0
    assert capsys.readouterr().out.startswith("usage: python -m runner diff [-h] RUN RUN\n")
