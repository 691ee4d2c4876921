"""One command that is started as several processes: each would train the whole run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import QUICK, Run

from runner import ranks
from runner.commands import COMMANDS

STARTERS = {
    "torchrun": ({"WORLD_SIZE": "2", "RANK": "0", "TORCHELASTIC_RUN_ID": "none"}, "RANK", ", without torchrun"),
    "by hand": ({"WORLD_SIZE": "4", "RANK": "0"}, "RANK", ""),
    "srun": ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, "SLURM_PROCID", ""),
    "mpirun": ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "OMPI_COMM_WORLD_RANK", ", without mpirun"),
    "mpiexec": ({"PMI_SIZE": "3", "PMI_RANK": "0"}, "PMI_RANK", ", without mpirun"),
}
"""What each gives its processes: variables, that which says which one it is, what is to be done about it."""

COMPUTING = ["model=mlp", "-m", "resume=last", *(name for name in COMMANDS if name not in ranks.IDLE)]


@pytest.mark.parametrize("starter", STARTERS)
def test_nothing_is_computed_by_each_of_several_processes_and_the_first_says_so(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], starter: str
) -> None:
    variables, rank, how = STARTERS[starter]
    size, value = next(iter(variables.items()))
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    for command in COMPUTING:
        assert run(command, "name=a b") == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {size}: {value}: this is one of several processes"), command
        assert re.search(rf"  try: .*python -m runner {command} 'name=a b'{how}\n$", said), said
    monkeypatch.setattr(ranks, "PATIENCE", 0.0)
    monkeypatch.setenv(rank, "1")
    assert run(*QUICK) == 2
    assert capsys.readouterr() == ("", "")
    assert not list(Path().iterdir())
    assert run("--help") == run("diff", "--help") == 0


def test_what_is_one_process_is_not_hindered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch script of Slurm's has SLURM_NTASKS, and so has the one process of a step in it."""
    for variables in ({"WORLD_SIZE": "1"}, {"WORLD_SIZE": "many"}, {"SLURM_NTASKS": "4", "SLURM_NPROCS": "4"},
                      {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}):  # fmt: skip
        with monkeypatch.context() as patched:
            for name, text in variables.items():
                patched.setenv(name, text)
            ranks.check(["model=mlp"])


@pytest.mark.parametrize("starter", ["by hand", "srun"])
def test_what_is_said_to_be_typed_works(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], starter: str
) -> None:
    """With a stand-in for srun that does with the variable what Slurm's does."""
    for name, text in STARTERS[starter][0].items():
        monkeypatch.setenv(name, text)
    assert run("inspect", *QUICK) == 2
    typed = shlex.split(capsys.readouterr().err.rpartition("try: ")[2])
    here = str(Path(ranks.__file__).parents[1])
    typed = [sys.executable if word == "python" else word for word in typed]
    if typed[:2] == ["srun", "--ntasks=1"]:
        typed[:2] = ["env", "SLURM_STEP_NUM_TASKS=1"]
    done = subprocess.run(["env", f"PYTHONPATH={here}", *typed], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Layers" in done.stdout
