"""Every file under `conf/` is composed, checked and built."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import Run, composed
from omegaconf import OmegaConf
from PIL import Image

from runner import compose, config, options
from runner.checks import targets
from runner.experiment import assemble
from runner.sweep import folds
from runner.updates import make_optimizer, make_schedule

OPTIONS = sorted(str(path.relative_to(options.home()).with_suffix("")) for path in options.home().glob("*/*.yaml"))


TABLE = ("dataset=table", "dataset.path=table.csv", "transform=table", "model=mlp")
VALUES = (*TABLE, "dataset.target=size", "dataset.task=regression", "metric=regression")
FLAGS = (*TABLE, "dataset.target=[a,b]", "split=random", "metric=multilabel")
COLUMNS = ("model=mlp", "transform=normalize")
SMALL = ("dataset=synthetic", "dataset.size=60", "dataset.num_classes=3", "dataset.image_size=[1,8,8]")
NEEDS: dict[str, tuple[str, ...]] = {
    "dataset/breast_cancer": COLUMNS,
    "dataset/diabetes": (*COLUMNS, "split=stratified", "loss=mse", "metric=regression"),
    "dataset/iris": COLUMNS,
    "dataset/wine": COLUMNS,
    "dataset/table": TABLE,
    "dataset/synthetic": SMALL[1:],
    "dataset/image_folder": ("dataset.root=pictures", "dataset.cache=null"),
    "dataset/folder": (
        "dataset.root=pictures",
        "loader=workers",
        "dataset.extensions=[.png]",
        "dataset.loader={_target_: torchvision.datasets.folder.default_loader, _partial_: true}",
    ),
    "transform/table": TABLE,
    "model/lenet": (*SMALL, "dataset.image_size=[1,28,28]"),
    "model/resnet": SMALL,
    "model/torchvision": SMALL,
    "model/vit_small": (*SMALL, "model.patch_size=8", "+model.num_layers=2"),
    "model/wide_resnet": SMALL,
    "transform/resize": (*SMALL, "dataset.size=30", "dataset.image_size=[3,300,300]", "model=mlp"),
    **{f"loss/{name}": VALUES for name in ("mse", "mae", "huber")},
    "metric/regression": (*VALUES, "loss=mse"),
    "loss/bce": FLAGS,
    "metric/multilabel": (*FLAGS, "loss=bce"),
    "experiment/wine_quality": ("dataset.path=table.csv",),
    "scheduler/lambda": ("scheduler.lr_lambda._target_=torch.nn.Identity", "scheduler.lr_lambda._partial_=false"),
    "dataset/custom": ("dataset._target_=runner.dataset.digits",),
    "split/custom": ("split._target_=runner.split.random",),
    "loader/custom": ("loader._target_=runner.loader.Workers",),
    "model/custom": (
        "model._target_=runner.model.Linear",
        "model.input_shape=${facts.input_shape}",
        "model.num_outputs=${facts.num_outputs}",
    ),
    "loss/custom": ("loss._target_=torch.nn.CrossEntropyLoss",),
    "optimizer/custom": ("optimizer._target_=torch.optim.SGD",),
    "scheduler/custom": ("scheduler._target_=torch.optim.lr_scheduler.ConstantLR",),
    "split/predefined": (*TABLE, "split.column=part"),
    "split/time_ordered": (*TABLE, "split.column=day"),
    "split/group_kfold": (*TABLE, "split.groups=day"),
    "split/stratified_group_kfold": (*TABLE, "split.groups=day"),
}
"""What an option cannot do without."""

SHARED = Path(__file__).parents[2] / "shared/data"
RECIPES = {"wine_quality": (f"dataset.path={SHARED / 'tables/winequality/winequality-white.csv'}",)}
"""What a recipe needs of published data, which may be absent."""

FILES = [
    f"dataset/{path.stem}"
    for path in (options.home() / "dataset").glob("*.yaml")
    if "_target_: runner.dataset.torchvision" in path.read_text()
]
"""Data sets whose files are written by tests/dataset/test_vision.py, where they are composed, checked and built."""


def rows() -> list[list[str]]:
    """The options, as many together as do not decide on a group in two ways: each is in one row.

    A recipe is alone.
    """
    alone = [option for option in OPTIONS if option.startswith("experiment/")]
    found: list[tuple[list[str], dict[str, set[str]]]] = []
    for option in sorted(set(OPTIONS) - {*alone, *FILES}, key=lambda option: (option not in NEEDS, option)):
        decides: dict[str, set[str]] = {}
        for override in (option.replace("/", "="), *NEEDS.get(option, ())):
            decides.setdefault(re.split("[.=]", override)[0], set()).add(override)
        fits = (row for row in found if all(row[1].get(group, typed) == typed for group, typed in decides.items()))
        row = next(fits, None)
        if row is None:
            found.append(row := ([], {}))
        row[0].append(option)
        row[1].update(decides)
    return [[option] for option in alone] + [row for row, _ in found]


@pytest.mark.parametrize("together", rows(), ids=" ".join)
def test_options(together: list[str]) -> None:
    table = [
        f"{n % 7},{'red' if n % 2 else 'blue'},{n // 5},{n % 2},{n // 3 % 2},{['train', 'val', 'test'][n % 3]},{n % 4}"
        for n in range(120)
    ]
    Path("table.csv").write_text("\n".join(["size,colour,day,a,b,part,kind", *table]))
    for number in range(20):
        picture = Path(f"pictures/{'ab'[number % 2]}/{number}.png")
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(picture)
    try:
        train(together)
    except Exception:
        for option in together if len(together) > 1 else ():
            train([option])  # which one it is, unless it is that they are together
        raise


def train(together: list[str]) -> None:
    """Train a step with these options, and evaluate."""
    needed = [typed for option in together for typed in NEEDS.get(option, ())]
    typed = [*needed, *(option.replace("/", "=") for option in together), "trainer.threads=1"]
    cfg = composed(*dict.fromkeys(typed))
    assert config.check(cfg) == []
    for group, name in (option.split("/") for option in together):
        if group in options.default() and not any(override.startswith(f"{group}.") for override in typed):
            assert options.of(group)[name] == config.written(cfg[group]), f"{group}/{name}"
    cfg = folds.each(cfg)[-1]
    experiment = assemble(cfg)
    batch = next(experiment.data.loaders["train"].epoch())
    sums = experiment.loss(experiment.model(batch.input), batch)
    (sums / experiment.loss.weight(batch)).sum().backward()
    opt = make_optimizer(cfg, experiment.model, experiment.loss)
    schedule = make_schedule(cfg, opt)
    opt.step(lambda: 0.0)
    schedule.after(cfg.scheduler.interval)
    assert set(experiment.evaluate("val")) == {"val/loss", *(f"val/{metric}" for metric in cfg.metric)}


def test_every_option_is_trained_once() -> None:
    assert sorted([*FILES, *(option for row in rows() for option in row)]) == OPTIONS


def test_every_option_of_an_optimizer_or_loss_lists_the_arguments_of_its_target() -> None:
    # So that `optimizer.nesterov=true` needs no `+`. Some are not the user's to give.
    without = {"optimizer": {"params", "differentiable"}, "loss": {"reduction", "size_average", "reduce"}}
    newer = {"lbfgs": {"maximize"}}  # than the oldest torch that we run with
    for group, given in without.items():
        for path in (options.home() / group).glob("*.yaml"):
            node = OmegaConf.load(path)
            if path.stem == "custom":  # whose target, and so whose arguments, are typed
                continue
            if "defaults" in node:  # another option with other values
                node = composed(f"{group}={path.stem}")[group]
            if "terms" in node:
                continue
            arguments = targets.locate(node._target_).__init__.__code__
            names = arguments.co_varnames[1 : arguments.co_argcount + arguments.co_kwonlyargcount]
            ours = set(targets.OURS.get(group, ()))
            ours |= {"weight"} if group == "loss" and "weight" not in node else set()  # another one, of the binary loss
            assert (
                set(names) - given - newer.get(path.stem, set()) - ours
                == {str(key) for key in node} - {"_target_"} - ours
            ), path


@pytest.mark.parametrize("recipe", [option.split("/")[1] for option in OPTIONS if option.startswith("experiment/")])
def test_recipe_runs_for_an_epoch(run: Run, recipe: str) -> None:
    needs = RECIPES.get(recipe, ())
    for path in needs:
        if not Path(path.partition("=")[2]).exists():
            pytest.skip(f"needs {path}")
    quick = ("trainer.max_epochs=1", "trainer.threads=1", "tensorboard.pictures=false")
    assert run(f"experiment={recipe}", *quick, *needs) == 0


def test_every_folder_is_a_group_of_the_schema() -> None:
    from dataclasses import fields

    from runner.checks.schema import Config

    groups = {path.name for path in options.home().iterdir() if path.is_dir()}
    assert groups - {"experiment"} <= {field.name for field in fields(Config)}
    assert Path(options.home() / "entry.yaml").is_file()


def test_a_recipe_may_set_any_key(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults: [{override /model: mlp}]\nseed: 4\nfigures: true\ntrainer: {max_epochs: 3}\n"
    (tmp_path / "experiment/mine.yaml").write_text(text)
    cfg = compose.composed("config", [tmp_path], ["experiment=mine", "figures=false"])
    assert (cfg.seed, cfg.figures, cfg.trainer.max_epochs) == (4, False, 3)
    assert cfg.model._target_ == "runner.model.MLP"
