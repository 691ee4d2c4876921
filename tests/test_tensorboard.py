from __future__ import annotations

import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

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
    assert caplog.text.count("could not be written (Is a directory): it will be tried again") == 1
    board.path.rmdir()
    board.path.write_bytes(content + b"half a record")
    board.record(record(40, 1.0), {}, {})
    assert [e.step for e in events(tmp_path).Scalars("train/loss")] == [10, 20, 30, 40]
