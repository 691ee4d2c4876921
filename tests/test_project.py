"""A project file: whose it is, what it may say, and that each command does what it says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import QUICK, Run, records_of, result_of, stopping

import runner
from runner import compose, folder, project, task, train
from runner.command_line import config_dirs, with_project

SHORT = (*QUICK, "trainer.max_epochs=1")
PLAIN = tuple(override for override in SHORT if not override.startswith("hydra"))
LOSS = "_target_: torch.nn.CrossEntropyLoss\nlabel_smoothing: "


def write(text: str = "", name: str = "pyproject.toml") -> Path:
    """Write a project file, with its folder."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[tool.runner]\n{text}" if path.name == "pyproject.toml" else text)
    project.read.cache_clear()
    return path


def option(path: str, text: str) -> Path:
    """Write an option into a folder of the user's own."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    return Path(path)


def config_of(run_dir: Path) -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load((run_dir / "config.yaml").read_text())
    return content


def newest() -> Path:
    found = folder.newest()
    assert found is not None
    return found


def test_the_nearest_file_that_has_a_table_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert project.current() == project.Project()
    top = write('outputs = "top"').absolute()
    inner = write('outputs = "inner"', "a/pyproject.toml").absolute()
    Path("a/b/c").mkdir(parents=True)
    Path("a/b/pyproject.toml").write_text("[tool.other]\nname = 'runner'\n")  # which says nothing to runner
    monkeypatch.chdir("a/b/c")
    assert (project.current().file, project.current().outputs) == (inner, Path("../../inner"))
    own = write('outputs = "own"', "../runner.toml").absolute()
    assert (project.current().file or Path()).resolve() == own.resolve()  # nearer
    monkeypatch.chdir("../..")
    write('outputs = "beside"', "runner.toml")
    assert project.current().outputs == Path("beside")  # of two in one folder
    monkeypatch.chdir("..")
    assert (project.current().file, project.current().folder) == (top, top.parent)


def test_a_file_says_where_everything_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("conf", "more", "sub"):
        Path(name).mkdir()
    write('config_dir = ["conf", "more"]\nallow = ["mine.*"]\noverrides = ["seed=1"]\n')
    monkeypatch.chdir("sub")
    found = project.current()
    assert found.config_dirs == (tmp_path / "conf", tmp_path / "more")
    assert (found.allow, found.overrides, found.outputs) == (("mine.*",), ("seed=1",), Path("outputs"))
    assert found.name == "../pyproject.toml"
    write(f'config_dir = "conf"\noutputs = "{tmp_path.parent}/far"', "../pyproject.toml")
    assert (project.current().config_dirs, project.current().outputs) == ((tmp_path / "conf",), tmp_path.parent / "far")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("outputs = ", "pyproject.toml: is not TOML: "),
        ("output = 'x'", "pyproject.toml: output: there is no such key (value 'x')\n  allowed: config_dir, allow, "
         "outputs, overrides\n  try: outputs"),
        ("config_dir = 5", "pyproject.toml: config_dir: 5 is not allowed\n  allowed: a folder, or a list"),
        ("config_dir = ['conf', '']", "pyproject.toml: config_dir: ['conf', ''] is not allowed"),
        ("config_dir = 'cnf'", "/cnf'\n  allowed: a folder, or a list of folders, relative to the file\n"
         '  try: config_dir = "conf"'),
        ("allow = 'mine.*'", "pyproject.toml: allow: 'mine.*' is not allowed\n  allowed: a list of patterns"),
        ("outputs = ['a']", "pyproject.toml: outputs: ['a'] is not allowed\n  allowed: a folder"),
        ("outputs = 'pyproject.toml'", "pyproject.toml: outputs: 'pyproject.toml' is not a folder"),
        ("outputs = '${oc.env:HOME}'", "pyproject.toml: outputs: '${oc.env:HOME}' is not a folder"),
        ('outputs = "a\\u0000"', "pyproject.toml: outputs: 'a\\x00' is not allowed"),
        ("overrides = 'seed=1'", "pyproject.toml: overrides: 'seed=1' is not allowed\n  allowed: a list"),
        ("overrides = [1]", "pyproject.toml: overrides: [1] is not allowed"),
        ("overrides = ['seed']", "pyproject.toml: overrides: 'seed' is not KEY=VALUE"),
        ("overrides = ['resume=last']", "pyproject.toml: overrides: 'resume=last' cannot be set for a whole project"),
        ("overrides = ['+allow_targets=[x]']", "cannot be set for a whole project\n  try: allow = [PATTERN]"),
        ("overrides = ['hydra.run.dir=x']", "cannot be set for a whole project\n  try: outputs = FOLDER"),
        ("overrides = ['hydra/job_logging=x']", "cannot be set for a whole project"),
        ("overrides = ['seed=1,2']", "pyproject.toml: overrides: seed=1,2: gives several values"),
        ("overrides = ['facts.task=x']", "pyproject.toml: overrides: facts.task: cannot be set: "),
        ("overrides = ['modle=cnn']", "pyproject.toml: overrides: modle: there is no such key"),
        ("overrides = ['model=nope']", "pyproject.toml: overrides: model: there is no option 'nope'"),
        ("overrides = ['optimizer.lr=abc']", "pyproject.toml: overrides: optimizer.lr: 'abc' is not allowed"),
        ("x = 1\ny = 2", "pyproject.toml: x: there is no such key"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", [(), ("-m", "trainer.max_epochs=1,2"), ("inspect",)])
def test_what_is_wrong_in_a_file_is_said(
    run: Run, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], text: str, said: str
) -> None:
    Path("conf").mkdir()
    write(text)
    assert run(*command) == 2
    printed = capsys.readouterr()
    words = re.sub(r" \(jobs? .* of 2\)", "", printed.err)
    assert words.startswith("error: pyproject.toml: ")
    assert said in words
    assert "Traceback" not in printed.err + printed.out
    assert sorted(path.name for path in Path().iterdir()) == ["conf", "pyproject.toml"]


@pytest.mark.parametrize("content", [b"outputs = '\xff'", b"a = " + b"[" * 100_000, b"# " + b"x" * project.MOST])
def test_a_file_that_nobody_can_have_meant(run: Run, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    Path("runner.toml").write_bytes(content)
    assert run("model=mlp") == 2
    assert capsys.readouterr().err.startswith("error: runner.toml: is not TOML: ")
    Path("runner.toml").rename("pyproject.toml")  # which may be of any other program
    assert run("check=only", *SHORT) == 0


def test_other_tables_and_what_is_no_file_are_nothing_to_runner() -> None:
    os.mkfifo("runner.toml")
    Path("pyproject.toml").write_text("tool = 'runner'")
    assert project.current() == project.Project()
    write("", "sub/pyproject.toml").write_text("[tool]\nrunner = 5\n")
    with pytest.raises(Exception, match="5 is not a table"):
        project.read(str(Path("sub").absolute()))


@pytest.mark.parametrize("name", project.NAMES)
def test_a_file_of_somebody_else_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = write('outputs = "x"', name)
    if os.getuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert project.current().file is None
    assert capsys.readouterr().err.startswith(f"{name} is not used: it belongs to another user (uid ")
    path.write_text("[[" if name == "runner.toml" else "[tool.runner")  # nor does it stop anybody
    project.read.cache_clear()
    assert project.current().file is None


def test_a_link_of_somebody_else_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    write('outputs = "x"', "mine/runner.toml")
    Path("runner.toml").symlink_to("mine/runner.toml")
    assert project.current().file is not None
    project.read.cache_clear()
    if os.getuid() == 0:
        os.chown("runner.toml", 12345, -1, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert project.current().file is None


def test_what_is_typed_replaces_what_the_file_sets() -> None:
    write('overrides = ["model=mlp", "model.hidden=[16]", "optimizer.lr=0.1", "~metric.macro_f1", "seed=1"]')
    assert with_project([])[:2] == ["model=mlp", "model.hidden=[16]"]
    assert with_project(["seed=2"])[-2:] == ["~metric.macro_f1", "seed=2"]
    assert with_project(["++optimizer.lr=1", "model.hidden=[8]"]) == [
        "model=mlp", "~metric.macro_f1", "seed=1", "++optimizer.lr=1", "model.hidden=[8]"
    ]  # fmt: skip
    # Another option need not have the keys of the one that the file chooses.
    assert with_project(["model=linear", "metric=classification_full"]) == [
        "optimizer.lr=0.1", "seed=1", "model=linear", "metric=classification_full"
    ]  # fmt: skip


def test_overrides_of_the_file_are_of_new_runs(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    given = ", ".join(f'"{override}"' for override in (*PLAIN, "optimizer.lr=0.02", "seed=1"))
    write(f"overrides = [{given}]")
    assert run("seed=5") == 0
    out = capsys.readouterr().out
    assert out.startswith("project: pyproject.toml\nrunner ")
    made = newest()
    assert "INFO    project: pyproject.toml\n" in (made / "runner.log").read_text()
    config = config_of(made)
    assert (config["seed"], config["optimizer"]["lr"]) == (5, 0.02)  # type: ignore[index]
    write(f"overrides = [{given.replace('0.02', '0.5')}, 'trainer.max_steps=9']")
    # What a run or its folder says is not changed by the file.
    assert run("reproduce", "run=last") == 0
    assert result_of(newest())["metrics"] == result_of(made)["metrics"]
    assert run(f"resume={made}", "trainer.max_epochs=2") == 0
    assert [record["epoch"] for record in records_of(made)] == [1, 2]
    assert config_of(made)["optimizer"]["lr"] == 0.02  # type: ignore[index]
    assert run("evaluate", f"run={made}", "figures=false") == 0


def test_a_sweep_has_them_and_goes_on_with_those_it_had(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    given = ", ".join(f'"{override}"' for override in (*PLAIN, "optimizer.lr=0.02", "seed=1"))
    write(f"overrides = [{given}]")
    assert run("-m", "seed=0,1") == 0
    assert capsys.readouterr().out.startswith("project: pyproject.toml\n")
    (made,) = Path("outputs/multirun").glob("*/*")
    assert "project: pyproject.toml" in (made / "sweep.log").read_text()
    assert sorted(path.name for path in made.glob("seed*")) == ["seed=0", "seed=1"]
    write("overrides = ['optimizer.lr=0.5']")
    assert run("-m", "resume=last", "seed=0,1,2") == 0
    rates = [config_of(made / f"seed={seed}")["optimizer"]["lr"] for seed in range(3)]  # type: ignore[index]
    assert rates == [0.02] * 3


def test_looking_and_searching_have_them_too(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write("overrides = ['model=mlp', 'model.hidden=[7]', 'tensorboard.pictures=false']\noutputs = 'runs'")
    assert run("inspect") == 0
    assert "MLP" in (out := capsys.readouterr().out)
    assert out.startswith("project: pyproject.toml\n")
    assert run("lr_find", "model.hidden=[5]", "trainer.threads=1", "lr_find.steps=10") == 0
    assert list(Path("runs/lr_find").glob("*/*/lr_find.csv"))
    capsys.readouterr()
    assert run("--cfg", "job") == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["hidden"] == [7]


def test_outputs_are_those_of_the_project_wherever_one_is(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write('outputs = "runs"')
    Path("sub/deep").mkdir(parents=True)
    assert run(*SHORT) == 0
    made = newest().resolve()
    assert made.parents[1] == Path("runs").resolve()
    monkeypatch.chdir("sub/deep")
    assert run("resume=last", "trainer.max_epochs=2") == 0
    assert result_of(made)["epochs"] == 2
    assert run("evaluate", "run=last", "figures=false") == 0
    assert len(list((made / "evaluate").iterdir())) == 1
    capsys.readouterr()
    assert run("compare", "last") == 0
    assert str(Path("../../runs", *made.parts[-2:])) in capsys.readouterr().out
    assert run(*SHORT, "-m", "seed=0,1") == 0
    assert run("-m", "resume=last") == 0
    (sweep,) = Path("../../runs/multirun").glob("*/*")
    assert folder.newest_sweep() == sweep
    assert runner.load_run("last").folder.resolve() == made
    assert not list(Path().iterdir())
    assert run(*SHORT, "hydra.run.dir=here") == 0  # what is typed is taken literally, from where one is
    assert Path("here/result.json").is_file()


def test_a_folder_that_is_not_there_is_not_left_behind(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write('outputs = "runs"')
    Path("sub").mkdir()
    monkeypatch.chdir("sub")
    monkeypatch.setattr(task, "main", _stopped)
    assert run(*SHORT) == 130
    assert not Path("../runs").exists()


def _stopped(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_start_that_left_nothing_is_marked_where_runs_are(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write('outputs = "runs"')
    Path("sub").mkdir()
    assert run(*SHORT) == 0
    monkeypatch.chdir("sub")
    with monkeypatch.context() as patched:
        patched.setattr(train, "prepare", lambda *_: signal.raise_signal(signal.SIGINT))
        assert run(*SHORT, "seed=1") == 130
    assert Path("../runs/.stopped-run").is_file()
    assert run("resume=last") == 2
    assert "the newest start was stopped before training began" in capsys.readouterr().err


def test_a_stopped_run_is_gone_on_with_from_elsewhere(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write('outputs = "runs"')
    Path("sub").mkdir()
    with monkeypatch.context() as patched:
        stopping(patched, 5)
        assert run(*SHORT) == 130
    monkeypatch.chdir("sub")
    assert run("resume=last") == 0
    assert result_of(newest())["state"] == "completed"


OWN = """\
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_outputs):
        super().__init__(nn.Flatten(), nn.Linear(64, num_outputs))
"""


def test_options_and_code_of_the_project_are_found_from_below(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write('config_dir = "conf"\noutputs = "runs"')
    Path("net_of_project.py").write_text(OWN)
    option("conf/model/net.yaml", "_target_: net_of_project.Net\nnum_outputs: ${facts.num_outputs}\n")
    Path("sub").mkdir()
    monkeypatch.chdir("sub")
    monkeypatch.setattr(sys, "path", list(sys.path))
    own = "allow_targets=[net_of_project.*]"
    assert run("model=net", *SHORT[2:], own) == 0
    assert run("evaluate", "run=last", "figures=false", own) == 0
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(Path("..").resolve())])
    del sys.modules["net_of_project"]
    assert run("resume=last", "trainer.max_epochs=2", own) == 0


def test_several_folders_are_taken(run: Run, capsys: pytest.CaptureFixture[str], digits: Path) -> None:
    for name, smoothing in (("one", 0.1), ("two", 0.2), ("three", 0.3)):
        option(f"{name}/loss/of_{name}.yaml", f"{LOSS}{smoothing}\n")
    option("two/dataset/elsewhere.yaml", "_target_: runner.dataset.digits\n")
    write('config_dir = ["three", "one"]')
    typed = ("--config-dir", "one", "-cd=two")
    assert [str(place) for place in config_dirs(typed)[0]] == ["one", "two", str(Path("three").absolute())]
    assert config_dirs(["-m", "--config-dir=x", "--cfg", "job"]) == (
        [Path("x"), *project.current().config_dirs], ["-m", "--cfg", "job"]
    )  # fmt: skip
    for name in ("one", "two", "three"):
        assert run(*typed, *SHORT, f"loss=of_{name}") == 0
        assert config_of(newest())["loss"]["label_smoothing"] == {"one": 0.1, "two": 0.2, "three": 0.3}[name]  # type: ignore[index]
    assert run(*typed, *SHORT, "-m", "loss=of_one,of_two,of_three", "hydra.sweep.dir=s") == 0
    assert {path.name for path in Path("s").glob("loss*")} == {
        "loss=of_one",
        "loss=of_two",
        "loss=of_three",
    }
    capsys.readouterr()
    # What is printed to be typed has those folders that the file does not give.
    option("one/loss/of_one.yaml", f"{LOSS}7.0\n")
    assert run(*typed, *SHORT, "-m", "optimizer=sgd", "optimizer.lr=1e30", "hydra.sweep.dir=f", "seed=0,1") == 1
    assert "python -m runner --config-dir two -m resume=f" in capsys.readouterr().out
    assert run("inspect", *typed, "loss=of_two", "model=mlp") == 0
    assert run("evaluate", f"run={digits}", *typed, "dataset=elsewhere", "figures=false") == 0
    capsys.readouterr()
    assert run(*typed, "--cfg", "job", "loss=of_three") == 0
    assert "label_smoothing: 0.3" in capsys.readouterr().out
    assert run(*typed, "--help") == 0
    assert "of_one, of_three, of_two" in capsys.readouterr().out


def test_one_name_in_two_folders_is_refused(
    run: Run, capsys: pytest.CaptureFixture[str], digits: Path, sweep: Path
) -> None:
    for name in ("one", "two"):
        option(f"{name}/loss/mine.yaml", LOSS + "0.1")
        option(f"{name}/compose.yaml", "of: something else")
        option(f"{name}/.cache/loss/other.yaml", "")
    option("one/loss/of_one.yaml", LOSS + "0.1")
    said = "error: one/loss/mine.yaml: has the same name as two/loss/mine.yaml, which would hide one of the two"
    for command in ((), ("-m",), ("inspect",), ("evaluate", f"run={digits}"), (f"resume={digits}",), ("resume=sweep",)):
        assert run(*command, "--config-dir", "one", "--config-dir", "two", "trainer.max_epochs=1") == 2
        assert capsys.readouterr().err.startswith(said)
    write('config_dir = "two"')
    assert run("--config-dir", "one", "loss=mine") == 2
    assert capsys.readouterr().err.startswith(said.replace("two/loss", "two/loss"))
    Path("two/loss/mine.yaml").unlink()
    assert run("--config-dir", "one", "loss=mine", *SHORT, "check=only") == 0
    assert run("--config-dir", "one", "--config-dir", "nope", *SHORT) == 2
    assert "--config-dir: there is no folder 'nope'" in capsys.readouterr().err
    option("two/model/cnn.yaml", "_target_: mine.Net")
    assert run(*SHORT) == 2
    assert "two/model/cnn.yaml: has the same name as one of runner's own files" in capsys.readouterr().err


def test_line_and_file_are_those_of_the_folder_that_has_the_option(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    option("one/loss/of_one.yaml", LOSS + "0.1")
    option("two/optimizer/fast.yaml", "_target_: torch.optim.SGD\nlr: abc\n")
    write('config_dir = ["one", "two"]')
    assert run("optimizer=fast", "loss=of_one") == 2
    assert capsys.readouterr().err.startswith("error: two/optimizer/fast.yaml, line 2: optimizer.lr: 'abc' is not")


def test_a_project_is_read_without_anything_heavy() -> None:
    write('config_dir = "conf"')
    Path("conf").mkdir()
    program = "import sys; from runner import project; print(project.current().name)\n"
    program += "assert not {'torch', 'numpy', 'hydra', 'omegaconf', 'yaml'} & set(sys.modules)"
    place = str(Path(runner.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": place}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "pyproject.toml\n"), done.stderr


def test_a_broken_file_stops_neither_help_nor_version(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write("outputs = ")
    assert run("--version") == 0
    assert run("inspect", "--help") == 0
    assert run("compare", "--help") == 0
    assert "usage: python -m runner inspect" in capsys.readouterr().out


def test_hydras_own_names_are_found_again(run: Run) -> None:
    """The patch by which Hydra gets several folders is gone when a command is done."""
    from hydra._internal import utils

    before = utils.create_automatic_config_search_path
    option("one/loss/of_one.yaml", LOSS + "0.1")
    assert run("--config-dir", "one", "loss=of_one", *SHORT, "check=only") == 0
    assert utils.create_automatic_config_search_path is before
    assert compose.default().loss["_target_"] == "torch.nn.CrossEntropyLoss"
