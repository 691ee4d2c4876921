"""What a run folder alone is good for: its model, and what it says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import QUICK, Run, own_model, records_of
from PIL import Image
from sklearn.datasets import load_digits

from runner import load_run
from runner.errors import ConfigError, DataError, InputError, RunFolderError

PICTURES = torch.from_numpy(load_digits().images.astype(np.uint8)).unsqueeze(1)


def split(folder: str | Path, part: str) -> np.ndarray:
    with np.load(Path(folder) / "split.npz") as held:
        return held[part]


def test_a_run_says_what_its_record_says(digits: Path) -> None:
    run = load_run(digits)
    rows = split(digits, "test")
    said = run.predict(PICTURES[rows])
    right = load_digits().target[rows]
    assert (said.values == right).mean() == run.result["metrics"]["test/accuracy"]
    log_loss = -np.log(said.probabilities[np.arange(len(rows)), right]).mean()
    assert log_loss == pytest.approx(run.result["metrics"]["test/loss"], rel=1e-6)
    assert said.labels == [str(value) for value in said.values]
    assert len(said) == 359
    assert said.probabilities.sum(1) == pytest.approx(1, abs=1e-12)


def test_what_a_run_knows(digits: Path) -> None:
    run = load_run(str(digits))
    lines = records_of(digits)
    assert run.metrics["val/loss"].tolist() == [line["val/loss"] for line in lines]
    assert run.metrics["epoch"].tolist() == [1, 2]
    with pytest.raises(KeyError, match=r"no evaluation measured 'test/loss', only epoch, .* are in result"):
        run.metrics["test/loss"]
    assert run.classes == [str(n) for n in range(10)]
    assert run.config["model"]["_target_"] == "runner.model.MLP"
    assert run.task == "classification"
    assert not run.model.training
    assert repr(run) == f"Run('{digits}', weights='best.pt', device='cpu')"


def test_the_model_is_that_of_the_checkpoint_behind_its_transform(digits: Path) -> None:
    run = load_run(digits)
    state = torch.load(digits / "checkpoints/best.pt", weights_only=True)
    train = PICTURES[split(digits, "train")].double()
    by_hand = (PICTURES[:5].double() - train.mean()) / train.std(correction=0)
    torch.testing.assert_close(run.transform(PICTURES[:5]), by_hand.float())
    assert all(torch.equal(run.model.state_dict()[name], tensor) for name, tensor in state["model"].items())
    with torch.inference_mode():
        expected = run.model(by_hand.float()).softmax(1)
        assert torch.equal(run.model(run.prepare(PICTURES[:5].numpy())), run.model(run.prepare(PICTURES[:5])))
    torch.testing.assert_close(torch.from_numpy(run.predict(PICTURES[:5]).probabilities).float(), expected)


def test_pictures_as_arrays_files_and_objects_are_the_same(digits: Path) -> None:
    run = load_run(digits)
    for number in range(3):
        Image.fromarray(PICTURES[number, 0].numpy()).save(f"{number}.png")
    expected = run.predict(PICTURES[:3]).probabilities
    for given in (
        PICTURES[:3].numpy(),
        ["0.png", Path("1.png"), "2.png"],
        [Image.open(f"{number}.png").convert("RGB") for number in range(3)],  # brought to the channels of training
    ):
        assert np.array_equal(run.predict(given).probabilities, expected)
    for one in ("1.png", PICTURES[1]):
        assert run.predict(one).probabilities == pytest.approx(expected[1:2], rel=1e-5)
    assert np.allclose(run.predict(PICTURES, batch_size=7).probabilities[:3], expected, atol=1e-6)
    assert len(run.predict(PICTURES[:0])) == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.zeros(2, 1, 9, 8, dtype=torch.uint8), "samples of 1×9×8, but the run was trained on images of 1×8×8"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "samples of 3×8×8"),
        (torch.zeros(2, 64, dtype=torch.uint8), "samples of 64"),
        (torch.zeros(2, 1, 8, 8), "samples in float32"),
        (Image.new("L", (9, 8)), "the input is 1×8×9"),
    ],
)
def test_what_does_not_look_like_the_samples_is_refused(digits: Path, given: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load_run(digits).predict(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "an object of type NoneType does not hold samples"),
        (3, "an object of type int does not hold samples"),
        ([3, 4], "an object of type int is not a sample"),
        ("nowhere.png", r"nowhere\.png cannot be decoded \(there is no file"),
        (np.array(["a", "b"]), "an array of <U1 cannot hold samples"),
        (np.zeros((2, 1, 8, 8), complex), "an array of complex128 cannot hold samples"),
        ([{"a": 1}], "an object of type dict is not a sample"),
    ],
)
def test_what_holds_no_samples(digits: Path, given: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load_run(digits).predict(given)


def test_lists_and_generators_of_samples(digits: Path) -> None:
    run = load_run(digits)
    expected = run.predict(PICTURES[:5]).probabilities
    assert np.array_equal(run.predict(list(PICTURES[:5])).probabilities, expected)
    assert np.array_equal(run.predict(picture for picture in PICTURES[:5].numpy()).probabilities, expected)
    with pytest.raises(ConfigError, match="batch_size: 0 is not allowed"):
        run.predict(PICTURES, batch_size=0)


@pytest.mark.parametrize("temperature", [-1, 0, "val", float("nan"), float("inf")])
def test_a_temperature_is_a_positive_number(digits: Path, temperature: object) -> None:
    with pytest.raises(ConfigError, match=r"temperature: .* is not allowed"):
        load_run(digits, temperature=temperature)


def test_values_out_of_range_are_said_once(digits: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = load_run(digits)
    run.predict(PICTURES * 15)
    run.predict(PICTURES * 15)
    assert [r.message for r in caplog.records] == ["inputs range from 0 to 240, but those of training from 0 to 16"]


def test_last_best_average_and_file(run: Run) -> None:
    assert run(*QUICK, "trainer.ema=0.9", "trainer.max_epochs=3", "hydra.run.dir=r") == 0
    state = torch.load("r/checkpoints/last.pt", weights_only=True)
    torch.save(state["model"], "plain.pt")
    name = "1.weight"

    def first(weights: str) -> torch.Tensor:
        return load_run("r", weights=weights).model.state_dict()[name]

    assert torch.equal(first("last"), state["model"][name])
    assert torch.equal(first("ema"), state["ema"][name])
    assert torch.equal(first("plain.pt"), state["model"][name])
    assert torch.equal(first("last.pt"), state["ema"][name])  # what was evaluated
    assert not torch.equal(state["ema"][name], state["model"][name])
    best = torch.load("r/checkpoints/best.pt", weights_only=True)
    assert torch.equal(first("best"), best["ema"][name])


def test_folders_that_are_none_of_a_trained_run(digits: Path, run: Run) -> None:
    with pytest.raises(RunFolderError, match="'nowhere' does not exist"):
        load_run("nowhere")
    Path("empty").mkdir()
    with pytest.raises(RunFolderError, match=r"no config\.yaml in it"):
        load_run("empty")
    shutil.rmtree(digits / "checkpoints")
    with pytest.raises(RunFolderError, match=r"has no checkpoint \(state: completed\)"):
        load_run(digits)


def test_a_checkpoint_that_is_not_the_recorded_one(digits: Path) -> None:
    path = digits / "checkpoints/best.pt"
    state = torch.load(path, weights_only=True)
    state["model"]["1.weight"] += 1
    torch.save(state, path)
    with pytest.raises(RunFolderError, match=r"is not the checkpoint that the metrics in result\.json were computed"):
        load_run(digits)
    load_run(digits, weights=path)  # as it is told
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"is damaged"):
        load_run(digits, weights=path)


def test_weights_that_are_not_there_or_of_another_model(digits: Path, run: Run) -> None:
    with pytest.raises(ConfigError, match="there is no file 'lats'") as error:
        load_run(digits, weights="lats")
    assert error.value.problems[0].remedy == "weights=last"
    with pytest.raises(ConfigError, match="has no averaged weights"):
        load_run(digits, weights="ema")
    torch.save({"x.weight": torch.zeros(3)}, "other.pt")
    with pytest.raises(DataError, match=r"weights: no tensor of 'other\.pt' matches the model"):
        load_run(digits, weights="other.pt")
    text = (digits / "config.yaml").read_text()
    (digits / "config.yaml").write_text(text.replace("  - 16\n", "  - 17\n"))
    with pytest.raises(RunFolderError, match=r"best\.pt: does not match .*config\.yaml: "):
        load_run(digits)


def test_code_of_the_users_own_is_for_the_user_to_allow(run: Run, strangers: None) -> None:
    code = (
        "from torch import nn\nclass Net(nn.Sequential):\n"
        "    def __init__(self, num_outputs):\n        super().__init__(nn.Flatten(), nn.Linear(64, num_outputs))\n"
    )
    assert run(*own_model(code), *QUICK[2:], "trainer.max_steps=1", "hydra.run.dir=r") == 0
    with pytest.raises(ConfigError, match=r"'own_net\.Net' is not on the list of allowed targets"):
        load_run("r")
    assert len(load_run("r", allow_targets=["own_net.*"]).predict(PICTURES[:3])) == 3


def test_values_come_in_the_units_of_the_targets(diabetes: Path) -> None:
    trained = load_run(diabetes)
    from sklearn.datasets import load_diabetes

    bunch, rows = load_diabetes(), split("r", "test")
    said = trained.predict(bunch.data[rows])
    assert said.probabilities is None
    errors = np.abs(said.values - bunch.target[rows])
    assert errors.mean() == pytest.approx(trained.result["metrics"]["test/mae"], rel=1e-5)
    assert said.values.mean() > 50


def test_a_table_goes_by_the_names_of_its_columns(tabular: Path) -> None:
    import pandas as pd

    frame = pd.read_csv("wine.csv")
    trained, rows = load_run("r"), split("r", "test")
    shuffled = frame.drop(columns="target").sample(frac=1, axis=1, random_state=0).assign(other=1)
    said = trained.predict(shuffled.iloc[rows])
    assert (said.values == frame.target.to_numpy()[rows]).mean() == trained.result["metrics"]["test/accuracy"]
    with pytest.raises(DataError, match=r"the table has no columns 'flavanoids', 'colour'") as missing:
        trained.predict(shuffled.drop(columns=["flavanoids", "colour"]))
    with pytest.raises(DataError, match=r"try: 'alcohol' in place of alcool$"):
        trained.predict(shuffled.rename(columns={"alcohol": "alcool"}))
    (problem,) = missing.value.problems
    assert problem.what.endswith(f"; its columns are {', '.join(shuffled.drop(columns=['flavanoids', 'colour']))}")
    assert problem.remedy == ""  # nonflavanoid_phenols is near, and wanted itself
    genes = pd.DataFrame({f"gene{number}": 0 for number in range(400)}, index=shuffled.index)
    wide = pd.concat([shuffled, genes], axis=1)
    with pytest.raises(DataError, match=r"(?m)no column 'hue', which .*, …$") as missing:
        trained.predict(wide.drop(columns="hue"))
    assert len(str(missing.value)) < 1000
    with pytest.raises(DataError, match=r"row 1: column 'alcohol' holds 'much', which is not a number"):
        trained.predict(shuffled.astype({"alcohol": object}).assign(alcohol=["13", "much"] * 89))
    assert isinstance(shuffled, pd.DataFrame)


def test_a_temperature_divides_the_logits(digits: Path) -> None:
    plain, cooled = load_run(digits), load_run(digits, temperature=2.0)
    with torch.inference_mode():
        logits = plain.model(plain.transform(PICTURES[:9])).double()
    expected = torch.softmax(logits / 2, 1).numpy()
    assert cooled.predict(PICTURES[:9]).probabilities == pytest.approx(expected, rel=1e-9)


def test_torch_is_left_as_it_is(digits: Path) -> None:
    torch.set_num_threads(2)
    torch.backends.cudnn.benchmark = False
    load_run(digits).predict(PICTURES[:3])
    assert torch.get_num_threads() == 2
    assert not torch.backends.cudnn.benchmark
    assert all(parameter.requires_grad for parameter in load_run(digits).model.parameters())


def test_the_package_alone_imports_nothing_heavy() -> None:
    code = "import runner, sys; print('torch' in sys.modules); runner.load_run; print('torchvision' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


CALL = {"_target_": "os.system", "command": "touch evil"}
LOADER = {"batch_size": 64, "eval_batch_size": None, "drop_last": False, "sampler": "shuffle", "subset": None}
EVIL = {
    "model._target_": CALL,
    "transform.eval.0._target_": {"train": [], "eval": [CALL]},
    "dataset.transform._target_": {"_target_": "runner.dataset.digits", "transform": CALL},
}
"""By the key that names what must not be called, a group of the configuration: what the model itself needs."""
EVIL_DATA = {
    "dataset._target_": CALL,
    "loader.collate_fn._target_": {
        "_target_": "runner.loader.auto", "collate_fn": CALL, "num_workers": 0, **LOADER,
    },
    "loss._target_": CALL,
    "metric.evil._target_": {"evil": CALL},
    "split._target_": CALL,
}  # fmt: skip
"""The same of what its data need, and what is measured of them."""


@pytest.mark.parametrize("evil", [EVIL, EVIL_DATA])
@pytest.mark.parametrize("command", ["predict", "evaluate", "export", "reproduce"])
def test_a_folder_calls_nothing_that_was_not_allowed(
    run: Run, digits: Path, capsys: pytest.CaptureFixture[str], evil: dict[str, str], command: str
) -> None:
    tree = yaml.safe_load((digits / "config.yaml").read_text())
    for key, group in evil.items():
        name = key.partition(".")[0]
        tree[name] = group
        tree["interpolations"] = {k: v for k, v in tree["interpolations"].items() if not k.startswith(f"{name}.")}
    (digits / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    more = {"predict": ("input=val", "output=p.csv"), "reproduce": ("hydra.run.dir=again",)}.get(command, ())
    assert run(command, f"run={digits}", *more) == 2
    said = capsys.readouterr().err
    for key in evil:
        assert f"{key}: 'os.system' is blocked for safety" in said
    assert not Path("evil").exists()


def test_one_picture_with_its_channels_last(run: Run) -> None:
    Path("own_data.py").write_text(
        "import numpy as np\n\nPICTURES = np.random.default_rng(0).integers(0, 255, (90, 6, 5, 3), dtype=np.uint8)\n\n"
        "class Pictures:\n    targets = list(PICTURES[..., 0].mean((1, 2)) > 127)\n"
        "    def __len__(self):\n        return 90\n"
        "    def __getitem__(self, i):\n        return PICTURES[i], int(self.targets[i])\n"
    )
    Path("mine/dataset").mkdir(parents=True)
    Path("mine/dataset/own.yaml").write_text("_target_: own_data.Pictures\nlayout: hwc\n")
    own = ("--config-dir", "mine", "dataset=own", "allow_targets=[own_data.*]", "split=random")
    assert run(*own, *QUICK, "trainer.max_steps=1", "hydra.run.dir=r") == 0
    import own_data

    trained = load_run("r", allow_targets=["own_data.*"])
    expected = trained.predict(own_data.PICTURES[:2]).probabilities
    assert trained.predict(own_data.PICTURES[0]).probabilities == pytest.approx(expected[:1], rel=1e-5)
    assert trained.predict([own_data.PICTURES[0]]).probabilities == pytest.approx(expected[:1], rel=1e-5)
