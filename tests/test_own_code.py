"""The source of what a run was trained with: it is kept, and what changed since is said."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from conftest import QUICK, Run

from runner import own_code
from runner.trained.run import load_run

NET = """\
from torch import nn
from parts.layers import layer

class Net(nn.Sequential):
    def __init__(self, num_outputs):
        super().__init__(nn.Flatten(), layer(64, num_outputs))
"""
LAYER = "from torch import nn\n\ndef layer(a, b):\n    return nn.Linear(a, b)\n"


def forget() -> None:
    """Have the modules be imported anew, as in another process."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("own_net", "parts", "other")]:
        del sys.modules[name]


@pytest.fixture
def trained(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run of a model that is made of two modules."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    Path("own_net.py").write_text(NET)
    Path("parts").mkdir()
    Path("parts/layers.py").write_text(LAYER)
    Path("other.py").write_text("")
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/own.yaml").write_text("_target_: own_net.Net\nnum_outputs: ${facts.num_outputs}\n")
    forget()
    assert run(*QUICK[2:], "--config-dir", "mine", "model=own", "hydra.run.dir=r") == 0
    forget()
    return Path("r")


def test_the_modules_that_a_run_imported_are_kept(trained: Path, tmp_path: Path) -> None:
    kept = {path.relative_to("r/code") for path in Path("r/code").rglob("*.py")}
    assert kept == {Path("own_net.py"), Path("parts/layers.py")}  # neither conftest.py, nor what nobody imported
    assert Path("r/code/own_net.py").read_text() == NET
    assert json.loads(Path("r/code/where.json").read_text()) == {name: str(tmp_path) for name in map(str, kept)}
    assert own_code.changes(trained) == []


COMMANDS = (
    ("evaluate", "run=r", "figures=false"), ("predict", "run=r", "input=test", "output=p.csv"),
    ("export", "run=r", "format=safetensors"), ("reproduce", "run=r"), ("resume=r", "trainer.max_epochs=3"),
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_changed_code_is_said_with_its_difference(
    run: Run, trained: Path, capfd: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    Path("parts/layers.py").write_text(LAYER.replace("(a, b)\n", "(a, b, bias=True)\n"))
    capfd.readouterr()
    assert run(*command) == 0
    said = "".join(capfd.readouterr())
    assert f"{Path.cwd()}/parts/layers.py has changed since training:" in said
    assert "  -    return nn.Linear(a, b)\n  +    return nn.Linear(a, b, bias=True)\n" in said
    assert "own_net.py" not in said
    if command[0].startswith("resume"):  # and is what the weights are of from now on
        assert Path("r/code/parts/layers.py").read_text() == Path("parts/layers.py").read_text()


def test_moved_code_is_said(trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Path("elsewhere").mkdir()
    for name in ("own_net.py", "parts"):
        shutil.move(name, "elsewhere")
    forget()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "elsewhere"), *sys.path])
    names = "own_net.py", "parts/layers.py"
    said = [f"code: {tmp_path}/elsewhere/{name} (in training: {tmp_path}/{name})" for name in names]
    assert own_code.changes(trained) == said


def test_lost_code_is_said_with_where_it_is_kept(run: Run, trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("own_net.py").unlink()
    shutil.rmtree("parts")
    assert run("evaluate", "run=r", "figures=false", "allow_targets=[own_net.*]") == 2
    said = "".join(capfd.readouterr())
    assert "there is no own_net.py any more" in said
    assert "as it was in training, it is r/code/own_net.py" in said
    assert "there is no module 'own_net'" in said


def test_a_long_difference_is_cut(trained: Path) -> None:
    Path("own_net.py").write_text(NET + "\n".join(f"x{number} = 1" for number in range(500)))
    (said,) = own_code.changes(trained)
    assert len(said.splitlines()) == own_code.SHOWN + 2
    assert said.endswith(f"diff r/code/own_net.py {Path.cwd()}/own_net.py")


@pytest.mark.parametrize(
    "where",
    ['{"../../secret.py": "/x"}', '{"/etc/passwd": "/"}', '{"secret.txt": "."}', "[", "[1]", '{"a.py": 3}', "3"],
)
def test_a_folder_shows_no_other_files(trained: Path, where: str) -> None:
    for path in (Path("secret.py"), Path("secret.txt")):
        path.write_text("secret\n")
    Path("r/code/where.json").write_text(where)
    assert "secret" not in "".join(own_code.changes(trained)).replace("secret.py", "").replace("secret.txt", "")
    assert not any("root" in said for said in own_code.changes(trained))
    assert load_run("r") is not None
