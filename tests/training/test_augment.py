"""Augmentation: against fingerprints of the public ADA, published distributions and derivatives."""

from __future__ import annotations

import copy
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import zoo
from zoo import recipes
from zoo.errors import TrainingError
from zoo.training.augment import (
    AdaptiveAugment,
    Augment,
    DiffAugment,
    ada,
    diffaugment,
    geometry,
    make_augment,
)
from zoo.training.run import start

GOLDEN = json.loads(Path(__file__).with_name("golden_ada.json").read_text())["cases"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clips(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=generator(seed)) * 2 - 1


def certain() -> AdaptiveAugment:
    augment = AdaptiveAugment()
    augment.p.fill_(1.0)
    return augment


ALL = pytest.mark.parametrize("augment", [DiffAugment(), certain()], ids=["diffaugment", "ada"])


@pytest.mark.parametrize("case", GOLDEN, ids=["rgb", "grey"])
def test_ada_gives_what_the_public_code_gave_for_the_same_draws(case: dict[str, Any]) -> None:
    num, channels, height, width = case["shape"]
    n = torch.arange(math.prod(case["shape"]), dtype=torch.float64).reshape(num, channels, 1, height, width)
    x = torch.sin(n * 0.37 + torch.sin(n * 0.011) * 3).float()
    pick = torch.linspace(0, channels * height * width - 1, 12).round().long()
    moves, colors = (
        {k: torch.tensor(v, dtype=torch.float64) for k, v in case[part].items()}
        for part in ("geometry", "colors")
    )
    moved = geometry.warp(x, ada.inverse_matrix(moves, height, width).float())
    recolored = ada.apply_colors(moved, ada.color_matrix(colors, grey=channels == 1))
    for mine, theirs in ((moved, case["moved"]), (recolored, case["recolored"])):
        torch.testing.assert_close(mine.flatten(1)[:, pick], torch.tensor(theirs), rtol=1e-4, atol=3e-5)


def test_ada_draws_what_is_published_as_often_as_p() -> None:
    num, p = 40_000, 0.64
    geo = ada.draw_geometry(num, p, generator=generator())
    col = ada.draw_colors(num, p, generator=generator())
    # name -> (drawn, neutral, chance of being other than neutral, standard deviation of those)
    cases = {
        "mirror": (geo["mirror"], 0, p / 2, 0.0),
        "quarters": (geo["quarters"], 0, p * 3 / 4, math.sqrt(2 / 3)),
        "shift": (geo["shift_x"], 0, p, 0.125 / math.sqrt(3)),
        "scale": (geo["scale"].log2(), 0, p, 0.2),
        "turn_before": (geo["turn_before"], 0, 0.4, math.pi / math.sqrt(3)),
        "turn_after": (geo["turn_after"], 0, 0.4, math.pi / math.sqrt(3)),
        "stretch": (geo["stretch"].log2(), 0, p, 0.2),
        "drift": (geo["drift_y"], 0, p, 0.125),
        "brightness": (col["brightness"], 0, p, 0.2),
        "contrast": (col["contrast"].log2(), 0, p, 0.5),
        "luma_flip": (col["luma_flip"], 0, p / 2, 0.0),
        "hue": (col["hue"], 0, p, math.pi / math.sqrt(3)),
        "saturation": (col["saturation"].log2(), 0, p, 1.0),
    }
    for name, (values, neutral, chance, spread) in cases.items():
        changed = values[values != neutral]
        assert len(changed) / num == pytest.approx(chance, abs=0.012), name
        assert float(changed.std()) == pytest.approx(spread, rel=0.03, abs=1e-9), name
    assert float(((geo["turn_before"] != 0) | (geo["turn_after"] != 0)).double().mean()) == pytest.approx(
        p, abs=0.012
    )
    # A translation moves along both axes at once.
    assert torch.equal(geo["shift_x"] != 0, geo["shift_y"] != 0)


def test_ada_without_probability_returns_clips_bit_for_bit() -> None:
    x = clips(2, 3, 2, 9, 12)
    assert torch.equal(AdaptiveAugment()(x, generator=generator()), x)


def test_the_wavelet_passes_an_unmoved_clip_and_a_turned_one_is_turned() -> None:
    neutral = {k: v * 0 for k, v in ada.draw_geometry(4, 0.0, generator=generator()).items()}
    neutral |= {"scale": torch.ones(4).double(), "stretch": torch.ones(4).double()}

    def moved(x: Tensor, **changes: Tensor) -> Tensor:
        return geometry.warp(x, ada.inverse_matrix(neutral | changes, 24, 24).float())

    noise = clips(4, 3, 1, 24, 24)
    torch.testing.assert_close(moved(noise), noise, atol=1e-5, rtol=0)
    at = torch.arange(24.0)
    smooth = (0.25 * at[:, None] + 0.4 * at + torch.arange(12.0).view(4, 3, 1, 1, 1)).cos()

    def same(mine: Tensor, theirs: Tensor, tolerance: float) -> None:
        # Away from the edges, where a reflected ramp has a kink. The wavelet is not quite symmetric, so
        # that its mirror image is off by a tenth of a pixel or so, as published.
        torch.testing.assert_close(mine[..., 5:-5, 5:-5], theirs[..., 5:-5, 5:-5], atol=tolerance, rtol=0)

    same(moved(smooth, mirror=torch.ones(4).double()), smooth.flip(4), 0.08)
    turned = moved(smooth, quarters=torch.arange(4.0).double())
    for i in range(4):
        same(turned[i], smooth[i].rot90(i, (2, 3)), 0.08)
    shifted = moved(smooth, shift_x=torch.full((4,), 2 / 24).double())
    same(shifted[..., 2:], smooth[..., :-2], 1e-4)


@ALL
def test_frames_of_a_clip_are_changed_alike_and_clips_differently(augment: Augment) -> None:
    frame = clips(1, 3, 1, 20, 24)
    out = augment(frame.expand(4, 3, 5, 20, 24), generator=generator(3))
    torch.testing.assert_close(out, out[:, :, :1].expand_as(out))
    assert all(float((a - b).abs().max()) > 0.05 for a, b in itertools.pairwise(out))
    assert torch.equal(out, augment(frame.expand(4, 3, 5, 20, 24), generator=generator(3)))


@ALL
@pytest.mark.parametrize("shape", [(2, 1, 1, 8, 8), (2, 3, 3, 33, 17), (1, 4, 2, 16, 9)])
def test_clips_of_any_size_keep_theirs_and_global_randomness_is_left_alone(
    augment: Augment, shape: tuple[int, ...]
) -> None:
    x, before = clips(*shape), torch.get_rng_state()
    kept = x.clone()
    out = augment(x, generator=generator())
    assert out.shape == x.shape
    assert torch.isfinite(out).all()
    assert torch.equal(x, kept)
    assert torch.equal(before, torch.get_rng_state())


@ALL
def test_gradients_reach_clips_and_are_differentiable_again(augment: Augment) -> None:
    x = clips(2, 3, 2, 8, 9).requires_grad_()

    def curved(x: Tensor) -> Tensor:
        return augment(x, generator=generator(1)).pow(3).sum() / 100

    (slope,) = torch.autograd.grad(curved(x), x, create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), x)
    way, eps = clips(*x.shape, seed=5), 1e-2
    with torch.no_grad():
        measured = (curved(x + eps * way) - curved(x - eps * way)) / (2 * eps)
    torch.testing.assert_close((slope * way).sum().detach(), measured, rtol=5e-3, atol=1e-4)
    ends = []
    for sign in (1, -1):
        at = (x.detach() + sign * eps * way).requires_grad_()
        (g,) = torch.autograd.grad(curved(at), at)
        ends.append(g.square().sum())
    torch.testing.assert_close((second * way).sum(), (ends[0] - ends[1]) / (2 * eps), rtol=5e-3, atol=1e-4)


def test_p_follows_the_sign_of_real_scores_every_interval_at_the_published_rate() -> None:
    augment = AdaptiveAugment(target=0.6, interval=4, adjust_clips=1000)
    confident, unsure = torch.full((8, 1), 2.0), torch.tensor([[1.0]] * 4 + [[-1.0]] * 4)
    for _ in range(3):
        augment.update([confident], 8)
    assert augment.numbers()["augment/p"] == 0
    augment.update([confident], 8)
    assert augment.numbers() == {"augment/p": pytest.approx(32 / 1000), "augment/real_sign": 1.0}
    for _ in range(2):
        augment.update([confident, confident[:, :, None].expand(8, 1, 50)], 8)
    again = AdaptiveAugment(target=0.6, interval=4, adjust_clips=1000)
    again.load_state_dict(copy.deepcopy(augment.state_dict()))
    for each in (augment, again):
        # Heads count alike, whatever the number of their scores: signs 1, 1, 0, 0 give 0.5 < 0.6.
        for _ in range(2):
            each.update([unsure, unsure.expand(8, 7)], 8)
        assert each.numbers() == {"augment/p": 0.0, "augment/real_sign": 0.5}
    for _ in range(4 * 40):
        augment.update([confident], 8)
    assert augment.numbers()["augment/p"] == 1.0


def test_diffaugment_changes_are_those_published() -> None:
    x = clips(1, 3, 2, 8, 8)
    one = torch.ones(())
    out = diffaugment.adjust_colors(x, 0.25 * one, 0 * one, one)
    torch.testing.assert_close(out, (x.mean(1, keepdim=True) + 0.25).expand_as(x))
    out = diffaugment.adjust_colors(x, 0 * one, one, 0.5 * one)
    torch.testing.assert_close(out, x.mean() + 0.5 * (x - x.mean()))
    out = diffaugment.translate(x, torch.tensor([1]), torch.tensor([-1]))
    assert torch.equal(out[..., :-1, 1:], x[..., 1:, :-1])
    assert not out[..., -1, :].any()
    assert not out[..., :, 0].any()
    cut = diffaugment.cut_out(torch.ones(1, 1, 1, 8, 8), torch.tensor([8]), torch.tensor([4]))
    assert cut[0, 0, 0].eq(0).nonzero().tolist() == [[y, x] for y in (6, 7) for x in (2, 3, 4, 5)]
    opacity = clips(2, 4, 2, 8, 8)
    assert torch.equal(DiffAugment(["color"])(opacity, generator=generator())[:, 3:], opacity[:, 3:])
    with pytest.raises(TrainingError, match="1, 3 or 4 channels; these have 2"):
        DiffAugment(["color"])(clips(1, 2, 1, 8, 8), generator=generator())


def test_diffaugment_draws_the_whole_published_range() -> None:
    ones = torch.ones(3000, 1, 1, 16, 16)
    moved = DiffAugment(["translation"])(ones, generator=generator())
    rows = moved[:, 0, 0].any(2)
    gone = {"above": ~rows[:, 0], "below": ~rows[:, -1]}
    assert {int(n) for n in (~rows).sum(1).unique()} == {0, 1, 2}
    assert all(float(side.double().mean()) == pytest.approx(2 / 5, abs=0.04) for side in gone.values())
    light = DiffAugment(["color"])(ones, generator=generator())[:, 0, 0, 0, 0] - 1
    assert float(light.min()) == pytest.approx(-0.5, abs=0.01)
    assert float(light.max()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("stretch", [0.5, 0.63, 1.0, 1.4, 2.0])
@pytest.mark.parametrize("place", [0.0, 0.4, 0.999])
def test_speed_is_an_interpolation_along_time_cut_or_filled_up_with_zeros(
    stretch: float, place: float
) -> None:
    x = clips(1, 3, 7, 4, 5)
    out = diffaugment.change_speed(x, torch.tensor([stretch]), torch.tensor([place]))
    rows = x.permute(0, 1, 3, 4, 2).reshape(1, -1, 7)
    longer = F.interpolate(rows, scale_factor=stretch, mode="linear", recompute_scale_factor=False)
    spare = longer.shape[2] - 7
    first = int(place * (abs(spare) + 1))
    filled = longer[:, :, first : first + 7] if spare > 0 else F.pad(longer, (first, -spare - first))
    torch.testing.assert_close(out, filled.reshape(1, 3, 4, 5, 7).permute(0, 1, 4, 2, 3))


def test_speed_is_drawn_alike_both_ways_and_is_differentiable_twice() -> None:
    ones = torch.ones(2000, 1, 64, 1, 1)
    augment = DiffAugment(["speed"])
    kept = augment(ones, generator=generator())[:, 0, :, 0, 0].sum(1)
    assert float((kept == 64).double().mean()) == pytest.approx(0.5, abs=0.04)
    assert 32 <= float(kept.min()) < 34
    x = clips(2, 1, 3, 2, 2).double().requires_grad_()
    stretch, place = torch.tensor([0.7, 1.6]).double(), torch.tensor([0.1, 0.9]).double()
    assert torch.autograd.gradgradcheck(lambda x: diffaugment.change_speed(x, stretch, place).pow(3), x)


def test_a_recipe_s_choice_is_made_with_its_settings() -> None:
    adversarial = recipes.Adversarial.model_validate(
        {"augment": {"use": "ada", "target": 0.5, "interval": 2, "adjust_clips": 10, "color": False}}
    )
    assert adversarial.augment is not None
    made = make_augment(adversarial.augment)
    assert isinstance(made, AdaptiveAugment)
    assert (made.target, made.interval, made.adjust_clips, made.geometric, made.color) == (
        0.5,
        2,
        10,
        True,
        False,
    )
    plain = recipes.Adversarial.model_validate({"augment": {"use": "diffaugment", "policy": ["cutout"]}})
    assert plain.augment is not None
    other = make_augment(plain.augment)
    assert isinstance(other, DiffAugment)
    assert other.policy == ("cutout",)
    assert other.numbers() == {}


def test_no_speed_is_changed_between_frames_far_apart() -> None:
    adversarial = {"augment": {"use": "diffaugment", "policy": ["speed"]}}
    model = zoo.build("gan-video-digan-tiny", train={"objective": {"adversarial": adversarial}})
    with pytest.raises(TrainingError, match="see few frames of each"):
        start(model, torch.device("cpu"))
