from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from runner.errors import DataError
from runner.model import load


class Network(nn.Module):
    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.submodule = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
        self.head = nn.Linear(5, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.submodule(x))  # type: ignore[no-any-return]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


SOURCE = Network()


@pytest.mark.parametrize(
    "wrap", [lambda s: s, *(lambda s, k=k: {k: s, "epoch": 3} for k in ("model", "state_dict", "net"))]
)
def test_a_state_dict_or_a_checkpoint_that_holds_one(wrap: Any) -> None:
    torch.save(wrap(SOURCE.state_dict()), "weights.pt")
    model = Network()
    table = load(model, "weights.pt")
    assert same(model, SOURCE)
    assert [row[1] for row in table.rows] == [len(SOURCE.state_dict()), 0, 0, 0]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of an older torch's compiler, about itself
def test_wrapped_and_compiled_models_load_into_a_plain_one() -> None:
    wrapped = nn.DataParallel(SOURCE)
    compiled = torch.compile(wrapped)
    for number, state in enumerate((wrapped.state_dict(), compiled.state_dict())):  # type: ignore[attr-defined]
        torch.save(state, f"{number}.pt")
        model = Network()
        load(model, f"{number}.pt")
        assert same(model, SOURCE)
    assert any(name.startswith("_orig_mod.module.submodule.") for name in state)


def test_a_prefix_that_the_model_has_itself_stays() -> None:
    model, other = nn.ModuleDict({"module": nn.Linear(2, 2)}), nn.ModuleDict({"module": nn.Linear(2, 2)})
    torch.save(other.state_dict(), "weights.pt")
    load(model, "weights.pt")
    assert same(model, other)


def test_safetensors() -> None:
    save_file(SOURCE.state_dict(), "weights.safetensors")
    model = Network()
    load(model, "weights.safetensors")
    assert same(model, SOURCE)


def test_a_run_folder_stands_for_its_best_checkpoint() -> None:
    Path("run/checkpoints").mkdir(parents=True)
    torch.save({"format": 1, "model": SOURCE.state_dict(), "optimizer": {}}, "run/checkpoints/best.pt")
    model = Network()
    load(model, "run")
    assert same(model, SOURCE)


def test_a_head_for_other_classes_stays_as_initialised_if_that_is_asked_for() -> None:
    torch.save(SOURCE.state_dict(), "weights.pt")
    model = Network(outputs=7)
    before = model.head.weight.clone()
    message = r"does not match the model: 2 of a different shape \(head.weight: \(3, 5\) for \(7, 5\), .*(.|\n)*"
    message += "try: model.strict=false"
    with pytest.raises(DataError, match=message):
        load(model, "weights.pt")
    table = load(model, "weights.pt", strict=False)
    assert torch.equal(model.head.weight, before)
    assert same(model.submodule, SOURCE.submodule)
    assert table.rows[3][:2] == ["of a different shape, kept as initialised", 2]


def test_what_is_missing_or_unexpected_is_named() -> None:
    state = {name: tensor for name, tensor in SOURCE.state_dict().items() if name != "head.bias"}
    torch.save(state | {"tail.weight": torch.zeros(2)}, "weights.pt")
    with pytest.raises(DataError, match=r"1 missing in the file \(head.bias\); 1 not in the model \(tail.weight\)"):
        load(Network(), "weights.pt")


class Evil:
    def __reduce__(self) -> Any:
        return (Path("evil").write_text, ("code was run",))


def damaged() -> None:
    torch.save(SOURCE.state_dict(), "damaged.pt")
    content = bytearray(Path("damaged.pt").read_bytes())
    content[content.index(SOURCE.head.weight.detach().numpy().tobytes()) + 3] ^= 1
    Path("damaged.pt").write_bytes(content)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.pt", r"there is no file 'nowhere.pt'\n  allowed: a file, a run folder, a URL"),
        ("short.pt", "'short.pt' cannot be read: "),
        ("text.pt", "'text.pt' cannot be read: it holds what is not plain data and could run code"),
        ("list.pt", "'list.pt' holds a list"),
        ("other.pt", r"no tensor of 'other.pt' matches the model by name and shape: it has stem.weight"),
        ("nested.pt", "'nested.pt' holds a dict with epoch"),
        ("words.pt", "'words.pt' cannot be read: it is not a checkpoint"),
        (
            "evil.pt",
            r"holds (\w+\.)?getattr, which is not plain data and could run code\n.*\n  try: torch.save\(model.state",
        ),
        ("damaged.pt", "'damaged.pt' is damaged: the checksum of .* is wrong"),
        ("short.safetensors", "'short.safetensors' cannot be read: "),
        ("ResNet18_Weights.NOTHING", "'ResNet18_Weights.NOTHING' cannot be read: "),
    ],
)
def test_files_that_are_no_weights_of_this_model(source: str, message: str) -> None:
    torch.save(SOURCE.state_dict(), "whole.pt")
    Path("short.pt").write_bytes(Path("whole.pt").read_bytes()[:700])
    Path("short.safetensors").write_bytes(b"12345678")
    Path("text.pt").write_text("no weights")
    Path("words.pt").write_text("hello")
    torch.save([1, 2], "list.pt")
    torch.save({"stem.weight": torch.zeros(1)}, "other.pt")
    torch.save({"epoch": 3}, "nested.pt")
    torch.save({"model": Evil()}, "evil.pt")
    damaged()
    with pytest.raises(DataError, match=message) as caught:
        load(Network(), source)
    assert "weights_only" not in str(caught.value)  # which torch advises to switch off
    assert not Path("evil").exists()


def test_of_a_run_that_averages_its_weights_the_average_is_taken() -> None:
    """Its figures are of that; a run without one has None in its place."""
    average = Network()
    torch.save({"model": SOURCE.state_dict(), "ema": average.state_dict(), "epoch": 3}, "averaged.pt")
    torch.save({"model": SOURCE.state_dict(), "ema": None, "epoch": 3}, "plain.pt")
    for path, expected in (("averaged.pt", average), ("plain.pt", SOURCE)):
        model = Network()
        load(model, path)
        assert same(model, expected)


def prefixed(prefix: str, source: nn.Module = SOURCE) -> dict[str, Any]:
    return {f"{prefix}{name}": tensor for name, tensor in source.state_dict().items()}


@pytest.mark.parametrize(
    ("content", "title"),
    [
        ({"state_dict": prefixed("net."), "epoch": 3}, "Weights of state_dict, without net. before each name"),
        (
            {"state_dict": prefixed("model.backbone.")},
            "Weights of state_dict, without model.backbone. before each name",
        ),
        (prefixed("model._orig_mod."), "Weights, without model. before each name"),
        (prefixed("module.model."), "Weights, without module.model. before each name"),
        (prefixed("module._orig_mod."), "Weights"),
        (
            {"state_dict": prefixed("", Network()), "state_dict_ema": SOURCE.state_dict(), "arch": "x"},
            "Weights of state_dict_ema",
        ),
        (
            {"model": Network().state_dict(), "model_ema": prefixed("module.") | {"n_averaged": torch.tensor(3)}},
            "Weights of model_ema",
        ),
        (
            {"model_state_dict": SOURCE.state_dict(), "optimizer_state_dict": {"state": {}}},
            "Weights of model_state_dict",
        ),
    ],
)
def test_checkpoints_of_other_programs_load_and_it_is_said_what_of_them(content: Any, title: str) -> None:
    torch.save(content, "weights.pt")
    model = Network()
    table = load(model, "weights.pt")
    assert same(model, SOURCE)
    assert (table.title, [row[1] for row in table.rows]) == (title, [len(SOURCE.state_dict()), 0, 0, 0])


def test_what_is_beside_the_model_in_a_lightning_module_needs_strict_false() -> None:
    torch.save({"state_dict": prefixed("model.") | {"criterion.weight": torch.ones(3)}}, "weights.ckpt")
    model = Network()
    with pytest.raises(DataError, match=r"1 not in the model \(criterion.weight\)[\s\S]*try: model.strict=false"):
        load(model, "weights.ckpt")
    load(model, "weights.ckpt", strict=False)
    assert same(model, SOURCE)


def test_a_prefix_is_not_taken_away_where_names_fit_with_it_or_most_have_none() -> None:
    half = nn.Sequential(nn.Linear(2, 2))
    state = {
        f"{name}.0.{key}": torch.ones(half[0].get_parameter(key).shape) for name in "ab" for key in ("weight", "bias")
    }
    torch.save(state, "weights.pt")
    with pytest.raises(DataError, match="no tensor of"):
        load(half, "weights.pt", strict=False)


def test_counters_of_batches_alone_are_no_match() -> None:
    other = {"submodule.1.num_batches_tracked": torch.tensor(7), "stem.weight": torch.ones(3, 3)}
    torch.save(other, "weights.pt")
    with pytest.raises(DataError, match="no tensor of"):
        load(Network(), "weights.pt", strict=False)


def test_a_whole_model_is_refused_with_a_way_out_that_works() -> None:
    torch.save(SOURCE, "whole.pt")
    model = Network()
    with pytest.raises(DataError, match=r"not plain data") as caught:
        load(model, "whole.pt")
    typed = caught.value.problems[0].remedy.partition(" in the program")[0]
    exec(typed, {"torch": torch, "FILE": "new.pt", "model": SOURCE})
    load(model, "new.pt")
    assert same(model, SOURCE)
