"""The VideoGPT encoder and decoder: sizes, attention, precision.

Shapes: B batch, C colours, T H W frames and pixels, D channels, t h w the latent grid.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zoo.errors import PortError, RecipeError
from zoo_vqvae import attention
from zoo_vqvae.attention import AxialAttention
from zoo_vqvae.videogpt import VideoGPTDecoder, VideoGPTEncoder
from zoo_vqvae.videogpt_layers import halvings

strides = st.lists(st.sampled_from([1, 2, 4, 8]), min_size=3, max_size=3).filter(lambda s: max(s) > 1)


@settings(max_examples=25, deadline=None)
@given(
    stride=strides,
    grid=st.lists(st.integers(1, 2), min_size=3, max_size=3),
    channels=st.integers(1, 4),
)
def test_any_stride_shrinks_and_grows_back(stride: list[int], grid: list[int], channels: int) -> None:
    """Every stride builds, one strided convolution included, and every weight learns."""
    options = {"hidden_dim": 4, "num_residual_blocks": 1, "stride": stride}
    encoder = VideoGPTEncoder(in_channels=channels, **options)
    decoder = VideoGPTDecoder(out_channels=channels, **options)
    size = [n * s for n, s in zip(grid, stride, strict=True)]
    x = torch.linspace(-1, 1, 2 * channels * size[0] * size[1] * size[2]).view(2, channels, *size)
    z = encoder(x)
    assert z.shape == (2, 4, *grid)
    y = decoder(z)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert all(p.grad is not None for p in [*encoder.parameters(), *decoder.parameters()])
    assert decoder.last_layer.shape[1] == channels


@given(stride=strides)
def test_halvings_multiply_to_the_stride(stride: list[int]) -> None:
    steps = torch.tensor(halvings(tuple(stride)))
    assert steps.prod(dim=0).tolist() == stride
    assert len(steps) == max(stride).bit_length() - 1


@pytest.mark.parametrize("axis", ["t", "h", "w"])
def test_axial_attention_is_the_softmax_formula_along_its_axis(axis: str) -> None:
    torch.manual_seed(0)
    attend = AxialAttention(6, num_heads=2, axis=axis)
    x_BthwD = torch.randn(2, 3, 4, 5, 6)
    along = x_BthwD.movedim(" thw".index(axis), -2)
    heads = []
    for head in (slice(0, 3), slice(3, 6)):
        q, k, v = (linear(along)[..., head] for linear in (attend.w_qs, attend.w_ks, attend.w_vs))
        heads.append((q @ k.mT / 3**0.5).softmax(dim=-1) @ v)
    expected = attend.fc(torch.cat(heads, dim=-1)).movedim(-2, " thw".index(axis))
    torch.testing.assert_close(attend(x_BthwD), expected)


def test_attention_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    attend, x = AxialAttention(6, num_heads=2, axis="t"), torch.randn(2, 3, 4, 5, 6)
    whole = attend(x)
    monkeypatch.setattr(attention, "_MAX_ROWS", 7)
    torch.testing.assert_close(attend(x), whole)


def test_meta_device_and_bf16_autocast() -> None:
    with torch.device("meta"):
        encoder, decoder = VideoGPTEncoder(), VideoGPTDecoder()
        x: Tensor = decoder(encoder(torch.empty(1, 3, 16, 128, 128)))
    assert x.shape == (1, 3, 16, 128, 128)
    assert x.is_meta

    torch.manual_seed(0)
    options = {"hidden_dim": 16, "num_residual_blocks": 1, "stride": [2, 4, 4]}
    encoder, decoder = VideoGPTEncoder(**options).eval(), VideoGPTDecoder(**options).eval()
    x = torch.rand(1, 3, 4, 8, 12) * 2 - 1
    expected = decoder(encoder(x))
    with torch.autocast("cpu", torch.bfloat16):
        y = decoder(encoder(x))
    assert y.isfinite().all()
    assert (y - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("part", [VideoGPTEncoder, VideoGPTDecoder])
def test_bad_options_are_refused(part: type) -> None:
    for stride in ([1, 1, 1], [3, 4, 4], [4, 4], [0, 4, 4]):
        with pytest.raises(RecipeError, match="powers of two"):
            part(stride=stride)
    with pytest.raises(RecipeError, match="multiple of num_heads"):
        part(hidden_dim=30, num_heads=4)
    with pytest.raises(RecipeError, match="num_residual_blocks is -1"):
        part(num_residual_blocks=-1)


def test_clips_that_do_not_fit_are_refused() -> None:
    options = {"hidden_dim": 4, "num_residual_blocks": 0, "stride": [2, 4, 4]}
    encoder = VideoGPTEncoder(**options)
    for shape in ((1, 3, 3, 8, 8), (1, 3, 2, 8, 6), (3, 2, 8, 8)):
        with pytest.raises(PortError, match="multiples of its stride"):
            encoder(torch.zeros(shape))
    with pytest.raises(PortError, match="in_channels=3 and got 1"):
        encoder(torch.zeros(1, 1, 2, 8, 8))
    with pytest.raises(PortError, match="D = 4"):
        VideoGPTDecoder(**options)(torch.zeros(1, 3, 2, 2, 2))
