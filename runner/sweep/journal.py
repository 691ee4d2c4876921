"""The journal of a search that Optuna leads, a file in the folder of the sweep, which may come from anybody."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from runner import config
from runner.checks.targets import check_allowed
from runner.errors import ConfigError, Problem, RunFolderError, reason_of
from runner.files import own

FILE, NAME = "optuna.log", "runner"
"""The journal in the folder of the sweep, and the study in it."""

LIMIT = 100_000_000
"""Bytes: those of some ten thousand points. It is held in memory, and read line by line."""

GRACE = 10
"""Seconds after which the lock of a process that was killed while it wrote is taken away."""

REMEDY = "the file as it was, or a new search, without resume="


def storage(place: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(place / FILE), _lock(place)))


def _lock(place: Path) -> JournalFileOpenLock:
    # Not Optuna's default, a symbolic link: one that leads nowhere is waited for without end.
    return JournalFileOpenLock(str(place / FILE), grace_period=GRACE)


def read(place: Path) -> optuna.Study | None:
    """The search in the folder of a sweep, without writing to it; None if there is none yet.

    Raises:
        RunFolderError: the file is no journal of a search.
    """
    path = place / FILE
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode) or found.st_size > LIMIT:
        what = "is no plain file" if not stat.S_ISREG(found.st_mode) else f"has {found.st_size:,} bytes"
        raise RunFolderError(Problem(str(path), what, f"a journal of Optuna's, of up to {LIMIT:,} bytes", REMEDY))
    try:
        _check_lines(path)
        held = storage(place)
        if NAME not in [study.study_name for study in held.get_all_studies()]:
            return None
        study = optuna.load_study(storage=held, study_name=NAME)
        if len(study.directions) != 1:
            raise ValueError("it looks for the best of several figures")
        for trial in study.get_trials(deepcopy=False):
            _check_trial(trial)
        return study
    except Exception as error:  # whatever such a file makes of json and Optuna, which asserts
        what = f"is no journal of a search of ours ({type(error).__name__}: {reason_of(error)})"
        raise RunFolderError(Problem(str(path), what, "what sweep=optuna wrote", REMEDY)) from error


def _check_lines(path: Path) -> None:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return  # half a line, which `mend` takes away
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number} is not JSON") from error
            if not isinstance(entry, dict) or not {"op_code", "worker_id"} <= entry.keys():
                raise ValueError(f"line {number} has no op_code or no worker_id")


def _check_trial(trial: FrozenTrial) -> None:
    """Check that samplers and pruners can compute with what is said of a point."""
    values: Any = trial.values
    numbers = [*(values or []), *trial.intermediate_values.values()]
    if trial.state == TrialState.COMPLETE and (len(values or []) != 1 or math.isnan(values[0])):
        raise ValueError(f"point {trial.number} is complete, with {values!r}")
    if not all(type(number) in (int, float) for number in [*numbers, *trial.intermediate_values]):
        raise ValueError(f"point {trial.number} has what is no number")
    if trial.params.keys() != trial.distributions.keys():
        raise ValueError(f"point {trial.number} has other values than it was drawn with")
    if not all(math.isfinite(d.to_internal_repr(trial.params[name])) for name, d in trial.distributions.items()):
        raise ValueError(f"point {trial.number} is not finite")
    if not isinstance(trial.system_attrs.get("fixed_params", {}), dict):
        raise TypeError(f"point {trial.number} was asked for with what are no values")


def check_sampler(node: DictConfig, study: optuna.Study) -> None:
    """Check that nothing of a folder is unpickled, whatever is allowed: CmaEsSampler keeps pickles in the journal.

    Raises:
        ConfigError: the search holds such pickles, and the sampler is none of those that leave them alone.
    """
    attributes = (key for trial in study.get_trials(deepcopy=False) for key in trial.system_attrs)
    if not any("cma" in key for key in attributes):
        return
    try:
        check_allowed(config.value(node), "sweep.sampler", ())
    except ConfigError as error:
        what = f"{node._target_} would read pickles out of {FILE}, and those of a folder are not read"
        remedy = "sweep.sampler._target_=optuna.samplers.TPESampler, or a new search, without resume="
        raise ConfigError(Problem("sweep.sampler._target_", what, "a sampler that keeps none", remedy)) from error


def mend(place: Path) -> None:
    """Before a search goes on: take away half a line at the end, to which the next would be joined, and the lock of an
    earlier version, a link.

    Raises:
        OSError: they cannot be.
    """
    path = place / FILE
    lock = Path(f"{path}.lock")
    if lock.is_symlink():
        lock.unlink()
    if not path.is_file():
        return
    own(path)  # which Optuna writes in place
    held = _lock(place)
    held.acquire()
    try:
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
    finally:
        held.release()
