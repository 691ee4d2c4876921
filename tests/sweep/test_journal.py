"""The journal of a search may come from anybody: what is none is refused, nothing of it is unpickled, and no lock is
waited for without end."""

from __future__ import annotations

import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import OmegaConf

from runner.errors import ConfigError, RunFolderError
from runner.sweep import journal


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def _made(folder: Path, points: int = 3) -> list[dict[str, Any]]:
    """The entries of a search of which all but the last point were told."""
    made = optuna.create_study(storage=journal.storage(folder), study_name=journal.NAME)
    for number in range(points):
        trial = made.ask({"lr": optuna.distributions.FloatDistribution(0, 1)})
        trial.report(0.5, 1)
        if number < points - 1:
            made.tell(trial, 0.5)
    return [json.loads(line) for line in (folder / journal.FILE).read_text().splitlines()]


def _write(folder: Path, entries: list[Any]) -> None:
    (folder / journal.FILE).write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def test_what_optuna_wrote_is_read_and_not_written_to(tmp_path: Path) -> None:
    assert journal.read(tmp_path) is None
    assert not list(tmp_path.iterdir())
    _made(tmp_path)
    before = (tmp_path / journal.FILE).read_bytes()
    found = journal.read(tmp_path)
    assert found is not None
    assert [trial.values for trial in found.get_trials()] == [[0.5], [0.5], None]
    assert (tmp_path / journal.FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [journal.FILE]


def test_every_entry_without_any_of_its_fields_or_with_another_value_is_refused_or_understood(tmp_path: Path) -> None:
    entries = _made(tmp_path, 2)
    refused = 0
    for number, entry in enumerate(entries):
        others = [{key: value for key, value in entry.items() if key != name} for name in entry]
        for name in entry:
            others += [{**entry, name: value} for value in (None, "x", -1, 99, 1e999, [], {}, [1, 2], {"a": [{}]})]
        for other in others:
            _write(tmp_path, [*entries[:number], other, *entries[number + 1 :]])
            try:
                found = journal.read(tmp_path)
            except RunFolderError as error:
                assert str(error).startswith(str(tmp_path / journal.FILE))  # noqa: PT017
                assert "  try: " in str(error)  # noqa: PT017
                refused += 1
                continue
            if found is not None:  # then a search can go on from it
                for sampler in (
                    optuna.samplers.TPESampler(n_startup_trials=0),
                    optuna.samplers.GPSampler(n_startup_trials=9),
                ):
                    found.sampler = sampler
                    found.ask({"lr": optuna.distributions.FloatDistribution(0, 1)})
    assert refused > 100


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"hello\n", "line 1 is not JSON"),
        (b"\xff\xfe\n", "line 1 is not JSON"),
        (b"[]\n", "line 1 has no op_code or no worker_id"),
        (b'{"op_code": 77, "worker_id": "a"}\n', "AssertionError"),
        (b'{"op_code": 0, "worker_id": "a", "study_name": "runner", "directions": [1, 2]}\n', "the best of several"),
        (b"[" * 100_000 + b"\n", "RecursionError"),
        (b"\0" * 2000, None),  # half a line: of a disk that was full
        (b"", None),
    ],
)
def test_what_is_no_journal_is_refused(tmp_path: Path, content: bytes, what: str | None) -> None:
    (tmp_path / journal.FILE).write_bytes(content)
    if what is None:
        assert journal.read(tmp_path) is None
    else:
        with pytest.raises(RunFolderError, match=what):
            journal.read(tmp_path)


def test_what_is_no_plain_file_or_too_large_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / journal.FILE
    os.mkfifo(path)
    with pytest.raises(RunFolderError, match="is no plain file"):
        journal.read(tmp_path)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunFolderError, match="is no plain file"):
        journal.read(tmp_path)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(journal.LIMIT + 1)
    with pytest.raises(RunFolderError, match="has 100,000,001 bytes"):
        journal.read(tmp_path)


def test_a_journal_that_has_another_name_elsewhere_gets_a_content_of_its_own(tmp_path: Path) -> None:
    _made(tmp_path)
    os.link(tmp_path / journal.FILE, tmp_path / "backup")
    before = (tmp_path / "backup").read_bytes()
    journal.mend(tmp_path)
    optuna.load_study(storage=journal.storage(tmp_path), study_name=journal.NAME).ask()
    assert (tmp_path / "backup").read_bytes() == before
    assert (tmp_path / journal.FILE).read_bytes().startswith(before)


def test_half_a_line_is_taken_away_before_the_next_is_joined_to_it(tmp_path: Path) -> None:
    _made(tmp_path)
    path = tmp_path / journal.FILE
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"worker')
    assert journal.read(tmp_path) is not None
    journal.mend(tmp_path)
    assert path.read_bytes() == whole
    assert os.listdir(tmp_path) == [journal.FILE]


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_the_lock_of_a_killed_process_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(journal, "GRACE", 3)
    _made(tmp_path)
    lock = tmp_path / f"{journal.FILE}.lock"
    {"file": lock.touch, "link": lambda: lock.symlink_to("nowhere"), "folder": lock.mkdir}[kind]()
    begun = time.monotonic()
    journal.mend(tmp_path)
    found = optuna.load_study(storage=journal.storage(tmp_path), study_name=journal.NAME)
    found.ask()
    assert time.monotonic() - begun < 8
    assert not os.path.lexists(lock)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("evil").absolute(),)


def _with_pickles(folder: Path) -> None:
    entries = _made(folder)
    attribute = {"cma:optimizer:0": pickle.dumps(Evil()).hex()}
    entries.insert(-2, {"op_code": 9, "worker_id": "a", "trial_id": 2, "system_attr": attribute})
    _write(folder, entries)


def test_pickles_of_a_folder_are_left_alone_whatever_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _with_pickles(tmp_path)
    found = journal.read(tmp_path)
    assert found is not None
    for text in (
        "{_target_: optuna.samplers.CmaEsSampler}",
        "{_target_: optuna.samplers.PartialFixedSampler, fixed_params: {}, base_sampler: "
        "{_target_: optuna.samplers.CmaEsSampler}}",
    ):
        node = OmegaConf.create({"allow_targets": ["*"], "sampler": OmegaConf.create(text)}).sampler
        with pytest.raises(ConfigError, match="would read pickles out of optuna"):
            journal.check_sampler(node, found)
    journal.check_sampler(OmegaConf.create({"_target_": "optuna.samplers.TPESampler", "seed": None}), found)
    (tmp_path / "new").mkdir()
    _made(tmp_path / "new")
    plain = journal.read(tmp_path / "new")
    assert plain is not None
    journal.check_sampler(OmegaConf.create({"_target_": "optuna.samplers.CmaEsSampler"}), plain)
    assert not Path("evil").exists()
