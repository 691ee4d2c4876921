from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner import compose, config, options


def differences(*overrides: str, own: Sequence[Path] = ()) -> list[tuple[str, Any, Any]]:
    cfg = config.task(config.install(compose.composed("config", own, overrides)))
    config.fill(cfg, {"categories": [["P0000", "P0001"], None], "num_outputs": 2})
    chosen = config.value(cfg.facts.options)
    found = options.differences(config.written(cfg), config.written(compose.default()), chosen)
    return [(key, *("ABSENT" if each is options.ABSENT else each for each in both)) for key, *both in found]


def test_values_are_beside_those_of_the_option_that_they_were_typed_for() -> None:
    typed = ["optimizer=sgd", "optimizer.lr=0.3", "model.init=xavier", "+model.bias=null", "seed=3", "check=only"]
    assert differences(*typed) == [
        ("seed", 3, 0),
        ("model.bias", None, "ABSENT"),
        ("model.init", "xavier", None),
        ("optimizer", "sgd", "adamw"),
        ("optimizer.lr", 0.3, 0.1),
    ]


def test_what_was_taken_away_is_absent() -> None:
    taken = ["~metric.accuracy", "~metric.balanced_accuracy", "~metric.macro_f1"]
    keys = ["accuracy._target_", "balanced_accuracy._target_", *(f"macro_f1.{key}" for key in ("_target_", "average"))]
    found = differences(*taken)
    assert [key for key, value, _ in found] == [f"metric.{key}" for key in (*keys, "macro_f1.zero_division")]
    assert {value for _, value, _ in found} == {"ABSENT"}


def test_what_the_data_give_differs_from_no_default() -> None:
    assert differences("dataset=table", "dataset.path=x.csv", "transform=table", "model=mlp") == [
        ("dataset", "table", "digits"),
        ("dataset.path", "x.csv", "???"),
        ("transform", "table", "normalize"),
        ("model", "mlp", "cnn"),
    ]


def test_of_a_recipe_its_name_and_what_it_says() -> None:
    assert differences("experiment=digits_mlp", "seed=2") == [
        ("seed", 2, 0),
        ("model", "mlp", "cnn"),
        ("trainer.max_epochs", 60, 30),
        ("experiment", "digits_mlp", "ABSENT"),
    ]


def test_of_an_option_of_the_users_own_its_name_and_all_that_it_says(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/dtd.yaml").write_text("_target_: runner.dataset.torchvision\nname: DTD\nroot: here\n")
    assert differences("dataset=dtd", own=[tmp_path]) == [
        ("dataset", "dtd", "digits"),
        ("dataset._target_", "runner.dataset.torchvision", "ABSENT"),
        ("dataset.name", "DTD", "ABSENT"),
        ("dataset.root", "here", "ABSENT"),
    ]


def test_what_does_nothing_in_a_run_is_named_with_the_key_that_makes_it_so() -> None:
    def idle(*overrides: str) -> list[str]:
        cfg = config.task(config.install(compose.composed("config", [], overrides)))
        found = options.differences(
            config.written(cfg), config.written(compose.default()), config.value(cfg.facts.options)
        )
        return [f"{each.key} {why}" for each, why in options.idle(config.written(cfg), found)]

    of_workers, of_stopping = "loader.prefetch_factor=4", "trainer.early_stopping.min_delta=0.1"
    typed = [of_workers, of_stopping, "loss.beta=0.9", "scheduler.warmup_start=0.5", "model.strict=false"]
    assert idle(*typed, "split.path=x", "split.val=0.3", "model.unfreeze_at_epoch=2") == [
        "split.val split.path=x",
        "loader.prefetch_factor loader.num_workers=0",
        "model.strict model.weights=null",
        "model.unfreeze_at_epoch model.freeze=[]",
        "loss.beta loss.weight=null",
        "scheduler.warmup_start scheduler.warmup=0",
        "trainer.early_stopping.min_delta trainer.early_stopping.patience=null",
    ]
    no_decay = ("optimizer.weight_decay=0", "optimizer.decay_norms_and_biases=false")
    assert idle(*no_decay) == ["optimizer.decay_norms_and_biases optimizer.weight_decay=0"]
    weighted = ("loss.weight=effective_number", "scheduler.warmup=5 epochs", "model.weights=x", "model.freeze=[a]")
    used = (*weighted, "loader.num_workers=1", "trainer.early_stopping.patience=3", "model.unfreeze_at_epoch=2")
    assert idle(*typed, *used, "split.val=0.3") == idle("experiment=digits_mlp") == []
