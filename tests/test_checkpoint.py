from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from runner import checkpoint
from runner.checkpoint import Checkpoints, read
from runner.errors import RunFolderError

STATE: dict[str, Any] = {
    "model": {"weight": torch.arange(1000.0)},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
    "progress": {"epoch": 2, "best": None, "history": [{"val/loss": 0.5}]},
}


def save(folder: Path, state: dict[str, Any] = STATE, best: bool = False) -> None:
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(state, best)
        checkpoints.wait()


def test_what_is_read_is_what_was_saved(tmp_path: Path) -> None:
    save(tmp_path)
    state = read(tmp_path / "last.pt")
    assert torch.equal(state.pop("model")["weight"], STATE["model"]["weight"])
    assert state == {"format": 1, "optimizer": STATE["optimizer"], "progress": STATE["progress"]}
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
    save(tmp_path, {"model": {"weight": weight}})
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
    with pytest.raises(RunFolderError, match="format 1"):
        read(tmp_path / "last.pt")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"format": 1, "model": Evil()}, tmp_path / "last.pt")
    with pytest.raises(RunFolderError, match="cannot be read"):
        read(tmp_path / "last.pt")
    assert not (tmp_path / "owned").exists()


def test_what_went_wrong_in_the_background_is_raised(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Checkpoints(tmp_path / "file") as checkpoints:
        checkpoints.save(STATE)
        with pytest.raises(FileExistsError):
            checkpoints.wait()


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert checkpoint.sha256(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()
