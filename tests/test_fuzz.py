"""Hostile command lines, option files and run folders: a message and exit status 2, in seconds, whatever is in them.

``EXAMPLES=3000 pytest tests/test_fuzz.py`` tries more of them than the suite does.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import _leave_logging, composed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.__main__ import main
from runner.checks import schema

SECONDS = 30
"""Within which each command ends, on a machine on which others compute."""

MANY = settings(
    max_examples=int(os.environ.get("EXAMPLES", "12")), deadline=None, derandomize="EXAMPLES" not in os.environ,
    suppress_health_check=[*HealthCheck], database=None,
)  # fmt: skip
RUNS = Path(__file__).parent / "earlier" / "runs"

HOSTILE: list[Any] = [
    None, True, 0, -1, 5, 2**63, 10**400, 1.5, float("nan"), float("inf"), -1e308, "", "x", "é\u202e", "???", "${seed}",
    "${a:${b}}", "../..", "9" * 5000, "x" * 100_000, [], [[]], [5], ["x"], {}, {"a": 5}, {"": None},
    {"_target_": "os.x"},
    ["\x1b[31m"], "2020-13-45", {"x": {"y": [None]}},
]  # fmt: skip
TEXTS = [
    "", "5", "[1]", "a: &a [*a]", "{b:" * 300, "{b: " * 300 + "1" + "}" * 300, "[" * 1000 + "]" * 1000, "a: \0",
    "\ta: 1",
    "\ufeffa: 1", "a: !!python/object:os.system {}", "a: !!bool x", "a: !!int ''", "a: !!timestamp x", "a: !!set {x}",
    "? [1]\n: 2", "a: 1\na: 2", "a: 1\n---\nb: 2", "1: 2", "null: 2", "a: " + "9" * 5000, "a: 1e999999", "a: ${a}",
    "a: " + "${b:" * 200 + "}" * 200, "defaults: 5", "defaults: [x]", "defaults: [{a: {b: 1}}]", "hydra: 5", "a: ${",
    "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(20)
    ),
    "".join(f"k{number}: 1\n" for number in range(3_000)), "_target_: 5", "_args_: 5", "_partial_: [1]", "a.b.c: 3",
]  # fmt: skip
VALUES = [
    "", "null", "5", "-1", "x", "[]", "{}", "[5]", "{a: 5}", "???", "${seed}", "${", "${a:" * 200 + "}" * 200,
    "{b:" * 300,
    "[" * 1000, "9" * 5000, "9" * 400, "1e999999", "nan", "'", "é", "a b", "1,2", "range(1,3)", "choice(", "x" * 300,
    "int(1e400)", "../x", "/", "${oc.env:NO}", "[" + "1," * 500 + "1]", "{1: 1, null: 2}",
]  # fmt: skip


def _ends_well(*arguments: str, allowed: tuple[int, ...] = (0, 2)) -> str:
    """Run a command, and return what it said: no traceback, not at length, and soon."""
    said, start = io.StringIO(), time.monotonic()
    with redirect_stdout(said), redirect_stderr(said):
        status = main(list(arguments))
    _leave_logging()
    output, what = said.getvalue(), [argument[:80] for argument in arguments]
    assert status in allowed, (what, status, output[-3000:])
    assert "Traceback" not in output, (what, output[-3000:])
    assert len(output) < 100_000, (what, len(output))
    assert time.monotonic() - start < SECONDS, what
    return output


def _all_keys(tree: Any, path: str = "") -> list[str]:
    names = [] if not isinstance(tree, dict) else [key for n, c in tree.items() for key in _all_keys(c, f"{path}.{n}")]
    return [path.strip("."), *names]


@pytest.fixture(scope="module")
def keys() -> list[str]:
    from runner import config

    own = [key for key in _all_keys(config.written(composed())) if key]
    hydra = [f"hydra.{name}" for name in ("run", "run.dir", "job", "sweep.dir", "job_logging", "mode", "overrides")]
    return [*own, *schema.resumable(), *hydra, "hydra", "model@x", "experiment", "nope", "a.b", "a." * 1000 + "b", ""]


QUICK = ("check=only", "model=linear", "trainer.threads=1", "tensorboard.enabled=false")


@MANY
@given(data=st.data())
def test_a_command_line(keys: list[str], data: st.DataObject) -> None:
    typed = st.builds(
        lambda sign, key, equals, value: sign + key + (equals + VALUES[value] if equals else ""),
        st.sampled_from(["", "", "", "+", "++", "~"]), st.sampled_from(keys), st.sampled_from(["=", "=", "=", ""]),
        st.integers(0, len(VALUES) - 1),
    )  # fmt: skip
    words = data.draw(st.lists(typed, min_size=1, max_size=2))
    command = data.draw(st.sampled_from([[*QUICK], [*QUICK], ["inspect", "model=linear"]]))
    _ends_well(*command, *words)


@MANY
@given(data=st.data())
def test_an_option_file(data: st.DataObject) -> None:
    head = "_target_: torch.nn.Linear\nin_features: 64\nout_features: 10\n"
    text = data.draw(st.integers(0, len(TEXTS) - 1))
    first = data.draw(st.sampled_from(["", "# @package _global_\n", "# @package a.b[0]\n", head, head]))
    shutil.rmtree("mine", ignore_errors=True)
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/x.yaml").write_text(first + TEXTS[text])
    _ends_well("--config-dir", "mine", *QUICK, "model=x")


def _mutated(tree: Any, dice: random.Random, value: Any) -> Any:
    """A tree with another value, or none, at a random place."""
    if isinstance(tree, (dict, list)) and tree and dice.random() < 0.85:
        key = dice.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
        if dice.random() < 0.1:
            del tree[key]
        else:
            tree[key] = _mutated(tree[key], dice, value)
        return tree
    return value


def _mutate(path: Path, dice: random.Random, value: Any) -> None:
    text = path.read_text()
    if dice.random() < 0.15:
        path.write_text(
            dice.choice([*TEXTS, "[" * 100_000, "{" * 5, "NaN", '{"state": 1e999}', text[: len(text) // 2]])
        )
    elif path.suffix == ".yaml":
        path.write_text(yaml.safe_dump(_mutated(yaml.safe_load(text), dice, value)))
    elif path.suffix == ".jsonl":
        lines = [json.loads(line) for line in text.splitlines()]
        lines[-1] = _mutated(lines[-1], dice, value)
        path.write_text("\n".join(map(json.dumps, lines)))
    else:
        path.write_text(json.dumps(_mutated(json.loads(text), dice, value)))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["~hydra"], "hydra: cannot be changed as a whole"), (["++hydra=null"], "hydra: cannot be changed as a whole"),
        (["+model=[1]"], "model: '[1]' is not an option"), (["seed=" + "{b:" * 300], "is nested too deeply"),
        (["a." * 1000 + "b=1"], "is nested too deeply"), (["k" * 300 + "=1"], "has a key that is too long"),
        (["seed=" + "9" * 5000], "seed: '999"), (["resume=" + "x" * 300], "resume: 'xxx"),
        (["--config-path=/nope"], "--config-path: takes the place of runner's own files"),
        (["hydra.searchpath=[5]"], "hydra.searchpath"), (["scheduler.warmup=" + "9" * 400 + "%"], "scheduler.warmup: "),
    ],
)  # fmt: skip
def test_what_is_typed_is_refused_with_its_key(typed: list[str], said: str) -> None:
    assert said in _ends_well(*QUICK, *typed, allowed=(2,))


@pytest.mark.parametrize(
    ("name", "text", "command", "said"),
    [
        ("config.yaml", TEXTS.index("a: &a [*a]"), "diff a b", "a value that contains itself"),
        ("config.yaml", -6, "evaluate run=a", "more than 1,000,000 values"),
        ("config.yaml", -6, "reproduce run=a", "more than 1,000,000 values"),
        ("config.yaml", -6, "compare a b", "more than 1,000,000 values"),
        ("result.json", '{"state": 5}', "evaluate run=a", "state has a value that no run writes"),
        ("result.json", '{"state": "completed", "epochs": -1}', "resume=a", "epochs has a value that no run writes"),
        ("result.json", '{"state": "completed", "tables": [1]}', "diff a b", "tables has a value that no run writes"),
        ("result.json", "[" * 100_000, "diff a b", "nested too deeply"),
        ("metrics.jsonl", '{"epoch": "1", "step": 1}', "reproduce run=a", "line 1: is not what a run writes"),
        ("metrics.jsonl", '{"epoch": 1, "step": 1, "val/loss": "x"}', "reproduce run=a", "val/loss is not a number"),
        ("split.json", "[" * 100_000, "evaluate run=a figures=false", "nested too deeply"),
    ],
)
def test_a_file_of_a_run_is_refused_with_its_name(name: str, text: str | int, command: str, said: str) -> None:
    for place in "ab":
        shutil.copytree(RUNS / "digits", place)
    Path("a", name).write_text(TEXTS[text] if isinstance(text, int) else text)
    output = _ends_well(*command.split(), allowed=(0, 2) if command.startswith("compare") else (2,))
    assert said in output
    assert f"a/{name}" in output or command.startswith("compare")


FILES = ("result.json", "result.json", "metrics.jsonl", "split.json", "config.yaml", "config.yaml", "config.yaml")
COMMANDS = [
    ("diff", "a", "b"), ("compare", "a", "b"), ("compare", "a", "--csv"), ("evaluate", "run=a", "figures=false"),
    ("predict", "run=a", "input=val"), ("export", "run=a", "format=safetensors"), ("resume=a", "check=only"),
    ("resume=a", "check=only", "trainer.max_epochs=4"),
]  # fmt: skip


@MANY
@given(seed=st.integers(0, 10**9), value=st.integers(0, len(HOSTILE) - 1), command=st.sampled_from(COMMANDS))
def test_a_run_folder(seed: int, value: int, command: tuple[str, ...]) -> None:
    dice = random.Random(seed)
    for name in "ab":
        shutil.rmtree(name, ignore_errors=True)
        shutil.copytree(RUNS / "digits", name)
    _mutate(Path("a", dice.choice(FILES)), dice, HOSTILE[value])
    _ends_well(*command)


@MANY
@given(seed=st.integers(0, 10**9), value=st.integers(0, len(HOSTILE) - 1))
def test_the_folder_of_a_sweep(seed: int, value: int) -> None:
    dice = random.Random(seed)
    shutil.rmtree("a", ignore_errors=True)
    shutil.copytree(RUNS / "sweep", "a")
    name = dice.choice(["sweep.json", "optimizer.lr=0.01/result.json", "optimizer.lr=0.01/config.yaml"])
    _mutate(Path("a", name), dice, HOSTILE[value])
    _ends_well("-m", "resume=a", "check=only", allowed=(0, 1, 2))
    _ends_well("compare", "a")
