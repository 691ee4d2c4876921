from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from runner import config
from runner.checks import targets


def test_locate_takes_modules_classes_and_their_attributes() -> None:
    assert targets.locate("pathlib.Path.home") == Path.home
    assert targets.locate("os.path.join")("a", "b") == "a/b"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nosuchmodule.X", "there is no module 'nosuchmodule'"),
        ("runner.model.CMN", "runner.model has no 'CMN'; there is runner.model.CNN"),
        ("runner.modle.CNN", "runner has no 'modle'; there is runner.model"),
    ],
)
def test_locate_says_where_a_path_ends(path: str, message: str) -> None:
    import runner.model  # noqa: F401  # or `runner` would not know the name `model`

    with pytest.raises(LookupError, match=message):
        targets.locate(path)


def test_a_module_that_fails_to_import_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "needy.py").write_text("import nothing_of_the_kind")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LookupError, match="importing broken failed: ZeroDivisionError"):
        targets.locate("broken.X")
    with pytest.raises(LookupError, match="needs nothing_of_the_kind, which is not installed"):
        targets.locate("needy.X")


def test_what_a_module_imports_for_itself_is_not_suggested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("import numpy as np\nimport numpy as nets\nfrom . import parts\n")
    (tmp_path / "mine" / "parts.py").write_text("import json as loss\n_loss = None\ndef lose(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    for path, said in {
        "mine.nope": "mine has no 'nope'",
        "mine.net": "mine has no 'net'",
        "mine.part": "mine has no 'part'; there is mine.parts",
        "mine.parts.losse": "mine.parts has no 'losse'; there is mine.parts.lose",
    }.items():
        with pytest.raises(LookupError) as caught:
            targets.locate(path)
        assert caught.value.args == (said,)


CALLS: list[str] = []


def innocent() -> None:
    CALLS.append("called")


@pytest.mark.parametrize(
    "target",
    [
        "os.system", "builtins.eval", "subprocess.run", "pickle.loads", "torch.load", "torch.hub.load",
        "torch.nn.utils.prune.torch.load", "runner.folder.os.remove", f"{__name__}.innocent", "builtins.exec",
        "shutil.rmtree", "pickle.load", "posix.system", "runner.result._git", "runner.model._conv",
        "torchvision.datasets.mnist.torch.load", "torchvision.datasets.utils.extract_archive",
        "sklearn.datasets.fetch_california_housing", "torch.nn.modules.module.os.system",
        "sklearn.metrics.pairwise.os.system", "torch.nn.functional.torch.load",
    ],
)  # fmt: skip
def test_targets_that_are_not_allowed_are_refused_without_being_called(target: str) -> None:
    trees = [{group: {"_target_": target}} for group in ("model", "dataset", "loss", "optimizer", "scheduler", "split")]
    for tree in (*trees, {"metric": {"x": [{"y": {"_target_": target}}]}}):
        found = [p for p in config.check(OmegaConf.create({**tree, "facts": {}})) if p.key.endswith("_target_")]
        assert len([p for p in found if target in p.what]) == 1
    assert CALLS == []


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("torch.load", "torch.*"), ("pickle.loads", "*"), ("os.system", "os.*"),
        ("multiprocessing.reduction.pickle.loads", "*"),
    ],
)  # fmt: skip
def test_what_runs_whatever_it_is_given_nobody_can_allow(target: str, allowed: str) -> None:
    tree = OmegaConf.create({"model": {"_target_": target}, "allow_targets": [allowed]})
    (found,) = [p for p in config.check(tree) if p.key == "model._target_"]
    assert target in found.what


def test_a_user_can_allow_targets_of_their_own() -> None:
    tree = OmegaConf.create({"model": {"_target_": f"{__name__}.innocent"}, "allow_targets": [f"{__name__}.*"]})
    assert [p for p in config.check(tree) if p.key.startswith("model")] == []


@pytest.mark.parametrize(
    ("content", "key", "what"),
    [
        ({"_target_": "torch.optim.SGD", "foo": 1}, "optimizer.foo", "no argument 'foo'"),
        ({"_target_": "torch.optim.SGD", "nesterov": "yes"}, "optimizer.nesterov", "'yes' is not allowed"),
        ({"_target_": "torch.optim.SGD", "maximize": 1}, "optimizer.maximize", "1 is not allowed"),
        ({"_target_": "runner.dataset.table"}, "optimizer.path", "is missing"),
    ],
)
def test_keys_are_checked_against_the_signature(content: dict[str, Any], key: str, what: str) -> None:
    found = {p.key: p.what for p in config.check(OmegaConf.create({"optimizer": content}))}
    assert what in found[key]


@pytest.mark.parametrize(
    ("target", "key", "value", "message"),
    [
        ("runner.dataset.table", "header", "no", "'no' is not allowed\n  allowed: true, false, or auto"),
        ("runner.dataset.table", "header", "atuo", "'atuo' is not allowed\n  .*\n  try: dataset.header=auto"),
        ("runner.dataset.table", "task", "regresion", "'regresion' .*\n  .*\n  try: dataset.task=regression"),
        ("runner.dataset.table", "duplicates", "yes", "'yes' is not allowed\n  allowed: keep, drop"),
        ("runner.dataset.table", "missing_target", "dorp", "'dorp' .*\n  .*\n  try: dataset.missing_target=drop"),
        ("runner.dataset.image_folder", "on_error", "ignore", "'ignore' is not allowed\n  allowed: stop, skip"),
        ("runner.dataset.image_folder", "channels", 2, "2 is not allowed\n  allowed: 1, 3, 4"),
        ("runner.dataset.image_folder", "cache", 3, "3 is not allowed\n  allowed: a string, or null"),
    ],
)
def test_values_are_of_the_kinds_that_the_target_says(target: str, key: str, value: Any, message: str) -> None:
    given = {"path": "x"} if target.endswith("table") else {"root": "x"}
    (problem,) = targets.check({"dataset": {"_target_": target, **given, key: value}})
    assert problem.key == f"dataset.{key}"
    assert re.search(message, str(problem))
    assert targets.check({"dataset": {"_target_": target, **given}}) == []
    allowed = {"header": ["auto", True, False], "channels": [1, 3, 4], "cache": [None, "x"]}.get(key, [])
    for fine in allowed:
        assert targets.check({"dataset": {"_target_": target, **given, key: fine}}) == []


def test_keys_of_hydras_say_how_the_run_calls_a_target_or_are_refused() -> None:
    def keys(tree: dict[str, Any]) -> list[str]:
        return [problem.key for problem in targets.check(tree)]

    model = {"_target_": "torch.nn.Linear", "in_features": 4, "out_features": 3}
    as_called = {"_convert_": "all", "_recursive_": True, "_partial_": False}
    adam = {"_target_": "torch.optim.Adam", "_partial_": True}
    assert keys({"model": model | as_called, "optimizer": adam}) == []
    others = {"_convert_": "partial", "_recursive_": False, "_partial_": True}
    assert keys({"model": model | others}) == [f"model.{key}" for key in others]
    assert keys({"resume": "outputs/x", "model": model | others}) == []  # an earlier version took them
    inside = {"_target_": "torch.nn.Sequential", "_args_": [model | others]}  # which Hydra calls, as they say
    assert keys({"model": inside}) == []


def test_an_argument_that_the_run_gives_cannot_be_set() -> None:
    (found,) = targets.check({"optimizer": {"_target_": "torch.optim.Adam", "params": []}})
    assert (found.key, found.remedy) == ("optimizer.params", "leave out optimizer.params")
    own = {"_target_": "torch.nn.CrossEntropyLoss", "weight": [1, 2], "reduction": "none"}
    assert targets.check({"loss": own}) == []
