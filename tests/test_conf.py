"""Every file under `conf/` is composed, checked and built."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Run
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from runner import config, optimizer
from runner.experiment import assemble
from runner.scheduler import Schedule

OPTIONS = sorted(str(path.relative_to(config.folder()).with_suffix("")) for path in config.folder().glob("*/*.yaml"))


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(config.folder()), version_base="1.3"):
        return compose("config", list(overrides))


@pytest.mark.parametrize("option", OPTIONS)
def test_option(option: str) -> None:
    group, name = option.split("/")
    cfg = composed(f"{group}={name}", "trainer.threads=1")
    assert config.check(cfg) == []
    experiment = assemble(cfg)
    batch = next(experiment.loaders["train"].epoch())
    total, weight = experiment.loss(experiment.model(batch.input), batch)
    (total / weight).backward()
    opt = optimizer.build(config.factory(cfg.optimizer), experiment.model)
    schedule = Schedule(config.factory(cfg.scheduler, config.OURS["scheduler"]), opt, cfg.scheduler.interval)
    opt.step()
    schedule.after(cfg.scheduler.interval)
    assert set(experiment.evaluate("val")) == {"val/loss", *(f"val/{metric}" for metric in cfg.metric)}


def test_every_option_of_an_optimizer_or_loss_lists_the_arguments_of_its_target() -> None:
    # So that `optimizer.nesterov=true` needs no `+`.
    for group, given in (("optimizer", {"params"}), ("loss", {"reduction", "size_average", "reduce"})):
        for path in (config.folder() / group).glob("*.yaml"):
            node = composed(f"{group}={path.stem}")[group]
            arguments = config.locate(node._target_).__init__.__code__
            names = arguments.co_varnames[1 : arguments.co_argcount + arguments.co_kwonlyargcount]
            assert set(names) - given == {str(key) for key in node} - {"_target_"}, path


@pytest.mark.parametrize("recipe", [option.split("/")[1] for option in OPTIONS if option.startswith("experiment/")])
def test_recipe_runs_for_an_epoch(run: Run, recipe: str) -> None:
    assert run(f"experiment={recipe}", "trainer.max_epochs=1", "trainer.threads=1") == 0


def test_every_folder_is_a_group_of_the_schema() -> None:
    from dataclasses import fields

    from runner.schema import Config

    groups = {path.name for path in config.folder().iterdir() if path.is_dir()}
    assert groups - {"experiment"} <= {field.name for field in fields(Config)}
    assert Path(config.folder() / "entry.yaml").is_file()
