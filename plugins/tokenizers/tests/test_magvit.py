"""MAGVIT 3D-VQ and Open-MAGVIT2: time, streams, sizes, and starting from a 2D network.

Shapes: B batch, C colours, T H W frames and pixels, D channels, t h w the latent grid.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from zoo.errors import PortError, RecipeError, WeightsError
from zoo.streaming import Memory, streaming
from zoo_tokenizers.magvit import inflate
from zoo_tokenizers.magvit.model import MAGVITDecoder, MAGVITEncoder
from zoo_tokenizers.open_magvit2.model import (
    OpenMagvit2CausalDecoder,
    OpenMagvit2CausalEncoder,
    OpenMagvit2Decoder,
    OpenMagvit2Encoder,
)

TINY: dict[str, Any] = {
    "base_channels": 8,
    "channel_multipliers": [1, 2, 2],
    "num_residual_blocks": 1,
    "latent_dim": 5,
    "num_groups": 4,
}
PARTS = [
    (MAGVITEncoder, MAGVITDecoder),
    (OpenMagvit2Encoder, OpenMagvit2Decoder),
    (OpenMagvit2CausalEncoder, OpenMagvit2CausalDecoder),
]


def scramble(part: nn.Module) -> None:
    """Give every weight, norms and biases too, a value that matters."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator) / max(1, parameter.ndim - 2)


def causal_pair(temporal_stride: int = 4) -> tuple[OpenMagvit2CausalEncoder, OpenMagvit2CausalDecoder]:
    torch.manual_seed(0)
    encoder = OpenMagvit2CausalEncoder(**TINY, temporal_stride=temporal_stride).eval()
    decoder = OpenMagvit2CausalDecoder(**TINY, temporal_stride=temporal_stride).eval()
    scramble(encoder)
    scramble(decoder)
    return encoder, decoder


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    assert a.shape == b.shape
    assert (a - b).detach().abs().max().item() <= tolerance * b.detach().abs().max().item()


@settings(max_examples=8, deadline=None)
@given(
    temporal_stride=st.sampled_from([1, 2, 4]),
    plan=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    decoded=st.lists(st.integers(1, 3), min_size=1, max_size=4),
)
def test_pieces_give_what_one_shot_gives(temporal_stride: int, plan: list[int], decoded: list[int]) -> None:
    """Whatever the pieces, single latent frames included."""
    encoder, decoder = causal_pair(temporal_stride)
    t = sum(plan)
    x = torch.randn(2, 3, 1 + (t - 1) * temporal_stride, 8, 12)
    pieces = x.split([1 + (plan[0] - 1) * temporal_stride, *(k * temporal_stride for k in plan[1:])], dim=2)
    z = torch.randn(2, 5, sum(decoded), 2, 3)
    with torch.no_grad():
        memory: Memory = {}
        latents = []
        for piece in pieces:
            with streaming(encoder, memory):
                latents.append(encoder(piece))
        close(torch.cat(latents, dim=2), encoder(x))
        memory = {}
        videos = []
        for piece in z.split(decoded, dim=2):
            with streaming(decoder, memory):
                videos.append(decoder(piece))
        close(torch.cat(videos, dim=2), decoder(z))


def test_later_frames_move_the_past_of_the_published_pair_only() -> None:
    """The difference is exactly 0 with norms per frame, and more with those over a clip."""
    for encoder, decoder in (causal_pair(), (OpenMagvit2Encoder(**TINY), OpenMagvit2Decoder(**TINY))):
        assert encoder.causal is decoder.causal is isinstance(encoder, OpenMagvit2CausalEncoder)
        assert encoder.lead_frame
        assert decoder.lead_frame
        x = torch.randn(2, 3, 9, 8, 12)
        changed = torch.cat([x[:, :, :5], -3 * x[:, :, 5:] + 0.5], dim=2)
        with torch.no_grad():
            z, z_changed = encoder(x), encoder(changed)
            y = decoder(z)
            y_changed = decoder(torch.cat([z[:, :, :2], 0.5 - 3 * z[:, :, 2:]], dim=2))
        assert torch.equal(z[:, :, :2], z_changed[:, :, :2]) is encoder.causal
        assert torch.equal(y[:, :, :5], y_changed[:, :, :5]) is encoder.causal
        assert not torch.equal(z[:, :, 2:], z_changed[:, :, 2:])
        assert not torch.equal(y[:, :, 5:], y_changed[:, :, 5:])


def test_causal_sibling_takes_the_published_weights() -> None:
    """It gives the same for one frame, where both norms see the same, and something else for more."""
    encoder, decoder = causal_pair()
    published_encoder, published_decoder = OpenMagvit2Encoder(**TINY), OpenMagvit2Decoder(**TINY)
    published_encoder.load_state_dict(encoder.state_dict())
    published_decoder.load_state_dict(decoder.state_dict())
    x = torch.randn(2, 3, 5, 8, 12)
    with torch.no_grad():
        close(encoder(x[:, :, :1]), published_encoder(x[:, :, :1]))
        z = encoder(x)
        close(decoder(z[:, :, :1]), published_decoder(z[:, :, :1]))
        assert (z - published_encoder(x)).norm() > 1e-3 * z.norm()
        y = decoder(z)
        assert (y - published_decoder(z)).norm() > 1e-3 * y.norm()


@pytest.mark.parametrize(("encoder_type", "decoder_type"), PARTS)
def test_a_latent_of_one_position_is_no_special_case(
    encoder_type: type[nn.Module], decoder_type: type[nn.Module]
) -> None:
    """The deviation over one position is 0, with finite gradients."""
    encoder, decoder = encoder_type(**TINY), decoder_type(**TINY)
    x = torch.randn(2, 3, 1 if encoder_type is not MAGVITEncoder else 4, 4, 4)
    z = encoder(x)
    assert z.shape == (2, 5, 1, 1, 1)
    y = decoder(z)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in [*encoder.parameters(), *decoder.parameters()])


def image_twin(part: nn.Module) -> nn.Module:
    """Replace every convolution by a 2D one of its own weights, written as a kernel of one frame."""
    twin = copy.deepcopy(part)
    for module in twin.modules():
        for name, conv in list(module.named_children()):
            if isinstance(conv, nn.Conv3d):
                side = conv.kernel_size[1]
                flat = nn.Conv3d(
                    conv.in_channels,
                    conv.out_channels,
                    (1, side, side),
                    stride=(1, *conv.stride[1:]),
                    padding=(0, side // 2, side // 2),
                    bias=conv.bias is not None,
                )
                setattr(module, name, flat)
    scramble(twin)
    return twin


def image_state(twin: nn.Module) -> dict[str, Tensor]:
    return {name: v.squeeze(2) if v.ndim == 5 else v for name, v in twin.state_dict().items()}


@pytest.mark.parametrize(
    ("part", "mode", "shape", "taken", "made"),
    [
        pytest.param(MAGVITEncoder, "centre", (2, 3, 1, 8, 12), 8, 2, id="magvit-encoder"),
        pytest.param(MAGVITDecoder, "centre", (2, 5, 1, 2, 3), 2, 8, id="magvit-decoder"),
        pytest.param(OpenMagvit2CausalEncoder, "last", (2, 3, 1, 8, 12), 5, 2, id="causal-encoder"),
        pytest.param(OpenMagvit2CausalDecoder, "last", (2, 5, 1, 2, 3), 2, 5, id="causal-decoder"),
    ],
)
def test_inflated_network_treats_equal_frames_as_the_2d_network_does(
    part: type[nn.Module], mode: Any, shape: tuple[int, ...], taken: int, made: int
) -> None:
    """Exactly: the same numbers for every frame, from end to end."""
    torch.manual_seed(0)
    twin = image_twin(part(**TINY, temporal_stride=1)).eval()
    video = part(**TINY, temporal_stride=4).eval()
    video.load_state_dict(inflate(image_state(twin), video.state_dict(), mode=mode), strict=True)
    x = torch.randn(shape)
    with torch.no_grad():
        expected = twin(x)
        y = video(x.expand(-1, -1, taken, -1, -1))
    close(y, expected.expand(-1, -1, made, -1, -1))


def test_average_inflation_sums_to_the_2d_kernel() -> None:
    """Away from the zeros around a clip it is the 2D convolution; the first and last frame get two thirds."""
    flat, video = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Conv3d(3, 4, 3, padding=1, bias=False)
    video.load_state_dict(inflate(flat.state_dict(), video.state_dict(), mode="average"))
    frames = torch.randn(2, 3, 6, 7)
    y = video(frames.unsqueeze(2).expand(-1, -1, 5, -1, -1))
    expected = flat(frames).unsqueeze(2)
    close(y[:, :, 1:-1], expected.expand(-1, -1, 3, -1, -1))
    close(y[:, :, [0, -1]], expected.expand(-1, -1, 2, -1, -1) * 2 / 3)


def test_inflation_keeps_what_the_2d_network_has_not_and_names_what_does_not_fit() -> None:
    video = nn.Conv3d(3, 4, 3)
    flat = {"weight": torch.randn(4, 3, 3, 3)}
    inflated = inflate(flat, video.state_dict())
    assert torch.equal(inflated["bias"], video.bias)
    assert torch.equal(inflated["weight"][:, :, 1], flat["weight"])
    assert inflated["weight"].count_nonzero() == flat["weight"].count_nonzero()
    with pytest.raises(WeightsError, match=r"no kernel; it has bias, weight"):
        inflate({"kernel": flat["weight"]}, video.state_dict())
    with pytest.raises(WeightsError, match=r"weight is \(4, 3, 5, 5\) .* become \(4, 3, 3, 3, 3\)"):
        inflate({"weight": torch.zeros(4, 3, 5, 5)}, video.state_dict())
    with pytest.raises(WeightsError, match="one of centre, average, last"):
        inflate(flat, video.state_dict(), mode="middle")  # type: ignore[arg-type]


@pytest.mark.parametrize("part", [part for pair in PARTS for part in pair])
def test_bad_options_are_refused(part: type[nn.Module]) -> None:
    for wrong in ({"base_channels": 6}, {"channel_multipliers": []}, {"num_groups": 0}):
        with pytest.raises(RecipeError, match="multiples of num_groups"):
            part(**{**TINY, **wrong})
    for wrong in ({"num_residual_blocks": 0}, {"latent_dim": 0}):
        with pytest.raises(RecipeError, match="at least 1"):
            part(**{**TINY, **wrong})
    for temporal_stride in (0, 3, 8):
        with pytest.raises(RecipeError, match="power of two up to 4"):
            part(**TINY, temporal_stride=temporal_stride)


@pytest.mark.parametrize(("encoder_type", "decoder_type"), PARTS)
def test_clips_that_do_not_fit_are_refused(
    encoder_type: type[nn.Module], decoder_type: type[nn.Module]
) -> None:
    encoder = encoder_type(**TINY)
    num_frames = 4 if encoder_type is MAGVITEncoder else 5
    for shape in ((1, 3, num_frames - 1, 8, 8), (1, 3, num_frames, 8, 6), (3, num_frames, 8, 8)):
        with pytest.raises(PortError, match=r"it takes \(B, C, T, H, W\)"):
            encoder(torch.zeros(shape))
    with pytest.raises(PortError, match="in_channels=3 and got 1"):
        encoder(torch.zeros(1, 1, num_frames, 8, 8))
    with pytest.raises(PortError, match="D = 5"):
        decoder_type(**TINY)(torch.zeros(1, 3, 2, 2, 2))
