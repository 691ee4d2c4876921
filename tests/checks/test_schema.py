from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

import runner
from runner import options
from runner.checks import schema
from runner.checks.schema import UNKNOWN, fits, problems

TRAINER = yaml.safe_load((options.home() / "trainer/default.yaml").read_text())


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, int, True), (1.0, int, False), (True, int, False), ("1", int, False),
        (1, float, True), (1.5, float, True), (True, float, False), ("abc", float, False), (None, float, False),
        (True, bool, True), (1, bool, False), ("on", bool, False),
        (None, int | None, True), ("auto", int | Literal["auto"], True), ("all", int | Literal["auto"], False),
        ([1.0, 2], list[float], True), ([1.0, "x"], list[float], False), ("ab", list[str], False),
        ({"a": 1}, dict[str, Any], True), ([], dict[str, Any], False),
        (UNKNOWN, int, True), (object(), Any, True),
    ],
)  # fmt: skip
def test_types(value: Any, hint: Any, expected: bool) -> None:
    assert fits(value, hint) is expected


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("max_epochs", 0, "a whole number >= 1, or null"),
        ("max_epochs", 1.5, "a whole number >= 1, or null"),
        ("max_epochs", True, "a whole number >= 1, or null"),
        ("accumulate", None, "a whole number from 1 to 1,000,000"),
        ("clip_norm", 0, "a number > 0, or null"),
        ("clip_norm", float("nan"), "a number > 0, or null"),
        ("threads", "all", "a whole number from 1 to 1,024, or auto"),
        ("deterministic", 1, "true, false"),
        ("max_epochs", "???", "a whole number >= 1, or null"),
    ],
)
def test_values_that_are_not_allowed(key: str, value: Any, allowed: str) -> None:
    (problem,) = problems({**TRAINER, key: value}, schema.Trainer, "trainer.")
    assert (problem.key, problem.allowed) == (f"trainer.{key}", allowed)


def test_a_configuration_without_mistakes() -> None:
    assert problems(TRAINER, schema.Trainer) == []


def test_everything_is_reported_at_once_and_near_names_are_offered() -> None:
    found = problems({**TRAINER, "max_epoch": 3, "accumulate": 0}, schema.Trainer, "trainer.")
    assert {p.key: p.remedy for p in found} == {"trainer.max_epoch": "trainer.max_epochs=3", "trainer.accumulate": ""}


def test_missing_keys_are_named() -> None:
    (problem,) = problems({k: v for k, v in TRAINER.items() if k != "threads"}, schema.Trainer, "trainer.")
    assert (problem.key, problem.what) == ("trainer.threads", "is missing")


def test_other_keys_of_a_group_with_a_target_are_the_targets() -> None:
    assert problems({"_target_": "x.Y", "lr": 0.1, "momentum": "anything"}, schema.Optimizer) == []


def test_a_group_that_is_no_group() -> None:
    (problem,) = [p for p in problems({"model": "mlp"}) if p.key == "model"]
    assert problem.what == "'mlp' is a value, not an option"


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:11", "mps"])
def test_devices(device: str) -> None:
    assert "device" not in [p.key for p in problems({"device": device})]


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", ""])
def test_no_devices(device: str) -> None:
    assert "device" in [p.key for p in problems({"device": device})]


def test_what_may_change_when_a_run_is_resumed() -> None:
    keys = set(schema.resumable())
    assert {"device", "trainer.max_epochs", "trainer.threads", "tensorboard.enabled"} <= keys
    assert not keys & {"seed", "loader.batch_size", "optimizer.lr", "model", "trainer.accumulate", "split.seed"}


def test_the_reference_in_the_docs_is_that_of_the_schema() -> None:
    """`uv run python docs/reference.py > docs/reference.md` makes it so."""
    docs = Path(runner.__file__).parent.parent / "docs"
    page = runpy.run_path(str(docs / "reference.py"))["page"]
    assert (docs / "reference.md").read_text() == page()
