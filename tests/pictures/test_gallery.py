"""Pictures of an experiment. What is drawn is looked at by eye; here it is what is drawn, and where."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BOARD, DRAWN, LIGHT, PICTURES, QUICK, Run, only_run, result_of
from PIL import Image
from sklearn.metrics import confusion_matrix
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runner import metric
from runner.dataset import ArrayDataset, Samples
from runner.metric import Predicted
from runner.pictures import gallery, plots
from runner.transform import Crop, Float, Normalize, Pipeline

RNG = np.random.default_rng(0)


def texts(figure: object) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]  # type: ignore[attr-defined]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and saved but not drawn, which takes longer than all else; others draw each of them."""
    monkeypatch.setattr(gallery, "to_image", lambda figure: torch.zeros(3, 8, 8, dtype=torch.uint8))


def test_a_run_leaves_its_pictures_on_the_board_and_as_files(run: Run) -> None:
    assert run(*DRAWN, "figures=true", "transform=crop_flip", "trainer.max_epochs=1") == 0
    made = only_run()
    tags = {
        "train/samples", "optimizer/schedule", "val/mistakes", *(f"{part}/confusion" for part in ("val", "test")),
        *(f"{part}/ranking" for part in ("val", "test")),
    }  # fmt: skip
    board = EventAccumulator(str(made / "tensorboard")).Reload()
    assert set(board.Tags()["images"]) == tags
    assert {path.name for path in (made / "figures").iterdir()} == {tag.replace("/", "-") + ".png" for tag in tags}
    for tag in tags:
        on_board = Image.open(BytesIO(board.Images(tag)[0].encoded_image_string))
        with Image.open(made / "figures" / (tag.replace("/", "-") + ".png")) as in_file:
            assert on_board.size == in_file.size
            assert on_board.tobytes() == in_file.tobytes()


@pytest.mark.usefixtures("undrawn")
def test_figures_without_a_board_and_maps_that_were_asked_for(run: Run) -> None:
    maps = ("model=cnn", "model.channels=[4,8]", "tensorboard.feature_maps=['0']", "tensorboard.samples=2")
    assert run(*QUICK[2:], *maps, "figures=true", "trainer.max_steps=2") == 0
    names = {path.stem for path in (only_run() / "figures").glob("*.png")}
    parts = {f"{part}-{name}" for part in ("val", "test") for name in ("confusion", "ranking")}
    assert names == {"train-samples", "optimizer-schedule", "val-mistakes", "feature_maps-0", *parts}


def test_the_mistakes_are_those_of_the_model_with_their_index(digits: Path) -> None:
    rows = result_of(digits)["tables"]["val/mistakes"]
    with np.load(digits / "split.npz") as split:
        val = set(split["val"].tolist())
    from sklearn.datasets import load_digits

    truth = load_digits().target
    assert rows
    assert all(
        row["sample"] in val and str(truth[row["sample"]]) == row["true class"] != row["predicted"] for row in rows
    )
    sure = [row["probability"] for row in rows]
    assert sure == sorted(sure, reverse=True)


def test_the_surest_mistakes_come_first() -> None:
    chances = np.array([[0.9, 0.1], [0.2, 0.8], [0.45, 0.55], [0.01, 0.99]])
    said = Predicted(np.array([1, 1, 0, 0]), chances.argmax(1), chances, np.array([7, 8, 9, 10]))
    assert metric.most_confident_mistakes(said, 2) == [3, 0]
    rows = metric.mistakes("val", said, ["a", "b"]).rows
    assert rows == [[10, "a", "b", 0.99], [7, "b", "a", 0.9], [9, "a", "b", 0.55]]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("sure", "caption"), [(True, "8: a\n→ b 80%"), (False, "8: a\n→ b")])
def test_a_mistake_has_its_classes_and_how_sure_the_model_was(
    monkeypatch: pytest.MonkeyPatch, sure: bool, caption: str
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(plots, "pictures", lambda rows, captions, *rest: seen.extend(captions) or plots._figure(1, 1))
    chances = np.array([[0.9, 0.1], [0.2, 0.8]])
    said = Predicted(np.array([0, 0]), chances.argmax(1), chances if sure else None, np.array([7, 8]))
    samples = Samples(ArrayDataset(torch.zeros(9, 1, 4, 4, dtype=torch.uint8), torch.zeros(9, dtype=torch.long)))
    gallery.mistakes("classification", ["a", "b"], "val", samples, said)
    assert seen == [caption]


def test_a_mistake_in_a_file_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(plots, "pictures", lambda rows, captions, *rest: seen.extend(captions) or plots._figure(1, 1))
    chances = np.array([[0.1, 0.9], [0.2, 0.8]])
    said = Predicted(np.array([0, 0]), chances.argmax(1), chances, np.array([1, 0]))
    paths = np.array(["val/a/of a very long name.png", "val/a/$1.png"])
    held = ArrayDataset(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2).long(), columns={"path": paths})
    samples = Samples(held)
    gallery.mistakes("classification", ["a", "b"], "val", samples, said)
    assert seen == ["val/a/$1.png: a\n→ b 90%", "… very long name.png: a\n→ b 80%"]
    table = metric.mistakes("val", said, ["a", "b"], paths=samples.held("path"))
    assert table.columns[-1] == "file"
    assert [row[-1] for row in table.rows] == [paths[1], paths[0]]


def test_what_was_normalised_is_undone() -> None:
    stored = torch.randint(0, 256, (20, 3, 6, 6), dtype=torch.uint8)
    pipeline = Pipeline([Crop(1), Float(1 / 255), Normalize()]).fit(lambda: iter([stored]))
    given = pipeline(stored, torch.full((20, 2), 0.5))  # which shifts by nothing
    assert not torch.allclose(given, stored.float(), atol=1)
    assert torch.allclose(gallery.undone(given, pipeline), stored.float(), atol=1e-3)


@pytest.mark.parametrize("classes", [10, 100])
def test_a_confusion_matrix_is_readable_for_few_and_for_many_classes(classes: int) -> None:
    truth, said = RNG.integers(0, classes, 2000), RNG.integers(0, classes, 2000)
    matrix = confusion_matrix(truth, said, labels=range(classes))
    names = [f"class {n}" for n in range(classes)]
    figure = plots.confusion(matrix, names, "val")
    shown = texts(figure)
    if classes <= 20:
        cells = [f"{count:,}" for count in matrix.ravel() if count]
        assert sorted(t for t in shown if t in cells) == sorted(cells)
        assert f"{matrix[0, 0] / matrix[0].sum():.2f}" in shown
    assert len({t for t in shown if t.startswith("class ")}) <= 50
    _, height, width = plots.to_image(figure).shape
    assert height < 1100
    assert width < 2200


NAMES = {
    "a|b": "a|b", "<script>alert(1)</script>": "<script>alert(1)<…", "$x^2$": "$x^2$", "Käse": "Käse",
    "two\nlines": "two lines", "Ω": "Ω", "": "class 6", "x" * 40: "x" * 17 + "…", "\U000f0000": "class 8",
}  # fmt: skip


def test_names_of_classes_are_drawn_as_they_are() -> None:
    """Warnings are errors here: one of a letter that no font has would fail the test."""
    assert plots.labels(list(NAMES)) == list(NAMES.values())
    figure = plots.confusion(np.eye(len(NAMES), dtype=int), list(NAMES), "val")
    plots.to_image(figure)
    assert set(NAMES.values()) <= set(texts(figure))


def test_a_thousand_classes_make_no_table_of_a_thousand_columns() -> None:
    truth = np.repeat(np.arange(1000), 3)
    said = truth.copy()
    said[:5] = 999
    table = metric.confusion("test", Predicted(truth, said), [f"c{n}" for n in range(1000)])
    assert table.rows == [["c0", "c999", 3], ["c1", "c999", 2]]
    matrix = metric.confusion_matrix(Predicted(truth, said), 1000)
    plots.to_image(plots.confusion(matrix, [str(n) for n in range(1000)], "test"))


@pytest.mark.parametrize("classes", [2, 3, 40])
def test_rankings_of_any_number_of_classes(classes: int) -> None:
    truth, chances = RNG.integers(0, classes, 300), RNG.dirichlet(np.ones(classes), 300)
    figure = plots.ranking(truth, chances, [f"n{n}" for n in range(classes)], "val")
    legend = [text for text in texts(figure) if text.startswith("n") and text[1:].isdigit()]
    assert len(legend) == (1 if classes == 2 else 3 if classes == 3 else 0)
    plots.to_image(figure)


def test_distances_between_classes() -> None:
    points = np.array([[0.0, 0.0], [2.0, 0.0], [4.0, 4.0], [4.0, 4.0], [7.0, 0.0], [8.0, 0.0]])
    tables = metric.class_distances(points, np.array([0, 0, 2, 2, -1, 99]), ["a", "b", "c"])  # -1 and 99 are no classes
    assert tables["distances"].columns == ["class", "a", "c"]  # b has no sample
    assert tables["distances"].rows == [["a", 0.0, 5.0], ["c", 5.0, 0.0]]
    assert tables["similarities"].rows == [["a", 1.0, 1 / 6], ["c", 1 / 6, 1.0]]


@pytest.mark.usefixtures("undrawn")
def test_values_have_residuals(run: Run) -> None:
    assert run(*LIGHT, *PICTURES, "trainer.max_epochs=1", "dataset=diabetes", "loss=mse", "metric=regression") == 0
    board = EventAccumulator(str(only_run() / "tensorboard")).Reload()
    assert set(board.Tags()["images"]) == {"val/residuals", "test/residuals", "optimizer/schedule"}


def test_a_model_is_looked_into(run: Run) -> None:
    """Embeddings, how far classes are apart in them, and the weights and gradients of each layer."""
    board = ("tensorboard.embeddings='1'", "tensorboard.histograms=true", "tensorboard.gradients=true")
    assert run(*BOARD, *board, "hydra.run.dir=here") == 0
    vectors = np.loadtxt("here/tensorboard/projector/vectors.tsv")
    assert vectors.shape[0] == 359
    tables = result_of("here")["tables"]
    names = Path("here/tensorboard/projector/metadata.tsv").read_text().splitlines()[1:]
    classes = np.array([int(line.split("\t")[1]) for line in names])
    expected = np.linalg.norm(vectors[classes == 0].mean(0) - vectors[classes == 1].mean(0))
    assert tables["embeddings/distances"][0]["1"] == pytest.approx(expected, rel=1e-4)
    assert tables["embeddings/similarities"][0]["1"] == pytest.approx(1 / (1 + expected), rel=1e-4)

    curves = EventAccumulator("here/tensorboard", size_guidance={"histograms": 0, "tensors": 0}).Reload()
    state = torch.load("here/checkpoints/last.pt", weights_only=True)["model"]
    drawn = set(curves.Tags()["histograms"])
    assert drawn == {f"histograms/{kind}/{name}" for kind in ("weights", "gradients") for name in state}
    for name, tensor in state.items():
        assert curves.Histograms(f"histograms/weights/{name}")[-1].histogram_value.num == tensor.numel()
    norms = [tag for tag in curves.Tags()["scalars"] if tag.startswith("gradients/")]
    assert len(norms) == 2  # two layers have weights
    assert all(event.value > 0 for tag in norms for event in curves.Scalars(tag))


def test_a_layer_that_is_not_there_is_found_before_training(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUICK, "tensorboard.embeddings=nowhere") == 2
    assert capsys.readouterr().err.startswith("error: tensorboard.embeddings: the model has no layer 'nowhere'")
    assert not Path("outputs").exists()


def test_without_pictures_matplotlib_is_not_imported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ["matplotlib", *(name for name in sys.modules if name.startswith("matplotlib."))]:
        monkeypatch.setitem(sys.modules, name, None)  # whoever imports it now fails
    assert run(*QUICK, "trainer.max_steps=1") == 0


IGNORED = """\
import torch
from sklearn.datasets import load_digits
from runner.dataset import ArrayDataset

def digits(ignored):
    bunch = load_digits()
    target = torch.from_numpy(bunch.target)
    target[::2] = ignored
    return ArrayDataset(torch.from_numpy(bunch.images).float().unsqueeze(1), target, [f"digit {n}" for n in range(10)])
"""


def test_a_number_of_no_class_has_no_name() -> None:
    assert [gallery._name(["a", "b"], number) for number in (0, 1, 2, -1)] == ["a", "b", "–", "–"]


@pytest.mark.usefixtures("undrawn")
def test_targets_that_are_ignored_have_no_name(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own_data.py").write_text(IGNORED)
    Path("mine/dataset").mkdir(parents=True)
    Path("mine/dataset/own.yaml").write_text("_target_: own_data.digits\nignored: 0\n")
    seen: list[str] = []
    monkeypatch.setattr(plots, "pictures", lambda rows, captions, *rest: seen.extend(captions) or plots._figure(1, 1))
    assert run(
        "--config-dir", "mine", "dataset=own", "dataset.ignored=99", "loss.ignore_index=99", "transform=none",
        "allow_targets=[own_data.*]", "split=random", "tensorboard.embeddings='1'", *DRAWN, "trainer.max_epochs=1",
    ) == 0  # fmt: skip
    samples = dict(caption.split(": ") for caption in seen[: gallery.SHOWN])
    assert all((name == "–") == (int(index) % 2 == 0) for index, name in samples.items())
    assert {name.partition(" ")[0] for name in samples.values()} == {"–", "digit"}
    rows = (only_run() / "tensorboard/projector/metadata.tsv").read_text().splitlines()[1:]
    assert all((row.split("\t")[1] == "–") == (int(row.split("\t")[0]) % 2 == 0) for row in rows)


def test_a_model_that_blew_up_is_no_traceback(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(
        *LIGHT, *PICTURES, "dataset=diabetes", "loss=mse", "metric=regression", "transform=normalize", "split=random",
        "optimizer=sgd", "optimizer.lr=1e30", "trainer.evaluate_every=1 step", "trainer.max_steps=1",
        "trainer.max_epochs=null", "scheduler=constant",
    ) == 0  # fmt: skip
    assert "Traceback" not in "".join(capsys.readouterr())
    assert result_of(only_run())["metrics"]["val/r2"] is None
