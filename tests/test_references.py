"""No folder reads the environment of whoever opens it, and no value of the environment is written anywhere."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CROSS, LIGHT, ONE_METRIC, QUICK, Run, own_model
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from runner import config, hydra_internals, references, visible
from runner.grammar import parse, quoted

SECRET = "s3cr3t-4f9a"
pytestmark = pytest.mark.usefixtures("strangers")
PIECES = st.lists(st.sampled_from(["$", "{", "}", "${", "\\", "oc.env", ":", "a", "SECRET", ".", " ", "'", ","]))


def of(content: bytes) -> Iterator[bytes]:
    """A file, and what is inside it if it is an archive, at any depth."""
    yield content
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield from of(archive.read(name))


def leaks(place: Path) -> list[Path]:
    """The files below a folder that hold the secret, in their names, too."""
    files = [path for path in place.rglob("*") if path.is_file()]
    return [
        path for path in files if SECRET in str(path) or any(SECRET.encode() in each for each in of(path.read_bytes()))
    ]


@given(PIECES)
def test_a_literal_text_is_itself_in_a_configuration(pieces: list[str]) -> None:
    text = "".join(pieces)
    made = OmegaConf.create({"a": references.literal(text), "b": [references.literal({"c": text})]})
    assert (made.a, made.b[0].c) == (text, text)


@given(PIECES)
def test_what_a_folder_may_refer_to_never_asks_the_environment(pieces: list[str]) -> None:
    text, before = "".join(pieces), references.reads()
    if references.of_keys(text):
        made = OmegaConf.create({"k": text, "a": "", "SECRET": "x"})
        try:
            found = made.k
        except Exception:  # there is no such key
            found = ""
        assert references.reads() == before
        assert "${" not in str(found)


@pytest.mark.parametrize(
    "text",
    [
        "${seed}", "a${.x}b", "${a[b]}", "http://${a.b}/x",
        "$${a}{oc.env:X}", "\\${a}", "${oc.env:X}", "${hydra.runtime.cwd}", "${[hydra].x}", "${${a}}", "${a}${now:%Y}",
    ],
)  # fmt: skip
def test_a_reference_to_a_key_is_told_from_all_others(text: str) -> None:
    assert references.of_keys(text) == (text in ("${seed}", "a${.x}b", "${a[b]}", "http://${a.b}/x"))


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:A}", "${oc.env:A,/data}", "${oc.decode:${oc.env:A}}", "http://x/${oc.env:A}?a=b&c=1,2",
        "[${oc.env:A}]",
        'a "b" ${oc.env:A}', "it's ${oc.env:A}", "${oc.env:A},${oc.env:B}", "${oc.create:{a:${oc.env:B}}}",
    ],
)  # fmt: skip
def test_the_line_to_type_gives_the_reference_again(text: str) -> None:
    (typed,) = shlex.split(references.to_type("model.a", text))
    parsed = parse(quoted(typed))
    assert (parsed.key_or_group, parsed.value(), parsed.is_sweep_override()) == ("model.a", text, False)


def test_nobody_is_told_to_type_what_calls_other_code() -> None:
    assert references.to_type("a", "${mine:${oc.env:A}}") == "a=VALUE"


def test_what_came_from_the_environment_by_any_way_is_recorded_as_it_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A", SECRET)
    monkeypatch.setenv("B", f"{{x: [{SECRET}, 1]}}")
    tree = {
        "direct": "${oc.env:A}", "inside": "http://u:${oc.env:A}@x", "chain": "${inside}/y",
        "read": "${oc.decode:${oc.env:B}}", "made": "${oc.create:{a:${oc.env:A}}}", "node": "${other}",
        "other": {"a": "${direct}", "b": "${n}"}, "n": 3, "lacking": "${oc.env:THERE_IS_NONE,5}", "m": "${n}",
        "values": "${oc.dict.values:other}", "list": ["${chain}", "x"],
    }  # fmt: skip
    made = config.recorded(OmegaConf.create(tree))
    assert SECRET not in str(made)
    names = ("direct", "inside", "chain", "read", "made", "lacking")
    assert {name: made[name] for name in names} == {name: tree[name] for name in names}
    assert (made["list"], made["m"], made["node"], made["other"]["b"]) == (["${chain}", "x"], 3, made["other"], 3)
    assert visible.redacted({"x": [f"no file {SECRET}!", 3]}) == {"x": ["no file ${oc.env:A}!", 3]}


TELLS = """
import logging
from torch import nn

class Net(nn.Module):
    def __init__(self, num_outputs, note="", also="", deep=None, fails=False):
        super().__init__()
        self.layer, self.note, self.fails, self.calls = nn.Linear(13, num_outputs), note, fails, 0
        logging.getLogger("mine").warning("made with %s and %r", also, deep)

    def forward(self, x):
        self.calls += 1
        if self.fails and self.calls > 9:
            raise RuntimeError(f"no answer from http://{self.note}/")
        return self.layer(x)
"""


@pytest.fixture
def typed(tabular: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Overrides with a secret in several keys; those of them that are to be typed again are the last four."""
    place = tmp_path_factory.mktemp(SECRET)  # not below the folder of the test, which is no secret
    shutil.copy("wine.csv", place)
    monkeypatch.setenv("PLACE", str(place))
    monkeypatch.setenv("NOTE", SECRET)
    monkeypatch.setenv("DEEP", f"{{x: [{SECRET}-deep]}}")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    return (
        *own_model(TELLS), "+model.fails=false", "+model.also=${model.note}/x", "dataset=table",
        "dataset.target=target", "transform=table", "dataset.drop=[colour]", *LIGHT[2:5], *ONE_METRIC,
        "dataset.path=${oc.env:PLACE}/wine.csv", "+model.note=${oc.env:NOTE}",
        "optimizer.lr=${oc.decode:${oc.env:LR,0.01}}",
        "+model.deep=${oc.decode:${oc.env:DEEP}}",
    )  # fmt: skip


def plus(typed: tuple[str, ...]) -> list[str]:
    """What is typed again, and what is never taken from a folder."""
    return [each.lstrip("+") for each in typed[-4:]] + [each for each in typed if each.startswith("allow_targets")]


def test_a_secret_is_nowhere_and_is_typed_again(
    run: Run, typed: tuple[str, ...], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, again = os.environ["PLACE"], plus(typed)
    own = [each for each in again if each.startswith(("model", "allow"))]
    assert run(*typed, "hydra.run.dir=s", "trainer.max_epochs=1", "tensorboard.enabled=true") == 0
    assert run("evaluate", "run=s", "figures=false", *own, again[0]) == 0
    assert run("predict", "run=s", "input=wine.csv", "output=p.csv", *own) == 0
    for kind in ("torch_export", "safetensors"):
        assert run("export", "run=s", f"format={kind}", "input=wine.csv", *own) == 0
    assert run("diff", "s", "s") == run("compare", "s") == 0
    assert run("reproduce", "run=s", *again) == 0
    assert run("resume=s", *again, "trainer.max_epochs=2") == 0
    assert run("resume=s", *again, "model.fails=true", "trainer.max_epochs=3") == 2  # which is another experiment
    assert run(*typed, "model.fails=true", "hydra.run.dir=broken") == 1
    assert run(*typed, "dataset.target=flower", "hydra.run.dir=no") == 2
    shutil.rmtree(place)
    assert run("resume=s", *again, "trainer.max_epochs=3") == 2
    printed = "".join(capfd.readouterr())
    assert "made with ${model.note}/x and {'x': ['${oc.decode:${oc.env:DEEP}}']}" in printed
    assert "no answer from http://${oc.env:NOTE}/" in printed
    assert "${oc.env:PLACE}" in printed
    assert SECRET not in printed
    assert leaks(Path.cwd()) == []

    # Without them the message has, line by line, what to type; a folder does not ask who has opened it.
    assert run("resume=s", "trainer.max_epochs=3", "allow_targets=[own_net.*]") == 2
    lines = [line.strip() for line in capfd.readouterr().err.splitlines()]
    said = [shlex.split(line.removeprefix("try: "))[0] for line in lines if line.startswith("try: ")]
    assert sorted(said) == sorted(each for each in again if not each.startswith("allow"))
    assert run("predict", "run=s", "input=wine.csv", *own) == 0  # the path of the data, and the rate, are of no use
    capfd.readouterr()
    assert run("evaluate", "run=s", *own) == 2
    assert "dataset.path='${oc.env:PLACE}/wine.csv'" in capfd.readouterr().err
    monkeypatch.delenv("NOTE")
    literal = [each for each in again if "model.note" not in each]
    assert run("resume=s", *literal, "model.note=x", f"dataset.path={Path.cwd()}/wine.csv", "trainer.max_epochs=3") == 0


def test_jobs_are_found_again_whatever_the_environment_says(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LR", "0.0123")
    monkeypatch.setenv("NOTE", SECRET)
    typed = ("optimizer.lr=${oc.decode:${oc.env:LR}}", "sweep.rank_by=${oc.decode:${oc.env:BY,val/loss}}")
    quick = (*QUICK, "trainer.max_epochs=1", "hydra.sweep.dir=m", "seed=0,1")
    assert run("-m", *quick, *typed) == 0
    before = json.loads(Path("m/sweep.json").read_text())["jobs"]
    monkeypatch.setenv("LR", "0.0456")
    assert run("-m", "resume=m") == 2
    said = capfd.readouterr().err
    assert "optimizer.lr='${oc.decode:${oc.env:LR}}'" in said
    assert "sweep.rank_by='${oc.decode:${oc.env:BY,val/loss}}'" in said
    assert run("-m", "resume=m", *typed, "seed=0,1,2") == 0
    assert json.loads(Path("m/sweep.json").read_text())["jobs"][:2] == before
    assert "2 of them done" in capfd.readouterr().out
    assert len(list(Path("m").glob("seed=*"))) == 3


def test_folds_of_a_cross_validation_do_not_ask_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LR", "0.0123")
    assert run(*CROSS, "optimizer.lr=${oc.decode:${oc.env:LR}}", "hydra.run.dir=k") == 0
    assert run(*QUICK, "optimizer.lr=${oc.decode:${oc.env:LR}}", "check=only") == 0
    assert run(*QUICK, "optimizer.lr=${oc.decode:${oc.env:LR}}", "debug=dev_run") == 0
    shutil.rmtree("k/fold-1")
    assert run("resume=k") == 2
    assert run("resume=k", "optimizer.lr=${oc.decode:${oc.env:LR}}") == 0
    saved = yaml.safe_load(Path("k/fold-1/config.yaml").read_text())
    assert saved["optimizer"]["lr"] == "${oc.decode:${oc.env:LR}}"


def test_another_seed_from_the_environment_is_another_run(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seed = "seed=${oc.decode:${oc.env:SEED}}"
    monkeypatch.setenv("SEED", "1")
    assert run(*QUICK, seed, "hydra.run.dir=s") == 0
    assert run("resume=s", seed, "trainer.max_epochs=3") == 0
    monkeypatch.setenv("SEED", "2")
    assert run("resume=s", seed, "trainer.max_epochs=5") == 2
    assert "the seed has changed" in capfd.readouterr().err


def planted(tree: Any, evil: str) -> Any:
    """Plain containers with a reference in the place of every text."""
    if isinstance(tree, dict):
        return {key: planted(child, evil) for key, child in tree.items()}
    if isinstance(tree, list):
        return [planted(child, evil) for child in tree]
    return evil if isinstance(tree, str) else tree


EVIL = (
    "${oc.env:LEAK}",
    "x/${oc.env:LEAK}",
    "${test_references:LEAK}",
    "${hydra:job.env_set.X}",
    "${oc.decode:${oc.env:LEAK}}",
)
COMMANDS = (
    ("resume=digits", "trainer.max_epochs=3"), ("evaluate", "run=digits", "figures=false"), ("reproduce", "run=digits"),
    ("predict", "run=digits", "input=test"), ("export", "run=digits", "format=safetensors"), ("compare", "digits"),
    ("diff", "digits", "digits"),
)  # fmt: skip


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a resolver of the user's was asked for."""
    asked: list[str] = []
    monkeypatch.setenv("LEAK", SECRET)
    hydra_internals.resolver("test_references", lambda name: asked.append(name) or os.environ[name])
    yield asked
    OmegaConf.clear_resolver("test_references")


def hostile(whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Configurations with references to what is none of theirs: in every text, in every place of one, in some."""
    values = {key: value for key, value in whole.items() if key != "interpolations"}
    yield from ({**planted(values, evil), "interpolations": {}} for evil in (EVIL[1], EVIL[2]))
    keys = [
        *whole["interpolations"],
        "model.init",
        "loss.reduction",
        "dataset.name",
        "device",
        "hydra.job.name",
        "seed",
    ]
    yield {**whole, "interpolations": {key: EVIL[number % len(EVIL)] for number, key in enumerate(keys)}}
    yield {**whole, "model": {**whole["model"], "weights": "http://127.0.0.1:9/${oc.env:LEAK}"}}
    yield {**whole, "facts": {**whole["facts"], "class_names": [*EVIL, "5", "6", "7", "8", "9"]}}
    made = {"checkpoint.monitor": "$${a}{oc.env:LEAK}", "trainer.precision": "${model.name}", "model.output": "${seed}"}
    yield {**whole, "a": "", "model": {**whole["model"], "name": EVIL[0]}, "interpolations": made}


@pytest.mark.parametrize("number", range(6))
def test_no_command_resolves_what_a_folder_says(
    run: Run, digits: Path, watched: list[str], capfd: pytest.CaptureFixture[str], number: int
) -> None:
    shutil.copytree(digits, "kept")
    tree = list(hostile(yaml.safe_load((digits / "config.yaml").read_text())))[number]
    before = references.reads()
    for command in COMMANDS:
        shutil.rmtree("digits")
        shutil.copytree("kept", "digits")
        (digits / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        assert run(*command) in (0, 1, 2)
    said = "".join(capfd.readouterr())
    assert "Traceback" not in said
    assert SECRET not in said
    assert references.reads() == before
    assert watched == []
    assert leaks(Path.cwd()) == []


def test_no_sweep_resolves_what_its_folder_says(
    run: Run, sweep: Path, watched: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((sweep / "sweep.json").read_text())
    before = references.reads()
    for evil in EVIL:
        planted_ = [f"optimizer.weight_decay={evil}", f"model.hidden=[{evil}]", f"sweep.jobs={{a: ['seed={evil}']}}"]
        content["typed"] = [*content["typed"], *planted_]
        (sweep / "sweep.json").write_text(json.dumps(content))
        assert run("-m", f"resume={sweep}", "trainer.max_epochs=3") == 2
    assert SECRET not in "".join(capfd.readouterr())
    assert references.reads() == before
    assert watched == []


def test_a_class_that_is_named_like_a_reference_is_just_that(
    run: Run, watched: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{number},{number % 7},{('a', EVIL[0])[number % 2]}" for number in range(60)]
    Path("t.csv").write_text("\n".join(["x,y,kind", *rows]))
    table = ("dataset=table", "dataset.path=t.csv", "dataset.target=kind", "transform=table", "hydra.run.dir=r")
    assert run(*QUICK, *table) == 0
    assert run("predict", "run=r", "input=t.csv", "output=p.csv") == 0
    assert EVIL[0] in Path("p.csv").read_text()
    assert SECRET not in "".join(capfd.readouterr())
    assert leaks(Path.cwd()) == []
