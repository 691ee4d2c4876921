from pathlib import Path

import pytest

from runner import compose, config, options

OPTIONS = [
    (path.parent.name, path.stem)
    for path in sorted(options.home().glob("*/*.yaml"))
    if path.parent.name not in ("experiment", "sweep")
]


def differences(*overrides: str, config_dir: str | None = None) -> list[options.Difference]:
    cfg = config.job(compose.composed("config", config_dir, overrides))
    return options.differences(config.written(cfg), config.written(compose.default()))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_an_option_that_was_chosen_is_the_one_difference(group: str, option: str) -> None:
    usual = options.default()[group]
    expected = [] if option == usual else [(group, option, usual)]
    assert differences(f"{group}={option}") == expected


def test_values_are_beside_those_of_the_option_that_they_were_typed_for() -> None:
    typed = ["optimizer=sgd", "optimizer.lr=0.3", "model.init=xavier", "~metric.macro_f1", "seed=3", "check=only"]
    assert differences(*typed) == [
        ("seed", 3, "0"),
        ("model.init", "xavier", "null"),
        ("optimizer", "sgd", "adamw"),
        ("optimizer.lr", 0.3, "0.1"),
        ("metric.macro_f1._target_", None, "sklearn.metrics.f1_score"),
        ("metric.macro_f1.average", None, "macro"),
        ("metric.macro_f1.zero_division", None, "0.0"),
    ]


def test_an_option_of_the_users_own_is_told_by_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("_target_: torch.nn.LazyLinear\nout_features: 10\n")
    assert differences("model=mine", config_dir=str(tmp_path)) == [
        ("model._target_", "torch.nn.LazyLinear", "runner.model.CNN"),
        ("model.out_features", 10, None),
    ]
