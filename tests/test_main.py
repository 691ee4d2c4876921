"""The command line: what people type, rightly and wrongly."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import QUICK, Run, only_run

from runner.__main__ import _sort
from runner.overrides import quoted

# Command line -> the first line of each problem.
WRONG: dict[str, list[str]] = {
    "model=foo": ["model: there is no option 'foo'"],
    "model=ccn": ["model: there is no option 'ccn'"],
    "experiment=foo": ["experiment: there is no option 'foo'"],
    "modle=cnn": ["modle: there is no such key (value 'cnn')"],
    "optimizer.lrr=0.1": ["optimizer.lrr: there is no such key (value '0.1')"],
    "optimizer.lr.x=1": ["optimizer.lr.x: optimizer.lr is no group of keys"],
    "optimizer.lr=inf": ["optimizer.lr: inf is not allowed"],
    "loss.weight=[0,0,0,0,0,0,0,0,0,0]": ["loss.weight: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0] does not give a weight"],
    "~hydra.callbacks.preflight optimizer.lr=abc": ["hydra.callbacks.preflight: is what checks the configuration"],
    "hydra.callbacks=null": ["hydra.callbacks: is what checks the configuration"],
    "optimizer.lr=abc": ["optimizer.lr: 'abc' is not allowed"],
    "optimizer.lr=abc modle=cnn seed=-1": [
        "modle: there is no such key (value 'cnn')",
        "optimizer.lr: 'abc' is not allowed",
        "seed: -1 is not allowed",
    ],
    "optimizer.lr=0.1,0.01": ["optimizer.lr: '0.1,0.01' is several values"],
    "optimizer.amsgrad=3": ["optimizer.amsgrad: 3 is not allowed"],
    "trainer.max_epochs=1.5": ["trainer.max_epochs: 1.5 is not allowed"],
    "facts.num_classes=3": ["facts.num_classes: is what the data say, and is filled in by the run"],
    "split.seed=5000000000": ["split.seed: 5000000000 is not allowed"],
    "checkpoint.every=null": ["checkpoint.every: null is not allowed"],
    "transform.eval=[]": ["model: cannot take inputs of 1×8×8, at layer 0.0 (Conv2d)"],
    "transform=table": ["transform: cannot be built: the data are no table with columns of their own"],
    "check=maybe": ["check: 'maybe' is not allowed"],
    "-m --cfg job": ["--cfg: shows one configuration, and -m makes several"],
    "--config-name nothing": ["--config-name: there is no nothing.yaml"],
    "trainer.max_epochs=true": ["trainer.max_epochs: true is not allowed"],
    "trainer.max_epochs=null": [
        "trainer.max_epochs: is null, and so is trainer.max_steps: schedules would not know how long"
    ],
    "seed=???": ["seed: is not set (???)"],
    "seed=[1": ["seed=[1: cannot be read"],
    "device=gpu": ["device: 'gpu' is not allowed"],
    "device=cuda:99": ["device: there is no 'cuda:99' on this machine"],
    "loader.batch_size=0": ["loader.batch_size: 0 is not allowed"],
    "split.val=1.5": ["split.val: 1.5 is not allowed"],
    "split.val=0.7 split.test=0.4": ["split: val=0.7 and test=0.4 of 1797 samples leave -180 / 1258 / 719"],
    "loss.weight=blanced": ["loss.weight: 'blanced' is not allowed"],
    "loss.weight=[1,2]": ["loss.weight: [1, 2] does not give a weight for each class"],
    "loader.drop_last=true loader.batch_size=2000": [
        "loader.batch_size: 2000 with drop_last leaves no batch of 1079 train samples"
    ],
    "checkpoint.monitor=val/acuracy": ["checkpoint.monitor: no evaluation writes 'val/acuracy'"],
    "checkpoint.monitor=accuracy": ["checkpoint.monitor: 'accuracy' is not allowed"],
    "checkpoint.mode=maximum": ["checkpoint.mode: 'maximum' is not allowed"],
    "+model=mlp": ["model: is there already, and cannot be added (+model=mlp)"],
    "+optimizer.foo=1": ["optimizer.foo: torch.optim.AdamW has no argument 'foo' (value 1)"],
    "+extra=1": ["extra: there is no such key (value 1)"],
    "~optimizer.foo": ["optimizer.foo: cannot be taken away: Could not delete from config"],
    "~seed": ["seed: is missing"],
    "model.num_outputs=${facts.outputs}": ["model.num_outputs: '${facts.outputs}' leads nowhere"],
    "model._target_=os.system": ["model._target_: 'os.system' may not be called"],
    "model._target_=torch.nn.utils.prune.torch.load": [
        "model._target_: 'torch.nn.utils.prune.torch.load' is torch.serialization.load"
    ],
    "model._target_=runner.model.CMN": ["model._target_: 'runner.model.CMN' cannot be found"],
    "model._target_=my_package.Net": ["model._target_: 'my_package.Net' is not among the targets that may be called"],
    "model.hidden=16 model=mlp": ["model: cannot be built: 'int' object is not iterable"],
    "model.dropout=2": ["model: cannot be built: dropout probability has to be between 0 and 1"],
    "optimizer.betas=3": ["optimizer: cannot be built: "],
    "metric.accuracy=3": ["metric.accuracy: 3 names nothing to call"],
    "+metric.loss._target_=sklearn.metrics.accuracy_score": ["metric.loss: is the name of the loss itself"],
    "transform.train=[3]": ["transform.train.0: 3 names nothing to call", "transform.eval.0: 3 names nothing to call"],
    "dataset._target_=runner.result._git": ["dataset._target_: 'runner.result._git' is not among the targets"],
    "model._target_=runner.model._conv": ["model._target_: 'runner.model._conv' is not among the targets"],
    "model._target_=runner.model.CNN.x": [
        "model._target_: 'runner.model.CNN.x' cannot be found: runner.model.CNN has no"
    ],
    "--config-dir=nowhere": ["--config-dir: 'nowhere' is not a folder"],
    "--multirun modle=cnn seed=0,1": ["modle: there is no such key (value 'cnn')"],
    "++resume=nowhere": ["resume: 'nowhere' does not exist"],
    "resume=it's/r": ['resume: "it\'s/r" does not exist'],
    "hydra.run.dir=/proc/x": ["hydra.run.dir: '/proc/x' cannot be made (No such file or directory)"],
    "--experimental-rerun x.pickle": ["--experimental-rerun: is not available"],
    "trian": ["trian: there is no such command"],
    "model": ["model: there is no such command"],
    "resume=nowhere": ["resume: 'nowhere' does not exist"],
    "resume=last": ["resume: there is no run in outputs/ yet"],
    "--config-dir nowhere": ["--config-dir: 'nowhere' is not a folder"],
    "-m optimizer.lr=0.1,abc": ["optimizer.lr (job 1): 'abc' is not allowed"],
    "-m optimizer.lrr=1,2": [
        "optimizer.lrr (job 0): there is no such key (value '1')",
        "optimizer.lrr (job 1): there is no such key (value '2')",
    ],
    "-m model=cnn,mpl seed=0,1": ["model (job 2, 3): there is no option 'mpl'"],
    "-m modle=cnn seed=0,1": ["modle: there is no such key (value 'cnn')"],
    "-m seed=0,1 resume=somewhere": ["resume: a run that goes on is not a sweep"],
}


@pytest.mark.parametrize("line", WRONG)
def test_a_mistake_is_explained_and_leaves_nothing_behind(
    run: Run, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    assert run(*line.split()) == 2
    output = capsys.readouterr()
    said = output.err.removeprefix("error: ").splitlines()
    headings = [text for text in said if not text.startswith("  ")]
    assert len(headings) == len(WRONG[line])
    for heading, expected in zip(headings, WRONG[line], strict=True):
        assert heading.startswith(expected)
    assert len(said) <= 3 * len(headings)
    assert "Traceback" not in output.err + output.out
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("model=ccn", "model=cnn"),
        ("modle=cnn", "model=cnn"),
        ("optimizer.lrr=0.1", "optimizer.lr=0.1"),
        ("traner.max_epochs=3", "trainer.max_epochs=3"),
        ("optimizer.lr=0.1,0.01", "-m optimizer.lr=0.1,0.01, or optimizer.lr=[0.1,0.01] for a list"),
        ("checkpoint.monitor=val/acuracy", "checkpoint.monitor=val/accuracy"),
        ("model._target_=my_package.Net", "allow_targets=[my_package.*]"),
        ("trian", "python -m runner train"),
        ("model", "model=OPTION"),
    ],
)
def test_a_mistake_comes_with_what_to_type_instead(
    run: Run, capsys: pytest.CaptureFixture[str], line: str, remedy: str
) -> None:
    run(line)
    assert f"  try: {remedy}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("_target_: runner.model.MLP\n  hidden: [1\n", "line 2"),
        ("a: 1\nb: {x: 1, y\nc: 2\n", "line 3"),
        ("hidden: 'open\n", "line 2"),
    ],
)
def test_broken_yaml_is_reported_with_its_line(
    run: Run, capsys: pytest.CaptureFixture[str], text: str, where: str
) -> None:
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/net.yaml").write_text(text)
    assert run("--config-dir", "mine", "model=net") == 2
    assert re.match(rf"error: .*mine/model/net\.yaml, {where}: is not YAML", capsys.readouterr().err)
    assert not Path("outputs").exists()


def test_a_file_with_the_name_of_one_of_ours_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/cnn.yaml").write_text("_target_: mine.Net")
    assert run("--config-dir", "mine", "model=cnn") == 2
    assert capsys.readouterr().err.startswith("error: mine/model/cnn.yaml: has the name of one of runner's own files")


def test_a_file_in_another_encoding_is_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/net.yaml").write_bytes("_target_: é".encode("latin-1"))
    assert run("--config-dir", "mine", "model=net") == 2
    assert capsys.readouterr().err.startswith("error: model: the file of option 'net' is not UTF-8 text")


def test_a_folder_of_the_users_own(run: Run) -> None:
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/tiny.yaml").write_text(
        "_target_: torch.nn.Sequential\n"
        "_args_:\n"
        "  - {_target_: torch.nn.Flatten}\n"
        "  - {_target_: torch.nn.Linear, in_features: 64, out_features: '${facts.num_classes}'}\n"
    )
    assert run("model=tiny", "--config-dir", "mine", "trainer.max_epochs=1", "trainer.threads=1") == 0


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
    typed = ("dataset=arms", "transform=none", "allow_targets=[arms.*]", *QUICK)
    assert run("--config-dir", "mine", *typed) == 0
    made = only_run()
    first = (made / "metrics.jsonl").read_bytes()
    assert run(f"resume={made}", "trainer.max_epochs=3") == 2  # who types has to allow the code again
    assert run(f"resume={made}", "trainer.max_epochs=3", "allow_targets=[arms.*]") == 0
    assert (made / "metrics.jsonl").read_bytes().startswith(first)


def test_help_names_commands_groups_options_and_examples(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    for expected in (
        "train (or none)",
        "model: cnn, lenet, linear, mlp",
        "loss: bce, cross_entropy, focal, huber",
        "python -m runner model=cnn",
    ):
        assert expected in text
    assert "$" not in text


def test_the_configuration_can_be_looked_at(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("model=mlp", "--cfg", "job", "seed=7") == 0
    text = capsys.readouterr().out
    assert "seed: 7" in text
    assert "_target_: runner.model.MLP" in text
    assert not Path("outputs").exists()


@pytest.mark.parametrize("line", ["--help", "--cfg job", "--version", "model=foo", "modle=cnn", "trian"])
def test_nothing_heavy_is_imported_for_what_does_not_run(line: str) -> None:
    program = (
        f"import sys; from runner.__main__ import main; main({line.split()!r}); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'sklearn', 'numpy', 'tensorboard')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert re.fullmatch(r"runner \S+ \(torch \S+, hydra-core 1\.3\.\d+\)\n", capsys.readouterr().out)


def test_flags_and_overrides_in_any_order() -> None:
    arguments = ["a=1", "-m", "b=2", "--config-dir", "mine", "c=3", "--cfg", "job"]
    assert _sort(arguments) == (["-m", "--config-dir", "mine", "--cfg", "job"], ["a=1", "b=2", "c=3"])


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
    assert run(*QUICK) == run(*QUICK) == 0
    assert sorted(path.name for path in Path("outputs/2026-01-02").iterdir()) == ["03-04-05", "03-04-05-1"]


class _Now:
    def strftime(self, pattern: str) -> str:
        return time.strftime(pattern, (2026, 1, 2, 3, 4, 5, 0, 0, 0))


def test_a_named_folder_is_taken_literally(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUICK, "hydra.run.dir=here") == 0
    before = {path: path.read_bytes() for path in Path("here").rglob("*") if path.is_file()}
    assert run(*QUICK, "hydra.run.dir=here") == 2
    assert "try: resume=here, to go on with that run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("here").rglob("*") if path.is_file()} == before


def test_a_named_folder_without_a_checkpoint_starts_over(run: Run) -> None:
    Path("here").mkdir()
    Path("here/metrics.jsonl").write_text("of a run that died before its first checkpoint\n")
    assert run(*QUICK, "hydra.run.dir=here") == 0
    assert len(Path("here/metrics.jsonl").read_text().splitlines()) == 2


def test_a_sweep_runs_every_combination(run: Run) -> None:
    assert run("-m", *QUICK, "optimizer.lr=0.01,0.001", "seed=0,1") == 0
    jobs = sorted(Path("outputs/multirun").glob("*/*/*/config.yaml"))
    assert [path.parent.name for path in jobs] == ["0", "1", "2", "3"]
    texts = [path.read_text() for path in jobs]
    assert [("lr: 0.01\n" in text, "seed: 1\ndevice" in text) for text in texts] == [
        (True, False), (True, True), (False, False), (False, True),
    ]  # fmt: skip


def test_a_job_that_fails_ends_no_other_job(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-m", *QUICK, "loss.weight=[1],null") == 2
    assert "loss.weight: [1] does not give a weight for each class" in capsys.readouterr().err
    assert [path.parent.name for path in Path("outputs/multirun").glob("*/*/*/result.json")] == ["1"]


def test_an_unexpected_error_is_a_failed_run_with_its_traceback(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.trainer.Trainer.step", lambda *_: 1 / 0)
    assert run(*QUICK) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    folder = only_run()
    assert '"state": "failed"' in (folder / "result.json").read_text()
    assert "ZeroDivisionError: division by zero" in (folder / "result.json").read_text()
    assert "ZeroDivisionError" in (folder / "runner.log").read_text()
