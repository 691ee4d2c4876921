from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from runner.table import Table
from runner.tensorboard import Board


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def record(step: int, loss: float) -> dict[str, float]:
    return {"epoch": step // 10, "step": step, "train/loss": loss, "val/accuracy": 0.5}


def test_curves_are_over_steps(tmp_path: Path) -> None:
    board = Board(tmp_path)
    for step, loss in ((10, 2.0), (20, 1.5)):
        board.record(record(step, loss), {"head": 0.1, "rest": 0.01}, {"samples_per_second": 1000.0})
    board.close()
    read = events(tmp_path)
    assert [(e.step, e.value) for e in read.Scalars("train/loss")] == [(10, 2.0), (20, 1.5)]
    assert set(read.Tags()["scalars"]) == {
        "train/loss", "val/accuracy", "learning_rate/head", "learning_rate/rest", "vitals/samples_per_second",
    }  # fmt: skip
    assert read.Scalars("learning_rate/rest")[0].value == pytest.approx(0.01)


def test_a_resumed_run_draws_no_point_twice(tmp_path: Path) -> None:
    first = Board(tmp_path)
    for step in (10, 20, 30):
        first.record(record(step, 1.0), {}, {})
    first.close()
    second = Board(tmp_path, {10, 20})  # the last checkpoint was that of step 20
    for step in (30, 40):
        second.record(record(step, 2.0), {}, {})
    second.close()
    assert [(e.step, e.value) for e in events(tmp_path).Scalars("train/loss")] == [
        (10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0),
    ]  # fmt: skip


def test_nan_stays_nan(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.record(record(10, math.nan), {}, {})
    board.close()
    assert math.isnan(events(tmp_path).Scalars("train/loss")[0].value)


def test_tables_are_markdown_in_the_text_tab(tmp_path: Path) -> None:
    table = Table("Samples", ["class", "n"], [["a", 1]])
    board = Board(tmp_path)
    board.table("split", table)
    board.text("config", "seed: 0\nmodel:\n  x: 1")
    board.close()
    read = events(tmp_path)
    (event,) = read.Tensors("split/text_summary")
    assert event.tensor_proto.string_val[0].decode() == table.markdown()
    (event,) = read.Tensors("config/text_summary")
    assert event.tensor_proto.string_val[0].decode() == "    seed: 0\n    model:\n      x: 1"


def test_each_point_once_whatever_a_killed_process_left(tmp_path: Path) -> None:
    """Two files with the same points, the second torn in the middle of a record."""
    first = Board(tmp_path)
    for step in (10, 20):
        first.record(record(step, 1.0), {}, {})
    (torn := first.path.with_name(first.path.name + ".1")).write_bytes(first.path.read_bytes()[:-5])
    second = Board(tmp_path, {10, 20})
    second.record(record(30, 1.0), {}, {})
    assert {path for path in tmp_path.iterdir() if path.stat().st_size} == {second.path}
    assert second.path.name > torn.name  # TensorBoard reads them in this order
    assert [e.step for e in events(tmp_path).Scalars("train/loss")] == [10, 20, 30]


def test_tables_are_those_of_the_last_start(tmp_path: Path) -> None:
    for number in (1, 2):
        board = Board(tmp_path, {10})
        board.table("split", Table("Samples", ["n"], [[number]]))
        board.close()
    read = events(tmp_path)
    assert len(read.Tensors("split/text_summary")) == 1
    assert b"| 2 |" in read.Tensors("split/text_summary")[0].tensor_proto.string_val[0]


def test_a_tensorboard_that_is_running_forgets_the_old_file(tmp_path: Path) -> None:
    first = Board(tmp_path)
    for step in (10, 20, 30):
        first.record(record(step, 1.0), {}, {})
    running = events(tmp_path)
    second = Board(tmp_path, {10, 20})
    second.record(record(30, 2.0), {}, {})
    running.Reload()
    assert [(e.step, e.value) for e in running.Scalars("train/loss")] == [(10, 1.0), (20, 1.0), (30, 2.0)]


def test_what_could_not_be_written_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    board = Board(tmp_path)
    board.record(record(10, 1.0), {}, {})
    content = board.path.read_bytes()
    board.path.unlink()
    board.path.mkdir()
    for step in (20, 30):
        board.record(record(step, 1.0), {}, {})
    assert caplog.text.count(" (Is a directory); it will be tried again") == 1
    board.path.rmdir()
    board.path.write_bytes(content + b"half a record")
    board.record(record(40, 1.0), {}, {})
    assert [e.step for e in events(tmp_path).Scalars("train/loss")] == [10, 20, 30, 40]


def test_points_between_evaluations_are_kept_up_to_where_a_run_goes_on(tmp_path: Path) -> None:
    first = Board(tmp_path)
    for step in range(1, 9):
        first.step(step, 1.0, {"all": 0.1})
    first.close()
    second = Board(tmp_path, set(), reached=5)
    for step in range(6, 10):
        second.step(step, 2.0, {"all": 0.1})
    second.close()
    points = [(e.step, e.value) for e in events(tmp_path).Scalars("steps/train_loss")]
    assert points == [*((n, 1.0) for n in range(1, 6)), *((n, 2.0) for n in range(6, 10))]


def test_histograms_count_every_finite_value_and_are_kept(tmp_path: Path) -> None:
    values = torch.tensor([0.0, 0.5, 1.0, math.nan, math.inf])
    first = Board(tmp_path)
    for step in (10, 20):
        first.histogram("weights/fc", values, step)
    first.close()
    Board(tmp_path, {10}).close()
    read = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0}).Reload()
    (event,) = read.Histograms("histograms/weights/fc")
    assert (event.step, event.histogram_value.num, event.histogram_value.sum) == (10, 3.0, 1.5)
    assert sum(event.histogram_value.bucket) == 3


def test_what_tells_runs_apart_is_beside_the_curves(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.begin(["loss", "f1(a|b)"], {"optimizer.lr": 0.1, "model": "CNN"})
    board.end({"best/val/loss": 0.25, "test/accuracy": math.nan}, 30)
    board.close()
    read = events(tmp_path / "hparams")
    assert read.Scalars("best/val/loss")[0].value == 0.25
    assert math.isnan(read.Scalars("test/accuracy")[0].value)
    metadata = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = HParamsPluginData.FromString(metadata).session_start_info
    assert start.hparams["optimizer.lr"].number_value == 0.1
    assert start.hparams["model"].string_value == "CNN"
    ended = read.SummaryMetadata("_hparams_/session_end_info").plugin_data.content
    assert HParamsPluginData.FromString(ended).session_end_info.status == 1  # STATUS_SUCCESS
    layout = Layout.FromString(events(tmp_path).Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: chart.multiline.tag[0] for chart in layout.category[0].chart}
    assert re.search(charts["f1(a|b)"], "val/f1(a|b)")
    assert not re.search(charts["loss"], "val/loss_of_another")
    assert [name for name in ("train/loss", "val/loss", "test/loss") if re.search(charts["loss"], name)] == [
        "train/loss", "val/loss",
    ]  # fmt: skip


def test_points_in_the_projector(tmp_path: Path) -> None:
    board = Board(tmp_path)
    points = np.array([[0.5, 1e-9], [2.0, -3.0], [0.0, 7.0]])
    sprites = torch.zeros(3, 8, 8, dtype=torch.uint8)
    board.points("val/fc", points, {"sample": [3, 1, 2], "class": ["a\tb\n", "b", "ä"]}, sprites)
    config = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (embedding,) = config.embeddings
    assert np.loadtxt(tmp_path / embedding.tensor_path) == pytest.approx(points)
    metadata = (tmp_path / embedding.metadata_path).read_text().splitlines()
    assert metadata == ["sample\tclass", "3\ta b", "1\tb", "2\tä"]
    with Image.open(tmp_path / embedding.sprite.image_path) as picture:
        assert picture.size == (8, 8)
    assert list(embedding.sprite.single_image_dim) == [4, 4]
