"""Files in the working directory that have the name of a module."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import QUICK, Run

import runner
from runner import hidden

ROOT = Path(runner.__file__).parent.parent
SCRIPT = "import sys\nfrom runner.__main__ import command\nsys.exit(command())\n"
"""The console script, as it is installed."""


def start(how: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = ["-m", "runner"]
    if how == "script":
        Path("bin").mkdir(exist_ok=True)
        Path("bin/runner").write_text(SCRIPT)
        words = ["bin/runner"]
    return subprocess.run(
        [sys.executable, *words, *arguments],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def make(name: str) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("print('HIDDEN')\n")


@pytest.mark.parametrize("how", ["module", "script"])
@pytest.mark.parametrize(
    ("name", "said"),
    [("torch.py", "torch.py"), ("numpy/__init__.py", "numpy"), ("cmath.cpython-39.so", "cmath.cpython-39.so")],
)
def test_a_module_that_would_be_imported_in_place_of_another(how: str, name: str, said: str) -> None:
    make(name)
    done = start(how, "--cfg", "job")
    stem = said.partition(".")[0]
    assert done.returncode == 2
    first = f"error: {said}: would be imported in place of the module {stem}, which runner needs\n"
    assert done.stderr == f"{first}  try: mv {said} my_{said}\n"
    subprocess.run(f"mv {said} my_{said}".split(), check=True)
    assert start(how, "--cfg", "job").returncode == 0


@pytest.mark.parametrize("name", ["logging.py", "typing.py", "re.py", "random.py"])
def test_one_that_python_has_imported_before_it_looks_there_is_in_nobodys_way(name: str) -> None:
    make(name)
    done = start("module", "--cfg", "job")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {name}: would be imported in place of")
    done = start("script", "--cfg", "job")
    assert (done.returncode, done.stderr) == (0, "")
    assert "HIDDEN" not in done.stdout


@pytest.mark.parametrize("how", ["module", "script"])
def test_names_that_hide_nothing_which_is_needed(how: str) -> None:
    for name in ("conf.py", "wave.py", "time.py", "torch/data.csv", "my_torch.py", "numpy.csv"):
        make(name)
    done = start(how, "--cfg", "job")
    assert (done.returncode, done.stderr) == (0, "")
    assert "HIDDEN" not in done.stdout


def test_one_in_the_folder_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("runner.toml").touch()
    make("torch.py")
    Path("below").mkdir()
    monkeypatch.chdir("below")
    for how in ("module", "script"):
        done = start(how, "--cfg", "job")
        assert done.returncode == 2
        assert done.stderr.startswith("error: ../torch.py: would be imported in place of the module torch")
        assert done.stderr.endswith("  try: mv ../torch.py ../my_torch.py\n")


def test_all_are_said_at_once() -> None:
    make("torch.py")
    make("pandas.py")
    said = start("module").stderr.splitlines()
    assert [line.partition(":")[0] for line in said[::2]] == ["error", "torch.py"]
    assert "pandas.py" in said[0]


def test_where_the_module_itself_lies_nothing_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.find_spec("numpy")
    assert spec is not None
    assert spec.origin is not None
    monkeypatch.chdir(Path(spec.origin).parent.parent)
    monkeypatch.delitem(sys.modules, "rich", raising=False)
    hidden.refuse(os.getcwd())


def test_the_working_directory_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    hidden.refuse(str(gone))
    monkeypatch.chdir(tmp_path)


def test_with_the_script_a_module_called_runner_is_another_one() -> None:
    """Under ``python -m runner`` it would be what is run."""
    make("runner.py")
    done = start("script", "model._target_=runner.Net", "check=only")
    assert done.returncode == 2
    said = "runner has no 'Net'; runner.py is hidden by the module of that name: mv runner.py my_runner.py"
    assert said in done.stderr


def test_conf_is_the_name_of_no_module_of_ours(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("conf.py").write_text("from torch import nn\nclass Net(nn.LazyLinear):\n    pass\n")
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/own.yaml").write_text(
        "_target_: torch.nn.Sequential\n"
        "_args_: [{_target_: torch.nn.Flatten}, {_target_: conf.Net, out_features: 10}]\n"
    )
    monkeypatch.syspath_prepend(os.getcwd())
    assert run(*QUICK[2:], "--config-dir", "mine", "model=own", "allow_targets=[conf.*]") == 0


PRINT = """
import _imp, sys
from runner.__main__ import main
assert main(sys.argv[1:]) == 0
names = {name.partition(".")[0] for name in sys.modules} & sys.stdlib_module_names
print("\\nNAMES", *(n for n in names if not (n.startswith("_") or n in sys.builtin_module_names or _imp.is_frozen(n))))
"""


def test_the_list_has_what_a_run_imports() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINT, *QUICK, "tensorboard.enabled=true", "loader.num_workers=1"],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    names = done.stdout.rpartition("NAMES ")[2].split()
    assert len(names) > 50
    assert sorted(set(names) - hidden.NEEDED) == []


def test_the_list_has_modules_alone() -> None:
    assert len(set(hidden.OF_PYTHON.split()) - sys.stdlib_module_names) < 5  # of another version of Python
    optional = {"triton"}
    assert not [n for n in hidden.INSTALLED.split() if n not in optional and importlib.util.find_spec(n) is None]
