from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner import compose, config, references
from runner.checks.values import UNKNOWN
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
    assert config.factory(node(_target_="builtins.dict", a=1))(a=2, b=3) == {"a": 2, "b": 3}


def test_keys_of_ours_are_taken_out() -> None:
    assert config.factory(node(_target_="builtins.dict", a=1, ours=2), ["ours"])() == {"a": 1}


def test_targets_inside_arguments_are_built() -> None:
    inner = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": "${facts.n}"}
    assert config.build(node(_target_="torch.nn.Sequential", _args_=[inner]))[0].out_features == 7


def test_a_target_anywhere_in_the_arguments_is_built() -> None:
    inner = {"b": [{"_target_": "builtins.list"}], "n": "${facts.n}"}
    assert config.build(node(_target_="builtins.dict", a=inner, c=1)) == {"a": {"b": [[]], "n": 7}, "c": 1}


def test_an_argument_that_is_missing_or_would_be_read_as_a_reference_is_refused() -> None:
    for missing in ({"a": "???"}, {"a": {"b": ["???"]}}, {"a": "${facts.m}"}, {"a": ["\\${x}"]}):
        tree = OmegaConf.create({"model": {"_target_": "builtins.dict", **missing}, "facts": {"m": "???"}})
        with pytest.raises(ConfigError if "x" in str(missing) else OmegaConfBaseException):
            config.build(tree.model)


def test_plain_values_are_as_they_are_and_what_is_to_be_given_is_marked() -> None:
    raw = {"a": {"b": [1, None, "???", {"c": "x"}], 3: 0.5}, "d": "???", "e": None, "f": "\\${x}"}
    assert config.plain(OmegaConf.create(raw)) == (raw | {"f": "${x}"}, [])


def test_a_reference_that_leads_nowhere_is_a_problem_and_one_to_a_fact_is_not() -> None:
    model = {"a": "${facts.classes}", "b": "${facts.clases}"}
    tree = OmegaConf.create({"model": model, "facts": {"classes": "???"}, "hydra": {"mode": "RUN"}})
    made, found = config.plain(tree)
    assert made == {"model": {"a": UNKNOWN, "b": UNKNOWN}}
    assert [(p.key, "${facts.clases}" in p.what) for p in found] == [("model.b", True)]


GROUPS = ("dataset", "split", "loader", "loss", "optimizer", "scheduler", "trainer", "metric", "checkpoint",
          "tensorboard", "sweep")  # fmt: skip
"""Which every run has, beside the model and the transform."""


def test_what_is_saved_is_resolved_and_what_is_loaded_refers_again(tmp_path: Path) -> None:
    raw: dict[str, Any] = {
        **{name: {} for name in GROUPS},
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

    assert saved["model"]["when"] == "${oc.env:HOME}"
    loaded = config.load(tmp_path / "config.yaml")
    assert references.is_to_be_typed(loaded["model"].pop("when"))
    raw["model"].pop("when")
    raw["facts"]["numbers"] = "float32"  # in which earlier versions, which did not say so, read them
    assert loaded == raw | {"allow_targets": []}


@pytest.mark.parametrize("content", ["", "[1, 2]", "a: [", "seed: 0", "interpolations: {}", "a: 2020-13-45", "a: \xe9"])
def test_a_file_that_save_did_not_write_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match="not the configuration of a run"):
        config.load(tmp_path / "config.yaml")


@pytest.mark.parametrize("group", ["launcher", "sweeper"])
def test_a_configuration_is_copied_also_when_the_class_of_a_plugin_was_loaded_anew(
    monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    for option in ConfigStore.instance().list(f"hydra/{group}"):
        name = option.removesuffix(".yaml")
        cfg = compose.loader("config", [], multirun=True)([f"hydra/{group}={name}"])
        of_before = OmegaConf.get_type(cfg.hydra[group])
        assert dataclasses.is_dataclass(of_before), name
        anew = dataclasses.make_dataclass(of_before.__name__, [])
        monkeypatch.setattr(sys.modules[of_before.__module__], of_before.__name__, anew)
        made = config.copied(cfg)
        assert made == cfg
        assert OmegaConf.get_type(made.hydra[group]) is of_before
        made.seed = 7
        assert cfg.seed == 0
