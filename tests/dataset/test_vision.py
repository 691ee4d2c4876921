"""Data are written in the true format of each torchvision data set, and read back through its option."""

from __future__ import annotations

import bz2
import gzip
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from conftest import composed
from PIL import Image

from runner import config, options
from runner.checks import targets
from runner.dataset import ArrayDataset, Parts, read
from runner.dataset.libraries import torchvision_dataset
from runner.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
ROOT = Path("data")


def pictures(count: int, *shape: int) -> Any:
    return RNG.integers(0, 256, (count, *shape), dtype=np.uint8)


def idx(path: Path, array: Any, gz: bool = False, kind: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes([0, 0, kind, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    content = head + array.tobytes()
    (path.with_name(path.name + ".gz") if gz else path).write_bytes(gzip.compress(content) if gz else content)


def write_mnist(folder: str, gz: bool = False) -> None:
    for stem, count in (("train", 20), ("t10k", 10)):
        idx(ROOT / folder / f"raw/{stem}-images-idx3-ubyte", pictures(count, 28, 28), gz)
        idx(ROOT / folder / f"raw/{stem}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10, gz)


def write_emnist() -> None:
    for stem, count in (("train", 47), ("test", 10)):
        idx(ROOT / f"EMNIST/raw/emnist-balanced-{stem}-images-idx3-ubyte", pictures(count, 28, 28), True)
        idx(ROOT / f"EMNIST/raw/emnist-balanced-{stem}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8), True)


def write_qmnist() -> None:
    for stem in ("train", "test"):
        idx(ROOT / f"QMNIST/raw/qmnist-{stem}-images-idx3-ubyte", pictures(10, 28, 28))
        labels = np.zeros((10, 8), dtype=">i4")
        labels[:, 0] = np.arange(10)
        idx(ROOT / f"QMNIST/raw/qmnist-{stem}-labels-idx2-int", labels, kind=12)


def write_cifar(folder: str, files: list[str], meta: str, names: str, key: str, classes: int) -> None:
    place = ROOT / folder
    place.mkdir(parents=True)
    for file in files:
        content = {"data": pictures(classes, 3072), key: list(range(classes))}
        (place / file).write_bytes(pickle.dumps(content))
    (place / meta).write_bytes(pickle.dumps({names: [f"name {n}" for n in range(classes)]}))


def write_cifar10() -> None:
    files = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    write_cifar("cifar-10-batches-py", files, "batches.meta", "label_names", "labels", 10)


def write_cifar100() -> None:
    write_cifar("cifar-100-python", ["train", "test"], "meta", "fine_label_names", "fine_labels", 100)


def write_svhn() -> None:
    ROOT.mkdir()
    for part in ("train", "test"):
        labels = np.arange(1, 11, dtype=np.uint8)[:, None]  # 10 stands for the digit 0
        scipy.io.savemat(ROOT / f"{part}_32x32.mat", {"X": pictures(32, 32, 3, 10), "y": labels})


def write_stl10() -> None:
    place = ROOT / "stl10_binary"
    place.mkdir(parents=True)
    for part in ("train", "test"):
        (place / f"{part}_X.bin").write_bytes(pictures(10, 3, 96, 96).tobytes())
        (place / f"{part}_y.bin").write_bytes(np.arange(1, 11, dtype=np.uint8).tobytes())
    (place / "unlabeled_X.bin").write_bytes(b"")
    (place / "class_names.txt").write_text("\n".join(f"name {n}" for n in range(10)))
    (place / "fold_indices.txt").write_text("")


def write_semeion() -> None:
    ROOT.mkdir()
    rows = np.concatenate([RNG.integers(0, 2, (10, 256)), np.eye(10)], 1)
    np.savetxt(ROOT / "semeion.data", rows, fmt="%.4f")


def write_usps() -> None:
    ROOT.mkdir()
    for file in ("usps.bz2", "usps.t.bz2"):
        rows = [f"{n + 1} " + " ".join(f"{i + 1}:{RNG.uniform(-1, 1):.4f}" for i in range(256)) for n in range(10)]
        (ROOT / file).write_bytes(bz2.compress(("\n".join(rows) + "\n").encode()))


def write_eurosat() -> None:
    for name in ("Forest", "River"):
        (ROOT / "eurosat/2750" / name).mkdir(parents=True)
        for number in range(5):
            Image.fromarray(pictures(1, 64, 64, 3)[0]).save(ROOT / f"eurosat/2750/{name}/{name}_{number}.jpg")


def write_food101() -> None:
    import json

    (ROOT / "food-101/meta").mkdir(parents=True)
    names = {"train": ["pie/1", "pie/2", "soup/3"], "test": ["pie/4", "soup/5"]}
    for part, files in names.items():
        content = {name: [f for f in files if f.startswith(name)] for name in ("pie", "soup")}
        (ROOT / f"food-101/meta/{part}.json").write_text(json.dumps(content))
        for file in files:
            (ROOT / f"food-101/images/{file}").parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pictures(1, 30, 20, 3)[0]).save(ROOT / f"food-101/images/{file}.jpg")


def photo(path: Path, width: int = 20, height: int = 30, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pictures(1, height, width, 3)[0]).convert(mode).save(path)


def write_gtsrb() -> None:
    base = ROOT / "gtsrb"
    for number in range(6):
        photo(base / f"GTSRB/Training/{number % 3:05d}/{number:05d}_00000.ppm", width=20 + number)
        photo(base / f"GTSRB/Final_Test/Images/{number:05d}.ppm")
    rows = [f"{number:05d}.ppm;20;30;5;5;15;25;{number % 3}" for number in range(6)]
    head = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
    (base / "GT-final_test.csv").write_text("\n".join([head, *rows]) + "\n")


def write_flowers102() -> None:
    for number in range(1, 11):
        photo(ROOT / f"flowers-102/jpg/image_{number:05d}.jpg", height=20 + number)
    scipy.io.savemat(ROOT / "flowers-102/imagelabels.mat", {"labels": np.arange(10) % 102 + 1})
    parts = {"trnid": np.array([2, 4, 6, 1]), "valid": np.array([3, 5]), "tstid": np.array([10, 7, 8, 9])}
    scipy.io.savemat(ROOT / "flowers-102/setid.mat", parts)


def write_oxford_pets() -> None:
    place = ROOT / "oxford-iiit-pet"
    (place / "annotations").mkdir(parents=True)
    for part, names in {"trainval": ["Abyssinian_1", "great_pyrenees_2"], "test": ["Abyssinian_3"]}.items():
        rows = [f"{name} {1 + name.startswith('g')} 1 1" for name in names]
        (place / f"annotations/{part}.txt").write_text("\n".join(rows) + "\n")
        for name in names:
            photo(place / f"images/{name}.jpg")


def write_omniglot() -> None:
    place = ROOT / "omniglot-py"
    for alphabet, character in (("Greek", "character01"), ("Greek", "character02"), ("Latin", "character01")):
        for number in range(2):
            photo(place / f"images_background/{alphabet}/{character}/{number:04d}_01.png", 105, 105, "1")
    (place / "images_background.zip").write_bytes(b"")


def write_imagenet() -> None:
    names = {"n01440764": ("tench", "Tinca tinca"), "n01443537": ("goldfish", "Carassius auratus")}
    for part in ("train", "val"):
        for wnid in names:
            for number in range(2):
                photo(ROOT / f"{part}/{wnid}/{wnid}_{number}.JPEG", width=20 + number)
    torch.save((names, ["n01440764"] * 2), ROOT / "meta.bin")


def write_lsun() -> None:
    import io

    import lmdb

    scenes = ["bedroom", "bridge", "church_outdoor", "classroom", "conference_room", "dining_room", "kitchen",
              "living_room", "restaurant", "tower"]  # fmt: skip
    for part, count in (("train", 3), ("val", 1)):
        for scene in scenes:
            (ROOT / f"{scene}_{part}_lmdb").mkdir(parents=True)
            with lmdb.open(str(ROOT / f"{scene}_{part}_lmdb")) as env, env.begin(write=True) as txn:
                for number in range(count):
                    file = io.BytesIO()
                    Image.fromarray(pictures(1, 30, 20, 3)[0]).save(file, "WEBP")
                    txn.put(f"{number:040x}".encode(), file.getvalue())


WRITERS: dict[str, tuple[Callable[[], None], dict[str, int], int]] = {
    "mnist": (lambda: write_mnist("MNIST"), {"train": 20, "test": 10}, 10),
    "fashion_mnist": (lambda: write_mnist("FashionMNIST", gz=True), {"train": 20, "test": 10}, 10),
    "kmnist": (lambda: write_mnist("KMNIST"), {"train": 20, "test": 10}, 10),
    "emnist": (write_emnist, {"train": 47, "test": 10}, 47),
    "qmnist": (write_qmnist, {"train": 10, "test": 10}, 10),
    "cifar10": (write_cifar10, {"train": 50, "test": 10}, 10),
    "cifar100": (write_cifar100, {"train": 100, "test": 100}, 100),
    "svhn": (write_svhn, {"train": 10, "test": 10}, 10),
    "stl10": (write_stl10, {"train": 10, "test": 10}, 10),
    "semeion": (write_semeion, {"train": 10}, 10),
    "usps": (write_usps, {"train": 10, "test": 10}, 10),
    "eurosat": (write_eurosat, {"train": 10}, 2),
    "food101": (write_food101, {"train": 3, "test": 2}, 2),
    "gtsrb": (write_gtsrb, {"train": 6, "test": 6}, 3),
    "flowers102": (write_flowers102, {"train": 4, "val": 2, "test": 4}, 102),
    "oxford_pets": (write_oxford_pets, {"train": 2, "test": 1}, 2),
    "omniglot": (write_omniglot, {"train": 6}, 3),
    "imagenet": (write_imagenet, {"train": 4, "test": 4}, 2),
    "lsun": (write_lsun, {"train": 30, "val": 10}, 10),
}
READ_ONE_BY_ONE = {
    "eurosat", "food101", "gtsrb", "flowers102", "oxford_pets", "omniglot", "imagenet", "lsun",
}  # fmt: skip


@pytest.fixture
def any_md5(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision compares the published files' MD5, which ours cannot have."""
    for module in ("cifar", "svhn", "stl10", "semeion", "flowers102", "omniglot"):
        name = f"torchvision.datasets.{module}.check_integrity"
        monkeypatch.setattr(name, lambda path, md5=None: Path(path).is_file())


def opened(name: str, *overrides: str) -> Parts:
    cfg = composed(f"dataset={name}", *overrides)
    assert targets.check(config.plain(cfg)[0]) == []
    return config.factory(cfg.dataset)()


# torchvision leaves the files open in which it notes what LSUN holds.
leaky = pytest.mark.filterwarnings("ignore:unclosed file", "ignore::pytest.PytestUnraisableExceptionWarning")


@leaky
@pytest.mark.usefixtures("any_md5")
@pytest.mark.parametrize("name", WRITERS)
def test_what_is_read_is_what_torchvision_reads(name: str) -> None:
    write, counts, classes = WRITERS[name]
    write()
    parts = read(opened(name))
    assert {part: len(samples) for part, samples in parts.items()} == counts
    assert len(parts["train"].classes) == classes
    assert isinstance(parts["train"].source, ArrayDataset) == (name not in READ_ONE_BY_ONE)

    cfg = composed(f"dataset={name}")
    assert config.check(cfg) == []
    assert config.written(cfg.dataset) == options.of("dataset")[name]
    chosen = cfg.dataset
    kind = getattr(torchvision.datasets, chosen.name)
    if name in ("fashion_mnist", "emnist"):
        for path in ROOT.rglob("*.gz"):  # torchvision itself reads extracted files only
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    extra = {"split": chosen.split} if "split" in chosen else {}
    place = shutil.copytree(ROOT, "copy") if name == "lsun" else ROOT  # an LMDB file cannot be opened twice
    for part, samples in parts.items():
        source = kind(place, **extra, **chosen.parts[part])
        for index in range(len(source)):
            picture, target = source[index]
            given, found, _ = samples.read(index)
            assert torch.equal(given, torch.from_numpy(np.array(picture)).view(*given.shape[1:], -1).permute(2, 0, 1))
            assert found == target
        assert samples.targets.tolist() == [target for _, target in source]


def test_every_data_set_of_torchvisions_is_read_here() -> None:
    texts = {path.stem: path.read_text() for path in (options.home() / "dataset").glob("*.yaml")}
    assert {name for name, text in texts.items() if "_target_: runner.dataset.torchvision" in text} == set(WRITERS)


@pytest.mark.parametrize("name", WRITERS)
def test_missing_files_are_named_with_the_place_and_the_remedy(name: str) -> None:
    remedy = "download the files" if name in ("imagenet", "lsun") else "dataset.download=true"
    with pytest.raises(DataError, match=rf"dataset.root: .* \(looked for data/.*\)\n  try: {remedy}"):
        opened(name)


def test_classes_with_several_names() -> None:
    write_imagenet()
    assert read(opened("imagenet"))["train"].classes == ["tench, Tinca tinca", "goldfish, Carassius auratus"]


@leaky
def test_the_targets_of_lsun_are_known_without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    write_lsun()
    monkeypatch.setattr(torchvision.datasets.LSUN, "__getitem__", lambda *_: pytest.fail("decoded"))
    assert read(opened("lsun"))["train"].targets.tolist() == [scene for scene in range(10) for _ in range(3)]


def test_a_truncated_file_is_an_error() -> None:
    write_mnist("MNIST")
    path = ROOT / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"MNIST cannot be read: .*ubyte ends after 984 of 15,680 bytes"):
        opened("mnist")


def test_an_unknown_data_set() -> None:
    with pytest.raises(ConfigError, match=r"torchvision has no data set 'CIFAR1'\n  try: dataset.name=CIFAR10"):
        opened("cifar10", "dataset.name=CIFAR1")


def test_a_target_transform_is_applied() -> None:
    write_mnist("MNIST")
    node = "{_target_: torchvision.transforms.v2.Lambda, lambd: {_target_: torch.nn.Identity}}"
    parts = read(opened("mnist", f"dataset.target_transform={node}"))
    assert not isinstance(parts["train"].source, ArrayDataset)
    assert parts["train"].targets[:3].tolist() == [0, 1, 2]


SHARED = Path(__file__).parents[3] / "shared/data"


@pytest.mark.skipif(not (SHARED / "FashionMNIST").is_dir(), reason="needs the published Fashion-MNIST files")
def test_the_published_fashion_mnist_files() -> None:
    cfg = composed("dataset=fashion_mnist", f"dataset.root={SHARED}")
    parts = read(config.factory(cfg.dataset)())
    assert {name: part.arrays.inputs.shape for name, part in parts.items()} == {
        "train": (60000, 1, 28, 28), "test": (10000, 1, 28, 28),
    }  # fmt: skip
    assert parts["train"].targets.bincount().tolist() == [6000] * 10
    # Mean and standard deviation of the train part as its users know them: 0.2860, 0.3530.
    pixels = parts["train"].arrays.inputs.float() / 255
    assert pixels.mean().item() == pytest.approx(0.2860, abs=5e-5)
    assert pixels.std().item() == pytest.approx(0.3530, abs=5e-5)


def test_data_sets_that_know_no_download() -> None:
    for number in range(2):
        photo(ROOT / f"{'ab'[number]}/{number}.png")
    parts = read(torchvision_dataset("ImageFolder", str(ROOT)))
    assert parts["train"].classes == ["a", "b"]


def test_with_a_transform_pictures_are_not_held_as_they_are_stored() -> None:
    write_mnist("MNIST")
    parts = read(opened("mnist", "dataset.transform={_target_: torchvision.transforms.v2.ToImage}"))
    assert not isinstance(parts["train"].source, ArrayDataset)
    assert parts["train"].read(0)[0].shape == (1, 28, 28)
