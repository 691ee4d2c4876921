"""Who may have code called: whoever types, and a folder only if its user trained it here, or allowed its code."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from conftest import QUICK, Run
from hypothesis import given
from hypothesis import strategies as st

from runner import consent, project
from runner.trained.run import load_run

NET = """\
from torch import nn

class Net(nn.Module):
    def __init__(self, num_outputs, width=8, note=""):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_outputs))
        with open("CALLED", "a") as file:
            file.write("x")

    def forward(self, x):
        return self.layers(x)


def share(y_true, y_pred):
    return float((y_true == y_pred).mean())
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Overrides with a model in the working directory."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    Path("own_code.py").write_text(NET)
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/own.yaml").write_text("_target_: own_code.Net\nnum_outputs: ${facts.num_outputs}\nnote: ''\n")
    return *QUICK[2:], "--config-dir", "mine", "model=own"


@pytest.fixture
def trained(run: Run, own: tuple[str, ...]) -> Path:
    """The folder of a run of that model."""
    assert run(*own, "hydra.run.dir=r") == 0
    Path("CALLED").unlink()
    return Path("r")


COMMANDS = (
    ("evaluate", "run=r", "figures=false"), ("predict", "run=r", "input=test", "output=p.csv"),
    ("export", "run=r", "format=safetensors"), ("reproduce", "run=r"), ("resume=r", "trainer.max_epochs=3"),
)  # fmt: skip


def test_a_run_of_ones_own_needs_no_word(run: Run, trained: Path) -> None:
    for command in COMMANDS:
        assert run(*command) == 0
    assert len(load_run("r").predict(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)).values) == 1
    assert "allow_targets" not in "".join(path.read_text() for path in Path("r").glob("*.log"))


def forged(how: str) -> None:
    """Make of ``r`` a folder that its user did not leave so."""
    config, mark = Path("r/config.yaml"), Path("r/.mark")
    text = config.read_text()
    if how == "copied":
        shutil.copytree("r", "s")
        shutil.rmtree("r")
        shutil.move("s", "other")
        os.symlink("other", "r")
    elif how == "edited":
        config.write_text(text.replace("note: ''", "note: 'evil'"))
    elif how == "more":
        config.write_text(text + "# \n")
    elif how == "without a mark":
        mark.unlink()
    elif how == "another secret":
        place = os.path.realpath("r")
        digest = hashlib.sha256(config.read_bytes()).hexdigest()
        content = json.dumps(["config.yaml", place, digest, [["own_code", str(Path.cwd())]]])
        mark.write_text(hmac.new(b"\0" * 32, content.encode(), hashlib.sha256).hexdigest())
    elif how == "mark of another run":
        shutil.copy("other/.mark", "r/.mark")
    elif how == "link":
        mark.rename("r/kept")
        config.write_text(text + " ")
        mark.symlink_to("kept")
    elif how == "bytes":
        mark.write_bytes(bytes(range(256)) * 9)
    elif how == "folder":
        mark.unlink()
        mark.mkdir()
    elif how == "code elsewhere":
        Path("elsewhere").mkdir()
        shutil.move("own_code.py", "elsewhere/own_code.py")
        sys.path.insert(0, str(Path("elsewhere").resolve()))
        sys.modules.pop("own_code", None)
    elif how == "open secret":
        (consent.home() / "secret").chmod(0o644)
    elif how == "new secret":
        (consent.home() / "secret").write_bytes(b"\1" * 32)


FORGED = (
    "copied", "edited", "more", "without a mark", "another secret", "mark of another run", "link", "bytes", "folder",
    "code elsewhere", "open secret", "new secret",
)  # fmt: skip


@pytest.mark.parametrize("how", FORGED)
def test_a_forged_mark_calls_nothing(
    run: Run, own: tuple[str, ...], trained: Path, capfd: pytest.CaptureFixture[str], how: str
) -> None:
    if how == "mark of another run":
        assert run(*own, "hydra.run.dir=other") == 0
        Path("CALLED").unlink()
    forged(how)
    capfd.readouterr()
    for command in COMMANDS:
        assert run(*command) == 2
        said = capfd.readouterr().err
        assert "'own_code.Net' is not on the list of allowed targets" in said
        assert "allow_targets=[own_code.*]" in said
    with pytest.raises(Exception, match="not on the list"):
        load_run("r")
    assert not Path("CALLED").exists()


@given(st.data())
def test_no_other_mark_and_no_other_content_fit(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    place = tmp_path_factory.mktemp("run")
    content = data.draw(st.binary(max_size=60))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(place / "config"))
        path = place / "config.yaml"
        consent.mark(path, content)
        assert consent.is_marked(path, content)
        other = data.draw(st.binary(max_size=60).filter(lambda each: each != content))
        assert not consent.is_marked(path, other)
        assert not consent.is_marked(place / "sweep.json", content)
        text = (place / consent.MARK).read_text().strip()
        at, digit = data.draw(st.integers(0, 63)), data.draw(st.sampled_from("0123456789abcdefé\n"))
        (place / consent.MARK).write_text(changed := text[:at] + digit + text[at + 1 :])
        assert consent.is_marked(path, content) == (changed == text)


def test_what_is_allowed_once_is_remembered_for_the_code_of_that_folder(
    run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (trained / ".mark").unlink()
    assert run(*COMMANDS[0]) == 2
    line = next(line for line in capfd.readouterr().err.splitlines() if "try: " in line)
    typed = shlex.split(line.partition("try: ")[2].partition(", if")[0])
    assert run(*COMMANDS[0], *typed) == 0
    assert "remembered: run folders may name own_code.*" in capfd.readouterr().err
    shutil.copytree("r", "another")
    for command in COMMANDS:
        assert run(*command) == 0
    assert run("evaluate", "run=another", "figures=false") == 0
    assert load_run("another") is not None

    # Other code of that name is not what was allowed.
    Path("CALLED").unlink()
    Path("elsewhere").mkdir()
    shutil.copy("own_code.py", "elsewhere")
    monkeypatch.chdir("elsewhere")
    monkeypatch.setattr(sys, "path", [str(Path.cwd()), *sys.path])
    sys.modules.pop("own_code", None)
    assert run("evaluate", "run=../another", "figures=false") == 2
    assert not Path("CALLED").exists()


@pytest.mark.parametrize(
    ("typed", "pattern"), [("[own_code.*]", "own_code.*"), ("['*']", "own_code.Net"), ("['*.Net']", "own_code.Net")]
)
def test_consent_is_no_wider_than_it_has_to_be(run: Run, trained: Path, typed: str, pattern: str) -> None:
    (trained / ".mark").unlink()
    assert run(*COMMANDS[0], f"allow_targets={typed}") == 0
    held = json.loads((consent.home() / "consents.json").read_text())
    assert held == [{"folder": str(Path.cwd()), "pattern": pattern}]


def test_of_a_library_every_target_is_allowed_by_itself() -> None:
    import pandas

    consent.remember(["pandas.read_pickle", "pandas.read_csv", "torch.nn.Linear", "os.system"], ["pandas.*", "*"])
    held = json.loads((consent.home() / "consents.json").read_text())
    place = str(Path(pandas.__file__).parents[1])
    assert held == [{"folder": place, "pattern": f"pandas.{name}"} for name in ("read_csv", "read_pickle")]
    assert consent.allowed(["pandas.read_csv"], is_mine=False) == ["pandas.read_csv"]
    assert consent.allowed(["pandas.read_json"], is_mine=False) == []


@pytest.mark.parametrize("content", ["{", "[1]", "{}", '[{"folder": 3}]', "[" * 99])
def test_a_file_of_consents_that_cannot_be_read_allows_nothing(run: Run, trained: Path, content: str) -> None:
    (trained / ".mark").unlink()
    (consent.home() / "consents.json").write_text(content)
    assert run(*COMMANDS[0]) == 2
    assert run(*COMMANDS[0], "allow_targets=[own_code.*]") == 0


def test_nothing_is_marked_where_there_is_no_home(
    run: Run, own: tuple[str, ...], strangers: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(*own, "hydra.run.dir=r") == 0
    assert not Path("r/.mark").exists()
    line = next(line for line in capfd.readouterr().out.splitlines() if "train longer" in line)
    assert run("resume=r", "trainer.max_epochs=4") == 2
    assert run(*shlex.split(line.partition("-m runner ")[2])) == 0  # as it is printed


def test_the_environment_is_asked_again_by_a_folder_of_ones_own_alone(
    run: Run, own: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NOTE", "a-secret-word")
    assert run(*own, "model.note=${oc.env:NOTE}", "hydra.run.dir=r") == 0
    for command in COMMANDS:
        assert run(*command) == 0
    assert "a-secret-word" not in Path("r/config.yaml").read_text()
    Path("r/.mark").unlink()
    capfd.readouterr()
    assert run("resume=r", "trainer.max_epochs=9", "allow_targets=[own_code.*]") == 2
    assert "model.note='${oc.env:NOTE}'" in capfd.readouterr().err


def test_what_is_typed_beside_a_strangers_folder_is_ones_own_word(
    run: Run, own: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(*QUICK, "hydra.run.dir=r") == 0
    shutil.copytree("r", "copy")
    assert run("evaluate", "run=copy", "figures=false", "+metric.mine._target_=own_code.share") == 0
    tree = yaml.safe_load(Path("copy/config.yaml").read_text())
    tree["metric"]["theirs"] = {"_target_": "own_code.share"}
    Path("copy/config.yaml").write_text(yaml.safe_dump(tree))
    capfd.readouterr()
    assert run("evaluate", "run=copy", "figures=false", "+metric.mine._target_=own_code.share") == 2
    assert "metric.theirs._target_" in capfd.readouterr().err


SWEPT = ("-m", "seed=0,1", "hydra.sweep.dir=m")


@pytest.fixture
def swept(run: Run, own: tuple[str, ...]) -> Path:
    """A sweep of that model of which one job is missing."""
    assert run(*own, *SWEPT) == 0
    shutil.rmtree("m/seed=1")
    Path("CALLED").unlink()
    return Path("m")


def test_a_sweep_of_ones_own_goes_on_without_a_word(run: Run, swept: Path) -> None:
    assert run("--config-dir", "mine", "-m", "resume=m") == 0
    assert (swept / "seed=1/result.json").is_file()
    assert run("evaluate", "run=m/seed=1", "figures=false") == 0


@pytest.mark.parametrize("how", ["copied", "edited", "without a mark"])
def test_a_sweep_of_somebody_else_calls_nothing(
    run: Run, swept: Path, capfd: pytest.CaptureFixture[str], how: str
) -> None:
    if how == "copied":
        shutil.copytree("m", "n")
    elif how == "edited":
        Path("m/sweep.json").write_text(Path("m/sweep.json").read_text().replace('"model=own"', '"model=own","seed=0"'))
    else:
        Path("m/.mark").unlink()
    capfd.readouterr()
    again = ("--config-dir", "mine", "-m", f"resume={'n' if how == 'copied' else 'm'}")
    assert run(*again) == 2
    assert "allow_targets=[own_code.*]" in capfd.readouterr().err
    assert not Path("CALLED").exists()
    assert run(*again, "allow_targets=[own_code.*]") == 0


def test_what_runs_whatever_it_is_given_is_not_called_even_if_it_is_typed(run: Run) -> None:
    assert run(*QUICK, "+transform.train=[{_target_: os.system, command: 'touch CALLED'}]") == 2
    assert not Path("CALLED").exists()


def test_two_processes_make_one_secret(tmp_path: Path) -> None:
    code = "from runner import consent; print(consent.secret().hex())"
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "new")}
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert len({process.communicate()[0] for process in started}) == 1
    assert [path.name for path in (tmp_path / "new/runner").iterdir()] == ["secret"]


def test_a_project_file_allows_its_code_for_every_folder_that_is_opened_in_it(run: Run, trained: Path) -> None:
    shutil.copytree("r", "copy")
    assert run("evaluate", "run=copy", "figures=false") == 2
    Path("runner.toml").write_text('allow = ["own_code.*"]\n')
    project.read.cache_clear()
    assert run("evaluate", "run=copy", "figures=false") == 0
    assert load_run("copy") is not None


def changed(place: str, **values: object) -> None:
    """Change what the configuration of a folder says, by groups."""
    tree = yaml.safe_load(Path(place, "config.yaml").read_text())
    for name, value in values.items():
        tree[name] = {**tree[name], **value} if isinstance(value, dict) and name != "model" else value
    Path(place, "config.yaml").write_text(yaml.safe_dump(tree))


EVIL = "import pathlib\n\ndef go(*given, **named):\n    pathlib.Path('CALLED').write_text('x')\n    return len\n"
REST = {"output": None, "init": None, "weights": None, "strict": True, "stochastic": False, "freeze": []}


@pytest.mark.parametrize(
    ("model", "interpolations"),
    [
        ({"_target_": "x.y"}, {"model._target_": "${facts.evil}"}),
        ({"_target_": "x.y", "how": "own_evil"}, {"model._target_": "${model.how}.go"}),
        ({"_target_": "own_evil.go"}, {"loss": "${model}"}),
        ({"cb": {"_target_": "own_evil.go"}}, {"[hydra][callbacks][evil]": "${model.cb}"}),
        ({"cb": {"_target_": "own_evil.go"}}, {"[hydra].callbacks.evil": "${model.cb}"}),
        ({"cb": {"_target_": "own_evil.go"}}, {".hydra.callbacks.evil": "${model.cb}"}),
        ({"cb": ["own_evil"]}, {"[defaults]": "${model.cb}"}),
        ({"cb": {"_target_": "own_evil.go"}}, {"hydra": "${model.cb}"}),
    ],
)
def test_no_reference_of_a_folder_names_what_is_called(
    run: Run, capfd: pytest.CaptureFixture[str], model: dict[str, object], interpolations: dict[str, str]
) -> None:
    assert run(*QUICK, "hydra.run.dir=theirs") == 0
    Path("own_evil.py").write_text(EVIL)
    before = yaml.safe_load(Path("theirs/config.yaml").read_text())
    named = {**before["model"], **model} if "_target_" not in model else {**model, **REST, "unfreeze_at_epoch": None}
    changed("theirs", model=named, interpolations=interpolations, facts={"evil": "own_evil.go"})
    shutil.copytree("theirs", "kept")
    for command in COMMANDS:
        shutil.rmtree("theirs")
        shutil.copytree("kept", "theirs")
        assert run(*(word.replace("=r", "=theirs") for word in command)) in (0, 2)
        assert not Path("CALLED").exists()
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "typed",
    ["model.hidden=[$\\{oc.decode\\:$\\{oc.env\\:WIDTH\\}\\}]", "+dataset@hydra.callbacks.x=own", "model@loss=own"],
)
def test_a_sweep_of_somebody_else_escapes_nothing(
    run: Run, own: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], typed: str
) -> None:
    monkeypatch.setenv("WIDTH", "17")
    Path("mine/dataset").mkdir()
    Path("mine/dataset/own.yaml").write_text("_target_: own_code.Net\nnum_outputs: 3\n")
    Path("s").mkdir()
    record = {"runner": "0.1.0", "numbers": "float64", "jobs": [], "typed": [*QUICK, "seed=0,1", typed]}
    Path("s/sweep.json").write_text(json.dumps(record))
    assert run("-m", "resume=s", "--config-dir", "mine") == 2
    assert not Path("CALLED").exists()
    assert sorted(path.name for path in Path("s").iterdir()) == ["sweep.json"]
    assert "Traceback" not in capfd.readouterr().err


def test_data_that_are_typed_do_not_lend_their_word_to_those_of_the_folder(
    run: Run, own: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    code = "from sklearn.datasets import load_digits\nfrom torch.utils.data import Dataset\n\n"
    code += "class Data(Dataset):\n    def __init__(self, note):\n        print('READ', note)\n"
    code += "        self.data, self.targets = load_digits(return_X_y=True)\n\n"
    code += "    def __len__(self):\n        return 1797\n\n"
    code += "    def __getitem__(self, i):\n        return self.data[i].astype('float32'), int(self.targets[i])\n"
    Path("own_data.py").write_text(code)
    Path("mine/dataset").mkdir()
    Path("mine/dataset/own.yaml").write_text("_target_: own_data.Data\nnote: mine\n")
    typed = ("--config-dir", "mine", "dataset=own")
    assert run(*QUICK, *typed, "transform=none", "hydra.run.dir=r") == 0
    shutil.copytree("r", "theirs")
    changed("theirs", dataset={"note": "theirs"})
    capfd.readouterr()
    assert run("evaluate", "run=theirs", "figures=false", "temperature=val", *typed) == 2
    said = "".join(capfd.readouterr())
    assert "READ theirs" not in said
    assert "'own_data.Data' is not on the list of allowed targets" in said


def test_the_code_of_every_folder_and_archive_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("one", "two"):
        Path(place, "spaced").mkdir(parents=True)
        with zipfile.ZipFile(f"{place}.zip", "w") as archive:
            archive.writestr("zipped.py", "")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "one"), str(tmp_path / "one.zip"), *sys.path])
    assert consent.place_of("spaced.evil.Net") == str(tmp_path / "one")
    assert consent.place_of("zipped.Net") == str(tmp_path / "one.zip")
    content = b"model: {_target_: spaced.evil.Net}"
    consent.mark(Path("config.yaml"), content)
    escaped = b'{"typed": ["model={\\"_target_\\": \\"zipped.Net\\"}"]}'
    Path("s").mkdir()
    consent.mark(Path("s/sweep.json"), escaped)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "two")])
    assert not consent.is_marked(Path("config.yaml"), content)
    assert consent.is_marked(Path("s/sweep.json"), escaped)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "two.zip"), *sys.path])
    assert not consent.is_marked(Path("s/sweep.json"), escaped)
    assert consent.place_of("builtins.len") == consent.place_of("sys.exit") == consent.place_of("there_is_none") == ""
    import array

    assert consent.is_installed(consent.place_of("array")) == ("array" not in sys.builtin_module_names)
    assert array
