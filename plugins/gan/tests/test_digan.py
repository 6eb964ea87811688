"""DIGAN: the numbers of the public code, and what coordinates and time promise.

`golden_digan.json` was made by running the public code (its commit stands inside) in float64 on the weights
and inputs below, which need no random generator.

Shapes: B clips, T moments, C colours, H W pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import assert_like, fill, noise
from torch import Tensor

from zoo.errors import PortError, WeightsError, ZooError
from zoo_gan.digan.discriminator import DIGANDiscriminator
from zoo_gan.digan.generator import DIGANGenerator
from zoo_gan.digan.layers import FactorizedLayer, Grid, enlarge
from zoo_gan.digan.weights import map_digan_state_dict

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden_digan.json").read_text())
PRECISIONS = [
    pytest.param(torch.float64, 1e-10, id="float64"),
    pytest.param(torch.float32, 1e-5, id="float32"),
]
# Before and after the trained 16 frames, between frames, in any order.
TIMES = torch.tensor([[0, 3.25, 15], [1.5, 2, 31], [-4, 7, 7.5], [14, 1, 0]], dtype=torch.float64)
PAIRS = torch.tensor([[0, 15], [3, 3], [2, 9], [7.5, 8.25]], dtype=torch.float64)
KERNEL = torch.outer(torch.tensor([1.0, 3.0, 3.0, 1.0]), torch.tensor([1.0, 3.0, 3.0, 1.0])) / 64


def public_state() -> dict[str, Tensor]:
    """Weights under the names of a public snapshot, of the size at which its layers start."""
    state = fill(GOLDEN["shapes"], plain=r"weight$", scales=r"torgb\.affine\.bias")
    state = {name: value * 100 if ".mapping.fc" in name else value for name, value in state.items()}
    return {name: KERNEL.double() if name.endswith("filter") else value for name, value in state.items()}


def parts(dtype: torch.dtype = torch.float32) -> tuple[DIGANGenerator, DIGANDiscriminator]:
    """Our parts with public weights, in train mode, where frames are not clamped and images are compared."""
    mapped, unused = map_digan_state_dict(public_state())
    assert unused == sorted(
        name for name in GOLDEN["shapes"] if name.startswith("G_ema") and name.endswith("filter")
    )
    built = DIGANGenerator(**GOLDEN["generator"]), DIGANDiscriminator(**GOLDEN["discriminator"])
    for prefix, part in zip(("generator.", "discriminator.0."), built, strict=True):
        weights = {k.removeprefix(prefix): v for k, v in mapped.items() if k.startswith(prefix)}
        part.to(dtype).load_state_dict(weights, strict=True)
    return built


def codes(dtype: torch.dtype = torch.float32, num_frames: int = 3) -> dict[str, Tensor]:
    content, motion = noise("content", (4, 10)).to(dtype), noise("motion", (4, 12)).to(dtype)
    return {"content": content, "motion": motion[:, None].expand(-1, num_frames, -1)}


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_generator_equals_the_public_code(dtype: torch.dtype, tolerance: float) -> None:
    generator, _ = parts(dtype)
    x_BCTHW = generator(codes(dtype), TIMES.to(dtype))
    assert_like(x_BCTHW, GOLDEN["frames"], tolerance)
    (x_BCTHW * noise("probe", x_BCTHW.shape).to(dtype)).sum().backward()
    weights = dict(generator.named_parameters())
    for name, gradient in GOLDEN["generator_gradients"].items():
        assert_like(weights[name].grad, gradient, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_discriminator_equals_the_public_code(dtype: torch.dtype, tolerance: float) -> None:
    """Both scores, and R1 of their sum with its gradients."""
    _, discriminator = parts(dtype)
    clip = noise("clip", (4, 3, 2, 32, 32)).to(dtype).requires_grad_()
    motion, frame = discriminator(clip, PAIRS.to(dtype)).logits
    assert_like(motion, GOLDEN["motion_score"], tolerance)
    assert_like(frame, GOLDEN["frame_score"], tolerance)
    (slope,) = torch.autograd.grad(motion.sum() + frame.sum(), clip, create_graph=True)
    penalty = slope.square().sum()
    assert penalty.item() == pytest.approx(GOLDEN["r1"], rel=tolerance)
    penalty.backward()
    weights = dict(discriminator.named_parameters())
    for name, gradient in GOLDEN["r1_gradients"].items():
        assert_like(weights[name].grad, gradient, 10 * tolerance)


def test_defaults_have_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        built = {"generator": DIGANGenerator(), "discriminator": DIGANDiscriminator()}
    counts = {name: sum(weight.numel() for weight in part.parameters()) for name, part in built.items()}
    assert counts == GOLDEN["public_parameters"]


@torch.no_grad()
def test_a_moment_is_the_same_however_it_is_asked_for() -> None:
    generator = parts()[0].eval()
    drawn = generator.draw_noise(3, 9, generator=torch.Generator().manual_seed(0))
    whole = generator(drawn)
    assert whole.shape == (3, 3, 9, 32, 32)
    assert whole.abs().max() <= 1
    assert (whole[:, :, 0] - whole[:, :, 8]).abs().mean() > 1e-3
    some = generator(drawn, torch.tensor([[7.0, 2.0, 2.0]]).expand(3, -1))
    torch.testing.assert_close(some, whole[:, :, [7, 2, 2]], rtol=0, atol=1e-5)
    # Twice the rate: every other frame is a frame of the clip, and those between are between.
    twice = generator(drawn, (torch.arange(17) / 2).expand(3, -1))
    torch.testing.assert_close(twice[:, :, ::2], whole, rtol=0, atol=1e-5)
    assert (twice[:, :, 1::2] - whole[:, :, :-1]).abs().max() > 1e-4
    alone = generator({name: value[1:2] for name, value in drawn.items()}, torch.tensor([[4.5]]))
    torch.testing.assert_close(alone, twice[1:2, :, 9:10], rtol=0, atol=1e-5)
    longer = generator.draw_noise(4, 500, generator=torch.Generator().manual_seed(0))
    assert longer["motion"].untyped_storage().nbytes() < 1000
    torch.testing.assert_close(generator(longer, torch.arange(9).expand(4, -1))[:3], whole)


@torch.no_grad()
def test_another_size_is_the_same_picture_on_another_grid() -> None:
    """Where a pixel's coordinates on every grid are those of a pixel of the other size, so is its colour."""
    generator, _ = parts()
    drawn = codes()
    small, same = generator(drawn), generator(drawn, size_HW=(32, 32))
    assert torch.equal(small, same)
    # Grids are doubled twice: pixels of 4x4 share the coarsest point, at their left column and lowest row.
    step = 4
    for height, width in ((64, 64), (64, 32), (96, 128), (16, 32)):
        other = generator(drawn, size_HW=(height, width))
        assert other.shape == (4, 3, 3, height, width)
        rows, columns = torch.arange(step - 1, height, step) + 1, torch.arange(0, width, step)
        shared_rows = [r for r in rows.tolist() if r * 32 % (height * step) == 0]
        shared_columns = [c for c in columns.tolist() if c * 32 % (width * step) == 0]
        assert min(len(shared_rows), len(shared_columns)) >= 4
        ours = other[..., [r - 1 for r in shared_rows], :][..., shared_columns]
        theirs = small[..., [r * 32 // height - 1 for r in shared_rows], :]
        theirs = theirs[..., [c * 32 // width for c in shared_columns]]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    # No multiple of the coarsest point's 4x4 pixels: cut, and not stretched.
    assert generator(drawn, size_HW=(33, 7)).shape[-2:] == (33, 7)


@torch.no_grad()
def test_mixing_small_and_enlarging_is_enlarging_and_mixing() -> None:
    grid = Grid((10, 7), 1)
    layer = FactorizedLayer(8, 6, w_dim=4, rank=2)
    x, features, w_BD = torch.randn(2, 5, 3, 5, 4), torch.randn(2, 3, 3, 10, 7), torch.randn(2, 4)
    plain = layer(torch.cat([enlarge(x, grid), features], dim=1), w_BD)
    torch.testing.assert_close(layer.enlarged(x, features, w_BD, grid), plain, rtol=0, atol=1e-5)


def test_two_frames_are_drawn_as_published() -> None:
    """One by Beta(2, 1) and one by Beta(1, 2): the means of the earlier and of the later frame."""
    discriminator = DIGANDiscriminator(image_size=16, channel_base=64, channel_max=4)
    frames_BT = discriminator.draw_frames(40_000, 16, generator=torch.Generator().manual_seed(0))
    late = (2 * torch.arange(16) + 1) / 256
    either = late[:, None] * late.flip(0)
    first, last = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    earlier, later = torch.minimum(first, last), torch.maximum(first, last)
    expected = torch.stack([(either * earlier).sum(), (either * later).sum()])
    torch.testing.assert_close(frames_BT.float().mean(dim=0), expected, rtol=0, atol=0.06)
    same = (frames_BT.diff(dim=1) == 0).float().mean()
    assert same.item() == pytest.approx(either.diagonal().sum().item(), abs=0.005)
    assert frames_BT.amin().item() == 0
    assert frames_BT.amax().item() == 15


def test_motion_network_is_told_the_time_between_in_lengths_of_a_clip() -> None:
    _, discriminator = parts()
    discriminator.eval()
    clip = noise("clip", (4, 3, 2, 32, 32)).float()
    motion, frame = discriminator(clip, PAIRS.float()).logits
    later = discriminator(clip, PAIRS.float() + 5).logits
    assert torch.equal(later[0], motion)
    slower = discriminator(clip, 2 * PAIRS.float()).logits
    assert torch.equal(slower[1], frame)
    assert (slower[0] - motion).abs()[[0, 2, 3]].min() > 0
    twin = DIGANDiscriminator(**{**GOLDEN["discriminator"], "clip_frames": 31}).eval()
    twin.load_state_dict(discriminator.state_dict())
    torch.testing.assert_close(twin(clip, 2 * PAIRS.float()).logits[0], motion)


def test_generators_alone_and_damaged_weights() -> None:
    state = public_state()
    alone = {name.removeprefix("G_ema."): v for name, v in state.items() if name.startswith("G_ema.")}
    mapped, _ = map_digan_state_dict(alone)
    assert {name.partition(".")[0] for name in mapped} == {"generator"}
    both = state | {f"G.{name}": value for name, value in alone.items()}
    taken, unused = map_digan_state_dict(both)
    assert taken["generator.mapping.w_avg"] is state["G_ema.mapping.w_avg"]
    assert "G.mapping.w_avg" in unused
    with pytest.raises(WeightsError, match=r"lack .*motion_mlp\.0\.bias"):
        map_digan_state_dict({k: v for k, v in alone.items() if not k.endswith("motion_mlp.0.bias")})
    with pytest.raises(WeightsError, match=r"conv0\.bias is \(3,\) where \(16,\) fits"):
        map_digan_state_dict(alone | {"synthesis.b8.conv0.bias": torch.zeros(3)})
    with pytest.raises(WeightsError, match="no DIGAN generator"):
        map_digan_state_dict({"conv.weight": torch.zeros(3)})


def test_what_cannot_be_is_refused_in_words() -> None:
    with pytest.raises(ZooError, match="grid_size 64; give powers of two"):
        DIGANGenerator(image_size=32, grid_size=64)
    with pytest.raises(ZooError, match="clip_frames is 1; give 2 or more"):
        DIGANDiscriminator(clip_frames=1)
    generator, discriminator = parts()
    with pytest.raises(PortError, match=r"needs noise 'motion' of shape \(clips, frames, 12\)"):
        generator({"content": codes()["content"]})
    with pytest.raises(PortError, match=r"times_BT of shape \(4, moments\)"):
        generator(codes(), torch.zeros(3, 2))
    with pytest.raises(PortError, match=r"frames of \(0, 8\)"):
        generator(codes(), size_HW=(0, 8))
    with pytest.raises(PortError, match=r"judges clips of \(B, 3, 2, 32, 32\)"):
        discriminator(torch.zeros(2, 3, 3, 32, 32), torch.zeros(2, 3))
    with pytest.raises(PortError, match=r"times_BT of shape \(2, 2\)"):
        discriminator(torch.zeros(2, 3, 2, 32, 32), torch.zeros(2, 3))
