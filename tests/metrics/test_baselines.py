"""The baselines never spend more bits than the model, and are what they say."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import ZooError
from zoo.metrics import mean_colour, nearest, nearest_grids, psnr, stored_bits

SIZES = st.tuples(st.integers(1, 17), st.integers(1, 70), st.integers(1, 70))


@given(size=SIZES, bits=st.floats(1, 1e7), channels=st.sampled_from([1, 3]))
def test_a_grid_fits_the_clip_and_the_budget_and_wastes_little(
    size: tuple[int, int, int], bits: float, channels: int
) -> None:
    grids = nearest_grids(size, bits=bits, channels=channels)
    pixels = max(1, math.floor(bits / (8 * channels) + 1e-9))
    assert grids
    assert len(set(grids)) == len(grids)
    for frames, rows, columns in grids:
        assert 1 <= frames <= size[0]
        assert 1 <= rows <= size[1]
        assert 1 <= columns <= size[2]
        assert frames * rows * columns <= pixels
        a_frame = min(pixels // frames, size[1] * size[2])
        assert rows * columns > a_frame - max(rows, columns, math.sqrt(a_frame) + 1)
    if pixels >= math.prod(size):
        assert grids[0] == size


def test_bits_of_known_models() -> None:
    # 16x64x64 at stride 4 with 1,024 codes: 1,024 tokens of 10 bits are 426 pixels of 24 bits.
    bits = stored_bits(4 * 16 * 16, 1024)
    assert bits == 10240
    assert bits / 24 == pytest.approx(426.67, abs=0.01)
    assert nearest_grids((16, 64, 64), bits=bits) == [
        (16, 5, 5),
        (8, 7, 7),
        (4, 10, 10),
        (2, 14, 15),
        (1, 20, 21),
    ]
    assert stored_bits(100, 0) == 1600  # a continuous latent counts 16 bits a number


def test_nearest_keeps_the_middle_of_each_cell() -> None:
    x = torch.arange(6.0).view(1, 1, 1, 1, 6)
    assert nearest(x, (1, 1, 2)).flatten().tolist() == [1, 1, 1, 4, 4, 4]
    assert nearest(x, (1, 1, 3)).flatten().tolist() == [1, 1, 3, 3, 5, 5]
    with pytest.raises(ZooError, match="does not fit"):
        nearest(x, (1, 1, 7))


@given(size=SIZES, seed=st.integers(0, 999), data=st.data())
def test_nearest_shows_at_most_the_grid_s_pixels_and_all_of_a_full_grid(
    size: tuple[int, int, int], seed: int, data: st.DataObject
) -> None:
    x = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(seed))
    grid = tuple(data.draw(st.integers(1, axis)) for axis in size)
    y = nearest(x, grid)  # type: ignore[arg-type]
    assert y.shape == x.shape
    assert len(y.unique()) <= math.prod(grid)
    assert torch.equal(nearest(y, grid), y)  # type: ignore[arg-type]
    assert torch.equal(nearest(x, size), x)


def test_mean_colour_is_the_best_constant() -> None:
    x = torch.rand(2, 3, 4, 8, 8) * torch.tensor([0.2, 1.0]).view(2, 1, 1, 1, 1)
    y = mean_colour(x)
    assert torch.allclose(y.std((2, 3, 4)), torch.zeros(2, 3), atol=1e-7)
    for shift in (-0.01, 0.01):
        assert float(psnr(x, y)) > float(psnr(x, y + shift))
