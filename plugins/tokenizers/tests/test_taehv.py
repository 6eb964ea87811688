"""The TAEHV encoder and decoders: which frames a latent is made of, streams, options.

Shapes: B batch, C colours, T H W frames and pixels, t h w the latent grid.
"""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.assemblies import Autoencoder
from zoo.errors import PortError, RecipeError, ZooError
from zoo.streaming import Memory, streaming
from zoo_tokenizers.taehv.model import TAEHVDecoder, TAEHVEncoder, TAEHVSuperDecoder

TINY = {"latent_dim": 5, "stride": [4, 8, 8]}
WIDTHS = [12, 8, 8, 4]
DECODERS = [
    pytest.param(TAEHVDecoder, {}, id="plain"),
    pytest.param(TAEHVDecoder, {"block": "wide", "widths": [128, 8, 8, 4]}, id="wide"),
    pytest.param(TAEHVSuperDecoder, {}, id="super"),
    pytest.param(TAEHVDecoder, {"lead_frame": False}, id="all-frames"),
    pytest.param(TAEHVDecoder, {"stride": [8, 16, 16]}, id="stride-8"),
]


def encoder_with(alignment: str, stride: list[int] = TINY["stride"]) -> TAEHVEncoder:
    torch.manual_seed(0)
    return TAEHVEncoder(base_channels=6, latent_dim=5, stride=stride, alignment=alignment).eval()


def in_pieces(part: nn.Module, x: Tensor, sizes: list[int]) -> Tensor:
    memory: Memory = {}
    pieces = []
    with torch.no_grad():
        for piece in x.split(sizes, dim=2):
            with streaming(part, memory):
                pieces.append(part(piece))
    return torch.cat(pieces, dim=2)


def plan(num: int, seed: int) -> list[int]:
    """Cut a number of latent frames into random pieces, single ones included."""
    draw = random.Random(seed)
    sizes = []
    while sum(sizes) < num:
        sizes.append(min(draw.choice([1, 1, 2, 3]), num - sum(sizes)))
    return sizes


def test_what_the_first_latent_is_made_of() -> None:
    """Alignments differ in the frames that are put around the clip, and in nothing else."""
    plain, ahead, black = (encoder_with(alignment) for alignment in ("none", "ahead", "black"))
    x = torch.rand(2, 3, 9, 16, 8) * 2 - 1
    with torch.no_grad():
        repeated = torch.cat([x, x[:, :, -1:].expand(-1, -1, 3, -1, -1)], dim=2)
        assert torch.equal(ahead(x), plain(repeated))
        assert torch.equal(black(x), plain(torch.cat([torch.full_like(x[:, :, :3], -1.0), x], dim=2)))
    ports = [(each.lead_frame, each.causal) for each in (plain, ahead, black)]
    assert ports == [(False, True), (True, False), (True, True)]


@pytest.mark.parametrize(("alignment", "extra"), [("ahead", 3), ("black", 0), ("none", 3)])
def test_a_latent_sees_exactly_so_many_frames(alignment: str, extra: int) -> None:
    """Latent 1 of lead frames shows frames up to 4: what it sees beyond is the look-ahead."""
    encoder = encoder_with(alignment)
    num = 12 if alignment == "none" else 13
    x = (torch.rand(1, 3, num, 8, 8) * 2 - 1).requires_grad_()
    encoder(x)[:, :, 1].square().sum().backward()
    assert x.grad is not None
    seen = x.grad.abs().amax(dim=(0, 1, 3, 4)).nonzero().flatten().tolist()
    assert max(seen) == 4 + extra
    assert min(seen) == 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("alignment", "stride"), [("black", [4, 8, 8]), ("none", [8, 16, 16])])
def test_encoder_streams(alignment: str, stride: list[int], seed: int) -> None:
    encoder = encoder_with(alignment, stride)
    sizes = [num * stride[0] for num in plan(7, seed)]
    if encoder.lead_frame:
        sizes[0] -= stride[0] - 1
    x = torch.rand(2, 3, sum(sizes), stride[1], 2 * stride[2]) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(in_pieces(encoder, x, sizes), encoder(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("part", "options"), DECODERS)
def test_decoder_streams_and_never_moves_the_past(
    part: type[TAEHVDecoder], options: dict[str, object], seed: int
) -> None:
    torch.manual_seed(seed)
    decoder = part(**{**TINY, "widths": WIDTHS, **options}).eval()
    z = torch.randn(2, 5, 7, 1, 2)
    with torch.no_grad():
        y = decoder(z)
        s_t = decoder.stride[0]
        assert y.shape[2] == (1 + 6 * s_t if decoder.lead_frame else 7 * s_t)
        torch.testing.assert_close(in_pieces(decoder, z, plan(7, seed)), y, rtol=0, atol=1e-5)
        changed = decoder(torch.cat([z[:, :, :3], -3 * z[:, :, 3:] + 0.5], dim=2))
        kept = 1 + 2 * s_t if decoder.lead_frame else 3 * s_t
        assert torch.equal(y[:, :, :kept], changed[:, :, :kept])
        assert not torch.equal(y[:, :, kept], changed[:, :, kept])


def test_a_stream_keeps_one_frame_per_block() -> None:
    """However long it is."""
    decoder = TAEHVDecoder(**TINY, widths=WIDTHS).eval()
    memory: Memory = {}
    held = []
    for _ in range(4):
        with torch.no_grad(), streaming(decoder, memory):
            decoder(torch.randn(1, 5, 2, 1, 1))
        held.append(sum(value.numel() for value in memory.values()))
    assert len(set(held)) == 1


def test_models_say_what_streams() -> None:
    """The published decoders stream, their encoders look ahead; the tiny model streams both ways."""
    public = zoo.build("taehv-video-hv", seed=0, encoder={"base_channels": 4}, decoder={"widths": WIDTHS})
    tiny = zoo.build("taehv-video-tiny", seed=0)
    assert isinstance(public, Autoencoder)
    assert isinstance(tiny, Autoencoder)
    assert [(each.causal, each.lead_frame) for each in (public, tiny)] == [(False, True), (True, True)]
    public.eval().stream_decoder()
    with pytest.raises(ZooError, match="looks ahead"):
        public.stream_encoder()
    tiny.eval().stream_encoder()


def test_bf16_autocast_stays_close() -> None:
    torch.manual_seed(0)
    encoder, decoder = encoder_with("ahead"), TAEHVDecoder(**TINY, widths=WIDTHS).eval()
    x = torch.rand(1, 3, 9, 16, 24) * 2 - 1
    with torch.no_grad():
        expected = decoder(encoder(x))
        with torch.autocast("cpu", torch.bfloat16):
            y = decoder(encoder(x))
    assert (y - expected).norm() < 0.05 * expected.norm()


def test_bad_options_are_refused() -> None:
    for part in (TAEHVEncoder, TAEHVDecoder, TAEHVSuperDecoder):
        for stride in ([3, 8, 8], [16, 8, 8], [4, 4, 4], [4, 8, 16], [4, 12, 12], [4, 0, 0], [8, 8]):
            with pytest.raises(RecipeError, match=r"such as \[4, 8, 8\]"):
                part(stride=stride)
        with pytest.raises(RecipeError, match="at least 1"):
            part(latent_dim=0)
    with pytest.raises(RecipeError, match="one of ahead, black, none"):
        TAEHVEncoder(alignment="behind")
    with pytest.raises(RecipeError, match="one of plain, wide"):
        TAEHVDecoder(block="super")
    with pytest.raises(RecipeError, match="takes 4"):
        TAEHVDecoder(widths=[8, 8])
    with pytest.raises(RecipeError, match="193 channels"):
        TAEHVDecoder(widths=[193, 8, 8, 8], block="wide")


def test_clips_that_do_not_fit_are_refused() -> None:
    for alignment, wanted, lengths in (
        ("ahead", r"T = 1 \+ k \* 4", (4, 0)),
        ("none", r"T = k \* 4", (5, 0)),
    ):
        for length in lengths:
            with pytest.raises(PortError, match=wanted):
                encoder_with(alignment)(torch.zeros(1, 3, length, 8, 8))
    with pytest.raises(PortError, match="multiples of its stride 8, 8"):
        encoder_with("none")(torch.zeros(1, 3, 4, 8, 12))
    with pytest.raises(PortError, match="in_channels=3 and got 1"):
        encoder_with("none")(torch.zeros(1, 1, 4, 8, 8))
    with pytest.raises(PortError, match="D = 5"):
        TAEHVDecoder(**TINY)(torch.zeros(1, 3, 2, 2, 2))
