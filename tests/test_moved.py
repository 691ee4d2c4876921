from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import QUICK, Run, composed, records_of, result_of
from omegaconf import open_dict
from PIL import Image

from runner import config, moved
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


def test_aliases_take_no_time() -> None:
    tree: list[Any] = [{"_target_": THEN}]
    for _ in range(40):
        tree = [tree] * 9
    tree.append(tree)
    assert moved._renamed(tree, {THEN: NOW}) is tree
    for _ in range(40):
        tree = tree[0]
    assert tree == [{"_target_": NOW}]


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


PHOTOS = ("dataset=image_folder", "dataset.root=photos", "dataset.cache=null", "split=random", "trainer.max_epochs=1")


def turned_photos() -> None:
    """Photos that are stored upside down, of which a tag says so."""
    exif = Image.Exif()
    exif[0x0112] = 3
    for number in range(30):
        path = Path("photos", "ab"[number % 2], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").resize((6, 4)).rotate(180 * (number % 2)).save(path, exif=exif)


def test_photos_of_a_run_of_before_are_read_as_they_were(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    turned_photos()
    assert run(*QUICK, *PHOTOS, "dataset.reading=1", "hydra.run.dir=r") == 0
    path = Path("r/config.yaml")
    text = path.read_text()
    assert "  reading: 1\n" in text
    path.write_text(text.replace("  reading: 1\n", ""))  # earlier versions had no such key
    before = result_of("r")["metrics"]["test/loss"]
    capsys.readouterr()
    assert run("evaluate", "run=r", "output=e", "figures=false") == 0
    assert result_of("e")["metrics"]["test/loss"] == before
    assert "dataset.reading=1: images are read as by earlier versions" in capsys.readouterr().out
    for name, given in (("t", "test"), ("f", "photos")):
        assert run("predict", "run=r", f"input={given}", f"output={name}.csv") == 0
    found = {name: list(csv.DictReader(Path(f"{name}.csv").read_text().splitlines())) for name in "tf"}
    files = {row["path"].removeprefix("photos/"): row["probability"] for row in found["f"]}
    assert {row["path"]: row["probability"] for row in found["t"]}.items() <= files.items()
    assert run("resume=r", "trainer.max_epochs=2") == 0  # for which the data have to be the same
    assert "  reading: 1\n" in path.read_text()


def test_a_new_run_says_how_it_read_its_photos_whoever_wrote_the_option(run: Run) -> None:
    turned_photos()
    Path("mine/dataset").mkdir(parents=True)
    Path("mine/dataset/own.yaml").write_text("_target_: runner.dataset.image_folder\nroot: photos\ncache: null\n")
    own = ("--config-dir", "mine", "dataset=own", *PHOTOS[3:])
    assert run(*QUICK, *own, "hydra.run.dir=r") == 0
    assert "  reading: 2\n" in Path("r/config.yaml").read_text()
    assert run("resume=r", "trainer.max_epochs=2") == 0


def test_a_key_that_came_later_is_what_was_done_before_it() -> None:
    mine = "runner.dataset.image_folder", "runner.transform.Crop"
    text = f"dataset: {{_target_: {mine[0]}}}\ntransform: {{train: [{{_target_: {mine[1]}, fill: 0}}]}}"
    then = moved.read(text)
    assert then["dataset"] == {"_target_": mine[0], "reading": 1, "parts": True, "value_range": None}
    assert then["transform"]["train"] == [{"_target_": mine[1], "fill": 0, "padding_mode": "constant"}]
    assert moved.as_first_written(then) == yaml.safe_load(text)  # by which a sweep knows its jobs
    assert moved.as_first_written(yaml.safe_load(text))["dataset"]["reading"] == 2
    given = f"{{_target_: {mine[0]}, reading: 2, parts: false, value_range: [0, 1]}}"
    assert moved.read(given) == yaml.safe_load(given)


DIGESTS: dict[str, str] = json.loads(Path(__file__).with_name("earlier").joinpath("digests.json").read_text())
"""By what was typed: the hash of the job, as the version computed it that made the other folders there."""


@pytest.mark.parametrize("typed", DIGESTS)
def test_a_sweep_of_an_earlier_version_knows_its_jobs_again(typed: str) -> None:
    made = composed(*typed.split())
    config.go_on_as_earlier(config.install(made))
    assert digest(made) == DIGESTS[typed]
    with open_dict(made):
        made.dataset.another = 1
    assert digest(made) != DIGESTS[typed]
