from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from runner.errors import ConfigError
from runner.transform import Batches, Crop, Cutout, Flip, Float, Normalize, Pipeline, Table, is_random

PICTURES = torch.randint(0, 256, (100, 3, 5, 4), generator=torch.Generator().manual_seed(0)).byte()
TABLE = torch.randn(100, 7, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 8) + 3
NAN = float("nan")


def batches(data: Tensor, size: int = 16) -> Batches:
    def start() -> Iterator[Tensor]:
        yield from data.split(size)

    return start


def test_pictures_are_normalised_by_channel() -> None:
    normalize = Normalize()
    normalize.fit(batches(PICTURES))
    values = PICTURES.numpy().astype(np.float64)
    expected = (values - values.mean((0, 2, 3), keepdims=True)) / values.std((0, 2, 3), keepdims=True)
    made = normalize(PICTURES)
    assert made.dtype == torch.float32
    np.testing.assert_allclose(made.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_tables_are_normalised_by_column() -> None:
    normalize = Normalize()
    normalize.fit(batches(TABLE))
    values = TABLE.numpy().astype(np.float64)
    np.testing.assert_allclose(
        normalize(TABLE).numpy(), (values - values.mean(0)) / values.std(0), rtol=1e-4, atol=1e-5
    )


def test_the_size_of_the_batches_does_not_matter() -> None:
    small, large = Normalize(), Normalize()
    small.fit(batches(PICTURES, 7))
    large.fit(batches(PICTURES, 100))
    torch.testing.assert_close(small(PICTURES), large(PICTURES), rtol=0, atol=1e-6)


def test_values_far_from_zero_keep_their_deviation() -> None:
    seconds = 1.7e9 + torch.tensor([[-1.0], [1.0]], dtype=torch.float64).repeat(50, 1)
    normalize = Normalize()
    normalize.fit(batches(seconds))
    assert normalize.std.item() == 1.0
    assert normalize.mean.item() == pytest.approx(1.7e9)


def test_given_moments_are_taken() -> None:
    normalize = Normalize(mean=[1.0, 2.0, 3.0], std=[2.0, 4.0, 8.0])
    normalize.fit(batches(PICTURES))
    expected = (PICTURES.float() - torch.tensor([1.0, 2, 3]).view(3, 1, 1)) / torch.tensor([2.0, 4, 8]).view(3, 1, 1)
    assert torch.equal(normalize(PICTURES), expected)


def test_a_constant_channel_becomes_zero() -> None:
    pictures = torch.full((10, 1, 2, 2), 7, dtype=torch.uint8)
    normalize = Normalize()
    normalize.fit(batches(pictures))
    assert torch.equal(normalize(pictures), torch.zeros(10, 1, 2, 2))


def test_floats_are_scaled() -> None:
    assert torch.equal(Float(1 / 255)(torch.tensor([[0, 255]]).byte()), torch.tensor([[0.0, 1.0]]))


def test_a_flip_mirrors_the_pictures_whose_number_is_below_p() -> None:
    u = torch.tensor([[0.0], [0.29], [0.3], [0.9]])
    made = Flip(p=0.3)(PICTURES[:4], u)
    assert torch.equal(made[:2], PICTURES[:2].flip(-1))
    assert torch.equal(made[2:], PICTURES[2:4])


@pytest.mark.parametrize(("u", "rows", "columns"), [(0.0, -2, -2), (0.5, 0, 0), (0.99, 2, 2)])
def test_a_crop_shifts_by_up_to_the_padding(u: float, rows: int, columns: int) -> None:
    made = Crop(padding=2, fill=9)(PICTURES, torch.full((100, 2), u))
    padded = np.pad(PICTURES.numpy(), [(0, 0), (0, 0), (2, 2), (2, 2)], constant_values=9)
    expected = padded[:, :, 2 + rows : 2 + rows + 5, 2 + columns : 2 + columns + 4]
    assert made.dtype == torch.uint8
    assert (made.numpy() == expected).all()


@pytest.mark.parametrize(("mode", "theirs"), [("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")])
@pytest.mark.parametrize("pictures", [PICTURES, PICTURES.float()])
def test_what_a_crop_pads_may_be_of_the_picture_itself(pictures: Tensor, mode: Any, theirs: Any) -> None:
    made = Crop(padding=3, padding_mode=mode)(pictures, torch.zeros(100, 2))
    expected = np.pad(PICTURES.numpy(), [(0, 0), (0, 0), (3, 3), (3, 3)], mode=theirs)[:, :, :5, :4]
    assert made.dtype == pictures.dtype
    assert (made.numpy() == expected).all()


def test_padding_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"padding=4 is too much to reflect images of 5×4\n  allowed: at most 3, or"):
        Crop(padding=4, padding_mode="reflect")(PICTURES, torch.zeros(100, 2))
    assert Crop(padding=9, padding_mode="replicate")(PICTURES, torch.zeros(100, 2)).shape == PICTURES.shape
    with pytest.raises(ConfigError, match="fill=255 has no effect with padding_mode=reflect"):
        Crop(fill=255, padding_mode="reflect")


def test_each_picture_is_cropped_by_its_own_numbers() -> None:
    u = torch.rand(100, 2, generator=torch.Generator().manual_seed(0))
    together = Crop(padding=1)(PICTURES, u)
    alone = torch.cat([Crop(padding=1)(PICTURES[i : i + 1], u[i : i + 1]) for i in range(100)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize(
    ("u", "rows", "columns"),
    [
        ((0.0, 0.0), slice(0, 1), slice(0, 1)),
        ((0.5, 0.5), slice(1, 3), slice(1, 3)),
        ((0.99, 0.99), slice(3, 5), slice(2, 4)),
    ],
)
def test_a_cutout_is_a_square_cut_off_at_the_border(u: tuple[float, float], rows: slice, columns: slice) -> None:
    expected = PICTURES[:1].clone()
    expected[:, :, rows, columns] = 0
    assert torch.equal(Cutout(size=2)(PICTURES[:1], torch.tensor([u])), expected)


def test_a_table_is_scaled_filled_and_coded_with_what_train_knows() -> None:
    train = torch.tensor([[1.0, 0.0], [3.0, 2.0], [NAN, 0.0], [5.0, NAN]])
    table = Table([None, ["a", "b", "c"]])
    table.fit(batches(train, 3))
    # Numbers: mean 3, standard deviation √(8/3). Categories in train: a (0) and c (2); b is not.
    scaled = 2 / (8 / 3) ** 0.5
    expected = [[-scaled, 1, 0], [0, 0, 1], [0, 1, 0], [scaled, 0, 0]]
    torch.testing.assert_close(table(train), torch.tensor(expected))
    torch.testing.assert_close(table(torch.tensor([[NAN, 1.0]])), torch.tensor([[0.0, 0.0, 0.0]]))


def test_a_table_of_numbers_alone_or_categories_alone() -> None:
    numbers = Table([None, None])
    numbers.fit(batches(TABLE[:, :2]))
    assert numbers(TABLE[:, :2]).shape == (100, 2)
    names = Table([["a", "b"]])
    names.fit(batches(torch.tensor([[0.0], [1.0]])))
    assert names(torch.tensor([[1.0], [0.0]])).tolist() == [[0, 1], [1, 0]]


def test_each_transform_is_fitted_on_what_comes_before_it_and_draws_nothing() -> None:
    last = Normalize()
    Pipeline([Crop(4), Flip(1.0), Float(2.0), last]).fit(batches(PICTURES))
    np.testing.assert_allclose(last.mean.numpy(), 2 * PICTURES.numpy().mean((0, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("data", [PICTURES, TABLE])
def test_what_was_learnt_is_in_the_state_dict(data: Tensor) -> None:
    fitted = Pipeline([Normalize()]).fit(batches(data))
    assert {tuple(value.shape) for value in fitted.state_dict().values()} == {(data.shape[1],)}
    assert len(fitted.state_dict()) == 2


def test_the_numbers_of_a_sample_are_shared_out_in_order() -> None:
    u = torch.rand(100, 3, generator=torch.Generator().manual_seed(0))
    made = Pipeline([Crop(1), Flip(), Float()])(PICTURES, u)
    assert torch.equal(made, Flip()(Crop(1)(PICTURES, u[:, :2]), u[:, 2:]).float())


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (Flip(), True), (Normalize(), False),
        (v2.RandomHorizontalFlip(), True), (v2.RandAugment(), True), (v2.ColorJitter(0.1), True),
        (v2.Compose([v2.Resize(4)]), True), (v2.GaussianNoise(), True), (v2.Lambda(torch.neg), True),
        (v2.Resize(4), False), (v2.CenterCrop(4), False), (v2.Normalize([0.0], [1.0]), False), (v2.RGB(), False),
        (lambda x: x, True),
    ],
)  # fmt: skip
def test_which_transforms_may_draw(step: Any, expected: bool) -> None:
    assert is_random(step) is expected


def test_random_transforms_of_others_draw_for_each_sample_by_its_seed() -> None:
    pipeline = Pipeline([v2.RandomHorizontalFlip(0.5)])
    same = PICTURES[:1].expand(40, -1, -1, -1)
    made = pipeline(same, None, list(range(40)))
    flipped = [not torch.equal(one, same[0]) for one in made]
    assert 5 < sum(flipped) < 35
    again = pipeline(same[:20], None, list(range(20, 40)))
    assert torch.equal(again, made[20:])


def test_the_sample_stage_ends_where_batches_begin() -> None:
    resize, crop = v2.Resize(8), v2.RandomCrop(4)
    steps, rest = Pipeline([resize, crop, Flip(), Normalize()]).stages()
    assert steps == [resize, crop]
    assert rest.draws == 1
    assert Pipeline([Flip(), resize]).stages()[0] == []


def test_what_may_draw_may_also_scale_and_counts_where_something_is_fitted() -> None:
    for halve in (lambda x: x.float() / 2, v2.Lambda(lambda x: x.float() / 2)):
        last = Normalize()
        Pipeline([halve, v2.RandomHorizontalFlip(), last]).fit(batches(PICTURES))
        np.testing.assert_allclose(last.mean.numpy(), PICTURES.numpy().mean((0, 2, 3)) / 2, rtol=1e-6)


def test_given_moments_are_taken_without_a_look_at_the_data() -> None:
    Normalize([1.0], [2.0]).fit(lambda: pytest.fail("read"))
    half = Normalize(mean=[0.0, 0.0, 0.0])
    half.fit(batches(PICTURES))
    np.testing.assert_allclose(half.std.numpy(), PICTURES.numpy().std((0, 2, 3)), rtol=1e-6)


def test_what_is_fitted_is_no_step_of_single_samples() -> None:
    class Own:
        def fit(self, batches: Batches) -> None: ...

        def __call__(self, x: Tensor) -> Tensor:
            return x

    own, resize = Own(), v2.Resize(8)
    assert Pipeline([resize, own]).stages()[0] == [resize]


@pytest.mark.parametrize("given", [{"mean": [1.0, 2.0, 3.0]}, {"std": [1.0, 2.0, 3.0]}])
def test_three_means_make_no_three_channels_of_one(given: dict[str, list[float]]) -> None:
    normalize = Normalize(**given)
    normalize.fit(batches(PICTURES[:, :1]))
    with pytest.raises(ConfigError, match="mean and std for 3 channels, and samples have 1"):
        normalize(PICTURES[:, :1])
