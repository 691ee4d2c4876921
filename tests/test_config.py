from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from runner import config, schema
from runner.errors import ConfigError


def node(**content: Any) -> Any:
    return OmegaConf.create({"model": content, "facts": {"n": 7}}).model


def test_a_target_is_called_with_the_other_keys() -> None:
    assert config.build(node(_target_="builtins.dict", a=1, b=[2])) == {"a": 1, "b": [2]}


def test_arguments_are_plain_containers_and_references_are_resolved() -> None:
    made = config.build(node(_target_="builtins.dict", a="${facts.n}", b={"c": ["${facts.n}"]}, d="${.a}"))
    assert made == {"a": 7, "b": {"c": [7]}, "d": 7}
    assert type(made["b"]) is dict
    assert type(made["b"]["c"]) is list


def test_what_the_run_gives_is_added_and_wins() -> None:
    assert config.build(node(_target_="builtins.dict", a=1), a=2, b=3) == {"a": 2, "b": 3}


def test_keys_of_ours_are_taken_out() -> None:
    assert config.factory(node(_target_="builtins.dict", a=1, ours=2), ["ours"])() == {"a": 1}


def test_targets_inside_arguments_are_built() -> None:
    inner = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": "${facts.n}"}
    assert config.build(node(_target_="torch.nn.Sequential", _args_=[inner]))[0].out_features == 7


def test_locate_takes_modules_classes_and_their_attributes() -> None:
    assert config.locate("pathlib.Path.home") == Path.home
    assert config.locate("os.path.join")("a", "b") == "a/b"


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
        config.locate(path)


def test_a_module_that_fails_to_import_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "needy.py").write_text("import nothing_of_the_kind")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LookupError, match="importing broken failed: ZeroDivisionError"):
        config.locate("broken.X")
    with pytest.raises(LookupError, match="needs nothing_of_the_kind, which is not installed"):
        config.locate("needy.X")


CALLS: list[str] = []


def innocent() -> None:
    CALLS.append("called")


@pytest.mark.parametrize(
    "target",
    [
        "os.system", "builtins.eval", "subprocess.run", "pickle.loads", "torch.load", "torch.hub.load",
        "torch.nn.utils.prune.torch.load", "runner.folder.os.remove", "test_config.innocent",
    ],
)  # fmt: skip
def test_targets_that_are_not_allowed_are_refused_without_being_called(target: str) -> None:
    for tree in ({"model": {"_target_": target}}, {"metric": {"x": [{"y": {"_target_": target}}]}}):
        found = [p for p in config.check(OmegaConf.create({**tree, "facts": {}})) if p.key.endswith("_target_")]
        assert len([p for p in found if target in p.what]) == 1
    assert CALLS == []


def test_a_user_can_allow_targets_of_their_own() -> None:
    tree = OmegaConf.create({"model": {"_target_": "test_config.innocent"}, "allow_targets": ["test_config.*"]})
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


def test_a_reference_that_leads_nowhere_is_a_problem_and_one_to_a_fact_is_not() -> None:
    tree = OmegaConf.create({"model": {"a": "${facts.classes}", "b": "${facts.clases}"}, "facts": {"classes": "???"}})
    made, found = config.plain(tree)
    assert made == {"model": {"a": schema.UNKNOWN, "b": schema.UNKNOWN}}
    assert [(p.key, "${facts.clases}" in p.what) for p in found] == [("model.b", True)]


def test_what_is_saved_is_resolved_and_what_is_loaded_refers_again(tmp_path: Path) -> None:
    raw = {
        "seed": 3,
        "model": {"classes": "${facts.classes}", "when": "${oc.env:HOME}", "text": "n=${seed}"},
        "transform": {"train": [{"size": "${seed}"}], "eval": "${.train}"},
        "facts": {"classes": "???"},
    }
    cfg = OmegaConf.create(raw)
    config.fill(cfg, {"classes": 10})
    config.save(cfg, tmp_path / "config.yaml")

    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert saved["model"]["classes"] == saved["facts"]["classes"] == 10
    assert saved["model"]["text"] == "n=3"
    assert saved["transform"]["eval"] == [{"size": 3}]

    raw["model"]["when"] = saved["model"]["when"]  # the environment of the first start is kept
    assert config.load(tmp_path / "config.yaml") == raw


@pytest.mark.parametrize("content", ["", "[1, 2]", "a: [", "seed: 0", "interpolations: {}"])
def test_a_file_that_save_did_not_write_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ConfigError, match="not the configuration of a run"):
        config.load(tmp_path / "config.yaml")
