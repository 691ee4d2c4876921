"""The command line: what people type, rightly and wrongly."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import CROSS, FAILING, QUICK, Run, only_run, own_model

from runner.command_line import sort
from runner.grammar import quoted

TRANSCRIPT = (Path(__file__).parent / "mistakes.txt").read_text().split("$ python -m runner ")[1:]
MISTAKES = {line: said for line, _, said in (entry.strip().partition("\n") for entry in TRANSCRIPT)}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_explained_and_leaves_nothing_behind(
    run: Run, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    typed = shlex.split(line)
    if typed[0] in ("-m", "--multirun"):  # or it draws a picture first, so that no job need import what that takes
        typed.append("tensorboard.pictures=false")
    assert run(*typed) == 2
    output = capsys.readouterr()
    said = output.err.removeprefix("error: ").splitlines()
    expected = MISTAKES[line].splitlines()
    assert len(said) == len(expected)
    for found, wanted in zip(said, expected, strict=True):
        assert found == wanted or (wanted.endswith("…") and found.startswith(wanted.rstrip("… ")))
    assert len(said) <= 3 * sum(not text.startswith("  ") for text in said)
    assert "Traceback" not in output.err + output.out
    assert not list(Path().iterdir())


def test_the_transcript_of_mistakes_is_long() -> None:
    assert len(MISTAKES) >= 120


def test_a_file_with_the_name_of_one_of_ours_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/cnn.yaml").write_text("_target_: mine.Net")
    assert run("--config-dir", "mine", "model=cnn") == 2
    said = "error: mine/model/cnn.yaml: has the same name as one of runner's own files"
    assert capsys.readouterr().err.startswith(said)


def test_a_file_in_another_encoding_is_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/net.yaml").write_bytes("_target_: é".encode("latin-1"))
    assert run("--config-dir", "mine", "model=net") == 2
    assert capsys.readouterr().err.startswith("error: mine/model/net.yaml: is not UTF-8 text")


def test_a_folder_of_the_users_own(run: Run) -> None:
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/tiny.yaml").write_text(
        "_target_: torch.nn.Sequential\n"
        "_args_:\n"
        "  - {_target_: torch.nn.Flatten}\n"
        "  - {_target_: torch.nn.Linear, in_features: 64, out_features: '${facts.num_classes}'}\n"
    )
    quick = ("trainer.max_epochs=1", "trainer.threads=1", "tensorboard.enabled=false")
    assert run("model=tiny", "--config-dir", "mine", *quick) == 0


def test_a_project_of_the_users_own_runs_and_resumes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("arms.py").write_text(
        "import torch\n"
        "class Arms(torch.utils.data.Dataset):\n"
        "    def __init__(self, n): self.x = torch.randn(n, 2); self.y = (self.x.sum(1) > 0).long()\n"
        "    def __len__(self): return len(self.x)\n"
        "    def __getitem__(self, i): return {'xy': self.x[i], 'arm': self.y[i], 'w': 1.0}\n"
    )
    Path("mine/dataset").mkdir(parents=True)
    Path("mine/dataset/arms.yaml").write_text(
        "_target_: arms.Arms\nn: 200\nkeys: {input: xy, target: arm, weight: w}\n"
    )
    monkeypatch.syspath_prepend(Path.cwd())
    typed = ("dataset=arms", "transform=none", *QUICK)
    assert run("--config-dir", "mine", *typed) == 0
    made = only_run()
    first = (made / "metrics.jsonl").read_bytes()
    assert run(f"resume={made}", "trainer.max_epochs=3") == 0
    assert (made / "metrics.jsonl").read_bytes().startswith(first)


def test_the_configuration_can_be_looked_at(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("model=mlp", "--cfg", "job", "seed=7") == 0
    text = capsys.readouterr().out
    assert "seed: 7" in text
    assert "_target_: runner.model.MLP" in text
    assert not Path("outputs").exists()


def test_help_names_commands_groups_options_and_examples_and_nothing_heavy_is_imported_for_it() -> None:
    program = (
        "import sys; from runner.__main__ import main\n"
        "for line in ('--help', '--cfg job', '--version', 'model=foo', 'modle=cnn', 'trian'):\n"
        "    main(line.split())\n"
        "    assert not {'torch', 'sklearn', 'numpy', 'tensorboard'} & set(sys.modules), line\n"
        "    print('---')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    text = done.stdout.partition("---")[0]  # the help, which takes Hydra a while
    for expected in (
        "train (or none)",
        "model: cnn, custom, lenet, linear, mlp",
        "loss: bce, cross_entropy, custom, focal, huber",
        "runner model=cnn",
    ):
        assert expected in text
    assert "$" not in text


MISSING = {
    "dataset=image_folder dataset.root=pics/picz": ("there is no folder 'pics/picz'", "dataset.root=pics/pics 1"),
    "dataset=image_folder dataset.root=picz/cats": ("there is no folder 'picz/cats'", "dataset.root=pics/cats"),
    "dataset=table dataset.path=peple.csv transform=table": ("there is no file 'peple.csv'", "people.csv"),
}


def test_data_that_are_not_there_are_named_before_torch_is_imported() -> None:
    for name in ("pics/pics 1", "pics/cats", "people.cvs"):
        Path(name).mkdir(parents=True)
    Path("pics/picz.zip").touch()
    Path("people.csv").touch()
    program = (
        "import sys; from runner.__main__ import main\n"
        f"for typed in {list(MISSING)}:\n"
        "    assert main(typed.split()) == 2, typed\n"
        "    assert not {'torch', 'sklearn', 'numpy', 'pandas'} & set(sys.modules), typed"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    printed = done.stderr.splitlines()
    assert len(printed) == 3 * len(MISSING)
    for (said, meant), first, last in zip(MISSING.values(), printed[::3], printed[2::3], strict=True):
        assert said in first
        assert f"(looked for {Path.cwd()}" in first
        assert last.removeprefix("  try: ").strip('"').endswith(meant)


def test_version(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    pattern = r"runner \S+ \(Python 3\.\d+\.\S+, torch \S+, hydra-core 1\.[34]\.\d+(rc\d+)?\)\n"
    assert re.fullmatch(pattern, capsys.readouterr().out)


@pytest.mark.parametrize("line", ["--help", "--version", "inspect --help", "-sc install=fish"])
def test_nobody_reads_what_is_printed(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    assert run(*line.split()) == 1
    assert capsys.readouterr().err == ""


def test_flags_and_overrides_in_any_order() -> None:
    arguments = ["a=1", "-m", "b=2", "--config-dir", "mine", "c=3", "--cfg", "job"]
    assert sort(arguments) == (["-m", "--config-dir", "mine", "--cfg", "job"], ["a=1", "b=2", "c=3"])


@pytest.mark.parametrize(
    "value",
    [
        "~/x",
        "my (1).png",
        "é",
        "a b",
        "it's",
        r"C:\data",
        r"C:\my (1)",
        "it's (1)",
        "(\\\\",
        "x@y",
        "a=b",
        "50%",
        "#1",
        "日本",
    ],
)
def test_values_that_people_type_reach_the_configuration_as_they_are(value: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    override = OverridesParser.create().parse_override(quoted(f"dataset.path={value}"))
    assert override.value() == value


@pytest.mark.parametrize("override", ["a=1", "a=[1,2]", "a=1,2", "a='x y'", "+a={b: 1}", "~a", "a=null", "a="])
def test_what_the_grammar_reads_is_left_alone(override: str) -> None:
    assert quoted(override) == override


def test_two_runs_in_one_second_get_two_folders(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hydra.core.utils.datetime", type("Frozen", (), {"now": staticmethod(lambda: _Now())}))
    assert run(*QUICK, "trainer.max_steps=1") == run(*QUICK, "trainer.max_steps=1") == 0
    assert sorted(path.name for path in Path("outputs/2026-01-02").iterdir()) == ["03-04-05", "03-04-05-1"]


class _Now:
    def strftime(self, pattern: str) -> str:
        return time.strftime(pattern, (2026, 1, 2, 3, 4, 5, 0, 0, 0))


def test_a_named_folder_is_taken_literally(run: Run, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits.rename("here")
    before = {path: path.read_bytes() for path in Path("here").rglob("*") if path.is_file()}
    assert run(*QUICK, "hydra.run.dir=here") == 2
    assert "try: resume=here, to resume that run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("here").rglob("*") if path.is_file()} == before


def test_a_named_folder_without_a_checkpoint_starts_over(run: Run) -> None:
    Path("here").mkdir()
    Path("here/metrics.jsonl").write_text("of a run that died before its first checkpoint\n")
    assert run(*QUICK, "hydra.run.dir=here") == 0
    assert len(Path("here/metrics.jsonl").read_text().splitlines()) == 2


def test_an_unexpected_error_is_a_failed_run_with_its_traceback(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    own = own_model(FAILING.replace("no luck", "late"))
    assert run(*own, "+model.how=raise", "trainer.max_epochs=2") == 1
    said = capsys.readouterr().err
    folder = only_run()
    assert "Traceback" in said
    line = 1 + FAILING.splitlines().index('                raise RuntimeError("no luck")')
    where = f"(own_net.py, line {line}), at step 17 of epoch 1; the traceback is in {folder}/runner.log"
    assert said.splitlines()[-1] == f"error: RuntimeError: late {where}"
    assert '"state": "failed"' in (folder / "result.json").read_text()
    assert "RuntimeError: late" in (folder / "result.json").read_text()
    assert "Traceback" in (folder / "runner.log").read_text()


def test_a_cross_validation_is_not_overwritten(run: Run, crossed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = ((crossed / "config.yaml").read_bytes(), (crossed / "result.json").read_bytes())
    assert run(*CROSS, "optimizer=sgd", f"hydra.run.dir={crossed}") == 2
    assert "hydra.run.dir: 'here' already has the checkpoints of an earlier run" in capsys.readouterr().err
    assert ((crossed / "config.yaml").read_bytes(), (crossed / "result.json").read_bytes()) == before


@pytest.mark.parametrize("debug", ["dev_run", "overfit"])
def test_what_leaves_nothing_does_not_go_on_in_the_folder_of_a_run(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str], debug: str
) -> None:
    before = {path: path.read_bytes() for path in digits.rglob("*") if path.is_file()}
    assert run(f"resume={digits}", "trainer.max_epochs=3", f"debug={debug}") == 2
    assert f"debug: {debug} cannot be combined with resume=" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in digits.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("metric.accuracy=null checkpoint.monitor=val/accuracy", "checkpoint.monitor: no evaluation writes"),
        (
            "loss=mse loss.one_hot=true metric=classification_full trainer.early_stopping.patience=2 "
            "trainer.early_stopping.monitor=val/log_loss",
            "trainer.early_stopping.monitor: 'val/log_loss' needs probabilities",
        ),
        (
            "loss=mse loss.one_hot=true metric=classification_full scheduler=plateau scheduler.monitor=val/log_loss",
            "scheduler.monitor: 'val/log_loss' needs probabilities",
        ),
    ],
)
def test_what_no_evaluation_writes_decides_nothing(
    run: Run, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    assert run(*QUICK, *line.split()) == 2
    assert said in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_a_metric_may_have_any_name(run: Run) -> None:
    own = "+metric={top-5:{_target_:runner.metric.top_k_accuracy,k:5,takes:probabilities}}"
    assert run(*QUICK, own, "checkpoint.monitor=val/top-5") == 0
    assert "val/top-5" in json.loads(Path(only_run() / "metrics.jsonl").read_text().splitlines()[0])


@pytest.mark.parametrize("command", ["resume=digits trainer.max_epochs=3", "reproduce run=digits"])
def test_a_run_has_a_configuration_of_its_own(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run(*command.split(), "--config-name", "other") == 2
    said = "--config-name: cannot be combined with a run folder, which has its own configuration"
    assert said in capsys.readouterr().err


def test_a_file_of_the_users_own_that_no_configuration_can_be_made_of(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine/model").mkdir(parents=True)
    Path("mine/first.yaml").write_text("defaults: config\n")
    assert run("--config-dir", "mine", "--config-name", "first") == 2
    assert capsys.readouterr().err.startswith("error: mine/first.yaml: cannot be read: ")
    Path("mine/first.yaml").write_bytes("# é\n".encode("latin-1"))
    assert run("--config-dir", "mine", "--config-name", "first") == 2
    assert capsys.readouterr().err.startswith("error: mine/first.yaml: is not UTF-8 text")
    Path("mine/model/odd.yaml").write_text("defaults: linear\n")
    assert run("--config-dir", "mine", "model=odd") == 2
    assert capsys.readouterr().err.startswith("error: mine/model/odd.yaml: cannot be read: ")


def test_other_data_of_the_users_own_do_not_hide_ours(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine/dataset").mkdir(parents=True)
    Path("mine/dataset/wine.yaml").write_text("_target_: mine.Wine\n")
    assert run("evaluate", f"run={digits}", "--config-dir", "mine", "dataset=wine") == 2
    assert "mine/dataset/wine.yaml: has the same name as one of runner's own files" in capsys.readouterr().err


@pytest.mark.parametrize(
    "typed",
    ["model.hidden=[1000000000000]", "model.hidden=[99999999999999999]", "trainer.max_epochs=1000000000"],
)
def test_what_no_machine_can_hold_is_said_before_the_run(
    run: Run, capsys: pytest.CaptureFixture[str], typed: str
) -> None:
    assert run("model=mlp", typed) == 2
    assert re.search(r"^error: \w+: needs .* and this machine has [\d,.]+ GiB\n  try: ", capsys.readouterr().err)
    assert not Path("outputs").exists()


def test_more_parameters_than_memory_are_not_filled(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which the system would promise, and kill who takes them."""
    from runner import network

    monkeypatch.setattr(network, "memory", lambda: 100_000)
    assert run("model=mlp", "model.hidden=[100000]", "check=only") == 2
    assert run("model=mlp", "model.hidden=[16]", "check=only") == 0
