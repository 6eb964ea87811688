"""The BSQ-ViT encoder and decoder: time, streams, learned positions, attention.

Shapes: B batch, C colours, T H W frames and pixels, t h w the latent grid.
"""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.assemblies import Autoencoder
from zoo.errors import PortError, RecipeError
from zoo.streaming import Memory, streaming
from zoo_tokenizers.bsqvit.layers import BlockCausalAttention, FrameAttention
from zoo_tokenizers.bsqvit.model import (
    BSQViTDecoder,
    BSQViTEncoder,
    BSQViTImageDecoder,
    BSQViTImageEncoder,
)

SMALL = {"size": [16, 24], "patch_size": 4, "width": 12, "num_layers": 2, "num_heads": 3}
PARTS = [BSQViTEncoder, BSQViTDecoder]


def awake(part: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights that are not near zero, positions of time included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return part.eval()


def clip_for(part: nn.Module, num_frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (3, num_frames, 16, 24) if isinstance(part, BSQViTEncoder) else (12, num_frames, 4, 6)
    return torch.rand(2, *shape, generator=generator) * 2 - 1


def plan(num: int, seed: int) -> list[int]:
    """Cut a number of frames into random pieces, single ones included."""
    draw = random.Random(seed)
    sizes: list[int] = []
    while sum(sizes) < num:
        sizes.append(min(draw.choice([1, 1, 2, 3]), num - sum(sizes)))
    return sizes


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", PARTS)
def test_streams_and_never_moves_the_past(kind: type[nn.Module], seed: int) -> None:
    part = awake(kind(**SMALL, num_frames=8), seed)
    x = clip_for(part, 8)
    with torch.no_grad():
        y = part(x)
        memory: Memory = {}
        pieces = []
        for piece in x.split(plan(8, seed), dim=2):
            with streaming(part, memory):
                pieces.append(part(piece))
        torch.testing.assert_close(torch.cat(pieces, dim=2), y, rtol=0, atol=1e-5)
        changed = part(torch.cat([x[:, :, :3], 0.5 - 3 * x[:, :, 3:]], dim=2))
    assert torch.equal(y[:, :, :3], changed[:, :, :3])
    assert not torch.equal(y[:, :, 3], changed[:, :, 3])


@pytest.mark.parametrize("kind", PARTS)
def test_earlier_frames_and_all_of_a_frame_are_seen(kind: type[nn.Module]) -> None:
    part = awake(kind(**SMALL, num_frames=4))
    x = clip_for(part, 3).requires_grad_()
    part(x)[:, :, 1, -1, -1].sum().backward()
    assert x.grad is not None
    seen = x.grad.abs().amax(dim=(0, 1))
    assert (seen[:2] > 0).all()
    assert (seen[2] == 0).all()


@pytest.mark.parametrize("kind", PARTS)
def test_what_is_longer_than_the_positions_is_refused(kind: type[nn.Module]) -> None:
    """As a clip or piece by piece; a refused piece leaves the stream as it was."""
    part = awake(kind(**SMALL, num_frames=4))
    x = clip_for(part, 5)
    with pytest.raises(
        PortError, match=r"got 5 frames; .* num_frames = 4\. Cut the video into clips of at most 4"
    ):
        part(x)
    memory: Memory = {}
    with torch.no_grad():
        with streaming(part, memory):
            part(x[:, :, :3])
        with (
            pytest.raises(PortError, match="got 2 frames after 3 of the same stream"),
            streaming(part, memory),
        ):
            part(x[:, :, 3:])
        with streaming(part, memory):
            last = part(x[:, :, 3:4])
        torch.testing.assert_close(last, part(x[:, :, :4])[:, :, -last.shape[2] :], rtol=0, atol=1e-5)


def test_models_refuse_long_videos_and_take_short_ones() -> None:
    model = zoo.build("bsqvit-video-tiny", seed=0)
    assert isinstance(model, Autoencoder)
    x = torch.zeros(1, 3, 17, 64, 64)
    with torch.no_grad():
        assert model.encode(x[:, :, :2]).indices_Bqthw.shape == (1, 1, 2, 8, 8)
        with pytest.raises(PortError, match="num_frames = 16"):
            model.encode(x)


@pytest.mark.parametrize("kind", [FrameAttention, BlockCausalAttention])
def test_attention_is_the_published_formula(kind: type[FrameAttention]) -> None:
    """PyTorch's multi-head attention over all tokens, with the mask of the paper."""
    t, n = 3, 4
    attention = awake(kind(12, 3))
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).eval()
    theirs.load_state_dict(attention.state_dict())
    frame = torch.arange(t).repeat_interleave(n)
    hidden = frame[None] != frame[:, None] if kind is FrameAttention else frame[None] > frame[:, None]
    x = torch.randn(2, t, n, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        flat = x.flatten(1, 2)
        expected = theirs(flat, flat, flat, attn_mask=hidden, need_weights=False)[0].view_as(x)
        torch.testing.assert_close(attention(x), expected)


def test_images_are_alone_in_a_stream() -> None:
    """Frames of an image model know nothing of each other, whatever the number of frames."""
    for part, shape in (
        (awake(BSQViTImageEncoder(**SMALL)), (5, 3, 16, 24)),
        (awake(BSQViTImageDecoder(**SMALL)), (5, 12, 4, 6)),
    ):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        memory: Memory = {}
        with torch.no_grad():
            for i in range(2):
                with streaming(part, memory):
                    y = part(x[i : i + 1])
            torch.testing.assert_close(y, part(x)[1:2], rtol=0, atol=1e-5)


def test_positions_of_other_sizes_are_between_the_learned_ones() -> None:
    """A frame of twice the side keeps the course of the positions; one of the learned size, all of them."""
    encoder = awake(BSQViTEncoder(**SMALL, num_frames=2))
    with torch.no_grad():
        ramp = torch.arange(6.0).repeat(4)[:, None].expand(24, 12)  # grows with the column, 0 to 5
        encoder.positional_embedding.copy_(ramp)
        seen = []
        encoder.ln_pre.register_forward_hook(lambda _, args, __: seen.append(args[0]))
        encoder.conv1.weight.zero_()
        encoder.temporal_positional_embedding.zero_()
        encoder(torch.zeros(1, 3, 1, 16, 24))
        assert torch.equal(seen[0][0, 0], ramp)
        encoder(torch.zeros(1, 3, 1, 32, 48))
    columns = seen[1][0, 0, :, 0].view(8, 12)
    torch.testing.assert_close(columns[3], (torch.arange(12.0) * 0.5 - 0.25).clamp(0, 5))


def test_bf16_autocast_stays_close() -> None:
    torch.manual_seed(0)
    options = {**SMALL, "width": 48}
    encoder, decoder = BSQViTEncoder(**options).eval(), BSQViTDecoder(**options).eval()
    x = torch.rand(1, 3, 3, 16, 24) * 2 - 1
    with torch.no_grad():
        expected = decoder(encoder(x))
        with torch.autocast("cpu", torch.bfloat16):
            y = decoder(encoder(x))
    assert (y - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("kind", [*PARTS, BSQViTImageEncoder, BSQViTImageDecoder])
def test_bad_options_are_refused(kind: type[nn.Module]) -> None:
    for size in ([16], [16, 20], [0, 8]):
        with pytest.raises(RecipeError, match="multiples of patch_size 8"):
            kind(size=size)
    with pytest.raises(RecipeError, match="width 48 does not go in num_heads 5"):
        kind(width=48, num_heads=5)
    for option in ("patch_size", "num_layers", *(["num_frames"] if kind in PARTS else [])):
        with pytest.raises(RecipeError, match=f"{option} is 0"):
            kind(**{**SMALL, option: 0})


def test_clips_that_do_not_fit_are_refused() -> None:
    encoder = BSQViTEncoder(**SMALL)
    for shape in ((1, 3, 2, 16, 18), (1, 3, 0, 16, 16), (3, 2, 16, 16)):
        with pytest.raises(PortError, match="multiples of its stride 4"):
            encoder(torch.zeros(shape))
    with pytest.raises(PortError, match="in_channels=3 and got 1"):
        encoder(torch.zeros(1, 1, 2, 16, 16))
    with pytest.raises(PortError, match="D = 12"):
        BSQViTDecoder(**SMALL)(torch.zeros(1, 3, 2, 2, 2))
    with pytest.raises(PortError, match=r"\(B, D, h, w\)"):
        BSQViTImageDecoder(**SMALL)(torch.zeros(1, 12, 2, 2, 2))
