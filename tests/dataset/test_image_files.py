from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from runner.dataset import Parts, image_folder
from runner.dataset.image_files import find, suffixes
from runner.errors import DataError

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)


def draw(*paths: str, **options: Any) -> None:
    for path in paths:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)).save(path, **options)


def opened(root: str = "pets", **options: Any) -> Any:
    return image_folder(root, cache=None, **options)


def paths(root: str = "pets", **options: Any) -> list[str]:
    return list(opened(root, **options).columns["path"])


@pytest.fixture(autouse=True)
def _all_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "runner")


def test_files_and_their_order_are_those_of_torchvision() -> None:
    draw("pets/cat/b.png", "pets/cat/B.PNG", "pets/cat/day/1.png", "pets/cat/day-2/1.png", "pets/cat/day/a/1.png")
    draw("pets/Dog/10.jpg", "pets/Dog/9.webp", "pets/_x/é.bmp", "elsewhere/1.png")
    os.symlink("../../elsewhere", "pets/cat/linked")
    os.symlink("../elsewhere", "pets/zebra")
    theirs = ImageFolder("pets")
    data = opened()
    assert data.classes == theirs.classes == ["Dog", "_x", "cat", "zebra"]
    assert list(data.columns["path"]) == [os.path.relpath(path, "pets") for path, _ in theirs.samples]
    assert data.targets.tolist() == theirs.targets


def test_links_that_lead_in_a_circle_or_nowhere_are_said(caplog: pytest.LogCaptureFixture) -> None:
    draw("pets/cat/1.png", "pets/cat/sub/2.png")
    os.symlink("..", "pets/cat/sub/up")
    os.symlink("sub", "pets/cat/twice")  # the same pictures would be in train and in test
    os.symlink("nowhere", "pets/cat/3.png")
    os.symlink("itself.png", "pets/cat/itself.png")
    os.mkfifo("pets/cat/4.png")
    assert paths() == ["cat/1.png", "cat/sub/2.png"]
    said = "5 files are left out: 3 links to nothing or no files, 2 links to a folder that is read already"
    assert said in caplog.text


def test_droppings_are_no_data(caplog: pytest.LogCaptureFixture) -> None:
    draw("pets/cat/1.png", "pets/dog/1.png")
    clean = paths()
    draw("pets/cat/._1.png", "pets/cat/.ipynb_checkpoints/1-checkpoint.png", "pets/.ipynb_checkpoints/1.png")
    draw("pets/__MACOSX/cat/1.png", "pets/cat/__MACOSX/1.png", "pets/dog/@eaDir/1.png", "pets/lost+found/1.png")
    for name in ("pets/.DS_Store", "pets/cat/.DS_Store", "pets/cat/Thumbs.db", "pets/dog/desktop.ini"):
        Path(name).write_bytes(b"x")
    data = opened()
    assert list(data.columns["path"]) == clean
    assert data.classes == ["cat", "dog"]
    assert caplog.text == ""
    assert find(Path("pets")).paths == ["pets/cat/1.png", "pets/dog/1.png"]  # as predict finds them


def test_what_hides_the_folder_of_the_data_does_not_matter() -> None:
    draw(".cache/pets/cat/1.png")
    assert paths(".cache/pets") == ["cat/1.png"]


@pytest.mark.parametrize("suffix", [".gif", ".jfif", ".avif", ".jp2", ".JPG", ".tga", ".qoi", ".pcx", ".webp", ".pnm"])
def test_what_pil_can_read_is_taken(suffix: str) -> None:
    draw("pets/cat/1.png", f"pets/cat/2{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    with Image.open(f"pets/cat/2{suffix}") as file:
        truth = np.asarray(file.convert("RGB"))
    assert (opened().inputs[1].permute(1, 2, 0).numpy() == truth).all()


def test_nothing_that_runs_is_no_picture_or_is_a_film_is_taken() -> None:
    assert not {".eps", ".ps", ".pdf", ".svg", ".wmf", ".emf", ".mpg", ".h5", ".grib", ".fits", ".fli"} & {*suffixes()}


def test_other_files_are_counted_and_images_among_them_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    draw("pets/cat/1.png", "pets/dog/1.png")
    for name in ("cat/1.txt", "cat/2.txt", "dog/LABEL"):
        Path("pets", name).write_text("x")
    opened()
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert caplog.messages == ["3 files are left out: 2 .txt, 1 without a suffix"]
    caplog.clear()
    for name in ("cat/1.heic", "dog/1.HEIC", "dog/1.psd"):
        Path("pets", name).write_text("x")
    opened()
    said = "6 files are left out: 2 .heic, 2 .txt, 1 .psd, 1 without a suffix\n  try: .heic, .psd converted to .png"
    assert caplog.messages[0].startswith(said)
    assert caplog.records[0].levelname == "WARNING"
    Path("pets/dog/1.png").unlink()
    with pytest.raises(DataError, match=r"no images in pets/dog \(left out: 2 \.heic, 2 \.txt, .*\)"):
        opened()


def test_of_what_moves_the_first_picture_is_read_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    frames = [Image.fromarray(np.full((4, 6), value, dtype=np.uint8)) for value in (10, 200)]
    Path("pets/cat").mkdir(parents=True)
    for suffix in ("gif", "png", "tif"):
        frames[0].save(f"pets/cat/1.{suffix}", save_all=True, append_images=frames[1:])
    draw("pets/cat/2.png")
    for options in ({}, {"memory_limit": 0}):
        caplog.clear()
        data = opened(**options)
        assert [int(np.asarray(data[number][0]).max()) for number in range(3)] == [10, 10, 10]
        assert caplog.messages == ["3 of 4 images are animated or have pages: of these only the first is read"]


@pytest.mark.parametrize("options", [{}, {"size": [2, 3]}, {"memory_limit": 0}, {"size": [2, 3], "memory_limit": 0}])
def test_grey_files_that_become_three_channels_are_said(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    draw("pets/cat/1.png", "pets/cat/2.png")
    for path in Path("pets").rglob("*.png"):
        Image.open(path).convert("L").save(path)
    opened(**options)
    assert caplog.messages == ["all 2 images looked at are greyscale, read as RGB (dataset.channels=1 reads one)"]
    caplog.clear()
    opened(**options, channels=1)
    draw("pets/cat/3.png")
    opened(**options)
    assert caplog.messages == []


def test_grey_files_are_said_from_the_cache_too(caplog: pytest.LogCaptureFixture) -> None:
    draw("pets/cat/1.png")
    Image.open("pets/cat/1.png").convert("L").save("pets/cat/1.png")
    for _ in range(2):
        image_folder("pets", cache="cache")
    assert len(caplog.messages) == 2


def kaggle() -> None:
    names = [f"{number:05x}.jpg" for number in range(12)]
    draw(*(f"kaggle/train/{name}" for name in names), "kaggle/test/t0.jpg")
    rows = "".join(f"{name},{'ab'[number % 2]}\n" for number, name in enumerate(names))
    Path("kaggle/train.csv").write_text("image_id,label\n" + rows)
    shutil.copytree("kaggle/train", "flat/images")
    shutil.copytree("kaggle/train", "second/img")
    rows_2 = "".join(f'{{"label": "{"ab"[number % 2]}", "id": "{name[:-4]}"}}\n' for number, name in enumerate(names))
    Path("second/labels.json").write_text('{"made": 2020}\n' + rows_2)
    Path("flat/labels.csv").write_text("id\tlabel\n" + rows.replace(".jpg,", "\t"))


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("kaggle", r"images lie directly in kaggle/train \(12\), .*; the labels in kaggle/train.csv are not read"),
        (
            "kaggle/train",
            r"images lie directly in kaggle/train \(12\), .*; the labels in kaggle/train.csv are not read",
        ),
        ("kaggle/test", r"images lie directly in kaggle/test \(1\), and not in one folder per class$"),
        ("flat/images", r"images lie directly in flat/images \(12\), .*; the labels in flat/labels.csv are not read"),
        (
            "second",
            "all images lie in second/img, which makes one class; the labels in second/labels.json are not read",
        ),
        ("flat", "all images lie in flat/images, which makes one class; the labels in flat/labels.csv are not read"),
    ],
)
def test_labels_in_a_table_are_no_folders(root: str, said: str) -> None:
    kaggle()
    with pytest.raises(DataError) as caught:
        opened(root)
    assert re.search(said, caught.value.problems[0].what)
    assert "docs/data.md has a script" in caught.value.problems[0].remedy


def test_the_script_of_the_documentation_sorts_them() -> None:
    kaggle()
    (code,) = re.findall(r"```python\n(import os.*?)```", (ROOT / "docs/data.md").read_text(), re.DOTALL)
    subprocess.run([sys.executable, "-c", code], check=True)
    data = opened("sorted")
    assert data.classes == ["a", "b"]
    assert list(data.columns["path"])[:2] == ["a/00000.jpg", "a/00002.jpg"]
    assert len(data) == 12


def test_folders_that_are_no_classes_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    kaggle()
    Path("kaggle/train").rename("kaggle/train_images")
    Path("kaggle/test").rename("kaggle/test_images")
    opened("kaggle")
    said = "kaggle/train.csv lists the images, but is not read: the classes are the folders test_images, train_images"
    assert caplog.messages == [said]
    draw("pets/a/1.png", "pets/b/1.png")
    Path("pets/all.csv").write_text("file,label\na/1.png,a\nb/1.png,b\n")  # which says the same as the folders
    caplog.clear()
    opened()
    assert caplog.messages == []
    draw("pets/2.png")
    opened()
    assert caplog.messages == ["1 image is directly in pets left out: only those in folders have a class"]


def test_a_part_without_classes_beside_one_with() -> None:
    draw("pets/train/cat/1.png", "pets/train/dog/1.png", "pets/test/1.png", "pets/test/2.png")
    with pytest.raises(DataError, match=r"directly in pets/test \(2\).*\n.*\n  try: dataset.root=pets/train,"):
        opened()
    assert len(opened("pets/train")) == 2


@pytest.mark.parametrize("names", [("bus", "car", "train"), ("Train", "tram"), ("val", "validation", "x")])
def test_classes_may_be_called_as_parts_are(names: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    draw(*(f"vehicles/{name}/{number}.png" for name in names for number in range(2)))
    data = opened("vehicles")
    assert data.classes == sorted(names)
    assert data.targets.tolist() == sorted([*range(len(names))] * 2)
    assert "taken for a class and not for a part, as images lie directly in the folder" in caplog.text


@pytest.mark.parametrize(
    "folders",
    [
        ("bus/1", "car/1", "train/1"),  # in folders in the classes
        ("train/a", "train/b", "holdout/a"),
        ("val/a", "validation/a", "train/a"),
        ("test/a", "test/b"),
        ("train", "test"),
    ],
)
def test_where_it_is_not_clear_what_folders_are_the_remedy_says_it(folders: tuple[str, ...]) -> None:
    draw(*(f"vehicles/{folder}/1.png" for folder in folders))
    with pytest.raises(DataError, match=r"(try:|or) dataset\.parts=false, if every folder is a class$"):
        opened("vehicles")
    assert opened("vehicles", parts=False).classes == sorted({folder.partition("/")[0] for folder in folders})


def test_paths_tell_the_parts_apart(caplog: pytest.LogCaptureFixture) -> None:
    draw(*(f"pets/{part}/{name}/1.png" for part in ("train", "Valid", "test") for name in ("cat", "dog")))
    for options in ({}, {"memory_limit": 0}):
        data = opened(**options)
        assert isinstance(data, Parts)
        found = [list(getattr(part, "path", None) or part.columns["path"]) for _, part in data.items()]
        assert found == [[f"{part}/{name}/1.png" for name in ("cat", "dog")] for part in ("train", "Valid", "test")]
    Path("pets/Valid/cat/1.png").write_bytes(b"broken")
    draw("pets/Valid/cat/2.png")
    opened(on_error="skip")
    assert "1 of 3 images cannot be decoded and are skipped: Valid/cat/1.png" in caplog.text


def test_reading_1_is_what_it_was(caplog: pytest.LogCaptureFixture) -> None:
    draw("pets/cat/1.png", "pets/cat/.2.png", "pets/cat/z/3.png", "pets/cat/b.png", "pets/cat/4.gif", "linked/5.png")
    os.symlink("../../linked", "pets/cat/linked")
    assert paths(reading=1) == ["cat/.2.png", "cat/1.png", "cat/b.png", "cat/z/3.png"]
    assert caplog.messages[0].startswith("dataset.reading=1: images are read as by earlier versions")
    assert paths() == ["cat/1.png", "cat/4.gif", "cat/b.png", "cat/linked/5.png", "cat/z/3.png"]
    Image.fromarray(np.arange(8, dtype=np.int32).reshape(2, 4) * 100).save("deep.tif")
    from runner.dataset.decoding import decode

    assert np.asarray(decode("deep.tif", "L", reading=1)).max() == round(700 / 257)
