from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from runner.dataset import image_folder
from runner.dataset.decoding import decode, head
from runner.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
PIXELS[0, :2, 0] = 3, 251
GREY = PIXELS[..., 0].clip(3, 251)
SCENE = Image.fromarray(PIXELS)


def pixels_of(picture: Image.Image) -> NDArray[Any]:
    return np.asarray(picture)


def tagged(path: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    SCENE.save(path, exif=exif)


@pytest.mark.parametrize("orientation", range(10))  # of which 0 and 9 are none
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_photos_are_upright_as_viewers_show_them(suffix: str, orientation: int) -> None:
    tagged(path := f"0.{suffix}", orientation)
    with Image.open(path) as file:
        truth = ImageOps.exif_transpose(file)
    assert (pixels_of(decode(path, "RGB")) == pixels_of(truth)).all()
    with Image.open(path) as file:
        assert head(file).size == truth.size[::-1]
    with Image.open(path) as file:
        stored = pixels_of(file)
    assert (pixels_of(decode(path, "RGB", reading=1)) == stored).all()


def test_photos_of_which_some_are_turned_by_their_tag_are_of_one_size() -> None:
    Path("photos/a").mkdir(parents=True)
    tagged("photos/a/0.jpg", 6)
    SCENE.transpose(Image.Transpose.ROTATE_90).save("photos/a/1.jpg")
    assert image_folder("photos", cache=None).inputs.shape == (2, 3, 6, 4)
    assert image_folder("photos", cache=None, size=[3, 2]).inputs.shape == (2, 3, 3, 2)
    assert image_folder("photos", cache=None, memory_limit=0)[0][0].size == (4, 6)


def test_damaged_exif_does_not_matter() -> None:
    SCENE.save("0.png", exif=b"broken")
    with pytest.raises(SyntaxError), Image.open("0.png") as file:
        file.getexif()
    assert (pixels_of(decode("0.png", "RGB")) == PIXELS).all()


def test_a_tag_after_the_pixels_of_a_png_is_not_cut_off_without_a_word() -> None:
    Path("late/a").mkdir(parents=True)
    tagged("late/a/0.png", 6)
    content = Path("late/a/0.png").read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    tag, rest = content[start:end], content[:start] + content[end:]
    Path("late/a/0.png").write_bytes(rest[:-12] + tag + rest[-12:])  # before IEND
    assert decode("late/a/0.png", "RGB").size == (4, 6)
    with pytest.raises(DataError, match="it is 6×4, but its head says 4×6"):
        image_folder("late", cache=None)
    assert image_folder("late", cache=None, size=[6, 4]).inputs.shape == (1, 3, 6, 4)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "RGBa"])
@pytest.mark.parametrize("wanted", ["L", "RGB", "RGBA"])
def test_modes_of_8_bits_are_as_pil_has_them(mode: str, wanted: str) -> None:
    picture = SCENE.convert("RGBA" if mode == "RGBa" else mode) if mode != "PA" else SCENE.convert("P").convert("PA")
    picture = picture.convert("RGBa") if mode == "RGBa" else picture
    truth = picture.convert("RGBA") if mode in ("P", "PA", "RGBa") else picture
    assert (pixels_of(decode(picture, wanted)) == pixels_of(truth.convert(wanted))).all()


def test_lab_is_brought_to_rgb_first() -> None:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.applyTransform(SCENE, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    rgb = lab.convert("RGB")
    assert np.abs(pixels_of(rgb).astype(int) - PIXELS).mean() < 3
    for mode in ("RGB", "L", "RGBA"):
        assert (pixels_of(decode(lab, mode)) == pixels_of(rgb.convert(mode))).all()


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bits_become_8_to_the_nearest(suffix: str) -> None:
    values = RNG.integers(0, 65536, (4, 6), dtype=np.uint16)
    values[0, :2] = 0, 65535
    Image.fromarray(values).save(path := f"0.{suffix}")
    assert (pixels_of(decode(path, "L")) == np.rint(values / 257)).all()
    assert (pixels_of(decode(Image.frombytes("I;16B", (6, 4), values.astype(">u2").tobytes()), "L"))
            == np.rint(values / 257)).all()  # fmt: skip
    # Of what is darker, as of a camera of 12 bits, whoever knows says it.
    dark = values // 16
    Image.fromarray(dark).save(path)
    assert (pixels_of(decode(path, "L", value_range=(0, 4095))) == np.rint(dark / (4095 / 255))).all()
    assert (pixels_of(decode(path, "L", value_range=(4095, 0))) == np.rint(255 - dark / (4095 / 255))).all()


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (GREY.astype(np.float32) / 255, "floats from 0.011.* to 0.984.*: dataset.value_range=[0,1] if these are"),
        (GREY.astype(np.float32), "floats from 3 to 251, .*: dataset.value_range=[0,255] if these are"),
        (GREY.astype(np.int32) * 257, "32-bit integers from 771 to 64507, .*: dataset.value_range=[0,65535] if"),
        (GREY.astype(np.int32) - 100, "32-bit integers from -97 to 151, .*: dataset.value_range=[-97,151] if"),
        (np.float32([[0, np.nan]]), "it contains NaN or infinity"),
    ],
)  # fmt: skip
def test_floats_and_integers_are_not_guessed(values: NDArray[Any], found: str) -> None:
    Image.fromarray(values).save("0.tif")
    with pytest.raises(ValueError, match=found.replace("[", r"\[").replace("]", r"\]")):
        decode("0.tif", "L")


@pytest.mark.parametrize("options", [{}, {"memory_limit": 0}, {"size": [4, 6], "memory_limit": 0}])
@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_the_range_that_a_message_names_is_that_of_all_files(kind: Any, options: dict[str, Any]) -> None:
    Path("deep/a").mkdir(parents=True)
    for number, top in enumerate((1, 200, 1)):
        Image.fromarray((GREY // 128 * top).astype(kind)).save(f"deep/a/{number}.tif")
    remedy = "0,255" if not options else "0,1"  # of what is read one by one, the first is looked at
    with pytest.raises(DataError, match=rf'try: "dataset\.value_range=\[{remedy}\]"$'):
        image_folder("deep", cache=None, channels=1, **options)
    data = image_folder("deep", cache=None, channels=1, value_range=[0, 255], **options)
    assert [int(np.asarray(data[number][0]).max()) for number in range(3)] == [1, 200, 1]
    if options:
        assert len(image_folder("deep", cache=None, channels=1, on_error="skip", **options)) == 0


@pytest.mark.parametrize("given", [[1, 1], [0], 255, "0,1", [0, float("inf")], [False, True]])
def test_a_range_is_two_numbers(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"dataset.value_range: .* is not allowed"):
        image_folder(".", value_range=given)


def test_what_is_drawn_by_another_program_is_refused_whatever_its_name() -> None:
    SCENE.save("0.eps")
    Path("0.eps").rename("0.png")
    with pytest.raises(ValueError, match="EPS files are drawings"):
        decode("0.png", "RGB")
