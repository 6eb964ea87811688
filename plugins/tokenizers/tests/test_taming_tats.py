"""What the taming and the TATS parts promise beyond the numbers of the public code.

Shapes: B batch, C colours, T H W frames and pixels, t h w the latent grid.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from zoo.assemblies import Autoencoder
from zoo.errors import PortError, RecipeError
from zoo_tokenizers.taming.layers import AttentionBlock
from zoo_tokenizers.taming.model import TamingDecoder, TamingEncoder
from zoo_tokenizers.tats.layers import steps
from zoo_tokenizers.tats.model import TATSDecoder, TATSEncoder

strides = st.lists(st.sampled_from([1, 2, 4, 8]), min_size=3, max_size=3).filter(lambda s: max(s) > 1)


@settings(max_examples=20, deadline=None)
@given(stride=strides, grid=st.lists(st.integers(1, 2), min_size=3, max_size=3), norm=st.booleans())
def test_tats_of_any_stride_shrinks_and_grows_back(stride: list[int], grid: list[int], norm: bool) -> None:
    options = {"base_channels": 16, "norm": "group"} if norm else {"base_channels": 1, "norm": "batch"}
    encoder = TATSEncoder(stride=stride, **options)
    decoder = TATSDecoder(stride=stride, **options)
    x = torch.rand(2, 3, *(n * s for n, s in zip(grid, stride, strict=True)))
    z = encoder(x)
    assert z.shape == (2, encoder.latent_dim, *grid)
    assert decoder(z).shape == x.shape


@given(stride=strides)
def test_steps_multiply_to_the_stride(stride: list[int]) -> None:
    s_t, s_h, s_w = stride
    assert torch.tensor(steps((s_t, s_h, s_w))).prod(dim=0).tolist() == stride


def test_tats_is_time_agnostic() -> None:
    """A clip that stands still has the same latent at every time, borders included, whatever its length."""
    torch.manual_seed(0)
    encoder = TATSEncoder(base_channels=4, stride=[4, 4, 4]).eval()
    frame = torch.rand(1, 3, 1, 8, 12) * 2 - 1
    with torch.no_grad():
        short, long = (encoder(frame.expand(-1, -1, T, -1, -1)) for T in (4, 24))
    torch.testing.assert_close(long, short.expand_as(long), atol=1e-5, rtol=0)


def test_tats_grows_longer_clips_without_a_trace_of_the_border() -> None:
    """Frames far from the ends of a long clip are those of a clip that goes on: no position is encoded."""
    torch.manual_seed(0)
    decoder = TATSDecoder(base_channels=2, stride=[2, 2, 2]).eval()
    z = torch.randn(1, decoder.latent_dim, 24, 2, 2)
    with torch.no_grad():
        whole, tail = decoder(z), decoder(z[:, :, 8:])
    # 5 latent frames see the border: the growth's kernel, then four convolutions at twice the rate and one.
    torch.testing.assert_close(whole[:, :, 16 + 10 :], tail[:, :, 10:], atol=1e-5, rtol=0)


def test_taming_takes_frames_one_by_one() -> None:
    """A permuted clip gives permuted tokens and frames, and the model says it is causal."""
    model = zoo.build("vqgan-image-tiny", seed=0)
    assert isinstance(model, Autoencoder)
    assert model.causal
    x_BCTHW = torch.rand(2, 3, 4, 16, 20, generator=torch.Generator().manual_seed(1)) * 2 - 1
    order = [2, 0, 3, 1]
    with torch.no_grad():
        tokens, permuted = model.encode(x_BCTHW), model.encode(x_BCTHW[:, :, order])
        assert tokens.z_BDthw is not None
        assert tokens.indices_Bqthw is not None
        assert permuted.indices_Bqthw is not None
        assert tokens.z_BDthw.shape == (2, 32, 4, 4, 5)
        assert torch.equal(permuted.indices_Bqthw, tokens.indices_Bqthw[:, :, order])
        torch.testing.assert_close(model.decode(permuted), model.decode(tokens)[:, :, order])


def test_attention_is_the_softmax_formula_over_all_positions() -> None:
    torch.manual_seed(0)
    attend, x = AttentionBlock(32), torch.randn(2, 32, 3, 5)
    q, k, v = (conv(attend.norm(x)).flatten(2).mT for conv in (attend.q, attend.k, attend.v))
    mixed = ((q @ k.mT / 32**0.5).softmax(dim=-1) @ v).mT.reshape(x.shape)
    torch.testing.assert_close(attend(x), x + attend.proj_out(mixed))


@pytest.mark.parametrize("family", ["taming", "tats"])
def test_published_size_on_the_meta_device(family: str) -> None:
    with torch.device("meta"):
        encoder = zoo.build_part("encoder", f"tokenizers:{family}")
        decoder = zoo.build_part("decoder", f"tokenizers:{family}")
        size = (256, 256) if family == "taming" else (16, 128, 128)
        z = encoder(torch.empty(1, 3, *size))
        assert z.shape == ((1, 256, 16, 16) if family == "taming" else (1, 256, 4, 16, 16))
        assert decoder(z).shape == (1, 3, *size)


@pytest.mark.parametrize("family", ["taming", "tats"])
def test_bf16_autocast_stays_close(family: str) -> None:
    torch.manual_seed(0)
    options = {"channel_multipliers": [1, 2], "attention_levels": [1]} if family == "taming" else {}
    encoder = zoo.build_part("encoder", f"tokenizers:{family}", base_channels=32, **options)
    decoder = zoo.build_part("decoder", f"tokenizers:{family}", base_channels=32, **options)
    x = torch.rand(1, 3, 8, 12) if family == "taming" else torch.rand(1, 3, 4, 8, 16)
    with torch.no_grad():
        expected = decoder(encoder(x))
        with torch.autocast("cpu", torch.bfloat16):
            y = decoder(encoder(x))
    assert F.mse_loss(y.float(), expected).sqrt() < 0.05 * expected.square().mean().sqrt()


@pytest.mark.parametrize("part", [TamingEncoder, TamingDecoder])
def test_bad_taming_options_are_refused(part: type) -> None:
    for options in ({"base_channels": 24}, {"channel_multipliers": []}, {"channel_multipliers": [1, 0]}):
        with pytest.raises(RecipeError, match="multiples of 32"):
            part(**options)
    with pytest.raises(RecipeError, match="num_residual_blocks is 0"):
        part(num_residual_blocks=0)
    for levels in ([5], [-1]):
        with pytest.raises(RecipeError, match=r"one of 0 .* to 4"):
            part(attention_levels=levels)


@pytest.mark.parametrize("part", [TATSEncoder, TATSDecoder])
def test_bad_tats_options_are_refused(part: type) -> None:
    for stride in ([1, 1, 1], [3, 4, 4], [4, 4], [0, 4, 4]):
        with pytest.raises(RecipeError, match="powers of two"):
            part(stride=stride)
    with pytest.raises(RecipeError, match="multiple of 16 with norm='group'"):
        part(base_channels=8, norm="group")
    with pytest.raises(RecipeError, match="'batch' or 'group'"):
        part(norm="layer")


def test_inputs_that_do_not_fit_are_refused() -> None:
    taming = {"base_channels": 32, "channel_multipliers": [1, 1, 1], "attention_levels": []}
    for shape in ((1, 3, 8, 6), (3, 8, 8), (1, 3, 2, 8, 8)):
        with pytest.raises(PortError, match="multiples of its stride 4"):
            TamingEncoder(**taming)(torch.zeros(shape))
    with pytest.raises(PortError, match="in_channels=3 and got 1"):
        TamingEncoder(**taming)(torch.zeros(1, 1, 8, 8))
    with pytest.raises(PortError, match="D = 256"):
        TamingDecoder(**taming)(torch.zeros(1, 3, 2, 2))
    tats = {"base_channels": 2, "stride": [2, 4, 4]}
    for shape in ((1, 3, 3, 8, 8), (1, 3, 2, 8, 6), (3, 2, 8, 8)):
        with pytest.raises(PortError, match="multiples of its stride"):
            TATSEncoder(**tats)(torch.zeros(shape))
    with pytest.raises(PortError, match="in_channels=3 and got 1"):
        TATSEncoder(**tats)(torch.zeros(1, 1, 2, 8, 8))
    with pytest.raises(PortError, match="D = 8"):
        TATSDecoder(**tats)(torch.zeros(1, 3, 2, 2, 2))
