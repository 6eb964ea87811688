"""The Cosmos encoder and decoder: wavelets, sizes, time, precision.

Shapes: B batch, C colours, T H W frames and pixels, t h w the latent grid.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import PortError, RecipeError
from zoo_tokenizers.cosmos import layers as cosmos_layers
from zoo_tokenizers.cosmos.haar import haar_frame_patches, haar_frame_unpatches, haar_patches, haar_unpatches
from zoo_tokenizers.cosmos.image import CosmosImageDecoder, CosmosImageEncoder
from zoo_tokenizers.cosmos.layers import SpatialAttention, TemporalAttention
from zoo_tokenizers.cosmos.model import CosmosDecoder, CosmosEncoder
from zoo_tokenizers.cosmos.plan import doublings, halvings

TINY = {"base_channels": 4, "num_residual_blocks": 1, "latent_dim": 5}
PUBLISHED = [[4, 8, 8], [8, 8, 8], [8, 16, 16]]


@settings(max_examples=25, deadline=None)
@given(
    patch_size=st.sampled_from([1, 2, 4, 8]),
    grid=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    channels=st.integers(1, 3),
)
def test_wavelets_lose_nothing(patch_size: int, grid: list[int], channels: int) -> None:
    t, h, w = grid
    size = (1 + (t - 1) * patch_size, h * patch_size, w * patch_size)
    x = torch.randn(2, channels, *size, dtype=torch.float64)
    y = haar_patches(x, patch_size)
    assert y.shape == (2, channels * patch_size**3, *grid)
    torch.testing.assert_close(haar_unpatches(y, patch_size), x)
    # Each halving scales length by 1 / sqrt(8): with the first frame counted p times, energy is known.
    weighed = x.square().sum() + (patch_size - 1) * x[:, :, 0].square().sum()
    torch.testing.assert_close(y.square().sum() * patch_size**3, weighed)

    frames = x[:, :, 0]
    y = haar_frame_patches(frames, patch_size)
    assert y.shape == (2, channels * patch_size**2, h, w)
    torch.testing.assert_close(haar_frame_unpatches(y, patch_size), frames)
    torch.testing.assert_close(y.square().sum() * patch_size**2, frames.square().sum())


def test_wavelet_bands_are_in_the_published_order() -> None:
    """A ramp along one axis shows in the mean and in that axis' own band only: 001 W, 010 H, 100 T."""
    for axis, band in ((2, 4), (3, 2), (4, 1)):
        ramp = torch.arange(2.0).view([2 if i == axis else 1 for i in range(5)]).expand(1, 1, 2, 2, 2)
        # Two steps of time are needed: the first one is the first frame, repeated.
        y = haar_patches(torch.cat([ramp[:, :, :1], ramp], dim=2), 2)[0, :, 1].flatten()
        assert y.nonzero().flatten().tolist() == [0, band]
        assert y[0] == 0.5
        assert y[band] == -0.5
    for axis, band in ((2, 1), (3, 2)):  # in frames: 01 H, 10 W
        ramp = torch.arange(2.0).view([2 if i == axis else 1 for i in range(4)]).expand(1, 1, 2, 2)
        assert haar_frame_patches(ramp, 2).flatten().nonzero().flatten().tolist() == [0, band]


strides = st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(lambda times: times[0] <= times[1])


@given(times=strides, patch=st.integers(0, 2), extra=st.integers(0, 2))
def test_plans_multiply_to_the_stride(times: tuple[int, int], patch: int, extra: int) -> None:
    """Whatever stride the options' check lets through, both plans reach it."""
    patch_size = 2**patch
    stride = (patch_size * 2 ** times[0], patch_size * 2 ** times[1], patch_size * 2 ** times[1])
    levels = 1 + max(times[1], times[0] + 1 if times[0] else 0)
    options = {**TINY, "stride": list(stride), "patch_size": patch_size}
    for plan in (halvings, doublings):
        steps = plan(stride, patch_size, levels + extra)
        assert (sum(step.temporal for step in steps), sum(step.spatial for step in steps)) == times
    if levels > 1:
        with pytest.raises(RecipeError, match=f"takes {levels} levels or more"):
            CosmosEncoder(**options, channel_multipliers=[1] * (levels - 1))


@settings(max_examples=12, deadline=None)
@given(
    stride=st.sampled_from([*PUBLISHED, [4, 4, 4], [4, 16, 16]]),
    grid=st.lists(st.integers(1, 2), min_size=3, max_size=3),
)
def test_any_stride_shrinks_and_grows_back(stride: list[int], grid: list[int]) -> None:
    """Sizes are those of the ports, and every weight learns."""
    encoder = CosmosEncoder(**TINY, stride=stride)
    decoder = CosmosDecoder(**TINY, stride=stride)
    (t, h, w), (s_t, s_h, s_w) = grid, stride
    x = torch.randn(1, 3, 1 + (t - 1) * s_t, h * s_h, w * s_w)
    z = encoder(x)
    assert z.shape == (1, 5, *grid)
    y = decoder(z)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert all(p.grad is not None for p in [*encoder.parameters(), *decoder.parameters()])
    assert decoder.last_layer.shape == (192, 192, 3, 1, 1)


@pytest.mark.parametrize(("side", "multipliers"), [(4, [1]), (8, [2, 1]), (16, [1, 2]), (16, [1, 2, 1])])
def test_image_strides_shrink_and_grow_back(side: int, multipliers: list[int]) -> None:
    options = {"base_channels": 32, "channel_multipliers": multipliers, "num_residual_blocks": 1}
    encoder = CosmosImageEncoder(**options, stride=[1, side, side])
    decoder = CosmosImageDecoder(**options, stride=[1, side, side])
    x = torch.randn(2, 3, side, 2 * side)
    z = encoder(x)
    assert z.shape == (2, 16, 1, 2)
    y = decoder(z)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert all(p.grad is not None for p in [*encoder.parameters(), *decoder.parameters()])
    with pytest.raises(PortError, match=f"multiples of its stride {side}"):
        encoder(x[..., :-1])


@pytest.mark.parametrize("stride", PUBLISHED, ids=str)
def test_later_frames_never_move_the_past(stride: list[int]) -> None:
    """The difference is exactly 0, and what comes later does move."""
    torch.manual_seed(0)
    encoder, decoder = (
        CosmosEncoder(**TINY, stride=stride).eval(),
        CosmosDecoder(**TINY, stride=stride).eval(),
    )
    step = stride[0]
    x = torch.randn(2, 3, 1 + 3 * step, stride[1], stride[2])
    with torch.no_grad():
        z = encoder(x)
        y = decoder(z)
        for kept in (1, 2, 3):
            frames = 1 + (kept - 1) * step
            changed = torch.cat([x[:, :, :frames], -3 * x[:, :, frames:] + 0.5], dim=2)
            z_changed = encoder(changed)
            assert torch.equal(z[:, :, :kept], z_changed[:, :, :kept])
            assert not torch.equal(z[:, :, kept:], z_changed[:, :, kept:])
            y_changed = decoder(torch.cat([z[:, :, :kept], -3 * z[:, :, kept:] + 0.5], dim=2))
            assert torch.equal(y[:, :, :frames], y_changed[:, :, :frames])
            assert not torch.equal(y[:, :, frames:], y_changed[:, :, frames:])


@pytest.mark.parametrize("part", [SpatialAttention, TemporalAttention])
def test_attention_is_the_softmax_formula(
    part: type[SpatialAttention | TemporalAttention], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    attention = part(6)
    x_BtDhw = torch.randn(2, 3, 6, 2, 4)
    along = x_BtDhw.flatten(3).movedim(2, -1)  # B t (hw) D
    normed = attention.norm(x_BtDhw).flatten(3).movedim(2, -1)
    q, k, v, out = (
        (conv.conv3d.weight.flatten(1), conv.conv3d.bias)
        for conv in (attention.q, attention.k, attention.v, attention.proj_out)
    )
    q, k, v = (normed @ weight.mT + bias for weight, bias in (q, k, v))
    if part is TemporalAttention:
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    scores = q @ k.mT / 6**0.5
    if part is TemporalAttention:
        scores = scores.masked_fill(torch.ones(3, 3).triu(1).bool(), -torch.inf)
    attended = scores.softmax(dim=-1) @ v
    if part is TemporalAttention:
        attended = attended.transpose(1, 2)
    expected = (along + attended @ out[0].mT + out[1]).movedim(-1, 2).unflatten(3, (2, 4))
    torch.testing.assert_close(attention(x_BtDhw), expected)
    monkeypatch.setattr(cosmos_layers, "_MAX_ROWS", 5)
    torch.testing.assert_close(attention(x_BtDhw), expected)


def test_bf16_autocast_stays_close() -> None:
    torch.manual_seed(0)
    options = {**TINY, "base_channels": 16, "stride": [8, 8, 8]}
    encoder, decoder = CosmosEncoder(**options).eval(), CosmosDecoder(**options).eval()
    x = torch.rand(1, 3, 9, 16, 24) * 2 - 1
    expected = decoder(encoder(x))
    with torch.autocast("cpu", torch.bfloat16):
        y = decoder(encoder(x))
    assert (y - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("part", [CosmosEncoder, CosmosDecoder])
def test_bad_options_are_refused(part: type[CosmosEncoder | CosmosDecoder]) -> None:
    for stride in ([2, 8, 8], [8, 4, 4], [4, 8, 16], [4, 6, 6], [8, 8]):
        with pytest.raises(RecipeError, match="powers of two"):
            part(stride=stride)
    with pytest.raises(RecipeError, match="patch_size 3"):
        part(patch_size=3)
    with pytest.raises(RecipeError, match="takes 3 levels or more"):
        part(stride=[8, 8, 8], channel_multipliers=[1, 2])
    for wrong in ({"base_channels": 0}, {"num_residual_blocks": 0}, {"channel_multipliers": []}):
        with pytest.raises(RecipeError, match="at least 1"):
            part(**wrong)


@pytest.mark.parametrize("part", [CosmosImageEncoder, CosmosImageDecoder])
def test_bad_image_options_are_refused(part: type[CosmosImageEncoder | CosmosImageDecoder]) -> None:
    for stride in ([4, 8, 8], [1, 2, 2], [1, 8, 16], [1, 12, 12], [8, 8]):
        with pytest.raises(RecipeError, match="powers of two"):
            part(stride=stride)
    with pytest.raises(RecipeError, match="takes 2 levels or more"):
        part(stride=[1, 16, 16], channel_multipliers=[1])
    with pytest.raises(RecipeError, match="multiples of 32"):
        part(base_channels=48)


def test_clips_that_do_not_fit_are_refused() -> None:
    encoder = CosmosEncoder(**TINY, stride=[4, 8, 8])
    for shape in ((1, 3, 4, 8, 8), (1, 3, 5, 8, 12), (1, 3, 0, 8, 8), (3, 5, 8, 8)):
        with pytest.raises(PortError, match=r"T = 1 \+ k \* 4"):
            encoder(torch.zeros(shape))
    with pytest.raises(PortError, match="in_channels=3 and got 1"):
        encoder(torch.zeros(1, 1, 5, 8, 8))
    with pytest.raises(PortError, match="D = 5"):
        CosmosDecoder(**TINY, stride=[4, 8, 8])(torch.zeros(1, 3, 2, 2, 2))
