"""A trained model as a file of its own: what it makes is compared with the model, in a process without this package."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import QUICK, Run, own_model, photos_of_several_sizes, result_of
from PIL import Image
from sklearn.datasets import load_diabetes, load_digits

from runner import export, load_run
from runner.errors import RunnerError

PICTURES = torch.from_numpy(load_digits().images.astype(np.uint8)).unsqueeze(1)

ALONE = {
    "torch_export": (
        "import torch; extra = {{'runner': ''}}; program = torch.export.load({path!r}, extra_files=extra)\n"
        "made = program.module()(torch.from_numpy(x)).detach().numpy(); facts = extra['runner']\n"
    ),
    "onnx": (
        "import onnxruntime; session = onnxruntime.InferenceSession({path!r}, providers=['CPUExecutionProvider'])\n"
        "made = session.run(None, {{'samples': x}})[0]\n"
        "facts = session.get_modelmeta().custom_metadata_map['runner']\n"
    ),
}
"""How somebody who does not have this package runs a file."""

STRANGER = """\
import json, os, sys, traceback, warnings, numpy as np
warnings.simplefilter('ignore')
for line in sys.stdin:
    place, code = json.loads(line)
    error = None
    try:
        os.chdir(place)
        x = np.load('x.npy')
        exec(code)
        assert 'runner' not in sys.modules
        np.save('made.npy', made); open('facts.json', 'w').write(facts)
    except Exception:
        error = traceback.format_exc()
    print(json.dumps(error), flush=True)
"""

Alone = Callable[[str, str | Path, np.ndarray], tuple[np.ndarray, dict[str, Any]]]


@pytest.fixture(scope="module")
def alone() -> Iterator[Alone]:
    """What a file makes of samples, and what it says of itself, in a process that knows nothing of this package."""

    def asked(kind: str, path: str | Path, samples: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        np.save("x.npy", samples)
        request = str(Path.cwd()), ALONE[kind].format(path=str(path))
        print(json.dumps(request), file=process.stdin, flush=True)
        assert json.loads(process.stdout.readline()) is None
        return np.load("made.npy"), json.loads(Path("facts.json").read_text())

    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", STRANGER], **pipes) as process:
        yield asked


def test_what_torch_alone_makes_of_pictures_tables_and_values(
    run: Run, digits: Path, alone: Alone, request: pytest.FixtureRequest
) -> None:
    """In one test, for that process takes long to import torch."""
    assert run("export", f"run={digits}", "output=model.bin") == 0
    for count in (1, 7, 500):  # the batch is dynamic
        made, facts = alone("torch_export", "model.bin", PICTURES[:count].numpy())
        assert made == pytest.approx(load_run(digits).predict(PICTURES[:count]).probabilities, abs=1e-6)
    assert facts["classes"] == [str(n) for n in range(10)]
    assert facts["input"] == {"shape": [1, 8, 8], "type": "uint8"}
    assert facts["transform"][0]["_target_"] == "runner.transform.Normalize"
    assert facts["weights"]["sha256"] == result_of(digits)["checkpoint"]["sha256"]

    what_is_made_of_a_table(run, request.getfixturevalue("tabular").rename("table"), alone, "torch_export")

    values = request.getfixturevalue("diabetes")
    assert run("export", f"run={values}") == 0
    rows = load_diabetes().data[:20]
    made, facts = alone("torch_export", values / "model.pt2", rows)
    assert made[:, 0] == pytest.approx(load_run(values).predict(rows).values, rel=1e-5)
    assert facts["output"] == "values"

    what_is_made_behind_a_transform_of_the_data_set(run, alone)


def what_is_made_of_a_table(run: Run, place: Path, alone: Alone, kind: str) -> None:
    """With gaps and categories."""
    assert run("export", f"run={place}", f"format={kind}", "output=of_table") == 0
    rows = pd.read_csv("wine.csv").drop(columns="target")
    codes = rows.assign(colour=rows["colour"].map({"red": 0.0, "white": 1.0})).to_numpy(np.float64)
    made, facts = alone(kind, "of_table", codes)
    assert made == pytest.approx(load_run(place).predict(rows).probabilities, abs=1e-5)
    assert facts["features"] == list(rows.columns)
    assert facts["categories"][-1] == ["red", "white"]


def what_is_made_behind_a_transform_of_the_data_set(run: Run, alone: Alone) -> None:
    """Which is outside of the file, as that of the run is inside."""
    photos_of_several_sizes(60)
    for path in Path("photos").rglob("*.png"):
        Image.open(path).resize((16, 16)).save(path)
    Path("mine/dataset").mkdir(parents=True)
    own = "{_target_: torchvision.transforms.v2.PILToTensor}"
    Path("mine/dataset/own.yaml").write_text(
        f"_target_: torchvision.datasets.ImageFolder\nroot: photos\ntransform: {own}\n"
    )
    over = ("--config-dir", "mine", "dataset=own", "split=random", "transform=normalize", "hydra.run.dir=own")
    assert run(*QUICK, *over, "trainer.max_epochs=1") == 0
    for kind in ("safetensors", "torch_export"):
        assert run("export", "run=own", f"format={kind}", f"output={kind}") == 0
    paths = sorted(Path("photos").rglob("*.png"))[:20]
    pixels = np.stack([np.asarray(Image.open(path)).transpose(2, 0, 1) for path in paths])
    made, facts = alone("torch_export", "torch_export", pixels)
    assert made == pytest.approx(load_run("own").predict(paths).probabilities, abs=1e-5)
    assert facts["before"] == ["torchvision.transforms.v2.PILToTensor"]


def test_what_onnxruntime_alone_makes_of_pictures_and_tables(run: Run, tabular: Path, alone: Alone) -> None:
    """Pictures by a convolutional network, with a temperature."""
    over = ("model=cnn", "model.channels=[4,8]", "trainer.max_epochs=1", "hydra.run.dir=pictures")
    assert run(*QUICK[2:], *over) == 0
    assert run("export", "run=pictures", "format=onnx", "temperature=2.5") == 0
    for count in (1, 50):
        made, facts = alone("onnx", "pictures/model.onnx", PICTURES[:count].numpy())
        expected = load_run("pictures", temperature=2.5).predict(PICTURES[:count]).probabilities
        assert made == pytest.approx(expected, abs=1e-5)
    assert facts["temperature"] == 2.5
    assert facts["classes"] == [str(n) for n in range(10)]
    assert facts["input"] == {"shape": [1, 8, 8], "type": "uint8"}
    assert facts["weights"]["sha256"] == result_of("pictures")["checkpoint"]["sha256"]

    what_is_made_of_a_table(run, tabular, alone, "onnx")


def test_weights_alone(run: Run, digits: Path) -> None:
    from safetensors import safe_open

    assert run("export", f"run={digits}", "format=safetensors") == 0
    state = torch.load(digits / "checkpoints/best.pt", weights_only=True)
    with safe_open(digits / "model.safetensors", "pt") as file:
        assert all(torch.equal(file.get_tensor(f"model.{name}"), tensor) for name, tensor in state["model"].items())
        assert torch.equal(file.get_tensor("transform.modules_.0.mean"), state["transform"]["modules_.0.mean"])
        assert json.loads(file.metadata()["runner"])["model"]["hidden"] == [16]


def test_what_is_done_to_a_picture_before_is_said(run: Run, resized: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", "run=r", "format=safetensors") == 0
    assert (
        "not part of the file; apply to each image yourself first: torchvision.transforms.v2.Resize"
        in capsys.readouterr().out
    )
    Path("photos").rename("elsewhere")
    assert run("export", "run=r", "output=again.pt2") == 2
    assert "input: the val part of the run's data cannot be read" in capsys.readouterr().err
    assert run("export", "run=r", "output=again.pt2", "input=elsewhere") == 0


def test_a_file_that_says_something_else_is_not_kept(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def inexact(*arguments: Any) -> export.Ask:
        ask = export._safetensors(*arguments)
        return lambda samples: ask(samples) + 3e-5

    monkeypatch.setitem(export.FORMATS, "safetensors", inexact)
    assert run("export", f"run={digits}", "format=safetensors", "output=near") == 0
    assert run("export", f"run={digits}", "format=safetensors", "tolerance=1e-5") == 1
    error = capsys.readouterr().err
    assert "error: model.safetensors differs from the model by up to 3.0e-05 on " in error
    assert "more than tolerance=1e-05; it was not kept\n  try: tolerance=0.0001, if that is close enough\n" in error
    assert not (digits / "model.safetensors").exists()
    assert not list(digits.glob(".export*"))


def test_outputs_that_cannot_be_compared_are_an_error_and_no_file(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(digits / "checkpoints/best.pt", weights_only=True)["model"]
    torch.save(state | {"1.weight": torch.full_like(state["1.weight"], math.nan)}, "nan.pt")
    assert run("export", f"run={digits}", "format=safetensors", "weights=nan.pt") == 1
    expected = "error: model.safetensors cannot be compared with the model: some of their outputs are not finite; "
    assert expected + "it was not kept\n  try: input=FILE" in capsys.readouterr().err
    assert not (digits / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("model", "file", "said"),
    [
        ([[0.5, math.nan]], [[0.5, 0.5]], "some of their outputs are not finite"),
        ([[0.5, 0.5]], [[0.5, math.inf]], "some of their outputs are not finite"),
        ([[math.inf, 0.5]], [[math.inf, 0.5]], "some of their outputs are not finite"),
        ([[0.5, 0.5]], [[0.5]], "m.onnx returns outputs of shape 1×1, but the model of 1×2; it was not kept"),
    ],
)
def test_outputs_that_cannot_be_compared(model: list[list[float]], file: list[list[float]], said: str) -> None:
    with pytest.raises(RunnerError, match=said):
        export._compare(torch.tensor(model), torch.tensor(file), 1e-3, Path("m.onnx"))


BRANCHING = """\
from torch import nn

class Net(nn.Module):
    def __init__(self, num_outputs):
        super().__init__()
        self.layer = nn.Linear(64, num_outputs)

    def forward(self, x):
        y = self.layer(x.flatten(1))
        return y if float(y.detach().sum()) < 1e9 else -y
"""


def test_a_model_that_cannot_be_followed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    own = own_model(BRANCHING)
    assert run(*own, *QUICK[2:], "trainer.max_steps=1", "hydra.run.dir=r") == 0
    assert run("export", "run=r", own[-1]) == 2
    assert "format: torch_export cannot store this model" in capsys.readouterr().err
    assert not Path("r/model.pt2").exists()


def test_without_onnx_it_says_what_to_install(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.export.find_spec", lambda name: None if name == "onnxscript" else object())
    assert run("export", f"run={digits}", "format=onnx") == 2
    expected = "format: onnx needs onnxscript, which is not installed\n  allowed: torch_export, onnx, safetensors\n"
    assert expected + "  try: uv pip install onnxscript, or format=torch_export" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ("format=onxx", "tolerance=0"),
            "format: 'onxx' is not allowed\n  allowed: torch_export, onnx, safetensors\n  try: format=onnx\n"
            "tolerance: 0 is not allowed\n  allowed: a number > 0",
        ),
        (("output=no/m.pt2",), "output: there is no folder 'no'"),
        (("output=digits/result.json",), "output: 'digits/result.json' already exists"),
        (("input=nowhere",), "input: there is no file or folder 'nowhere'"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str], overrides: tuple[str, ...], said: str
) -> None:
    before = sorted(Path().rglob("*"))
    assert run("export", f"run={digits}", *overrides) == 2
    assert said in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before


def test_values_far_from_0_are_compared_by_how_much_they_differ() -> None:
    values = 1.7e9 + torch.randn(64, 1, dtype=torch.float64) * 10
    wrong = values + 5
    with pytest.raises(RunnerError, match="differs from the model by up to"):
        export._compare(values, wrong, 1e-3, Path("m.onnx"), (1.7e9, 10.0))
    export._compare(values, values + 1e-6, 1e-3, Path("m.onnx"), (1.7e9, 10.0))
