from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import LIGHT, QUICK, Run, composed
from omegaconf import OmegaConf
from torchvision.transforms import v2

from runner.batch import stacked
from runner.data import _batches, _fit_transforms, _report_duplicates, evaluation_loader
from runner.dataset import ArrayDataset, Samples
from runner.errors import DataError
from runner.numbers import check_finite
from runner.transform import Flip, Float, Pipeline, Table


def test_copies_in_an_official_test_part_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    train = Samples(ArrayDataset(torch.arange(12.0).view(6, 2), torch.zeros(6).long(), ["a"]))
    test = Samples(ArrayDataset(torch.tensor([[0.0, 1.0], [4.0, 5.0], [9.0, 9.0]]), torch.zeros(3).long(), ["a"]))
    indices = {"train": torch.tensor([0, 2, 4]), "val": torch.tensor([1, 3, 5]), "test": torch.arange(3)}
    _report_duplicates({"train": train, "val": train, "test": test}, indices)
    assert caplog.messages == ["2 of 3 test samples have exactly the inputs of a train sample"]


def _finite(inputs: torch.Tensor, *transform: object) -> None:
    samples = Samples(ArrayDataset(inputs, torch.zeros(len(inputs)).long(), ["a"]))
    indices = {"train": torch.tensor([0, 2]), "val": torch.tensor([1, 3])}
    batches = Pipeline(transform).fit(lambda: [inputs])  # type: ignore[arg-type]
    check_finite({"train": samples, "val": samples}, indices, batches, inputs[:1])


def test_of_two_samples_that_differ_the_first_is_named_first_with_a_size_for_both() -> None:
    pictures = [torch.zeros(size, dtype=torch.uint8) for size in ((3, 94, 159), (3, 142, 135))]
    for order in ((0, 1), (1, 0)):
        with pytest.raises(DataError) as error:
            stacked([pictures[n] for n in order], index=[2 + 2 * n for n in order])
        said = "samples differ: sample 2 is 3×94×159 uint8, sample 4 is 3×142×135 uint8"
        assert error.value.problems[0].what == said
        assert error.value.problems[0].remedy.startswith('transform=resize, or "dataset.size=[94,135]"')
    with pytest.raises(DataError) as error:
        stacked([torch.zeros(3), torch.zeros(4)], "mask")
    assert error.value.problems[0].remedy == ""


def test_every_sample_is_looked_through_for_nan() -> None:
    inputs = torch.zeros(5, 2)
    inputs[3, 1] = float("inf")
    with pytest.raises(DataError, match="1 of 2 inputs of val contain NaN or infinity; the first is sample 3"):
        _finite(inputs, Float())
    inputs[3, 1] = 0
    inputs[4, 0] = float("nan")  # in no part
    _finite(inputs, Float())


def test_gaps_that_a_transform_fills_are_none() -> None:
    _finite(torch.tensor([[1.0], [2.0], [float("nan")], [4.0]]), Table([None]))


def test_gaps_are_found_behind_a_transform_that_draws() -> None:
    inputs = torch.zeros(4, 1, 2, 2)
    inputs[2, 0, 0, 1] = float("nan")
    with pytest.raises(DataError, match="1 of 2 inputs of train contain NaN or infinity; the first is sample 2"):
        _finite(inputs, Flip())


class Alone(torch.utils.data.Dataset[Any]):
    """Pictures that are read one by one."""

    def __init__(self, pictures: torch.Tensor) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.pictures[index], 0


def _mean(source: Any, *steps: str) -> float:
    listed = ", ".join([*steps, "{_target_: runner.transform.Normalize}"])
    cfg = OmegaConf.create(f"allow_targets: []\ntransform: {{train: [{listed}], eval: []}}")
    made = _fit_transforms(cfg, Samples(source), torch.arange(6))["train"]
    return float(made.state_dict()["modules_.1.mean"])


def test_transforms_are_fitted_alike_whether_the_data_are_in_memory_or_read_one_by_one() -> None:
    pictures = torch.full((6, 1, 4, 4), 100, dtype=torch.uint8)
    pad = "{_target_: torchvision.transforms.v2.Pad, padding: 4}"
    held = ArrayDataset(pictures, torch.zeros(6).long(), ["a"])
    assert _mean(held, pad) == _mean(Alone(pictures), pad) == pytest.approx(100 * 16 / 144)


def test_what_is_drawn_while_transforms_are_fitted_is_the_same_each_time() -> None:
    pictures = torch.rand(6, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    crop = "{_target_: torchvision.transforms.v2.RandomCrop, size: 2}"
    first = _mean(Alone(pictures), crop)
    torch.rand(7)
    assert _mean(Alone(pictures), crop) == first
    drawn = {float(v2.RandomCrop(2)(pictures).mean()) for _ in range(9)}
    assert len(drawn) > 1  # the crop does decide


def test_only_gaps_of_a_table_are_told_to_be_filled() -> None:
    inputs = torch.tensor([[0.0], [float("nan")], [0.0], [0.0]])
    for features, remedy in ((["size"], "transform=table"), (None, "fix or remove")):
        held = Samples(ArrayDataset(inputs, torch.zeros(4).long(), ["a"], features=features))
        rows = {"train": torch.arange(4)}
        with pytest.raises(DataError, match=f"1 of 4 inputs of train (.|\n)*try: {remedy}"):
            check_finite({"train": held}, rows, Pipeline([Float()]), inputs[:1])


def test_parts_that_are_in_memory_are_looked_through_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = torch.zeros(6, 1, 4, 4)
    alone = Samples(Alone(pictures))
    held = Samples(ArrayDataset(pictures / 0, torch.zeros(6).long(), ["a"]))
    monkeypatch.setattr(Alone, "__getitem__", lambda *_: pytest.fail("read"))
    indices = {"train": torch.arange(6), "val": torch.arange(6)}
    with pytest.raises(DataError, match="6 of 6 inputs of val contain NaN"):
        check_finite({"train": alone, "val": held}, indices, Pipeline([Float()]), pictures)
    held = Samples(ArrayDataset(pictures, torch.zeros(6).long(), ["a"]))
    check_finite({"train": held, "val": alone}, indices, Pipeline([Float()]), pictures)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("transform=crop_flip",), "transform: cannot be applied: "),
        (("loader.num_workers=1", "loader.timeout=-1"), "loader: cannot be built: timeout option should be"),
        (
            ("loader.sampler={_target_: own_data.Endless}",),
            "loader: cannot be built: object of type 'Endless' has no len",
        ),
        (("loader.sampler={_target_: own_data.Failing}",), "loader: cannot be built: RuntimeError: no order"),
        (("loader.sampler={_target_: own_data.Refusing}",), "loader: cannot be built: KeyError: 'no size'"),
    ],
)
def test_what_code_of_others_says_is_told(
    run: Run, capsys: pytest.CaptureFixture[str], overrides: tuple[str, ...], message: str
) -> None:
    Path("own_data.py").write_text(
        "class Endless:\n    pass\n\n"
        "class Refusing:\n    def __init__(self):\n        raise KeyError('no size')\n\n"
        "class Failing:\n    def __len__(self):\n        return 3\n"
        "    def __iter__(self):\n        raise RuntimeError('no order')\n"
    )
    assert run("dataset=iris", "model=mlp", "allow_targets=[own_data.*]", *overrides) == 2
    assert re.search(message, capsys.readouterr().err)


STREAM = """
import torch
from torch.utils.data import IterableDataset
from runner.dataset import ArrayDataset, Parts

class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.randn(3), 0
            yield torch.randn(3), 1

def parts():
    held = ArrayDataset(torch.randn(8, 3), torch.arange(8) % 2)
    return Parts(Endless(), held, held)
"""


def test_a_stream_is_not_split_otherwise_than_it_comes(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own_data.py").write_text(STREAM)
    Path("mine/dataset").mkdir(parents=True)
    Path("mine/dataset/own.yaml").write_text("_target_: own_data.parts\n")
    own = ("--config-dir", "mine", "dataset=own", "allow_targets=[own_data.*]", "model=mlp", "loader.epoch_samples=64")
    for overrides in (("split=kfold", "split.fold=1"), ("split=predefined", "split.column=x")):
        assert run(*own, *overrides) == 2
        said = "a stream (IterableDataset) comes with its own parts and is not split\n  try: split=predefined"
        assert said in capsys.readouterr().err
    assert run(*own, "check=only") == 0


def test_transforms_are_fitted_on_blocks_of_limited_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.data.BLOCK_BYTES", 100)
    inputs = torch.rand(50, 3)  # 12 bytes each
    samples = Samples(ArrayDataset(inputs, torch.zeros(50).long(), ["a"]))
    seen = [len(block) for block in _batches(samples, torch.arange(50), [])]
    assert seen == [8] * 6 + [2]


def test_on_a_cpu_batches_of_val_are_as_large_as_those_of_train() -> None:
    samples = Samples(ArrayDataset(torch.zeros(100, 4), torch.zeros(100, dtype=torch.long)))
    for typed, sizes in (((), [64, 36]), (("loader.eval_batch_size=80",), [80, 20])):
        loader = evaluation_loader(composed(*typed), samples, torch.arange(100), Pipeline([]), torch.device("cpu"))
        assert [len(batch) for batch in loader.epoch()] == sizes


def test_a_pipeline_for_both_is_fitted_once() -> None:
    steps = [{"_target_": "runner.transform.Normalize"}]
    cfg = OmegaConf.create({"transform": {"train": steps, "eval": "${.train}"}})
    samples = Samples(ArrayDataset(torch.rand(9, 2), torch.zeros(9).long(), ["a"]))
    made = _fit_transforms(cfg, samples, torch.arange(9))
    assert made["train"] is made["eval"]


@pytest.mark.parametrize("how", [["split=stratified"], ["split=random"], ["split=kfold", "split.fold=0"]])
def test_a_table_whose_classes_are_values_is_answered_with_regression(
    run: Run, capsys: pytest.CaptureFixture[str], how: list[str]
) -> None:
    # As the masses of penguins, most of which several have, and some one alone.
    masses = [2700 + 25 * n for n in range(60) for _ in range(1 + n % 5)]
    lines = [f"{mass / 20},{mass}" for mass in masses]
    Path("penguins.csv").write_text("\n".join(["flipper,mass", *lines]) + "\n")
    table = ["dataset=table", "dataset.path=penguins.csv", "transform=table", *LIGHT, *how]
    assert run(*table) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("error: split: ")
    assert len(said[0]) < 200
    remedy = "dataset.task=regression loss=mse metric=regression"
    assert said[-1].startswith(f"  try: {remedy}")
    if how == ["split=stratified"]:
        assert said[0] == (
            "error: split: too few samples for 3 parts: class 2700 has 1, class 2725 has 2, class 2825 has 1, class "
            "2850 has 2, class 2950 has 1, …; the 60 classes are numbers"
        )
        assert run(*table, *remedy.split()) == 0
    else:
        assert run(*table, *remedy.split(), "check=only") == 0


def test_classes_that_are_few_numbers_or_words_are_classes(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for names in ([str(n % 4) for n in range(40)] + ["9"], [f"c{n // 5}" for n in range(150)] + ["c99"]):
        Path("x.csv").write_text("a,b\n" + "".join(f"{n},{name}\n" for n, name in enumerate(names)))
        options = ("dataset=table", "dataset.path=x.csv", "transform=table", *QUICK, "check=only")
        assert run(*options) == 2
        assert (
            "\n  try: split.rare=train, to keep this class in train alone, or more samples" in capsys.readouterr().err
        )
        assert run(*options, "split.rare=train") == 0
