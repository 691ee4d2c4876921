from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import QUICK, composed
from sklearn.utils.class_weight import compute_class_weight

from runner import data, dataset
from runner.dataset import ArrayDataset, table
from runner.errors import ConfigError, DataError
from runner.experiment import metrics_of
from runner.grammar import parse
from runner.metric import Predicted, measure

TABLE = ("dataset=table", "dataset.path=x.csv", "transform=table", "device=cpu")


def typed(remedy: str) -> dict[str, Any]:
    """The arguments of a table that a remedy sets."""
    found = [parse(word.rstrip(",")) for word in shlex.split(remedy) if word.startswith("dataset.")]
    return {each.key_or_group.removeprefix("dataset."): each.value() for each in found}


def prepared(*overrides: str) -> data.Data:
    cfg = composed(*TABLE, *overrides)
    return data.prepare(cfg, torch.device("cpu"))


def unlabelled(mark: object, names: tuple[object, object, object] = (0, 1, 2)) -> pd.Series[Any]:
    rng = np.random.default_rng(0)
    y = pd.Series(rng.choice(3, 120, p=[0.5, 0.3, 0.2])).map(dict(enumerate(names)))
    marked = pd.Series(rng.random(120) < 0.3)
    pd.DataFrame({"x": rng.normal(size=120), "y": y.astype(object).where(~marked, mark)}).to_csv("x.csv", index=False)
    return y[~marked]


@pytest.mark.parametrize(
    ("mark", "names"),
    [(-1, (0, 1, 2)), (255, (0, 1, 2)), (-1.0, (0.0, 1.0, 2.0)), (1, (0, 2, 3)), (0, (1, 2, 3)), ("-1", tuple("cab"))],
)  # fmt: skip
def test_targets_that_are_ignored_are_no_class(mark: Any, names: Any) -> None:
    left = unlabelled(mark, names)
    expected = sorted(left.unique())
    made = prepared(f"loss.ignore_index={mark}", "loss=cross_entropy")
    assert made.samples["train"].classes == [str(name) for name in expected]
    whole = {name: sum(row[name] for row in made.counts.values()) for name in made.counts["train"]}
    assert whole == {str(name): int((left == name).sum()) for name in expected}


def test_weights_and_metrics_leave_out_what_is_ignored(run: Callable[..., int]) -> None:
    """Also where the number that is ignored is the index of one of the classes: here of 3, the second that is left."""
    unlabelled(1, (0, 1, 3))
    more = pd.read_csv("x.csv").assign(y=lambda frame: frame.y.replace({0: 2}))
    more.to_csv("x.csv", index=False)  # 2 and 3 count, 1 does not
    assert (
        run(*QUICK, *TABLE, "loss=weighted_ce", "loss.ignore_index=1", "hydra.run.dir=r", "trainer.max_epochs=1") == 0
    )
    content = json.loads(Path("r/result.json").read_text())
    with np.load("r/split.npz") as parts:
        truth = {name: more.y.to_numpy()[rows] for name, rows in parts.items()}
    kept = truth["train"][truth["train"] != 1]
    weights = compute_class_weight("balanced", classes=np.array([2, 3]), y=kept)
    from runner.runs import read_config

    facts = read_config(Path("r"))["facts"]
    assert facts["class_names"] == ["2", "3"]
    np.testing.assert_allclose(facts["class_weights"], weights)
    of_test = truth["test"][truth["test"] != 1]
    majority = np.unique(kept, return_counts=True)
    expected = float((of_test == majority[0][majority[1].argmax()]).mean())
    assert content["baseline"]["test/accuracy"] == pytest.approx(expected)
    assert run("evaluate", "run=r", "output=e", "temperature=val") == 0
    again = json.loads(Path("e/result.json").read_text())["metrics"]
    assert again["test/accuracy"] == pytest.approx(content["metrics"]["test/accuracy"])
    assert len(pd.read_csv("e/predictions.csv")) == len(of_test)
    more.drop(columns="y").to_csv("new.csv", index=False)
    assert run("predict", "run=r", "input=new.csv", "output=p.csv") == 0
    assert set(pd.read_csv("p.csv").prediction) <= {2, 3}


def test_flags_that_are_ignored_count_nowhere() -> None:
    rng = np.random.default_rng(0)
    flags = rng.choice([-1, 0, 1], (90, 2))
    pd.DataFrame({"x": rng.normal(size=90), "a": flags[:, 0], "b": flags[:, 1]}).to_csv("x.csv", index=False)
    several = ("dataset.target=[a,b]", "split=random", "loss=bce", "metric=multilabel")
    with pytest.raises(ConfigError, match="holds values other than 0 and 1"):
        prepared(*several)
    made = prepared(*several, "loss.ignore_index=-1")
    assert {n: sum(row[n] for row in made.counts.values()) for n in "ab"} == {
        "a": int((flags[:, 0] == 1).sum()), "b": int((flags[:, 1] == 1).sum()),
    }  # fmt: skip
    assert torch.equal(made.samples["train"].counted, torch.from_numpy(flags != -1))  # type: ignore[arg-type]


def test_runs_of_before_number_their_classes_as_they_did() -> None:
    unlabelled(-1)
    cfg = composed(*TABLE, "loss.ignore_index=-1")
    cfg.facts.numbers = "float32"  # as in those
    assert data.read(cfg)["train"].head.classes == ["-1", "0", "1", "2"]


SLEEP = "hours,disorder\n7,None\n6,Insomnia\n8,NA\n5,\n4,None\n9,Apnea\n"


@pytest.mark.parametrize("column", ["disorder", -1])
def test_words_that_read_as_gaps_are_named_and_can_be_classes(column: Any, caplog: pytest.LogCaptureFixture) -> None:
    Path("x.csv").write_text(SLEEP)
    with pytest.raises(DataError) as caught:
        table("x.csv", target=column)
    (problem,) = caught.value.problems
    assert problem.what.endswith("'None' was read as a gap in 2 rows, 'NA' was read as a gap in 1 row")
    kept = typed(problem.remedy)
    assert kept == {"gap_classes": ["None", "NA"], "missing_target": "drop"}
    made = table("x.csv", target=column, **kept)  # and the empty cell is left out
    assert [made.classes[n] for n in made.targets] == ["None", "Insomnia", "NA", "None", "Apnea"]
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    made = table("x.csv", target=column, missing_target="drop", gap_classes=["none"])
    assert [made.classes[n] for n in made.targets] == ["None", "Insomnia", "None", "Apnea"]
    record = caplog.records[-1]
    assert "'NA' was read as a gap in 1 row\n  try: " in record.getMessage()
    assert typed(record.getMessage()) == {"gap_classes": ["none", "NA"]}


@pytest.mark.parametrize("word", ["null", "nan", "NULL", "N/A", "n/a", "NaN", "<NA>", "#N/A"])
def test_each_word_can_be_typed(word: str) -> None:
    Path("x.csv").write_text(f"x,y\n1,0\n2,{word}\n3,1\n4,{word}\n")
    with pytest.raises(DataError) as caught:
        table("x.csv")
    made = table("x.csv", gap_classes=typed(caught.value.problems[0].remedy)["gap_classes"])
    assert [made.classes[n] for n in made.targets] == ["0", word, "1", word]
    made = table("x.csv", gap_classes=[parse(f"x=[{word}]").value()[0]] if word.isalpha() else [word])
    assert set(made.classes) == {"0", "1", word}


def test_a_word_that_is_no_gap_is_told(caplog: pytest.LogCaptureFixture) -> None:
    Path("x.csv").write_text(SLEEP)
    table("x.csv", missing_target="drop", gap_classes=["Nnoe", "NA", "None"])
    assert caplog.records[0].getMessage() == "dataset.gap_classes: no gap of column 'disorder' is written as 'Nnoe'"
    pd.read_csv("x.csv").to_parquet("x.parquet")
    with pytest.raises(DataError, match=r"4 rows have no target; the first is row 0 \(counted from 0\)\n"):
        table("x.parquet")
    with pytest.raises(ConfigError, match=r"dataset\.gap_classes: NA: is for a single column of classes"):
        table("x.csv", gap_classes=["NA"], task="regression")


def tagged(separator: str) -> list[set[str]]:
    rng = np.random.default_rng(0)
    rows = [list(rng.choice(["clear", "haze", "road", "water"], rng.integers(1, 4), replace=False)) for _ in range(120)]
    pd.DataFrame({"x": rng.normal(size=120), "tags": [separator.join(row) for row in rows]}).to_csv(
        "x.csv", index=False
    )
    return [set(map(str, row)) for row in rows]


@pytest.mark.parametrize("separator", ["|", ";", ", ", " ", ",", " ; "])
def test_tags_are_seen_and_can_be_flags(separator: str, caplog: pytest.LogCaptureFixture) -> None:
    rows = tagged(separator)
    table("x.csv")
    (record,) = caplog.records
    assert "different texts, made of 4 tags: clear, haze, road, water; each of these" in record.getMessage()
    options = typed(record.getMessage().partition("try: ")[2])
    made = table("x.csv", **options)
    assert (made.classes, made.targets.dtype) == (["clear", "haze", "road", "water"], torch.int64)
    assert [{made.classes[n] for n in row.nonzero()[:, 0]} for row in made.targets] == rows


def test_other_data_with_fewer_tags_can_be_evaluated(run: Callable[..., int]) -> None:
    rows = tagged(" ")
    options = (
        "dataset.labels_separator=' '",
        "loss=bce",
        "metric=multilabel",
        "split=random",
        "trainer.max_epochs=1",
        "hydra.run.dir=r",
    )
    assert run(*[word for word in QUICK if not word.startswith("~")], *TABLE, *options) == 0
    few = pd.read_csv("x.csv")[[row <= {"haze", "water"} for row in rows]]
    few.to_csv("few.csv", index=False)
    assert run("evaluate", "run=r", "dataset.path=few.csv", "output=e") == 0
    table = {row["class"]: row for row in json.loads(Path("e/result.json").read_text())["tables"]["test/per_class"]}
    for name in ("clear", "haze", "road", "water"):
        assert table[name]["support"] == sum(name in text.split() for text in few.tags)


@pytest.mark.parametrize(
    "names",
    [["New York", "New Jersey", "North Carolina"], ["very low", "low", "high", "very high"], ["a b", "c d"], ["x"],
     [f"{a} {b}" for a in "abcdef" for b in "uvwxyz"]],
)  # fmt: skip
def test_names_with_blanks_are_no_tags(names: list[str], caplog: pytest.LogCaptureFixture) -> None:
    pd.DataFrame({"x": [n % 7 for n in range(72)], "y": (names * 72)[:72]}).to_csv("x.csv", index=False)
    table("x.csv")
    assert not caplog.records


def test_too_many_texts_of_tags_name_the_key() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.permutation(list("abcdef"))[: rng.integers(1, 6)]) for _ in range(300)]
    pd.DataFrame({"x": 0.5, "y": texts}).to_csv("x.csv", index=False)
    with pytest.raises(ConfigError, match=r"made of 6 tags: a, b, c, d, e, …\n"):
        table("x.csv")
    for wrong in ({"task": "regression", "target": 0}, {"target": [0, 1]}):
        with pytest.raises(ConfigError, match="labels_separator"):
            table("x.csv", labels_separator=" ", **wrong)


def arrays(targets: Any, classes: Any = ()) -> dict[str, Any]:
    made = torch.as_tensor(targets)
    return {"train": dataset.read(ArrayDataset(torch.zeros(len(made), 2), made, classes))["train"]}


def test_a_target_that_is_always_the_same_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match="all 9 samples have the same class 'a', so there is nothing to predict"):
        dataset.check_varied(arrays([0] * 9, ["a", "b"]))
    with pytest.raises(DataError, match=r"all 9 samples have the same target 2\.5"):
        dataset.check_varied(arrays([2.5] * 9))
    dataset.check_varied(arrays([2.5] * 9 + [2.25]))
    dataset.check_varied(arrays([0, 1], "ab"))
    assert not caplog.records
    dataset.check_varied(arrays([[1, 0], [1, 1]], "ab"))
    assert caplog.records[0].getMessage() == "every sample has the same target for a: its metrics say nothing"
    pd.DataFrame({"x": [1, 2] * 20, "y": "a"}).to_csv("x.csv", index=False)
    with pytest.raises(DataError, match=r"^dataset\.target: all 40 samples(.|\n)*try: dataset\.target=NAME"):
        prepared()


def test_the_share_of_a_variance_of_zero_is_no_number() -> None:
    metrics = metrics_of(composed("metric=regression"))
    constant, varied = np.full((4, 2), 2.5), np.arange(8.0).reshape(4, 2)
    one = np.stack([varied[:, 0], constant[:, 0]], 1)
    for truth in (constant, one, constant[:, 0]):
        found = measure(metrics, Predicted(truth, truth))
        assert np.isnan(found["r2"])
        assert found["mse"] == 0
    assert measure(metrics, Predicted(varied, varied))["r2"] == 1
