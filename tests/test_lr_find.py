from __future__ import annotations

import csv
import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import Run
from PIL import Image

from runner.lr_find import centred_mean, running_mean, suggest
from runner.pictures import plots

RATES = np.geomspace(1e-6, 1.0, 61)


def test_the_running_mean_has_no_bias() -> None:
    assert running_mean(np.full(5, 3.0)) == pytest.approx(np.full(5, 3.0))
    assert running_mean(np.array([1.0, 2.0])) == pytest.approx([1.0, (0.9 * 0.1 * 1 + 0.1 * 2) / (1 - 0.81)])


def test_the_centred_mean_does_not_lag() -> None:
    ramp = np.arange(20.0)
    assert centred_mean(ramp + 100)[3:-3] == pytest.approx(ramp[3:-3] + 100)
    assert centred_mean(np.array([1.0, np.nan, 1e30]))[0] == pytest.approx(5 / 3)  # both count as twice the first


def test_the_steepest_fall_of_a_known_curve() -> None:
    """A logistic fall in log(rate) is steepest in its middle; beyond its foot the loss grows."""
    curve = 2 - 1 / (1 + np.exp(-2 * (np.log10(RATES) + 3))) + (RATES > 0.3) * 5
    found = list(suggest(RATES, curve).values())
    assert found[0] == pytest.approx(1e-3, rel=1e-6)
    assert found[1] == pytest.approx(RATES[RATES <= 0.3][-1] / 10)


@pytest.mark.parametrize("curve", [np.ones(61), np.linspace(1, 2, 61), np.linspace(1, 0.97, 61)])
def test_where_nothing_falls_nothing_is_suggested(curve: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    assert suggest(RATES, curve) == {}


def test_a_rate_is_found_and_nothing_of_a_run_is_touched(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("outputs/2026-01-01").mkdir(parents=True)
    digits.rename("outputs/2026-01-01/00-00-00")
    before = {path: path.read_bytes() for path in Path("outputs").rglob("*") if path.is_file()}
    assert run("lr_find", "model=mlp", "trainer.threads=1", "optimizer=sgd") == 0
    said = capsys.readouterr().out
    suggestion = float(said.rpartition("optimizer.lr=")[2])
    assert 0.01 < suggestion < 1
    (folder,) = Path("outputs/lr_find").glob("*/*")
    assert sorted(path.name for path in folder.iterdir()) == ["lr_find.csv", "lr_find.png"]
    rows = [list(map(float, row)) for row in list(csv.reader((folder / "lr_find.csv").read_text().splitlines()))[1:]]
    assert rows[0][0] == pytest.approx(1e-7)
    ratios = [b[0] / a[0] for a, b in pairwise(rows)]
    assert ratios == pytest.approx([1e8 ** (1 / 99)] * len(ratios))
    assert rows[0][1] == pytest.approx(math.log(10), abs=0.1)  # of ten classes, before anything is learnt
    with Image.open(folder / "lr_find.png") as figure:
        assert figure.size == (704, 396)
    assert {path: path.read_bytes() for path in before} == before
    # And again: the same figures, in another folder.
    assert run("lr_find", "model=mlp", "trainer.threads=1", "optimizer=sgd") == 0
    assert float(capsys.readouterr().out.rpartition("optimizer.lr=")[2]) == suggestion
    assert len(list(Path("outputs/lr_find").glob("*/*"))) == 2


@pytest.mark.parametrize(
    ("losses", "limits"),
    [
        ([2.0, 1.5, 1.0, 50.0, np.nan], (0.8, 2.5)),  # of the fall, which is 1, a fifth below and half of it above
        ([2.0, np.nan, np.nan, np.nan, np.nan], (1.96, 2.1)),
    ],
)
def test_the_figure_shows_the_fall_of_the_loss_however_high_it_rises(
    losses: list[float], limits: tuple[float, float]
) -> None:
    found = np.array(losses)
    (axes,) = plots.rate_search(np.logspace(-3, 0, 5), found, found, None).axes
    assert axes.get_ylim() == pytest.approx(limits)


def test_the_loss_of_a_first_step_is_that_of_training_and_no_rate_helps_what_is_too_small(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first step of the search at the learning rate of a run has the loss of that run's first step."""
    assert run("lr_find", "model=mlp", "trainer.threads=1", "lr_find.steps=10", "lr_find.end=1e-6") == 0
    assert "no learning rate reduced the loss" in "".join(capsys.readouterr())
    assert run("model=mlp", "trainer.threads=1", "trainer.max_steps=1", "tensorboard.enabled=false") == 0
    (found,) = Path("outputs/lr_find").glob("*/*/lr_find.csv")
    (metrics,) = Path("outputs").glob("*/*/metrics.jsonl")
    first = float(list(csv.reader(found.read_text().splitlines()))[1][1])
    assert f'"train/loss": {first!r}' in metrics.read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr_find.steps=3", "lr_find.steps: 3 is not allowed"),
        ("lr_find.stepz=3", "lr_find.stepz: there is no such key"),
        ("lr_find.start=0", "lr_find.start: 0 is not allowed"),
        ("lr_find.start=20", "lr_find.start: 20 is not below lr_find.end, which is 10"),
        ("-m", "-m: lr_find has no such flag"),
    ],
)
def test_mistakes(run: Run, capsys: pytest.CaptureFixture[str], override: str, message: str) -> None:
    assert run("lr_find", override) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not Path("outputs").exists()


def test_a_search_that_ends_at_once_and_one_with_a_negative_loss(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ("model=mlp", "trainer.threads=1")
    assert run("lr_find", *quick, "optimizer=sgd", "lr_find.start=5", "lr_find.end=10") == 0
    capsys.readouterr()
    poisson = ("dataset=diabetes", "loss=mse", "loss._target_=torch.nn.PoissonNLLLoss", "loss.standardize=false")
    options = ("metric=regression", "split=random", "transform=none", "lr_find.end=1e-2")
    assert run("lr_find", *quick, *poisson, *options) == 0
    assert "100 steps;" in capsys.readouterr().out


def test_groups_with_a_rate_of_their_own_are_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(
            "lr_find",
            "model=mlp",
            "trainer.threads=1",
            "optimizer.param_groups=[{match: '^7', lr: 0.1}]",
            "lr_find.steps=20",
        )
        == 0
    )
    assert re.search(r"have their own lr; multiply it by \S+ as well: \^7", capsys.readouterr().out)


def test_a_run_folder_means_nothing_to_it(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lr_find", "resume=last") == 2
    assert capsys.readouterr().err.startswith("error: resume: has no effect with lr_find")


def test_a_place_that_cannot_be_written_is_found_before_the_search(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def searched(*arguments: object) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr("runner.lr_find.search", searched)
    Path("outputs").write_text("a file in the way")
    assert run("lr_find", "model=mlp") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: lr_find: 'outputs/lr_find/")
    assert "cannot be made (" in said


def test_a_search_whose_first_loss_is_no_number_can_be_drawn() -> None:
    losses = np.full(61, np.nan)
    figure = plots.rate_search(RATES, losses, losses, None)
    plots.to_image(figure)
