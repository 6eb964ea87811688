"""The VidTok encoders and decoders: sizes, levels, time, streams, precision.

Shapes: B batch, C colours, T H W frames and pixels, t h w the latent grid.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import zoo
from zoo.assemblies import Autoencoder
from zoo.errors import PortError, RecipeError, ZooError
from zoo.streaming import Memory, streaming
from zoo_tokenizers.vidtok.model import VidTokDecoder, VidTokEncoder, VidTokSmoothDecoder
from zoo_tokenizers.vidtok.noncausal import VidTokNoncausalDecoder, VidTokNoncausalEncoder
from zoo_tokenizers.vidtok.plan import doublings, halvings

TINY: dict[str, Any] = {"base_channels": 8, "num_residual_blocks": 1, "latent_dim": 5}
PUBLISHED = [[2, 8, 8], [4, 4, 4], [4, 8, 8], [8, 8, 8]]
PARTS: list[type[nn.Module]] = [
    VidTokEncoder,
    VidTokDecoder,
    VidTokSmoothDecoder,
    VidTokNoncausalEncoder,
    VidTokNoncausalDecoder,
]


def awake(part: nn.Module) -> nn.Module:
    """Give the residual blocks between frames, which start as the identity, something to say."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in part.named_parameters():
            if "temporal" in name and ".conv2." in name:
                parameter.normal_(std=0.2, generator=generator)
    return part.eval()


def test_levels_are_the_published_ones() -> None:
    published = {
        (4, 8, 8): ({0, 1, 2}, {1, 2}, {1, 2, 3}, {1, 2}),
        (2, 8, 8): ({0, 1, 2}, {1}, {1, 2, 3}, {2}),
        (4, 4, 4): ({1, 2}, {1, 2}, {1, 2}, {1, 2}),
        (8, 8, 8): ({0, 1, 2}, {0, 1, 2}, {1, 2, 3}, {1, 2, 3}),
    }
    for stride, levels in published.items():
        assert (*halvings(stride, 4), *doublings(stride, 4)) == levels
    assert halvings((4, 16, 16), 5) == ({0, 1, 2, 3}, {2, 3})
    assert doublings((4, 16, 16), 5) == ({1, 2, 3, 4}, {1, 2})


@settings(max_examples=15, deadline=None)
@given(
    times=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    extra=st.integers(0, 1),
    grid=st.lists(st.integers(1, 2), min_size=3, max_size=3),
    is_causal=st.booleans(),
)
def test_any_stride_shrinks_and_grows_back(
    times: tuple[int, int], extra: int, grid: list[int], is_causal: bool
) -> None:
    """Sizes are those of the ports, every weight learns, and too few levels are refused."""
    s_t, s_hw = 2 ** times[0], 2 ** times[1]
    levels = 1 + max(times)
    options = {**TINY, "stride": [s_t, s_hw, s_hw], "channel_multipliers": [1] * (levels + extra)}
    kinds = (VidTokEncoder, VidTokDecoder) if is_causal else (VidTokNoncausalEncoder, VidTokNoncausalDecoder)
    encoder, decoder = (kind(**options) for kind in kinds)
    t, h, w = grid
    x = torch.randn(1, 3, 1 + (t - 1) * s_t if is_causal else t * s_t, h * s_hw, w * s_hw)
    z = encoder(x)
    assert z.shape == (1, 5, *grid)
    y = decoder(z)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert all(p.grad is not None for p in [*encoder.parameters(), *decoder.parameters()])
    if levels > 1:
        with pytest.raises(RecipeError, match=f"takes {levels} levels or more"):
            kinds[0](**{**options, "channel_multipliers": [1] * (levels - 1)})


@pytest.mark.parametrize("edge", ["zeros", "repeat"])
@pytest.mark.parametrize("stride", PUBLISHED, ids=str)
def test_later_frames_never_move_the_past(stride: list[int], edge: str) -> None:
    """The difference is exactly 0, and what comes later does move."""
    torch.manual_seed(0)
    encoder = awake(VidTokEncoder(**TINY, stride=stride, edge=edge))
    decoder = awake(VidTokDecoder(**TINY, stride=stride, edge=edge))
    step = stride[0]
    x = torch.randn(2, 3, 1 + 2 * step, stride[1], stride[2])
    with torch.no_grad():
        z = encoder(x)
        y = decoder(z)
        for kept in (1, 2):
            frames = 1 + (kept - 1) * step
            z_changed = encoder(torch.cat([x[:, :, :frames], 0.5 - 3 * x[:, :, frames:]], dim=2))
            assert torch.equal(z[:, :, :kept], z_changed[:, :, :kept])
            assert not torch.equal(z[:, :, kept:], z_changed[:, :, kept:])
            y_changed = decoder(torch.cat([z[:, :, :kept], 0.5 - 3 * z[:, :, kept:]], dim=2))
            assert torch.equal(y[:, :, :frames], y_changed[:, :, :frames])
            assert not torch.equal(y[:, :, frames:], y_changed[:, :, frames:])


def test_the_smooth_decoder_looks_one_latent_frame_ahead() -> None:
    """Not two, and from the first latent frame not at all."""
    torch.manual_seed(0)
    decoder = awake(VidTokSmoothDecoder(**TINY))
    z = torch.randn(1, 5, 5, 1, 2)
    with torch.no_grad():
        y = decoder(z)
        for changed in range(1, 5):
            other = decoder(z.index_fill(2, torch.tensor(changed), 0.3))
            same = (other == y).flatten(3).all(-1).all(1)[0]
            seen = 0 if changed == 1 else 1  # the first latent frame gives one frame and looks at no other
            first_moved = 1 + (changed - 1 - seen) * 4
            assert same[:first_moved].all()
            assert not same[1 + (changed - 1) * 4 :].any()
            assert not seen or not same[first_moved : first_moved + 4].all()
        # An image decodes as the start of a clip does.
        torch.testing.assert_close(decoder(z[:, :, :1]), y[:, :, :1])


def in_pieces(part: nn.Module, x: Tensor, sizes: list[int]) -> Tensor:
    memory: Memory = {}
    pieces = []
    for piece in x.split(sizes, dim=2):
        with streaming(part, memory):
            pieces.append(part(piece))
    return torch.cat(pieces, dim=2)


@settings(max_examples=12, deadline=None)
@given(
    data=st.data(),
    stride=st.sampled_from([[1, 2, 2], *PUBLISHED]),
    edge=st.sampled_from(["zeros", "repeat"]),
)
def test_any_pieces_equal_one_shot(data: st.DataObject, stride: list[int], edge: str) -> None:
    torch.manual_seed(0)
    plan = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    frames = [1 + (plan[0] - 1) * stride[0], *(num * stride[0] for num in plan[1:])]
    encoder = awake(VidTokEncoder(**TINY, stride=stride, edge=edge))
    decoder = awake(VidTokDecoder(**TINY, stride=stride, edge=edge))
    x = torch.rand(2, 3, sum(frames), stride[1], 2 * stride[2]) * 2 - 1
    with torch.no_grad():
        z = encoder(x)
        y = decoder(z)
        torch.testing.assert_close(in_pieces(encoder, x, frames), z, rtol=0, atol=1e-5 * float(z.abs().max()))
        torch.testing.assert_close(in_pieces(decoder, z, plan), y, rtol=0, atol=1e-5 * float(y.abs().max()))


def test_models_say_what_streams() -> None:
    """Version 1.0 both ways, version 1.1 the encoder, the other models not at all."""
    models = {
        name: zoo.build(f"vidtok-video-{name}", seed=0) for name in ("tiny", "v1.1-tiny", "noncausal-tiny")
    }
    assert all(isinstance(model, Autoencoder) for model in models.values())
    assert [(model.causal, model.lead_frame) for model in models.values()] == [
        (True, True),
        (False, True),
        (False, False),
    ]
    models["v1.1-tiny"].eval().stream_encoder()
    with pytest.raises(ZooError):
        models["v1.1-tiny"].stream_decoder()
    with pytest.raises(ZooError):
        models["noncausal-tiny"].eval().stream_encoder()


@pytest.mark.parametrize("kinds", [PARTS[:2], PARTS[3:]], ids=["causal", "noncausal"])
def test_bf16_autocast_stays_close(kinds: list[type[nn.Module]]) -> None:
    torch.manual_seed(0)
    encoder, decoder = (awake(kind(**{**TINY, "base_channels": 16})) for kind in kinds)
    x = torch.rand(1, 3, 9 if encoder.causal else 8, 16, 24) * 2 - 1
    with torch.no_grad():
        expected = decoder(encoder(x))
        with torch.autocast("cpu", torch.bfloat16):
            y = decoder(encoder(x))
    assert (y - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("part", PARTS)
def test_bad_options_are_refused(part: type[nn.Module]) -> None:
    for stride in ([4, 8, 16], [4, 6, 6], [0, 8, 8], [8, 8]):
        with pytest.raises(RecipeError, match="powers of two"):
            part(stride=stride)
    for wrong in ({"base_channels": 0}, {"num_residual_blocks": 0}, {"channel_multipliers": []}):
        with pytest.raises(RecipeError, match="at least 1"):
            part(**wrong)
    if part in (VidTokEncoder, VidTokDecoder):
        with pytest.raises(RecipeError, match=r"'zeros' .* or 'repeat'"):
            part(edge="both")


def test_clips_that_do_not_fit_are_refused() -> None:
    encoder = VidTokEncoder(**TINY)
    for shape in ((1, 3, 4, 8, 8), (1, 3, 5, 8, 12), (1, 3, 0, 8, 8), (3, 5, 8, 8)):
        with pytest.raises(PortError, match=r"T = 1 \+ k \* 4"):
            encoder(torch.zeros(shape))
    with pytest.raises(PortError, match=r"T = k \* 4"):
        VidTokNoncausalEncoder(**TINY)(torch.zeros(1, 3, 5, 8, 8))
    with pytest.raises(PortError, match="in_channels=3 and got 1"):
        encoder(torch.zeros(1, 1, 5, 8, 8))
    with pytest.raises(PortError, match="D = 5"):
        VidTokDecoder(**TINY)(torch.zeros(1, 3, 2, 2, 2))
