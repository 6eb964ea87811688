"""FSQ: indices and values are two names of one code.

Shapes: B batch, D channels (one per level), t h w the latent grid.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import PortError, RecipeError
from zoo_vqvae.fsq import FSQ

levels_lists = st.lists(st.integers(2, 16), min_size=1, max_size=4).filter(lambda ls: math.prod(ls) <= 20_000)


@settings(max_examples=40, deadline=None)
@given(levels=levels_lists)
def test_index_and_value_are_a_bijection(levels: list[int]) -> None:
    """Every index has its own value, and an input that lands on the value has that index."""
    fsq = FSQ(levels=levels).eval()
    indices = torch.arange(fsq.codebook_size).view(1, 1, 1, 1, -1)
    values = fsq.lookup(indices)
    columns = values[0, :, 0, 0].T
    assert len(columns.unique(dim=0)) == fsq.codebook_size
    # First level fastest, from the lowest value up, spaced 1 / (L // 2).
    for channel, level in enumerate(levels):
        digits = indices.flatten() // math.prod(levels[:channel]) % level
        assert torch.equal(columns[:, channel], (digits - level // 2) / (level // 2))

    # Undo the bound: the input whose bounded value is exactly the level.
    steps = columns.double() * torch.tensor([level // 2 for level in levels])
    half = torch.tensor([(level - 1) * 1.001 / 2 for level in levels], dtype=torch.float64)
    offset = torch.tensor([0.0 if level % 2 else 0.5 for level in levels], dtype=torch.float64)
    z = ((steps + offset) / half).clamp(-1 + 1e-9, 1 - 1e-9).atanh() - (offset / half).atanh()
    out = fsq(z.float().T.view(1, -1, 1, 1, fsq.codebook_size))
    assert torch.equal(out.indices_Bqthw, indices)
    assert torch.equal(out.z_BDthw, values)


@settings(max_examples=30, deadline=None)
@given(levels=st.lists(st.integers(2, 256), min_size=1, max_size=3), scale=st.floats(0.01, 1e6))
def test_indices_stay_in_range_and_lookup_is_exact(levels: list[int], scale: float) -> None:
    fsq = FSQ(levels=levels)
    z = torch.randn(2, len(levels), 2, 3, 2, generator=torch.Generator().manual_seed(0)) * scale
    out = fsq(z)
    assert out.indices_Bqthw.dtype == torch.int64
    assert int(out.indices_Bqthw.min()) >= 0
    assert int(out.indices_Bqthw.max()) < fsq.codebook_size
    assert torch.equal(out.z_BDthw, fsq.lookup(out.indices_Bqthw))
    assert float(out.loss) == 0
    assert 0 < float(out.stats["usage"]) <= 1


def test_gradient_is_that_of_the_bounded_input() -> None:
    fsq = FSQ(levels=[8, 5, 2])
    z = torch.randn(2, 3, 2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fsq.double()
    z.requires_grad_()
    out = fsq(z).z_BDthw
    (gradient,) = torch.autograd.grad(out.sum(), z)
    half = torch.tensor([7, 4, 1], dtype=torch.float64) * 1.001 / 2
    shift = (torch.tensor([0.5, 0, 0.5], dtype=torch.float64) / half).atanh()
    slope = 1 - (z.movedim(1, -1) + shift).tanh().square()
    expected = (slope * half / torch.tensor([4, 2, 1])).movedim(-1, 1)
    torch.testing.assert_close(gradient, expected)


def test_autocast_meta_and_low_precision_models() -> None:
    fsq = FSQ(levels=[5, 4, 3])
    z = torch.randn(1, 3, 2, 2, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = fsq(z)
    assert torch.equal(out.z_BDthw, fsq(z.float()).z_BDthw)
    assert out.z_BDthw.dtype == torch.float32
    fsq.bfloat16()
    assert fsq(z).z_BDthw.dtype == torch.bfloat16
    assert torch.equal(fsq(z).z_BDthw, fsq.lookup(out.indices_Bqthw))
    with torch.device("meta"):
        assert FSQ()(torch.empty(2, 4, 1, 3, 2)).indices_Bqthw.shape == (2, 1, 1, 3, 2)
    assert FSQ().state_dict() == {}


def test_bad_use_is_refused() -> None:
    for levels in ([], [1, 5], [257], [5.0, 5]):
        with pytest.raises(RecipeError, match="whole numbers from 2 to 256"):
            FSQ(levels=levels)
    with pytest.raises(RecipeError, match=r"4294967296 codes; the most is 2\^24"):
        FSQ(levels=[256] * 4)
    with pytest.raises(PortError, match=r"D = 2, one channel for each of levels=\[3, 3\]"):
        FSQ(levels=[3, 3])(torch.zeros(1, 3, 1, 1, 1))
