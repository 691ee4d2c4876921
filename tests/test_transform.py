from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from runner.transform import Batches, Normalize, Pipeline

PICTURES = torch.randint(0, 256, (100, 3, 5, 4), generator=torch.Generator().manual_seed(0)).byte()
TABLE = torch.randn(100, 7, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 8) + 3


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


def test_each_transform_is_fitted_on_what_comes_before_it() -> None:
    class Double(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float() * 2

    last = Normalize()
    Pipeline(Double(), Normalize(mean=[0.0] * 3, std=[1.0] * 3), last).fit(batches(PICTURES))
    np.testing.assert_allclose(last.mean.numpy(), 2 * PICTURES.numpy().mean((0, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("data", [PICTURES, TABLE])
def test_what_was_learnt_is_in_the_state_dict(data: Tensor) -> None:
    fitted = Pipeline(Normalize()).fit(batches(data))
    assert {name: tuple(value.shape) for name, value in fitted.state_dict().items()} == {
        "0.mean": (data.shape[1],),
        "0.std": (data.shape[1],),
    }
