from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import QUICK, Run, only_run, records_of

import runner
from runner import checkpoint
from runner.checkpoint import Checkpoints, Every, read, read_newest, restore_best
from runner.errors import RunFolderError, RunnerError

STATE: dict[str, Any] = {
    "model": {"weight": torch.arange(1000.0)},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
    "progress": {"epoch": 2, "step": 7, "best": None, "history": [{"val/loss": 0.5}]},
}


def at(step: int, best: dict[str, int] | None = None) -> dict[str, Any]:
    return {**STATE, "progress": {"epoch": 1, "step": step, "best": best, "history": []}}


def save(folder: Path, state: dict[str, Any] = STATE, best: bool = False) -> None:
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(state, best)
        checkpoints.wait()


def test_what_is_read_is_what_was_saved(tmp_path: Path) -> None:
    save(tmp_path)
    state = read(tmp_path / "last.pt")
    assert torch.equal(state.pop("model")["weight"], STATE["model"]["weight"])
    assert state == {"format": 2, "optimizer": STATE["optimizer"], "progress": STATE["progress"]}
    assert not (tmp_path / "best.pt").exists()


def test_the_model_is_a_plain_state_dict_to_torch(tmp_path: Path) -> None:
    save(tmp_path, best=True)
    for name in ("last.pt", "best.pt"):
        assert torch.equal(torch.load(tmp_path / name, weights_only=True)["model"]["weight"], torch.arange(1000.0))


def test_training_may_go_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.zeros(1000)
    save_now = torch.save

    def save_later(*arguments: Any) -> None:
        weight.fill_(7)  # a training step, after save() returned and before the bytes are made
        save_now(*arguments)

    monkeypatch.setattr(checkpoint.torch, "save", save_later)
    save(tmp_path, {**STATE, "model": {"weight": weight}})
    assert torch.equal(read(tmp_path / "last.pt")["model"]["weight"], torch.zeros(1000))


def test_every_flipped_bit_in_the_weights_is_noticed(tmp_path: Path) -> None:
    save(tmp_path)
    path = tmp_path / "last.pt"
    good = path.read_bytes()
    start = good.index(torch.arange(1000.0).numpy().tobytes())
    for position in range(start, start + 4000, 97):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(RunFolderError, match="cannot be read"):
            read(path)


def test_every_flipped_bit_in_the_directory_of_the_archive_is_noticed_or_harmless(tmp_path: Path) -> None:
    save(tmp_path, {"model": {"weight": torch.arange(3.0)}, "progress": {"step": 7}})
    path = tmp_path / "last.pt"
    good = path.read_bytes()
    noticed, start = 0, good.index(b"PK\x01\x02")
    for bit in range(start * 8, len(good) * 8):
        spoilt = bytearray(good)
        spoilt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoilt)
        try:
            state = read(path)
        except RunFolderError:
            noticed += 1
        else:
            assert torch.equal(state["model"]["weight"], torch.arange(3.0)), bit
            assert state["progress"] == {"step": 7}
    assert noticed > (len(good) - start) * 4  # the others are those of dates, versions and the like


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04" + b"\0" * 100])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(RunFolderError, match="cannot be read"):
        read(tmp_path / "last.pt")


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, fraction: float) -> None:
    save(tmp_path)
    content = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(RunFolderError, match="cannot be read"):
        read(tmp_path / "last.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"last\.pt: is missing"):
        read(tmp_path / "last.pt")


@pytest.mark.parametrize("content", [{"format": 99}, {"model": {}}, [1, 2]])
def test_other_formats_are_refused_by_number(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(RunFolderError, match="format 2"):
        read(tmp_path / "last.pt")


def test_a_later_format_is_refused_with_the_version_that_it_needs(tmp_path: Path) -> None:
    torch.save({"format": 3, "runner": "9.8"}, tmp_path / "last.pt")
    words = r"format 3, written by runner 9\.8\n.*format 2, which this version reads\n.*try: runner 9\.8"
    with pytest.raises(RunFolderError, match=words):
        read(tmp_path / "last.pt")


def test_an_earlier_format_is_brought_to_this_one_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 4)
    monkeypatch.setitem(checkpoint.MIGRATIONS, 2, lambda state: {"weights": state["model"]})
    monkeypatch.setitem(checkpoint.MIGRATIONS, 3, lambda state: {"model": state["weights"], "rate": 0.1})
    torch.save({"format": 2, "model": {"weight": torch.arange(3.0)}}, tmp_path / "last.pt")
    state = read(tmp_path / "last.pt")
    assert torch.equal(state.pop("model")["weight"], torch.arange(3.0))
    assert state == {"format": 4, "rate": 0.1}
    torch.save({"format": 1, "model": {}}, tmp_path / "last.pt")  # of which nothing is known
    with pytest.raises(RunFolderError, match=r"of format 1\n.*format 2, 3, 4"):
        read(tmp_path / "last.pt")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"format": 2, "model": Evil()}, tmp_path / "last.pt")
    what = rf"cannot be read \(it holds {os.name}.mkdir, which is not plain data and could run code\)"
    with pytest.raises(RunFolderError, match=what) as caught:
        read(tmp_path / "last.pt")
    assert "weights_only" not in str(caught.value)  # which torch advises to switch off
    assert "try: torch.save(model.state_dict(), FILE)" in str(caught.value)
    assert not (tmp_path / "owned").exists()


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert checkpoint.sha256(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()


class TestWhatCannotBeWritten:
    """A file where the folder should be: nothing can be written, until it is taken away."""

    def test_it_is_tried_again(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        place = tmp_path / "checkpoints"
        place.write_text("")
        with Checkpoints(place) as checkpoints:
            checkpoints.save(at(1), best=True)
            checkpoints.wait()
            assert "could not write the checkpoint of step 1 (File exists)" in caplog.text
            place.unlink()
            checkpoints.save(at(2))
            checkpoints.close()
        # The best one is not forgotten, though the run is past it.
        assert [read(place / name)["progress"]["step"] for name in ("best.pt", "last.pt")] == [1, 2]

    def test_at_the_end_it_is_an_error(self, tmp_path: Path) -> None:
        place = tmp_path / "checkpoints"
        place.write_text("")
        with Checkpoints(place) as checkpoints:
            checkpoints.save(at(1))
            with pytest.raises(RunnerError, match=r"could not be written to .*checkpoints \(File exists\)"):
                checkpoints.close()

    def test_the_one_before_stays(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        save(tmp_path, at(1))
        before = (tmp_path / "last.pt").read_bytes()

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch, Checkpoints(tmp_path) as checkpoints:
            patch.setattr("runner.files.os.fsync", full)
            checkpoints.save(at(2))
            checkpoints.wait()
        assert (tmp_path / "last.pt").read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]  # and no half a file


class TestSeveralBest:
    def test_those_that_are_not_among_the_best_any_more_are_removed(self, tmp_path: Path) -> None:
        with Checkpoints(tmp_path) as checkpoints:
            for step, best, kept in ((1, True, [1]), (2, True, [2, 1]), (3, False, [2, 1]), (4, False, [2, 4])):
                checkpoints.save(at(step), best, kept)
            checkpoints.close()
        assert {path.name: read(path)["progress"]["step"] for path in tmp_path.iterdir()} == {
            "last.pt": 4, "best.pt": 2, "step-2.pt": 2, "step-4.pt": 4,
        }  # fmt: skip

    def test_in_a_run(self, run: Run) -> None:
        assert run(*QUICK, "loader.batch_size=256", "trainer.max_epochs=6", "checkpoint.keep=3") == 0
        history = records_of(only_run())
        best = sorted(history, key=lambda record: record["val/loss"])[:3]
        kept = {path.name: read(path) for path in (only_run() / "checkpoints").glob("*.pt")}
        assert kept.keys() == {"last.pt", "best.pt", *(f"step-{record['step']}.pt" for record in best)}
        for record in best:
            state = kept[f"step-{record['step']}.pt"]
            assert state["progress"]["history"][-1] == record
        assert kept["best.pt"]["progress"]["history"][-1] == best[0]


class TestDamage:
    def test_the_newest_good_one_is_taken(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        for name, step in (("step-3.pt", 3), ("best.pt", 9), ("step-12.pt", 12)):
            save(tmp_path, at(step))
            (tmp_path / "last.pt").rename(tmp_path / name)
        for content in (b"", None):
            if content is not None:
                (tmp_path / "last.pt").write_bytes(content)
            else:
                (tmp_path / "last.pt").unlink()
            assert read_newest(tmp_path)["progress"]["step"] == 12
        assert "last.pt cannot be read" in caplog.text
        assert "last.pt is missing" in caplog.text
        assert "step-12.pt (step 12) instead" in caplog.text
        (tmp_path / "step-12.pt").write_bytes(b"PK")
        assert read_newest(tmp_path)["progress"]["step"] == 9

    def test_where_none_is_good_each_is_named(self, tmp_path: Path) -> None:
        for name in ("last.pt", "best.pt"):
            (tmp_path / name).write_bytes(b"")
        with pytest.raises(RunFolderError, match=r"(?s)last\.pt: cannot be read.*best\.pt: cannot be read"):
            read_newest(tmp_path)

    @pytest.mark.parametrize("damage", [b"", None])
    def test_the_best_weights_are_found_again(self, tmp_path: Path, damage: bytes | None) -> None:
        best = {"step": 3}
        save(tmp_path, at(3, best))
        (tmp_path / "last.pt").rename(tmp_path / "step-3.pt")
        if damage is not None:
            (tmp_path / "best.pt").write_bytes(damage)
        restore_best(tmp_path, {"format": 2, **at(5, best)})
        assert read(tmp_path / "best.pt")["progress"]["step"] == 3
        (tmp_path / "best.pt").unlink()
        (tmp_path / "step-3.pt").write_bytes(b"PK")  # is not taken, whatever it may hold
        with pytest.raises(RunFolderError, match=r"step-3\.pt: cannot be read"):
            restore_best(tmp_path, {"format": 2, **at(5, best)})
        assert not (tmp_path / "best.pt").exists()
        (tmp_path / "step-3.pt").unlink()
        restore_best(tmp_path, {"format": 2, **at(3, best)})  # the last one is the best one
        assert read(tmp_path / "best.pt")["progress"]["step"] == 3

    def test_best_weights_that_are_lost_are_an_error(self, tmp_path: Path) -> None:
        save(tmp_path, at(2), best=True)
        with pytest.raises(
            RunFolderError, match=r"does not hold the best weights.* of step 3, are lost\n.*model\.weights="
        ):
            restore_best(tmp_path, {"format": 2, **at(5, {"step": 3})})
        restore_best(tmp_path, {"format": 2, **at(5, {"step": 1})})  # written just before the process was killed


@pytest.mark.parametrize(
    ("every", "ended", "step", "since", "expected"),
    [
        (Every(epochs=2), 4, 40, 0, True), (Every(epochs=2), 3, 40, 0, False), (Every(epochs=2), None, 40, 1e9, False),
        (Every(steps=20), None, 40, 0, True), (Every(steps=20), None, 41, 0, False), (Every(steps=20), 4, 40, 0, False),
        (Every(seconds=60), None, 7, 60, True), (Every(seconds=60), 4, 7, 59.9, False),
    ],
)  # fmt: skip
def test_when_it_is_time(every: Every, ended: int | None, step: int, since: float, expected: bool) -> None:
    assert every.due(ended, step, since) is expected


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        ("2 epochs", [10, 15]),
        ("6 steps", [6, 12, 15]),
        ("50%", [8, 15]),
        ("0.0000001 seconds", None),
    ],
)
def test_how_often_the_state_is_written(
    run: Run, monkeypatch: pytest.MonkeyPatch, every: str, steps: list[int] | None
) -> None:
    """With a rate of 0 the first evaluation is the best, and nothing else is written for being so."""
    seen: list[int] = []
    saving = Checkpoints.save

    def watched(self: Checkpoints, state: Any, *arguments: Any) -> None:
        seen.append(state["progress"]["step"])
        saving(self, state, *arguments)

    monkeypatch.setattr(Checkpoints, "save", watched)
    of_five_steps = ("trainer.max_epochs=3", "loader.batch_size=256")
    assert run(*QUICK, *of_five_steps, "optimizer.lr=0", f"checkpoint.every={every}") == 0
    if steps is None:
        assert set(seen) == set(range(1, 16))
    else:
        assert sorted({*seen}) == sorted({5, *steps})


def test_what_is_no_interval(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("checkpoint.every=often") == 2
    assert (
        "checkpoint.every: 'often' is not allowed\n  allowed: a length such as 1 epoch, 500 steps, 10% or 10 minutes"
        in capsys.readouterr().err
    )
    assert run(*QUICK, "checkpoint.every=0 epochs") == 2
    assert "checkpoint.every: '0 epochs' is 0" in capsys.readouterr().err


def test_what_a_checkpoint_belongs_to(digits: Path) -> None:
    state = read(digits / "checkpoints/last.pt")
    split = json.loads((digits / "split.json").read_text())
    assert (state["split"], state["data"]) == (split["hash"], split["data"])
    saved = yaml.safe_load((digits / "config.yaml").read_text())
    saved.pop("interpolations")
    assert state["config"] == saved
    assert state["runner"] == runner.__version__


def test_other_code_is_said_and_is_no_traceback(run: Run, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits.rename("here")
    state = torch.load("here/checkpoints/last.pt", weights_only=True)
    state["model"]["1.weights"] = state["model"].pop("1.weight")
    torch.save(state, "here/checkpoints/last.pt")
    assert run("resume=here", "trainer.max_epochs=9") == 2
    said = capsys.readouterr().err
    assert "error: here/checkpoints: does not match the model or optimizer that the code builds now: " in said
    assert 'Missing key(s) in state_dict: "1.weight"' in said
    assert "model.weights=here" in said
    assert "Traceback" not in said
