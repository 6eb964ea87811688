"""LongVideoGAN's parts: the published networks, any stretch of a clip alone, and noise of many speeds.

`golden_longvideogan.json` holds fingerprints that the public code (its commit stands inside), with fewer
channels, gave in float64 on the weights and inputs below, which need no random generator.

Shapes: B clips, L frames of noise, N noise channels, T frames, C colours, H W pixels.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from golden import assert_like, noise
from torch import Tensor

from zoo.errors import PortError, WeightsError, ZooError
from zoo.ports import ports_of
from zoo_gan.longvideogan.discriminator import LongVideoGANDiscriminator, halve
from zoo_gan.longvideogan.generator import PERIOD, LongVideoGANGenerator
from zoo_gan.longvideogan.layers import MagnitudeEMA
from zoo_gan.longvideogan.temporal_noise import BlurredNoise, kaiser_lowpass
from zoo_gan.longvideogan.weights import map_longvideogan_state_dict

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden_longvideogan.json").read_text())
SIZES = sorted(GOLDEN["generator"])
# 1e-6 apart even in float64; the docstring of the generator says why.
PRECISIONS = [pytest.param(torch.float64, id="float64"), pytest.param(torch.float32, id="float32")]
TINY: dict[str, Any] = {
    "height": 18,
    "width": 32,
    "base_channels": 2,
    "latent_dim": 8,
    "noise_channels": 2,
    "blur_widths": 3,
    "shortest_blur": 20,
    "longest_blur": 60,
}


def public_state(case: dict[str, Any]) -> dict[str, Tensor]:
    """Weights under their public names; none is 0 or does nothing."""
    state = {}
    for name, shape in case["shapes"].items():
        value = noise(name, shape)
        if re.search(r"(affine\w*\.bias|magnitude_ema)$", name):
            value = 1 + 0.3 * value
        elif re.search(r"(bias|\.bias_\d)$", name):
            value = 0.3 * value
        else:
            value = 1.7 * value
        state[name] = 100 * value if name.startswith("latent_mapping") else value
    return state


def load(case: dict[str, Any], judge: dict[str, Any]) -> dict[str, Tensor]:
    """Both networks' weights in one public state dict, renamed to ours."""
    state = {f"G_ema.{name}": value for name, value in public_state(case).items()}
    state |= {f"G.{name}": torch.zeros_like(value) for name, value in public_state(case).items()}
    state |= {f"D.{name}": value for name, value in public_state(judge).items()}
    options = ("height", "width", "blur_widths", "longest_blur")
    mapped, unused = map_longvideogan_state_dict(state, **{name: case["options"][name] for name in options})
    assert unused == sorted(name for name in state if name.startswith("G."))
    return mapped


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def tiny(seed: int = 0) -> LongVideoGANGenerator:
    torch.manual_seed(seed)
    return LongVideoGANGenerator(**TINY).eval()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_the_generator_is_the_published_one(size: str, dtype: torch.dtype) -> None:
    case = GOLDEN["generator"][size]
    generator = LongVideoGANGenerator(**case["options"]).to(dtype).eval()
    generator.load_state_dict(under("generator.", load(case, GOLDEN["discriminator"][size])))
    drawn = generator.draw_noise(2, case["num_frames"])["temporal"]
    x_BCTHW = generator({"temporal": 1.7 * noise("temporal", drawn.shape).to(dtype)})
    assert x_BCTHW.shape == (2, 3, case["num_frames"], *generator.size_HW)
    assert_like(x_BCTHW, case["video"], 5e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_the_discriminator_is_the_published_one(size: str, dtype: torch.dtype) -> None:
    case = GOLDEN["discriminator"][size]
    judge = LongVideoGANDiscriminator(**case["options"]).to(dtype)
    judge.load_state_dict(under("discriminator.0.", load(GOLDEN["generator"][size], case)))
    x_BCTHW = noise("video", (2, 3, *judge.min_size)).to(dtype).requires_grad_()
    (logits,) = judge(x_BCTHW).logits
    (slope,) = torch.autograd.grad(logits.sum(), x_BCTHW, create_graph=True)
    weight = judge.get_parameter("blocks.1.conv_1.weight")
    (second,) = torch.autograd.grad(slope.square().sum(), weight)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    assert_like(logits, case["logits"], tolerance)
    assert_like(slope, case["grad"], tolerance)
    assert_like(second, case["r1_weight_grad"], tolerance)


def test_published_sizes() -> None:
    with torch.device("meta"):
        generator, judge = LongVideoGANGenerator(), LongVideoGANDiscriminator()
        clips = generator(generator.draw_noise(2, 128, device="meta"))
    # Counted in the public code.
    assert sum(weight.numel() for weight in generator.parameters()) == 83_215_939
    assert sum(weight.numel() for weight in judge.parameters()) == 46_424_609
    assert clips.shape == (2, 3, 128, 36, 64)
    assert judge(clips).logits[0].shape == (2, 1)


@pytest.mark.parametrize(("start", "end"), [(0, 1), (5, 9), (30, 35), (31, 32), (40, 75), (74, 75)])
def test_a_stretch_alone_is_that_of_the_whole_and_needs_no_other_noise(start: int, end: int) -> None:
    generator, num_frames = tiny(), 75
    drawn = generator.draw_noise(2, num_frames, generator=torch.Generator().manual_seed(1))
    lost = torch.full_like(drawn["temporal"], torch.nan)
    # The stretch's own frames up to a coarse sample's start, what the blur reaches back to, and neighbours.
    first, last = max(0, start - PERIOD + 1), end + drawn["temporal"].shape[1] - num_frames
    lost[:, first:last] = drawn["temporal"][:, first:last]
    with torch.no_grad():
        whole = generator(drawn)
        alone = generator({"temporal": lost}, torch.arange(start, end).float().expand(2, -1))
    torch.testing.assert_close(alone, whole[:, :, start:end], rtol=0, atol=1e-5 * whole.abs().max().item())


def test_a_long_clip_begins_as_a_short_one_and_clips_are_their_own() -> None:
    generator = tiny()
    short = generator.draw_noise(1, 3, generator=torch.Generator().manual_seed(2))["temporal"]
    long = generator.draw_noise(3, 700, generator=torch.Generator().manual_seed(2))["temporal"]
    assert torch.equal(long[:1, : short.shape[1]], short)
    assert long.shape[1] - short.shape[1] == 697
    assert not torch.equal(long[0], long[1])
    assert abs(long.std().item() - 1) < 0.05


def test_blurred_noise_is_a_convolution_that_keeps_variance_and_slows_down() -> None:
    blur = BlurredNoise(num_widths=4, shortest=30, longest=240)
    noise_BNL = torch.randn(2, 3, 6000, generator=torch.Generator().manual_seed(3))
    embedding = blur(noise_BNL)
    expected = F.conv1d(noise_BNL.flatten(0, 1)[:, None], blur.filters[:, None])
    torch.testing.assert_close(
        embedding, rearrange(expected, "(B N) W T -> B (N W) T", N=3), rtol=0, atol=1e-5
    )
    assert embedding.shape == (2, 12, 6000 - 120 + 1)
    torch.testing.assert_close(embedding.square().mean(dim=2), torch.ones(2, 12), rtol=0, atol=0.35)
    # A filter ends at its frame: the taps of a short one are the last.
    assert (blur.filters[0] != 0).sum() <= 16
    assert blur.filters[0, -1] != 0
    speed = embedding.diff(dim=2).square().mean(dim=(0, 2)).view(3, 4).mean(dim=0)
    assert (speed[:-1] > 2 * speed[1:]).all()


def test_kaiser_lowpass_passes_slow_and_stops_fast() -> None:
    taps = torch.as_tensor(kaiser_lowpass(125, cutoff=2.0, width=12.0, rate=250.0))
    assert taps.sum().item() == pytest.approx(1)
    torch.testing.assert_close(taps, taps.flip(0))
    # One cycle in 250 frames goes through, 30 and more do not.
    gains = torch.fft.rfft(taps, n=250).abs()
    assert gains[1] > 0.9
    assert (gains[30:] < 1e-4).all()


def test_training_begins_at_a_frame_by_chance_and_moves_magnitudes() -> None:
    generator, num_frames = tiny().train(), 4
    drawn, longer = (
        generator.draw_noise(2, frames, generator=torch.Generator().manual_seed(4))
        for frames in (num_frames, num_frames + PERIOD)
    )
    before = copy.deepcopy(generator.state_dict())
    starts = set()
    for seed in range(4):
        generator.load_state_dict(before)
        torch.manual_seed(seed)
        made = generator.train()(drawn)
        whole = generator.eval()(longer)
        seen = made.clamp(-1, 1)
        errors = [(whole[:, :, n : n + num_frames] - seen).abs().max().item() for n in range(PERIOD)]
        assert min(errors) < 1e-5
        starts.add(errors.index(min(errors)))
    assert len(starts) > 1
    moved = [
        name for name, value in generator.named_buffers() if name in before and (value != before[name]).any()
    ]
    assert len(moved) == 21
    assert all(name.endswith("magnitude_ema") for name in moved)


def test_magnitudes_settle_where_activations_have_a_mean_square_of_one() -> None:
    magnitude, x = MagnitudeEMA(), 3 * torch.ones(5)
    magnitude(x)
    assert magnitude.magnitude_ema.item() == pytest.approx(1 + 0.001 * 8)
    for _ in range(10_000):
        magnitude(x)
    assert (x * magnitude.eval()(x)).tolist() == pytest.approx([1] * 5, abs=1e-3)


def test_ranks_begin_at_one_frame_and_share_their_magnitudes(monkeypatch: pytest.MonkeyPatch) -> None:
    magnitude = MagnitudeEMA()
    monkeypatch.setattr("zoo_gan.longvideogan.layers.mean_everywhere", lambda square: square / 2)
    magnitude(3 * torch.ones(5))
    assert magnitude.magnitude_ema.item() == pytest.approx(1 + 0.001 * 3.5)
    generator = tiny().train()
    monkeypatch.setattr("zoo_gan.longvideogan.generator.everywhere", lambda start: torch.full_like(start, 41))
    drawn = generator.draw_noise(1, 2 + PERIOD, generator=torch.Generator().manual_seed(4))
    made = generator({"temporal": drawn["temporal"][:, :-PERIOD]})
    monkeypatch.undo()
    torch.testing.assert_close(generator.eval()(drawn)[:, :, 9:11], made.clamp(-1, 1), atol=1e-5, rtol=0)


def test_frames_are_bounded_where_they_are_seen_and_training_compiles_other_parts() -> None:
    generator = tiny()
    with torch.no_grad():
        generator.to_rgb.weight *= 100
    drawn = generator.draw_noise(1, 2)
    assert generator(drawn).abs().max().item() == 1
    assert generator.train()(drawn).abs().max().item() > 1
    assert not ports_of("generator", "longvideogan", generator).compiles


@pytest.mark.parametrize("dim", [2, 3, 4])
def test_halving_is_the_published_filter(dim: int) -> None:
    x = noise("halve", (2, 3, 4, 6, 8))
    lines = x.movedim(dim, -1).flatten(0, -2)[:, None]
    taps = torch.tensor([[[1.0, 3, 3, 1]]], dtype=torch.float64) / 8
    expected = F.conv1d(lines, taps, stride=2, padding=1).view(*x.movedim(dim, -1).shape[:-1], -1)
    torch.testing.assert_close(halve(x, dim), expected.movedim(-1, dim))


def test_errors_say_what_fits() -> None:
    with pytest.raises(ZooError, match=r"height and width are 36 and 48; the longer one has to be 32 or 64"):
        LongVideoGANGenerator(height=36, width=48)
    with pytest.raises(ZooError, match=r"shortest_blur is 99 and longest_blur 50"):
        LongVideoGANGenerator(**TINY | {"shortest_blur": 99, "longest_blur": 50})
    with pytest.raises(ZooError, match="num_frames is 12; give a multiple of 8 of 16 or more"):
        LongVideoGANDiscriminator(num_frames=12)
    judge = LongVideoGANDiscriminator(num_frames=16, height=18, width=32, base_channels=1, head_channels=2)
    with pytest.raises(PortError, match=r"clips of \(16, 18, 32\) .* was given \(24, 18, 32\)"):
        judge(torch.zeros(1, 3, 24, 18, 32))
    generator = tiny()
    drawn = generator.draw_noise(1, 9)
    with pytest.raises(PortError, match=r"needs noise 'temporal' .* given 'z'"):
        generator({"z": drawn["temporal"]})
    with pytest.raises(PortError, match=r"of shape \(clips, \d+ \+ frames, 2\); it was given"):
        generator({"temporal": drawn["temporal"][:, :50]})
    for times in ([3.0, 5.0], [8.0, 9.0], [-1.0, 0.0], [0.5, 1.5]):
        with pytest.raises(PortError, match=r"n, n \+ 1, \.\.\. out of 0 to 8 .* being "):
            generator(drawn, torch.tensor([times]))


def test_foreign_weights_are_refused() -> None:
    case = GOLDEN["generator"]["18x32"]
    state = public_state(case) | {"temporal_emb.blur_filters": torch.zeros(5, 1, 200)}
    size: dict[str, Any] = {"height": 18, "width": 32}
    mapped, unused = map_longvideogan_state_dict(state, **size, blur_widths=5, longest_blur=400)
    assert unused == ["temporal_emb.blur_filters"]
    assert mapped["generator.to_rgb.weight"] is state["to_rgb.weight"]
    with pytest.raises(WeightsError, match=r"have 5 blur widths of up to 400 frames, the recipe has .*=128"):
        map_longvideogan_state_dict(state, **size)
    del state["temporal_emb.blur_filters"], state["to_rgb.bias"]
    with pytest.raises(WeightsError, match=r"lack to_rgb\.bias"):
        map_longvideogan_state_dict(state, **size)
    with pytest.raises(WeightsError, match="no LongVideoGAN generator"):
        map_longvideogan_state_dict({"weight": torch.zeros(3)})
