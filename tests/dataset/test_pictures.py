from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from runner.dataset import ArrayDataset, Parts, Samples, image_folder
from runner.dataset import pictures as module
from runner.errors import ConfigError, DataError
from runner.loader import Order, Workers
from runner.transform import Pipeline

RNG = np.random.default_rng(0)
CACHE = "cache"


def picture(mode: str = "RGB", width: int = 6, height: int = 4) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


def write(root: str, count: int = 3, classes: tuple[str, ...] = ("cat", "dog")) -> None:
    for name in classes:
        Path(root, name).mkdir(parents=True)
        for number in range(count):
            picture().save(Path(root, name, f"{number}.png"))


@pytest.fixture(autouse=True)
def _folder() -> None:
    write("pets")


def opened(root: str = "pets", **options: Any) -> Any:
    return image_folder(root, cache=CACHE, **options)


def test_pictures_and_classes_are_those_of_the_files() -> None:
    data = opened()
    assert isinstance(data, ArrayDataset)
    assert data.inputs.shape == (6, 3, 4, 6)
    assert data.classes == ["cat", "dog"]
    assert data.targets.tolist() == [0, 0, 0, 1, 1, 1]
    for pixels, path in zip(data.inputs, data.columns["path"], strict=True):
        with Image.open(Path("pets", path)) as file:
            assert (pixels.permute(1, 2, 0).numpy() == np.asarray(file)).all()


def test_official_parts_are_folders() -> None:
    for part in ("train", "valid", "Test"):
        write(f"split/{part}", count=2)
    data = opened("split")
    assert isinstance(data, Parts)
    assert [(name, len(part)) for name, part in data.items()] == [("train", 4), ("val", 4), ("test", 4)]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_files_of_every_kind_arrive_in_the_channels_asked_for(channels: int) -> None:
    grey = RNG.integers(0, 256, (4, 6), dtype=np.uint8)
    Path("kinds/a").mkdir(parents=True)
    Image.fromarray(grey).save("kinds/a/0-grey.png")
    Image.fromarray(grey).convert("RGB").save("kinds/a/1-rgb.png")
    Image.fromarray(grey).convert("RGBA").save("kinds/a/2-rgba.png")
    Image.fromarray(grey).convert("P").save("kinds/a/3-palette.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save("kinds/a/4-16bit.png")
    Image.fromarray(grey).convert("1").convert("L").save("kinds/a/5-again.png")
    data = opened("kinds", channels=channels)
    assert data.inputs.shape == (6, channels, 4, 6)
    for pixels in data.inputs[:5]:
        for channel in pixels[:3]:
            assert (channel.numpy() == grey).all()
    if channels == 4:
        assert (data.inputs[:, 3] == 255).all()


def test_pictures_are_brought_to_one_size_from_their_middle() -> None:
    Path("wide/a").mkdir(parents=True)
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, 10:20] = 200
    Image.fromarray(pixels).save("wide/a/0.png")
    assert (opened("wide", size=[10, 10]).inputs == 200).all()
    assert opened("wide", size=[5, 15]).inputs.shape == (1, 3, 5, 15)


def striped(root: str, width: int = 40, count: int = 1) -> None:
    """Pictures of 10 pixels' height: white at the left, grey beside it."""
    Path(root, "a").mkdir(parents=True, exist_ok=True)
    pixels = np.full((10, width, 3), 100, dtype=np.uint8)
    pixels[:, :8] = 255
    for number in range(count):
        Image.fromarray(pixels).save(f"{root}/a/{width}-{number}.png")


@pytest.mark.parametrize("memory_limit", [4e9, 1])
def test_pictures_are_cut_padded_or_stretched(memory_limit: float) -> None:
    striped("wide")

    def row(fit: str) -> list[int]:
        data = opened("wide", size=[8, 16], fit=fit, memory_limit=memory_limit)
        pixels = torch.from_numpy(np.array(data[0][0])) if memory_limit == 1 else data[0][0].permute(1, 2, 0)
        assert pixels.shape == (8, 16, 3)
        assert pixels[:2].sum() == 0 if fit == "pad" else pixels[:2].min() > 0
        return pixels[4, :, 0].tolist()

    assert set(row("cut")) == {100}
    for fit in ("pad", "stretch"):
        assert row(fit)[:2] == [255] * 2
        assert row(fit)[5:] == [100] * 11


def test_a_picture_is_padded_though_one_side_comes_to_nothing() -> None:
    Path("line/a").mkdir(parents=True)
    Image.new("RGB", (500, 1), "white").save("line/a/0.png")
    assert opened("line", size=[5, 5], fit="pad").inputs[0, 0].float().mean(1).tolist() == [0, 0, 255, 0, 0]


def test_where_much_is_cut_off_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    for part in ("train", "val"):
        striped(f"wide/{part}", 40)
        striped(f"wide/{part}", 12, count=2)  # of which a sixth is cut off
    said = "with dataset.fit=cut, 2 of 6 images lose more than a quarter of their area (75 % on average)"
    said += "\n  try: dataset.fit=pad"
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        opened("wide", size=[10, 10])
        assert [record.message.startswith(said) for record in caplog.records] == [True]
    caplog.clear()
    opened("wide", size=[10, 10], fit="pad")
    opened("wide", size=[10, 10], fit="stretch")
    opened("wide/train", size=[10, 20])  # half, and 12 × 6 of 12 × 10 pixels, are kept
    assert [record.message for record in caplog.records] == [
        "with dataset.fit=cut, 3 of 3 images lose more than a quarter of their area (43 % on average)"
        "\n  try: dataset.fit=pad or dataset.fit=stretch"
    ]


def test_pictures_of_many_sizes_are_read_one_by_one() -> None:
    picture(width=9).save("pets/cat/9.png")
    data = opened()
    assert not isinstance(data, ArrayDataset)
    assert data[3][0].size == (9, 4)
    assert len(data.path) == len(data) == 7
    assert isinstance(opened(size=[4, 6]), ArrayDataset)
    assert not isinstance(opened(size=[4, 6], memory_limit=100), ArrayDataset)


def test_two_sizes_that_nothing_brings_to_one_are_named_by_their_files() -> None:
    picture(width=9).save("pets/cat/9.png")
    held, flat, order = Samples(opened()), Pipeline([]), Order(torch.arange(7), "sequential", batch_size=7)
    differ = r"sample 0 \(cat/0.png\) is 3×4×6 uint8, sample 3 \(cat/9.png\) is 3×4×9 uint8"
    for reading in (lambda: held.arrays, lambda: next(Workers(held, order, flat, torch.device("cpu")).epoch())):
        with pytest.raises(DataError, match=differ):
            reading()


def test_a_second_run_decodes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened()
    monkeypatch.setattr(module, "decode", lambda *_: pytest.fail("decoded again"))
    assert torch.equal(opened().inputs, first.inputs)


def test_the_same_files_elsewhere_are_not_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened()
    shutil.copytree("pets", "copies")
    monkeypatch.setattr(module, "decode", lambda *_: pytest.fail("decoded again"))
    assert torch.equal(opened("copies").inputs, first.inputs)


@pytest.mark.parametrize("change", ["content", "new file", "settings"])
def test_a_change_makes_another_cache(change: str) -> None:
    picture().save("pets/cat/0.bmp")
    before = opened()
    if change == "content":  # of one byte, in a file that then looks as old and as large as before
        path = Path("pets/cat/0.bmp")
        stat, content = path.stat(), path.read_bytes()
        path.write_bytes(content[:54] + bytes([content[54] ^ 255]) + content[55:])
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "new file":
        picture().save("pets/dog/new.png")
    after = opened(channels=1 if change == "settings" else 3)
    assert len(list(Path(CACHE).glob("*.npy"))) == 2
    assert after.inputs.shape != before.inputs.shape or not torch.equal(after.inputs, before.inputs)


@pytest.mark.parametrize("damage", ["truncated", "empty", "no list"])
def test_a_torn_cache_is_built_again(damage: str) -> None:
    expected = opened().inputs.clone()
    (path,) = Path(CACHE).glob("*.npy")
    if damage == "no list":
        path.with_suffix(".json").unlink()
    else:
        path.write_bytes(path.read_bytes()[: 100 if damage == "truncated" else 0])
    assert torch.equal(opened().inputs, expected)
    assert len(np.load(path)) == 6


def test_a_broken_file_is_named_or_skipped(caplog: pytest.LogCaptureFixture) -> None:
    content = Path("pets/dog/1.png").read_bytes()
    Path("pets/dog/1.png").write_bytes(content[: len(content) // 2])
    Path("pets/dog/2.png").write_bytes(b"no picture")
    for _ in range(2):  # the second time from the cache
        both = r"2 of 6 files cannot be decoded: pets/dog/1\.png \(.+\), pets/dog/2\.png \(cannot identify.*\)\n"
        with pytest.raises(DataError, match=both):
            opened()
    data = opened(on_error="skip")
    assert list(data.columns["path"]) == ["cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png"]
    assert data.targets.tolist() == [0, 0, 0, 1]
    assert "2 of 6 images cannot be decoded and are skipped: dog/1.png, dog/2.png" in caplog.text
    (listed,) = Path(CACHE).glob("*.json")
    assert list(json.loads(listed.read_text())["broken"]) == ["dog/1.png", "dog/2.png"]


def test_a_cache_that_cannot_be_written_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    Path(CACHE).write_text("a file where the folder should be")
    assert len(opened()) == 6
    assert "cannot be cached in" in caplog.text


@pytest.mark.parametrize(
    ("root", "options", "message"),
    [
        ("nowhere", {}, "there is no folder 'nowhere'"),
        ("empty", {}, "no images in empty"),
        ("hollow", {}, r"no images in hollow/dog\n.*\n  try: images in that folder, or remove it$"),
        ("untrained", {}, "'untrained' has test, but no train folder"),
        (
            "differing",
            {},
            "differing/test has images of ant, of which train has none\n.*cat, dog\n  try: images of this",
        ),
        ("pets", {"size": [4]}, r"dataset.size: \[4\] is not allowed\n.*\n  try: \"dataset.size=\[4,4\]\"$"),
        ("pets", {"size": 96}, r"dataset.size: 96 is not allowed\n.*\n  try: \"dataset.size=\[96,96\]\"$"),
        ("pets", {"size": "32x48"}, r"dataset.size: '32x48' is not allowed\n.*\n  try: \"dataset.size=\[32,48\]\"$"),
        ("pets", {"size": [0, 0]}, r"dataset.size: \[0, 0\] is not allowed\n.*null$"),
        ("pets", {"size": [4.5, 4]}, r"dataset.size: \[4.5, 4\] is not allowed"),
    ],
)
def test_wrong_folders(root: str, options: dict[str, Any], message: str) -> None:
    Path("empty").mkdir()
    write("hollow", classes=("cat",))
    Path("hollow/dog").mkdir()
    write("untrained/test")
    write("differing/train")
    write("differing/test", classes=("cat", "ant"))
    with pytest.raises((DataError, ConfigError), match=message):
        opened(root, **options)


@pytest.mark.parametrize("leave", ["no folder", "an empty folder"])
def test_val_and_test_may_lack_a_class(leave: str) -> None:
    write("whole/train")
    write("whole/val", classes=("dog",))
    if leave == "an empty folder":
        Path("whole/val/cat").mkdir()
    made = opened("whole")
    assert made.train.classes == made.val.classes == ["cat", "dog"]
    assert set(made.val.targets.tolist()) == {1}


def test_one_by_one_what_does_not_begin_like_a_picture_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    picture(width=9).save("pets/cat/9.png")
    Path("pets/dog/2.png").write_bytes(b"no picture")
    assert len(opened()) == 7
    data = opened(on_error="skip")
    assert data.path == ["cat/0.png", "cat/1.png", "cat/2.png", "cat/9.png", "dog/0.png", "dog/1.png"]
    assert len(data) == 6
    assert "1 of 7 images cannot be decoded and are skipped: dog/2.png" in caplog.text


def test_one_by_one_a_picture_that_breaks_off_is_named() -> None:
    picture(width=9).save("pets/cat/9.png")
    content = Path("pets/dog/1.png").read_bytes()
    Path("pets/dog/1.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError) as caught:
        Samples(opened(on_error="skip")).read(5)
    assert str(caught.value).startswith("dataset: pets/dog/1.png cannot be decoded (")
    assert str(caught.value).endswith('try: remove the file, or "dataset.size=[HEIGHT,WIDTH]" dataset.on_error=skip')
    with pytest.raises(DataError, match=r"try: remove the file$"):
        opened(size=[4, 4], memory_limit=1)[5]


def test_of_many_broken_files_five_are_named() -> None:
    for number in range(10, 17):
        Path(f"pets/cat/{number}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"7 of 13 files cannot be decoded: pets/cat/10\.png .*14\.png \(.*\), …\n"):
        opened()


def test_too_large_a_picture_is_one_that_cannot_be_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    picture(width=200, height=200).save("pets/cat/3.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"pets/cat/3\.png cannot be decoded \(Image size \(40000 pixels\) exceeds"):
        opened()


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train", "val", "validation"], "'parts' has two folders for val, val and validation"),
        (["train", "holdout"], "'parts' has train, but also images in holdout"),
        (["car", "train"], "'parts' has train, but also images in car"),  # a class
    ],
)
def test_folders_of_which_it_is_not_clear_what_they_are(folders: list[str], message: str) -> None:
    for folder in folders:
        write(f"parts/{folder}")
    with pytest.raises(DataError, match=message):
        opened("parts")


def test_every_word_for_a_part_is_known_and_what_holds_no_pictures_does_not_matter() -> None:
    for folder in ("training", "dev", "Testing"):
        write(f"parts/{folder}")
    Path("parts/annotations").mkdir()
    Path("parts/annotations/all.json").write_text("{}")
    write("parts/.hidden")
    assert [name for name, _ in opened("parts").items()] == ["train", "val", "test"]


def test_of_a_cache_on_a_full_disk_nothing_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, pixels: Any) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert len(opened()) == 6
    assert "No space left on device" in caplog.text
    assert [path.suffix for path in Path(CACHE).iterdir()] == [".key"]


def test_a_cache_can_be_read_by_whoever_may_read_other_files() -> None:
    Path("other").write_text("")
    opened()
    assert {path.stat().st_mode for path in Path(CACHE).glob("*.[nj]*")} == {Path("other").stat().st_mode}


def test_what_is_read_one_by_one_is_told_from_other_files_of_the_same_classes() -> None:
    first = Samples(opened(memory_limit=0, size=[4, 4]))
    shutil.copytree("pets", "moved")
    assert Samples(opened("moved", memory_limit=0, size=[4, 4])).fingerprint == first.fingerprint
    picture(width=60).save("moved/cat/1.png")
    assert Samples(opened("moved", memory_limit=0, size=[4, 4])).fingerprint != first.fingerprint
