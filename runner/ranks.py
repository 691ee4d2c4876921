"""A check for several processes that were all started with the same command, by torchrun, srun or mpirun."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence

from runner import program
from runner.errors import ConfigError, Problem

RANKS = {
    "WORLD_SIZE": ("RANK", "", "without torchrun"),
    "SLURM_STEP_NUM_TASKS": ("SLURM_PROCID", "srun --ntasks=1", ""),  # SLURM_NTASKS is there in a batch script, too
    "OMPI_COMM_WORLD_SIZE": ("OMPI_COMM_WORLD_RANK", "", "without mpirun"),
    "PMI_SIZE": ("PMI_RANK", "", "without mpirun"),
}
"""Variables that say how many there are, with the one that says which this is, and with what is typed before the
command, or done, for it to be one process."""

IDLE = {"compare", "diff", "--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i",
        "--shell-completion", "-sc"}  # fmt: skip
"""Commands and flags that only show something."""

PATIENCE = 2.0
"""Seconds that the others wait: torchrun ends all as soon as the first one has ended, and that is to be heard."""


def check(arguments: Sequence[str]) -> None:
    """Check that nobody else does the same: several ranks cannot share a run yet, and each would do all of it.

    Raises:
        ConfigError: others do, and this is the first of them.
        SystemExit: others do, of which the first one says so.
    """
    size = next((name for name in RANKS if _number(name) > 1), None)
    if size is None or not IDLE.isdisjoint(arguments):
        return
    rank, before, how = RANKS[size]
    if _number(rank) > 0:
        time.sleep(PATIENCE)
        raise SystemExit(ConfigError.exit_status)
    if size == "WORLD_SIZE" and "TORCHELASTIC_RUN_ID" not in os.environ:  # not torchrun's
        before, how = f"env -u {size}", ""
    what = f"{os.environ[size]}: this is one of several processes, and each would do all of the work"
    typed = shlex.join([*before.split(), *program.start("runner"), *arguments])
    raise ConfigError(Problem(size, what, "1: a run is one process", f"{typed}, {how}" if how else typed))


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else 0
