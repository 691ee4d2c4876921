"""Runs side by side: what tells them apart, their ranks, and how sure those are, against hand-made folders."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Run, rows

from runner import options, runs, terminal
from runner.compare import apart, command
from runner.ranking import Row
from runner.table import Table

CONFIG: dict[str, Any] = {
    "seed": 0,
    "device": "cpu",
    "dataset": {"_target_": "runner.dataset.digits"},
    "split": {"_target_": "runner.split.stratified", "seed": 0},
    "transform": {"train": [{"_target_": "runner.transform.Normalize", "mean": None}]},
    "model": {"_target_": "runner.model.MLP", "hidden": [16], "num_outputs": 10, "dropout": 0.0},
    "loss": {"_target_": "torch.nn.CrossEntropyLoss", "weight": None},
    "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.001},
    "metric": {"accuracy": {"_target_": "sklearn.metrics.accuracy_score"}},
    "trainer": {"max_epochs": 2, "threads": 1, "early_stopping": {"patience": None}, "step": None},
    "checkpoint": {"monitor": "val/loss", "mode": "auto"},
}


def make(
    path: str, figure: float | None = 0.5, state: str = "completed", data: str = "d", split: str = "s", day: int = 1,
    **typed: Any,
) -> Path:  # fmt: skip
    """Write a run folder. `typed` are keys, with __ for the dots; its val/accuracy and test/accuracy follow from the
    val/loss that is its `figure`."""
    config = json.loads(json.dumps(CONFIG))
    for key, value in typed.items():
        node, (*groups, name) = config, key.split("__")
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = value
    config["facts"] = {
        "num_outputs": 10,
        "train_samples": 80,
        "val_samples": 20,
        "test_samples": 40,
        "split_hash": split,
    }
    config.setdefault("interpolations", {"model.num_outputs": "${facts.num_outputs}"})
    accuracy = None if figure is None else 1 - figure
    metrics = {"val/loss": figure, "val/accuracy": accuracy, "test/accuracy": accuracy}
    layers = [{"layer": "0", "parameters": 60}, {"layer": "all", "parameters": 1234}]
    result = {"state": state, "metrics": metrics if state == "completed" else {}, "started": f"2026-01-{day:02}",
              "seconds": 1.5, "split": split, "tables": {"model/layers": layers}}  # fmt: skip
    folder = Path(path)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "split.json").write_text(json.dumps({"data": data, "hash": split}))
    return folder


def told(*typed: dict[str, Any]) -> list[dict[str, str]]:
    """What tells runs apart that were `typed` so."""
    return told_of("r", *typed)


def told_of(name: str, *typed: dict[str, Any]) -> list[dict[str, str]]:
    return apart.keys([runs.read(make(f"{name}{number}", **keys)) for number, keys in enumerate(typed)])


def test_keys_that_differ_alone_are_told() -> None:
    assert told({"seed": 0}, {"seed": 1, "optimizer__lr": 0.5}) == [
        {"seed": "0", "optimizer.lr": "0.001"}, {"seed": "1", "optimizer.lr": "0.5"},
    ]  # fmt: skip


def test_a_target_that_differs_goes_by_its_name_without_its_arguments() -> None:
    cnn = {"_target_": "runner.model.CNN", "channels": [8], "dropout": 0.5, "num_outputs": 10}
    assert told({}, {"model": cnn}) == [{"model": "MLP"}, {"model": "CNN"}]


def test_arguments_are_told_where_runs_of_one_target_differ_in_them() -> None:
    cnn = {"_target_": "runner.model.CNN", "channels": [8], "dropout": 0.5}
    assert told({}, {"model": cnn}, {"model": cnn | {"channels": [8, 16]}}) == [
        {"model": "MLP"}, {"model": "CNN", "model.channels": "[8]"}, {"model": "CNN", "model.channels": "[8, 16]"},
    ]  # fmt: skip


def test_two_targets_of_one_name_go_by_their_paths() -> None:
    mine = {"_target_": "mine.MLP"}
    assert told({}, {"model": mine}) == [{"model": "runner.model.MLP"}, {"model": "mine.MLP"}]


def test_a_target_in_the_place_of_a_value() -> None:
    mixup = {"_target_": "runner.trainer.step.Mixup", "alpha": 0.2}
    assert told({}, {"trainer__step": mixup}) == [{"trainer.step": "null"}, {"trainer.step": "Mixup"}]
    assert apart.keys([runs.read(Path("r1")), runs.read(make("x", trainer__step=mixup | {"alpha": 1.0}))]) == [
        {"trainer.step.alpha": "0.2"}, {"trainer.step.alpha": "1"},
    ]  # fmt: skip


def test_targets_in_a_list_have_their_arguments_where_names_do_not_tell() -> None:
    flip, normal = {"_target_": "x.Flip"}, CONFIG["transform"]["train"][0]
    assert told({}, {"transform__train": [flip, normal]}) == [
        {"transform.train": "[Normalize]"}, {"transform.train": "[Flip, Normalize]"},
    ]  # fmt: skip
    other = runs.read(make("x", transform__train=[normal | {"mean": 0.5}]))
    assert apart.keys([runs.read(Path("r0")), other]) == [
        {"transform.train": "[Normalize(mean=null)]"}, {"transform.train": "[Normalize(mean=0.5)]"},
    ]  # fmt: skip


def test_a_group_without_a_target_goes_by_its_option() -> None:
    plain, moved = (
        {f"transform__{key}": value for key, value in yaml.safe_load(path.read_text()).items()}
        for path in (options.home() / "transform" / f"{name}.yaml" for name in ("normalize", "crop_flip"))
    )
    plain |= {"transform__eval": plain["transform__train"], "interpolations": {"transform.eval": "${.train}"}}
    assert told(plain, moved) == [{"transform": "normalize"}, {"transform": "crop_flip"}]


def test_a_group_that_is_no_option_as_it_stands_is_told_by_its_values() -> None:
    normalize = yaml.safe_load((options.home() / "transform/normalize.yaml").read_text())["train"]
    plain = {"transform__train": normalize, "transform__eval": "${.train}"}
    turned = [{"_target_": "torchvision.transforms.v2.RandomRotation", "degrees": 10}, *normalize]
    assert told(plain, plain | {"transform__train": turned}) == [
        {"transform.train": "[Normalize]"}, {"transform.train": "[RandomRotation, Normalize]"},
    ]  # fmt: skip


def test_an_option_is_known_by_its_references_too_and_keys_are_in_the_order_of_the_groups() -> None:
    table = {"_target_": "runner.transform.Table", "categories": [["P0000", "P0001"], None]}
    references = {"transform.train.0.categories": "${facts.categories}", "transform.eval": "${.train}"}
    of_a_table = {"transform__train": [table], "transform__eval": [table], "interpolations": references}
    normalize = [{"_target_": "runner.transform.Normalize", "mean": None, "std": None}]
    plain = {"transform__train": normalize, "transform__eval": "${.train}"}
    keys = told(plain, {"optimizer__lr": 0.5, "split__val": 0.1, **of_a_table})
    assert list(keys[1].items()) == [("split.val", "0.1"), ("transform", "table"), ("optimizer.lr", "0.5")]


def test_what_a_reference_became_is_not_told_but_what_was_typed_in_its_place() -> None:
    by_seed = {"interpolations": {"split.seed": "${seed}"}}
    first, second = told({"seed": 1, "split__seed": 1, **by_seed}, {"seed": 2, "split__seed": 2, **by_seed})
    assert (first, second) == ({"seed": "1"}, {"seed": "2"})
    assert told_of("b", {"split__seed": 0, **by_seed}, {"split__seed": 7}) == [{"split.seed": "0"}, {"split.seed": "7"}]


def test_what_the_data_gave_in_a_list_stays_a_reference() -> None:
    table = {"_target_": "runner.transform.Table", "categories": [["P0000", "P0001"], None]}
    given = {"interpolations": {"transform.train.0.categories": "${facts.categories}"}}
    assert told({}, {"transform__train": [table], **given}) == [
        {"transform.train": "[Normalize]"}, {"transform.train": "[Table]"},
    ]  # fmt: skip
    other = runs.read(make("x", transform__train=[table | {"mean": 1}], **given))
    assert apart.keys([runs.read(Path("r1")), other])[0] == {
        "transform.train": "[Table(categories=${facts.categories})]"
    }


def test_a_group_that_is_a_reference_says_nothing_of_its_own() -> None:
    widths = [{"optimizer__lr": n, "other": {"lr": n}, "interpolations": {"other": "${optimizer}"}} for n in (1, 2)]
    assert told(*widths) == [{"optimizer.lr": "1"}, {"optimizer.lr": "2"}]


def test_a_reference_in_a_list_says_nothing_of_its_own() -> None:
    layers = [[{"_target_": "x.Linear", "out": width}] for width in (1, 2)]
    refers = {"model.layers.0.out": "${facts.num_outputs}"}
    typed = [{"model__layers": each, "interpolations": refers} for each in layers]
    assert told_of("a", *typed) == [{}, {}]
    assert told_of("b", *({**each, "interpolations": {}} for each in typed)) == [
        {"model.layers": "[Linear(out=1)]"}, {"model.layers": "[Linear(out=2)]"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "counts"),
    [
        ("trainer__max_epochs", True), ("trainer__max_steps", True), ("trainer__early_stopping__patience", True),
        ("trainer__precision", True), ("loader__batch_size", True), ("checkpoint__monitor", True), ("seed", True),
        ("device", False), ("resume", False), ("trainer__threads", False), ("loader__num_workers", False),
        ("checkpoint__keep", False), ("tensorboard__enabled", False), ("sweep__n_jobs", False), ("check", False),
        ("metric__f1___target_", False), ("allow_targets", False), ("figures", False), ("split__fold", False),
    ],
)  # fmt: skip
def test_what_is_not_of_the_experiment_is_not_told(key: str, counts: bool) -> None:
    assert told({key: 5}, {key: 6}) == ([{key.replace("__", "."): str(n)} for n in (5, 6)] if counts else [{}, {}])


def test_whole_numbers_and_long_ones() -> None:
    assert told({"optimizer__lr": 1}, {"optimizer__lr": 1.0}) == [{}, {}]
    assert told_of("a", {"optimizer__lr": 0.1 + 0.2}, {"optimizer__lr": 1.0}) == [
        {"optimizer.lr": "0.3"}, {"optimizer.lr": "1"},
    ]  # fmt: skip
    near = {"optimizer__lr": 0.3}
    assert told_of("b", {"optimizer__lr": 0.1 + 0.2}, near)[0] == {"optimizer.lr": "0.30000000000000004"}


def seeds(name: str, *figures: float, **typed: Any) -> None:
    for seed, figure in enumerate(figures):
        make(f"all/{name}{seed}", figure, seed=seed, **typed)


def test_settings_are_ranked_with_seconds_and_parameters(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    seeds("slow", 0.5, 0.7)
    seeds("fast", 0.2, 0.3, 0.4, optimizer__lr=0.1)
    assert run("compare", "all") == 0
    output = capsys.readouterr()
    assert output.out == (
        "5 runs, 2 settings\n"
        "\n"
        "Ranked by val/loss (lower is better)\n"
        "     optimizer.lr   runs      val/loss          95 % interval      test/accuracy     seconds   parameters\n"
        " ────────────────────────────────────────────────────────────────────────────────────────────────────────\n"
        " 1   0.1            3 seeds   0.3000 ± 0.1000   0.0516 … 0.5484    0.7000 ± 0.1000       1.5        1,234\n"
        " 2   0.001          2 seeds   0.6000 ± 0.1414   -0.6706 … 1.8706   0.4000 ± 0.1414       1.5        1,234\n"
        "\n"
        "Against the best in val/loss\n"
        "     optimizer.lr   pairs     behind by   95 % interval           p\n"
        " ──────────────────────────────────────────────────────────────────\n"
        " 2   0.001          2 seeds      0.3500   -0.2853 … 0.9853   0.0903\n"
        "  mean paired difference (> 0: the best setting is better):\n"
        "  seeds: paired t-test\n"
        "\n"
        "  folder of the best     all/fast0 and 2 more\n"
        "  all metrics (CSV)      python -m runner compare all --csv\n"
    )
    assert not output.err


def lines(run: Run, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, str]]:
    """The rows of ``--csv``."""
    assert run("compare", *arguments, "--csv") == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_csv_has_every_figure_of_every_run_unrounded_and_nothing_else(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    make("all/b", 1 / 3, optimizer__lr=0.1 + 0.2)
    make("all/a", 0.4)
    make("all/c", state="failed", seed=7)
    first, second, third = lines(run, capsys, "all")
    assert list(first) == [
        "folder", "seed", "optimizer.lr", "state", "parameters", "val/loss", "val/accuracy", "test/accuracy", "seconds",
        "error",
    ]  # fmt: skip
    assert (first["folder"], float(first["val/loss"]), float(first["optimizer.lr"])) == ("all/b", 1 / 3, 0.1 + 0.2)
    assert (second["folder"], second["parameters"]) == ("all/a", "1234")
    assert (third["folder"], third["state"], third["val/loss"]) == ("all/c", "failed", "")


def test_markdown_is_all_of_the_output(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    seeds("a", 0.5, 0.7)
    seeds("b", 0.2, 0.3, optimizer__lr=0.1)
    make("all/c", state="interrupted")
    assert run("compare", "all", "--md") == 0
    output = capsys.readouterr()
    assert [line for line in output.out.splitlines() if not line.startswith("|")] == [
        "### Ranked by val/loss (lower is better)", "", "", "### Against the best in val/loss", "",
    ]  # fmt: skip
    assert "| 1 | 0.1 | 2 seeds | 0.2500 ± 0.0707 |" in output.out
    assert output.err == "4 runs, 2 settings\n1 run not completed: all/c (interrupted)\n"


def test_the_metric_is_the_one_that_decides_in_the_runs(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    make("all/a", 0.5, checkpoint__monitor="val/accuracy", checkpoint__mode="min")
    make("all/b", 0.2, checkpoint__monitor="val/accuracy", checkpoint__mode="min", seed=1)
    run("compare", "all")
    assert "Ranked by val/accuracy (lower is better)" in capsys.readouterr().out
    make("all/c", 0.7, checkpoint__monitor="val/accuracy", checkpoint__mode="max", seed=2)
    run("compare", "all")
    assert "Ranked by val/accuracy (higher is better)" in capsys.readouterr().out  # they do not agree
    run("compare", "all", "--by=test/accuracy")
    output = capsys.readouterr().out
    assert "Ranked by test/accuracy (higher is better)" in output
    said = "caution: ranked by a test metric; the test result of a setting that was selected by it is too optimistic\n"
    assert said in output


def test_runs_with_other_losses_are_ranked_by_another_metric(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    make("all/a", 0.5)
    make("all/b", 0.2, loss={"_target_": "torch.nn.NLLLoss"})
    run("compare", "all")
    assert "Ranked by val/accuracy (higher is better)" in capsys.readouterr().out
    run("compare", "all", "--by", "val/loss")
    said = "caution: values of different loss functions cannot be compared; rank by another metric with --by METRIC\n"
    assert said in capsys.readouterr().out


def test_a_run_is_counted_once_and_folders_in_it_not_at_all(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    make("all/sweep/a", 0.5)
    make("all/sweep/b", 0.6, seed=1)
    for name in ("evaluate/x", "predict", ".hydra", "checkpoints", "tensorboard"):
        make(f"all/sweep/a/{name}", 0.1)
    make("all/.trash", 0.1)
    assert len(lines(run, capsys, "all", "all/sweep", "all/sweep/a", str(Path("all").absolute()))) == 2


def test_a_cross_validation_is_its_folds(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    make("all/cv", 0.3, split__fold="all")
    for fold in range(11):
        make(f"all/cv/fold-{fold}", fold / 10, split__fold=fold, split=f"s{fold}")
    found = lines(run, capsys, "all")
    assert [(line["folder"], line["fold"]) for line in found] == [("all/cv", str(fold)) for fold in range(11)]
    run("compare", "all")
    output = capsys.readouterr().out
    assert "11 folds   0.5000 ± 0.3317" in output
    assert "folder of the best     all/cv\n" in output


def test_of_runs_that_are_the_same_the_newest_counts(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    make("all/1", 0.1)
    make("all/2", 0.3, trainer__threads=2, day=10)
    make("all/3", 0.2, day=9)
    make("all/4", state="failed")
    run("compare", "all")
    output = capsys.readouterr().out
    assert "3 runs, 1 setting; 2 older runs of the same configuration left out\n" in output
    assert " 1   1        0.3000 " in output
    assert len(lines(run, capsys, "all")) == 4


def test_which_is_the_newest_does_not_depend_on_the_time_zone() -> None:
    """The hour that comes twice at the end of summer time: by their texts the first would be the later one."""
    first, later = "2026-10-25T02:50:00+02:00", "2026-10-25T02:10:00+01:00"
    both = [Row(name, {}, None, {"state": "completed", "started": when}) for name, when in (("a", first), ("b", later))]
    assert [row.job for row in command._newest(both)] == ["b"]


def test_what_is_not_completed_is_listed_and_not_ranked(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    make("all/a", 0.5)
    for number in range(7):
        make(f"all/b{number}", state=["failed", "running", "pruned"][number % 3], optimizer__lr=number)
    never = Path("all/c")
    (never / ".hydra").mkdir(parents=True)
    (never / "result.json").write_text('{"state": "failed", "metrics": {}, "error": "no luck"}')
    run("compare", "all")
    output = capsys.readouterr().out
    assert "1 run, 1 setting\n" in output
    listed = "all/b0 (failed), all/b1 (running), all/b2 (pruned), all/b3 (failed), all/b4 (running), and 3 more\n"
    assert f"8 runs not completed: {listed}" in output
    assert "optimizer.lr" not in output
    assert [line["error"] for line in lines(run, capsys, "all")][-1] == "no luck"


BROKEN = {
    "yaml": ("config.yaml", "a: [1\n"),
    "list": ("config.yaml", "- 1\n"),
    "latin": ("config.yaml", "caf\xe9: 1\n"),
    "facts": ("config.yaml", "facts: 3\n"),
    "json": ("result.json", '{"state": '),
    "number": ("result.json", "3"),
    "foreign": ("result.json", '{"answer": 42}'),
    "text": ("result.json", '{"state": "completed", "metrics": {"val/loss": "low"}}'),
    "deep": ("result.json", "[" * 100_000),
    "empty": ("result.json", ""),
}


def test_a_run_that_cannot_be_read_is_listed_and_the_others_are_compared(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make("all/good", 0.5)
    for name, (file, content) in BROKEN.items():
        (make(f"all/{name}", 0.1) / file).write_text(content, encoding="latin-1")
    (make("all/no result", 0.1) / "checkpoints").mkdir()
    Path("all/no result/result.json").unlink()
    (make("all/no config", 0.1) / ".hydra").mkdir()
    Path("all/no config/config.yaml").unlink()
    monkeypatch.setattr(command, "LISTED", 20)
    assert run("compare", "all") == 0
    output = capsys.readouterr().out
    assert "1 run, 1 setting\n" in output
    listed = next(line for line in output.splitlines() if line.startswith("12 runs cannot be read: "))
    for name, (file, _) in BROKEN.items():
        assert f"all/{name} ({file} " in listed
    assert "all/no result (result.json does not exist)" in listed
    assert "all/no config (config.yaml does not exist)" in listed


def test_a_folder_without_permission_is_listed(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make("all/good", 0.5)
    Path("all/secret").mkdir()
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert run("compare", "all") == 0
    assert "all/secret (Permission denied)" in capsys.readouterr().out
    assert run("compare", "all/secret") == 2
    assert capsys.readouterr().err.startswith("error: all/secret: cannot be read (Permission denied)\n")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("all --by val/acuracy", "--by: no completed run has 'val/acuracy'\n"
         "  allowed: val/loss, val/accuracy, test/accuracy\n  try: --by val/accuracy\n"),
        ("all seed=1", "seed=1: is not a folder; compare takes paths and flags, not KEY=VALUE\n"
         "  try: python -m runner compare --help\n"),
        ("all/run/config.yaml", "all/run/config.yaml: is not a folder\n  allowed: {allowed}\n  try: all/run\n"),
        ("all/bad", "all/bad: nothing to compare: 1 run not completed: all/bad (failed)\n"
         "  allowed: completed runs\n  try: python -m runner resume=FOLDER, to complete one\n"),
        ("nothing", "nothing: contains no run\n  allowed: {allowed}\n"),
        ("all nothing nowhere", "nothing: contains no run\n  allowed: {allowed}\n"
         "nowhere: does not exist\n  allowed: {allowed}\n"),
    ],
)  # fmt: skip
def test_mistakes_with_folders(run: Run, capsys: pytest.CaptureFixture[str], typed: str, said: str) -> None:
    allowed = "the folder of a run or a sweep, or a folder above them"
    make("all/run")
    make("all/bad", state="failed")
    Path("nothing").mkdir()
    before = sorted(Path().rglob("*"))
    assert run("compare", *typed.split()) == 2
    output = capsys.readouterr()
    assert output.err == "error: " + said.replace("{allowed}", allowed)
    assert not output.out
    assert sorted(Path().rglob("*")) == before


def test_a_path_with_an_equals_sign_is_a_path_if_it_is_there(run: Run) -> None:
    make("all/model=mlp,seed=0")
    assert run("compare", "all/model=mlp,seed=0") == 0


def cautions(run: Run, capsys: pytest.CaptureFixture[str]) -> list[str]:
    run("compare", "all")
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("caution")]


def test_other_data_and_other_splits_are_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    rest = "their metrics cannot be compared directly"
    make("all/a")
    make("all/b", split="t", optimizer__lr=0.1)
    same = "caution: not all settings use the same split, although their configurations are the same: "
    assert cautions(run, capsys) == [same + rest]
    make("all/c", split="u", split__test=0.1)
    assert cautions(run, capsys) == ["caution: not all settings use the same split (split.test): " + rest]
    make("all/d", data="e", dataset={"_target_": "runner.dataset.wine"})
    assert cautions(run, capsys) == ["caution: not all settings use the same data (dataset): " + rest]


def test_seeds_of_one_setting_with_other_data_are_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    seeds("a", 0.1, 0.2)
    make("all/a9", seed=9, data="e")
    assert cautions(run, capsys)[0].startswith("caution: not all settings use the same data, although")


def test_what_is_meant_to_differ_is_not_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for fold in range(3):
        make(f"all/a{fold}", split__fold=fold, split=f"s{fold}")
    make("all/b", split__fold=1, split="s1", optimizer__lr=0.1)
    assert cautions(run, capsys) == []


def test_data_that_are_drawn_by_the_seed_of_the_run_are_not_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        make(f"all/a{seed}", seed=seed, data=f"d{seed}", dataset__seed=seed, interpolations={"dataset.seed": "${seed}"})
    assert cautions(run, capsys) == []


def test_a_metric_that_is_another_function_is_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    make("all/a", checkpoint__monitor="val/accuracy")
    make("all/b", checkpoint__monitor="val/accuracy", metric__accuracy__normalize=False, seed=1)
    assert cautions(run, capsys) == ["caution: val/accuracy is not the same function in all runs"]


def test_a_metric_that_some_runs_lack_is_not_another_function(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    make("all/a", checkpoint__monitor="val/accuracy")
    lacking = make("all/b", checkpoint__monitor="val/accuracy", metric={}, optimizer__lr=0.1) / "result.json"
    lacking.write_text(json.dumps({"state": "completed", "metrics": {"val/loss": 0.1}, "split": "s"}))
    assert cautions(run, capsys) == []


def test_a_figure_that_is_nan_comes_last(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    make("all/a", None)
    make("all/b", 0.5, optimizer__lr=0.1)
    run("compare", "all")
    ranked = [line.split()[:4] for line in capsys.readouterr().out.splitlines() if line.startswith((" 1", " 2"))]
    assert ranked == [["1", "0.1", "1", "0.5000"], ["2", "0.001", "1", "NaN"]]


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (None, ["", "model", "runs", "val/loss", "95 % interval", "seconds", "parameters"]),
        (62, ["", "model", "runs", "val/loss", "seconds", "parameters"]),
        (44, ["", "model", "runs", "val/loss", "seconds"]),
        (33, ["", "model", "runs", "val/loss"]),
        (20, ["", "setting", "runs", "val/loss"]),
    ],
)
def test_a_narrow_terminal_has_fewer_columns(
    monkeypatch: pytest.MonkeyPatch, width: int | None, columns: list[str]
) -> None:
    monkeypatch.setattr(terminal, "width", lambda: width)
    names = ["", "model", "runs", "val/loss", "95 % interval", "seconds", "parameters"]
    table = Table("x", names, [[1, "CNN", "3", 0.5, "0.1 … 0.2", 1.0, 1000]])
    shown = command._fitted(table, {"model"})
    assert shown.columns == columns
    assert shown.rows[0][1] == ("model=CNN" if width == 20 else "CNN")


def test_neither_torch_nor_hydra_is_imported() -> None:
    for number in range(2):
        seeds(f"x{number}", 0.1 * number, 0.3, optimizer__lr=number + 1)
    program = (
        "import sys; from runner.__main__ import main\n"
        "for line in ('compare all', 'compare all --csv', 'compare all --md', 'compare --help', "
        "'diff all/x00 all/x10'):\n"
        "    assert main(line.split()) == 0, line\n"
        "    assert not {'torch', 'sklearn', 'hydra', 'omegaconf'} & set(sys.modules), line"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", "--help") == run("compare", "all", "-h") == 0
    text = capsys.readouterr().out
    assert text.count("usage: python -m runner compare ") == 2
    assert all(flag in text for flag in ("--by METRIC", "--csv", "--md", "PATH"))


def test_real_runs(run: Run, sweep: Path, crossed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep and a cross-validation as they are made: their figures, and their paired test."""
    Path("outputs").mkdir()
    sweep.rename("outputs/sweep")
    crossed.rename("outputs/cv")
    of_sweep = {row["folder"]: row for row in rows("outputs/sweep")}
    found = lines(run, capsys, "outputs/sweep")
    assert len(found) == 4
    for line in found:
        known = of_sweep[Path(line["folder"]).name]
        assert {name: line[name] for name in line if name not in ("folder", "parameters")} == {
            name: known[name] for name in known if name != "folder"
        }
        assert line["parameters"] == str(64 * 16 + 16 + 16 * 10 + 10)
    assert run("compare", "outputs") == 0
    output = capsys.readouterr().out
    assert "7 runs, 3 settings\n" in output
    assert "caution: not all settings use the same split (split)" in output
    assert "3 folds" in output
    assert run("compare", "outputs/sweep") == 0
    ranked, tested = capsys.readouterr().out.split("Against the best in val/loss\n")
    assert ranked.index("0.01 ") < ranked.index("0.001 ")
    (line,) = [line for line in tested.splitlines() if " 2   0.001 " in line]
    figures = {(row["optimizer.lr"], row["seed"]): float(row["val/loss"]) for row in of_sweep.values()}
    ahead = [figures["0.001", seed] - figures["0.01", seed] for seed in ("0", "1")]
    assert f"{math.fsum(ahead) / 2:.4f}" in line
