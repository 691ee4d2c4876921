"""``runner new`` writes a project that runs."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import Run, result_of, rows

import runner
from runner import folder, new

ROOT = Path(runner.__file__).parents[1]
SHORT = ("trainer.max_epochs=2", "tensorboard.enabled=false", "trainer.threads=1")


@pytest.fixture
def made(run: Run, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that is the working directory."""
    assert run("new", "moons-2") == 0
    monkeypatch.chdir("moons-2")
    monkeypatch.setattr(sys, "path", list(sys.path))
    return Path.cwd()


def test_what_is_written_and_what_to_type_is_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("new", "work/moons-2") == 0
    assert capsys.readouterr().out == (
        "work/moons-2: .gitignore, README.md, conf/, moons_2/, pyproject.toml, tests/\n"
        "next:\n  cd work/moons-2\n  python -m runner experiment=first\n"
    )
    files = {str(path.relative_to("work/moons-2")): path for path in Path("work").rglob("*") if path.is_file()}
    assert {"moons_2/model.py", "conf/experiment/first.yaml", "tests/test_project.py"} <= files.keys()
    for path in files.values():
        assert not {"my-project", "my_project", "allow_targets"} & set(path.read_text().split())
        assert "project" not in path.read_text().replace("[project]", "") or path.suffix in (".md", ".py", ".toml")
        assert "my_project" not in path.read_text()
        assert "my-project" not in path.read_text()
    assert files["README.md"].read_text().startswith("# moons-2\n")
    assert tomllib.loads(files["pyproject.toml"].read_text())["project"]["name"] == "moons-2"
    assert "_target_: moons_2.model.MLP" in files["conf/model/small_mlp.yaml"].read_text()


def test_the_commands_of_its_readme_work(made: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line.partition("#")[0] for line in (made / "README.md").read_text().splitlines()]
    typed = [shlex.split(line)[1:] for line in lines if line.startswith("runner ")]
    assert len(typed) >= 6
    for words in typed:
        trains = "experiment=first" in words and "check=only" not in words
        assert run(*words, *(SHORT if trains else ())) == 0, words
    assert result_of(made / folder.outputs() / newest())["epochs"] == 2
    assert len(rows(*Path("outputs/multirun").glob("*/*"))) == 3
    monkeypatch.chdir("tests")  # and from below
    assert run("experiment=first", *SHORT) == 0
    assert run("resume=last", "trainer.max_epochs=3") == 0
    assert run("predict", "run=last", "input=test", "output=predictions.csv") == 0
    assert len(Path("predictions.csv").read_text().splitlines()) == 201
    assert not Path("outputs").exists()


def newest() -> Path:
    found = folder.newest()
    assert found is not None
    return found.relative_to(folder.outputs())


def test_it_learns_what_its_data_have(made: Path, run: Run) -> None:
    assert run("experiment=first", "tensorboard.enabled=false") == 0
    assert result_of("outputs" / newest())["metrics"]["test/accuracy"] > 0.97  # a straight line reaches 0.86


def test_its_tests_pass(made: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    line = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    # And fail if the loss is another one.
    loss = Path("moons_2/loss.py")
    loss.write_text(loss.read_text().replace("(1 - (-cross_entropy).exp())", "(1 + (-cross_entropy).exp())"))
    done = subprocess.run([*line, "-k", "loss"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("typed", "said", "remedy"),
    [
        ((), "new: the following arguments are required: name", "new --help"),
        (("a", "b"), "new: unrecognized arguments: b", "new --help"),
        (("my-project/", "--x"), "new: unrecognized arguments: --x", "new --help"),
        (("my proj",), "new 'my proj': 'my proj' cannot be the name of a project", "new my-proj"),
        (("work/2nd é-",), "cannot be the name of a project", "new work/nd"),
        (("é",), "cannot be the name of a project", ""),
        ((".",), "cannot be the name of a project", ""),
        (("torch",), "new torch: its package would be called torch, as something else is", "new torch-project"),
        (("class",), "its package would be called class", "new class-project"),
        (("work/conf",), "its package would be called conf", "new work/conf-project"),
        (("full",), "new full: is there already, and is not an empty folder", ""),
        (("file",), "new file: is there already, and is not an empty folder", ""),
        (("link",), "new link: is there already, and is not an empty folder", ""),
        (("file/a",), "file/a: cannot be written (", ""),
    ],
)
def test_what_cannot_be_a_project_is_refused(
    run: Run, capsys: pytest.CaptureFixture[str], typed: tuple[str, ...], said: str, remedy: str
) -> None:
    Path("full").mkdir()
    Path("full/mine").touch()
    Path("file").touch()
    Path("link").symlink_to("nowhere")
    assert run("new", *typed) == 2
    error = capsys.readouterr().err
    assert said in error
    assert sorted(str(path) for path in Path().rglob("*")) == ["file", "full", "full/mine", "link"]
    assert (f"try: python -m runner {remedy}\n" in error) == bool(remedy)
    assert not remedy or run(*remedy.split()) == 0


def test_an_empty_folder_is_filled(run: Run) -> None:
    Path("moons").mkdir()
    assert run("new", "moons") == 0
    assert Path("moons/moons/data.py").is_file()
    assert run("new", "moons") == 2


def test_on_a_full_disk_nothing_is_left(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    assert run("new", "moons") == 1
    assert "could not be written: No space left on device" in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_the_environment_of_uv_is_named_where_it_would_not_be_found(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    monkeypatch.setattr(sys, "prefix", str(Path("clone/.venv").absolute()))
    Path("clone").mkdir()
    assert run("new", "clone/inside") == run("new", "outside") == 0
    out = capsys.readouterr().out
    assert "  cd clone/inside\n  uv run -m runner experiment=first\n" in out
    assert f"  cd outside && source {Path('clone/.venv/bin/activate').absolute()}\n  uv run -m runner" in out


def test_it_explains_itself(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("new", "--help") == 0
    assert capsys.readouterr().out.startswith("usage: python -m runner new [-h] name\n")
    assert run("--help") == 0
    assert "new NAME  " in capsys.readouterr().out


def test_the_wheel_has_the_template() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert {ROOT / source: name for source, name in wheel["wheel"]["force-include"].items()} == {
        ROOT / "conf": "runner/conf", new.template(): "runner/template"
    }  # fmt: skip
    assert "/examples/project" in wheel["sdist"]["include"]
