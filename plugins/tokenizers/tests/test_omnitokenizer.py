"""The OmniTokenizer parts: aspect ratios, windows, time, streams, precision.

Shapes: B batch, C colours, T H W frames and pixels, t h w the latent grid, D channels.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from zoo.errors import PortError, RecipeError
from zoo.streaming import Memory, streaming
from zoo_tokenizers.omnitokenizer.layers import FrameAttention, WindowAttention
from zoo_tokenizers.omnitokenizer.model import (
    CausalOmniTokenizerDecoder,
    CausalOmniTokenizerEncoder,
    OmniTokenizerDecoder,
    OmniTokenizerEncoder,
)
from zoo_tokenizers.omnitokenizer.positions import PlaceBias, distance_bias, rotate_by_place
from zoo_tokenizers.omnitokenizer.quantizer import UnitEMACodebook

TINY = {"latent_dim": 12, "num_heads": 3, "head_dim": 8, "temporal_depth": 2, "window_size": 2}
ENCODERS = [OmniTokenizerEncoder, CausalOmniTokenizerEncoder]
DECODERS = [OmniTokenizerDecoder, CausalOmniTokenizerDecoder]
POSITIONS = ["rope", "bias", "none"]


def stirred(module: nn.Module) -> nn.Module:
    """Random values for all weights, so that attention and every convolution matter."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    return module.eval()


@settings(max_examples=15, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    positions=st.sampled_from(POSITIONS),
    which=st.integers(0, 1),
)
def test_any_aspect_ratio_shrinks_and_grows_back(
    grid: tuple[int, int, int], stride: tuple[int, int, int], positions: str, which: int
) -> None:
    """Sizes are those of the ports, and every weight that a clip of this length uses learns."""
    options = {**TINY, "stride": list(stride), "positions": positions, "temporal_depth": 1}
    encoder = ENCODERS[which](**options, spatial_layers="tw")
    decoder = DECODERS[which](**options, spatial_layers="wt")
    (t, h, w), (s_t, s_h, s_w) = grid, stride
    x = torch.randn(2, 3, 1 + (t - 1) * s_t, h * s_h, w * s_w)
    z = encoder(x)
    assert z.shape == (2, 12, *grid)
    y = decoder(z)
    assert y.shape == x.shape
    y.square().sum().backward()
    idle = {
        name
        for part in (encoder, decoder)
        for name, parameter in part.named_parameters()
        if parameter.grad is None
    }
    later = {name for name in idle if name.startswith(("to_patch_emb.", "to_pixels."))}
    assert idle == later
    assert (not idle) == (t > 1)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 3), (3, 2)], ids=str)
def test_windows_are_cut_by_the_edge(size: tuple[int, int]) -> None:
    """Whatever the frame, a window gives what it gives alone, and sees no other."""
    attention = stirred(WindowAttention(6, num_heads=2, window_size=3))
    x = torch.randn(2, 3, *size, 6)
    y = attention(x)
    for row in range(0, size[0], 3):
        for column in range(0, size[1], 3):
            window = (slice(None), slice(None), slice(row, row + 3), slice(column, column + 3))
            torch.testing.assert_close(attention(x[window]), y[window])
            changed = x.clone()
            changed[window] += 1
            moved = (attention(changed) - y).abs().amax(dim=(0, 1, 4)) > 0
            assert moved[window[2:]].all()
            assert moved.sum() == moved[window[2:]].numel()


@given(height=st.integers(1, 5), width=st.integers(1, 5))
@settings(max_examples=15, deadline=None)
def test_rotation_shows_distances_of_rows_and_columns_only(height: int, width: int) -> None:
    """In frames of any shape: scores of two places depend on the difference of their rows and columns."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 8, dtype=torch.float64)
    places = height * width
    rotated = [
        rotate_by_place(each.expand(1, 1, places, 8).contiguous(), height, width)[0, 0] for each in (q, k)
    ]
    scores = rotated[0] @ rotated[1].mT
    seen: dict[tuple[int, int], Tensor] = {}
    for i in range(places):
        for j in range(places):
            distance = (i // width - j // width, i % width - j % width)
            torch.testing.assert_close(scores[i, j], seen.setdefault(distance, scores[i, j]))
    torch.testing.assert_close(seen[0, 0], q @ k)
    values = torch.stack(list(seen.values()))
    gaps = (values[:, None] - values).abs() + torch.eye(len(values))
    assert gaps.min() > 1e-6  # and different distances score differently


def test_frame_attention_is_the_formula_in_frames_that_are_not_square() -> None:
    """Rows and columns of the frame reach the rotation; keys and values come before the norm."""
    attention = stirred(FrameAttention(6, num_heads=1, head_dim=8, positions="rope")).double()
    height, width = 2, 3
    x = torch.randn(1, 1, height, width, 6, dtype=torch.float64)
    flat = x.flatten(0, 3)
    keys, values = attention.to_kv(flat).chunk(2, dim=1)

    def turn(vectors: Tensor, scale: Tensor) -> Tensor:
        turned = []
        for place, vector in enumerate(vectors):
            column, row = place % width, place // width
            # Two speeds for 8 channels: 1 and 1 / sqrt(10000).
            angles = torch.tensor([column, row, column / 100, row / 100], dtype=torch.float64)
            pairs = torch.view_as_complex(vector.view(4, 2)) * torch.polar(torch.ones_like(angles), angles)
            turned.append(torch.view_as_real(pairs).flatten())
        unit = torch.stack(turned)
        return unit / unit.norm(dim=1, keepdim=True) * scale

    q = turn(attention.to_q(attention.norm(flat)), attention.q_scale)
    k = turn(keys, attention.k_scale)
    expected = attention.to_out((8 * q @ k.mT).softmax(dim=1) @ values).view_as(x)
    torch.testing.assert_close(attention(x), expected)


def test_biases_are_those_of_every_pair() -> None:
    bias = stirred(PlaceBias(6, 3))
    table = bias(2, 3)
    assert table.shape == (3, 6, 6)
    for i in range(6):
        for j in range(6):
            step = torch.tensor([float(i // 3 - j // 3), float(i % 3 - j % 3)])
            out = step.sign() * step.abs().add(1).log()
            for layer in bias.net:
                out = layer(out)
            torch.testing.assert_close(table[:, i, j], out)
    late = distance_bias(2, 3, 4, like=torch.zeros(()))
    assert late[0].tolist() == [[-0.25, 0, -math.inf], [-0.5, -0.25, 0]]
    assert late[3].tolist() == [[-1 / 256, 0, -math.inf], [-2 / 256, -1 / 256, 0]]
    six = [-float(b[1, 0]) for b in distance_bias(2, 2, 6, like=torch.zeros(()))]
    assert six == [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]


def clip_of(part: type[nn.Module], grid: tuple[int, int, int]) -> Tensor:
    """A random input of an encoder or decoder of stride (2, 4, 4)."""
    t, h, w = grid
    if part in ENCODERS:
        return torch.randn(1, 3, 1 + (t - 1) * 2, h * 4, w * 4)
    return torch.randn(1, 12, *grid)


def build(part: type[nn.Module], positions: str) -> nn.Module:
    torch.manual_seed(0)
    return stirred(part(**TINY, spatial_layers="tw", stride=[2, 4, 4], positions=positions))


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("part", [*ENCODERS, *DECODERS])
def test_time_flows_one_way_in_the_causal_parts_alone(part: type[nn.Module], positions: str) -> None:
    """Later frames move the past by exactly 0 there. As published they move it, which says causal = False."""
    module = build(part, positions)
    x = clip_of(part, (4, 3, 5))
    is_encoder = part in ENCODERS
    moved = []
    with torch.no_grad():
        y = module(x)
        for kept in (1, 2, 3):
            frames = 1 + (kept - 1) * 2
            kept_in, kept_out = (frames, kept) if is_encoder else (kept, frames)
            changed = torch.cat([x[:, :, :kept_in], -3 * x[:, :, kept_in:] + 0.5], dim=2)
            difference = module(changed) - y
            moved.append(float(difference[:, :, :kept_out].abs().max()))
            assert difference[:, :, kept_out:].abs().max() > 0
    assert (max(moved) == 0) == module.causal
    if not module.causal:
        assert min(moved) > 1e-2


plans = st.lists(st.integers(1, 3), min_size=1, max_size=4)


@settings(max_examples=20, deadline=None)
@given(pieces=plans, positions=st.sampled_from(POSITIONS), decodes=st.booleans())
def test_any_pieces_are_one_shot(pieces: list[int], positions: str, decodes: bool) -> None:
    """Whatever the plan, single latent frames included; a stream broken off goes on from its memory."""
    part = CausalOmniTokenizerDecoder if decodes else CausalOmniTokenizerEncoder
    module = build(part, positions)
    x = clip_of(part, (sum(pieces), 3, 2))
    memory: Memory = {}
    outputs, start = [], 0
    for num in pieces:
        num_in = num if decodes else (num - (start == 0)) * 2 + (start == 0)
        with torch.no_grad(), streaming(module, memory):
            outputs.append(module(x[:, :, start : start + num_in]))
        start += num_in
        memory = {name: value.clone() for name, value in memory.items()}
    assert start == x.shape[2]
    with torch.no_grad():
        expected = module(x)
    got = torch.cat(outputs, dim=2)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_what_a_stream_keeps_grows_by_keys_and_values() -> None:
    module = build(CausalOmniTokenizerEncoder, "rope")
    memory: Memory = {}
    sizes = []
    for num_frames in (3, 4, 4):
        with torch.no_grad(), streaming(module, memory):
            module(torch.randn(1, 3, num_frames, 8, 12))
        sizes.append(sum(value.numel() for value in memory.values()))
    grown = 2 * (2 * 3 * 8) * 2 * (2 * 3)  # layers, keys and values, two latent frames of 2 x 3 places
    assert sizes[1] - sizes[0] == sizes[2] - sizes[1] == grown


def test_bf16_autocast_stays_close() -> None:
    encoder, decoder = (
        build(part, "rope") for part in (CausalOmniTokenizerEncoder, CausalOmniTokenizerDecoder)
    )
    x = torch.rand(1, 3, 5, 8, 12) * 2 - 1
    expected = decoder(encoder(x))
    with torch.autocast("cpu", torch.bfloat16):
        y = decoder(encoder(x))
    assert (y - expected).norm() < 0.05 * expected.norm()


def test_latents_are_of_length_one_and_codes_are_not() -> None:
    torch.manual_seed(0)
    quantizer = UnitEMACodebook(codebook_size=16, latent_dim=4)
    z = torch.randn(2, 4, 2, 3, 3)
    quantizer(z)
    quantizer(z)
    assert quantizer.embeddings.norm(dim=1).max() <= 1 + 1e-6
    assert quantizer.embeddings.norm(dim=1).min() < 0.999
    quantizer.eval()
    out, scaled = quantizer(z), quantizer(7 * z)
    assert torch.equal(out.indices_Bqthw, scaled.indices_Bqthw)
    assert torch.equal(out.z_BDthw, quantizer.lookup(out.indices_Bqthw))
    unit = z / z.norm(dim=1, keepdim=True)
    torch.testing.assert_close(out.loss, 0.25 * (unit - out.z_BDthw).square().mean())


@pytest.mark.parametrize("part", [OmniTokenizerEncoder, OmniTokenizerDecoder])
def test_bad_options_are_refused(part: type[OmniTokenizerEncoder | OmniTokenizerDecoder]) -> None:
    for wrong in ({"latent_dim": 0}, {"temporal_depth": 0}, {"stride": [4, 8]}, {"window_size": 0}):
        with pytest.raises(RecipeError, match="at least 1"):
            part(**wrong)
    for letters in ("", "tx"):
        with pytest.raises(RecipeError, match="'ttww'"):
            part(spatial_layers=letters)
    with pytest.raises(RecipeError, match="choose one of rope, bias, none"):
        part(positions="sin")
    with pytest.raises(RecipeError, match="multiple of 4"):
        part(head_dim=6)
    with pytest.raises(RecipeError, match="no multiple of num_heads 7"):
        part(num_heads=7, spatial_layers="w")


def test_clips_that_do_not_fit_are_refused() -> None:
    encoder = OmniTokenizerEncoder(**TINY)
    for shape in ((1, 3, 4, 8, 8), (1, 3, 5, 8, 12), (1, 3, 0, 8, 8), (3, 5, 8, 8)):
        with pytest.raises(PortError, match=r"T = 1 \+ k \* 4"):
            encoder(torch.zeros(shape))
    with pytest.raises(PortError, match="in_channels=3 and got 1"):
        encoder(torch.zeros(1, 1, 5, 8, 8))
    with pytest.raises(PortError, match="D = 12"):
        OmniTokenizerDecoder(**TINY)(torch.zeros(1, 3, 2, 2, 2))
