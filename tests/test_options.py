from pathlib import Path

from runner import compose, config, options


def differences(*overrides: str, config_dir: str | None = None) -> list[options.Difference]:
    cfg = config.job(compose.composed("config", config_dir, overrides))
    config.fill(cfg, {"categories": [["P0000", "P0001"], None], "num_outputs": 2})
    return options.differences(config.written(cfg), config.written(compose.default()))


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


def test_of_options_that_are_equally_near_the_default_one_is_meant() -> None:
    normalize = "[{_target_: runner.transform.Normalize, mean: null, std: null}]"
    assert differences("transform.train=[]") == [("transform.train", [], normalize)]


def test_what_the_data_give_differs_from_no_default() -> None:
    assert differences("dataset=table", "dataset.path=x.csv", "transform=table", "model=mlp") == [
        ("dataset", "table", "digits"),
        ("dataset.path", "x.csv", "???"),
        ("transform", "table", "normalize"),
        ("model", "mlp", "cnn"),
    ]


def test_an_option_of_the_users_own_is_told_by_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("_target_: torch.nn.LazyLinear\nout_features: 10\n")
    assert differences("model=mine", config_dir=str(tmp_path)) == [
        ("model._target_", "torch.nn.LazyLinear", "runner.model.CNN"),
        ("model.out_features", 10, None),
    ]
