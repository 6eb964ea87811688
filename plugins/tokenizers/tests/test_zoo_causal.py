"""The zoo's own tokenizer: its changes of size lose nothing, and its options are checked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import PortError, RecipeError
from zoo_tokenizers.zoo_causal.layers import Grow, Shrink, fold, unfold
from zoo_tokenizers.zoo_causal.model import ZooCausalDecoder, ZooCausalEncoder

factors = st.sampled_from([1, 2, 4])


@settings(max_examples=20, deadline=None)
@given(clips=st.integers(1, 3), t=st.integers(1, 3), time=factors, space=factors, dim=st.integers(1, 3))
def test_folding_moves_every_pixel_and_back(clips: int, t: int, time: int, space: int, dim: int) -> None:
    x = torch.randn(clips * t * time, dim, 2 * space, 3 * space)
    y = fold(x, time=time, space=space, num_clips=clips)
    assert y.shape == (clips * t, dim * time * space**2, 2, 3)
    # A cell holds the pixels of its own place and frames.
    cell = x.view(clips, t, time, dim, 2, space, 3, space)[-1, -1, :, :, 1, :, 2]
    assert torch.equal(y[-1, :, 1, 2].sort().values, cell.flatten().sort().values)
    assert torch.equal(unfold(y, time=time, space=space, num_clips=clips), x)


@pytest.mark.parametrize("room", [1, 2, 4, 8])
def test_without_learning_a_change_of_size_is_a_resize(room: int) -> None:
    """A channel of 8 cells becomes `room` channels, each the mean of its share of the cells, and back."""
    shrink, grow = Shrink(3, 3 * room, time=2, space=2), Grow(3 * room, 3, time=2, space=2)
    for layer in (shrink, grow):
        torch.nn.init.zeros_(layer.mix.weight)
        assert layer.mix.bias is not None
        torch.nn.init.zeros_(layer.mix.bias)
    x = torch.randn(4, 3, 4, 6)
    small = shrink(x, num_clips=1)
    assert small.shape == (2, 3 * room, 2, 3)
    cells = x.view(2, 2, 3, 2, 2, 3, 2).permute(0, 2, 3, 5, 1, 4, 6).reshape(2, 3, 2, 3, room, 8 // room)
    means = cells.mean(-1)
    torch.testing.assert_close(small.view(2, 3, room, 2, 3), means.permute(0, 1, 4, 2, 3))
    again = grow(small, num_clips=1).view(2, 2, 3, 2, 2, 3, 2).permute(0, 2, 3, 5, 1, 4, 6)
    torch.testing.assert_close(again.reshape(2, 3, 2, 3, room, 8 // room), means[..., None].expand_as(cells))


@pytest.mark.parametrize("stride", [[4, 8, 8], [1, 8, 8], [8, 16, 16], [4, 4, 4], [8, 4, 4]])
def test_published_strides_and_others_build(stride: list[int]) -> None:
    patch = [min(4, stride[0]), 4, 4]
    num = 1 + max(stride[0] // patch[0], stride[1] // patch[1]).bit_length() - 1
    options = {"widths": [8, 16, 32][:num], "num_blocks": [1] * num, "stride": stride, "patch_size": patch}
    encoder, decoder = ZooCausalEncoder(**options), ZooCausalDecoder(**options)  # type: ignore[arg-type]
    x = torch.randn(1, 3, 2 * stride[0], stride[1], 2 * stride[2])
    with torch.no_grad():
        z = encoder(x)
        assert z.shape == (1, 6, 2, 1, 2)
        assert decoder(z).shape == x.shape


def test_bad_options_and_clips_say_what_fits() -> None:
    with pytest.raises(RecipeError, match="needs 2 levels; there are 3 widths"):
        ZooCausalEncoder(widths=[8, 8, 8])
    with pytest.raises(RecipeError, match="must divide the stride"):
        ZooCausalDecoder(stride=[2, 8, 8])
    with pytest.raises(RecipeError, match="three powers of two"):
        ZooCausalEncoder(stride=[4, 8, 16])
    with pytest.raises(RecipeError, match="must be a multiple"):
        ZooCausalEncoder(widths=[8, 12], num_blocks=[1, 1])
    encoder = ZooCausalEncoder(widths=[8, 8], num_blocks=[0, 0])
    with pytest.raises(PortError, match="multiples of its stride"):
        encoder(torch.zeros(1, 3, 5, 8, 8))
