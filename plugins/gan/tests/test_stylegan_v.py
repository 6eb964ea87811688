"""StyleGAN-V: our parts give the numbers the public code gave, and time is what they promise.

`golden_stylegan_v.json` was made by running that code (its commit stands inside) in float64 on the weights
and inputs below, which need no random generator; its CUDA operators by the references beside them.

Shapes: B clips, C colours, T H W moments and pixels.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import assert_like, noise
from torch import Tensor

from zoo.errors import PortError, WeightsError, ZooError
from zoo_gan.stylegan_v.discriminator import StyleGANVDiscriminator
from zoo_gan.stylegan_v.generator import StyleGANVGenerator
from zoo_gan.stylegan_v.weights import map_stylegan_v_state_dict

PATH = Path(__file__).parent / "golden_stylegan_v.json"
GOLDEN: dict[str, Any] = json.loads(PATH.read_text()) if PATH.exists() else {"cases": []}
CASES = [pytest.param(case, id=f"{case['num_classes']}_labels") for case in GOLDEN["cases"]]

SHARED: dict[str, Any] = {"image_size": 32, "channel_base": 512, "channel_max": 24}
GENERATOR: dict[str, Any] = {
    "content_dim": 20,
    "w_dim": 18,
    "motion_dim": 20,
    "motion_code_dim": 14,
    "motion_distance": 8,
    "num_frequencies": 6,
    "max_period": 256,
}
TIMES = [[0.0, 3.5, 17.25], [1.0, 2.0, 31.0], [4.0, 8.0, 16.0], [0.25, 9.0, 39.75]]
NUM_FRAMES, NUM_CODES = 40, 62
# What the constructors make, which weights do not change.
FIXED = ("resample_filter", "freqs", "phase_scales", "fourier_coefs")
GENERATOR_GRADIENTS = ["mapping.fc0.weight", "synthesis.motion_encoder.conv.0.weight"]
JUDGE_GRADIENTS = ["b32.fromrgb.weight", "b16.conv0.weight", "b4.fc.weight", "mapping.fc1.bias"]


def public_weights(shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """Values for the names of the public state dict, float64; nothing is 0 or does nothing."""
    state = {}
    for name, shape in shapes.items():
        if name.endswith(FIXED):
            continue
        value = noise(name, shape) * 1.7
        if name.endswith("bias"):
            value = 0.2 * value + (1 if "affine" in name else 0)
        # These learn at a hundredth of the rate, by weights that are a hundred times as large.
        slow = "mapping.fc" in name or "motion_encoder.conv" in name
        state[name] = value * 100 if slow else value
    return state


def golden_inputs(num_classes: int) -> dict[str, Tensor]:
    inputs = {
        "content": noise("content", (4, 20)) * 1.7,
        "motion": noise("motion", (4, NUM_CODES, 20)) * 1.7,
        "times_BT": torch.tensor(TIMES, dtype=torch.float64),
        "x_BCTHW": noise("clip", (4, 3, 3, 32, 32)),
    }
    if num_classes:
        inputs["label"] = torch.arange(4) % num_classes
    return inputs


def parts(case: dict[str, Any]) -> tuple[StyleGANVGenerator, StyleGANVDiscriminator]:
    """Our parts with the weights of the public ones, in train mode, float64."""
    generator = StyleGANVGenerator(**SHARED, **GENERATOR, num_classes=case["num_classes"]).double()
    judge = StyleGANVDiscriminator(**SHARED, group_size=2, num_classes=case["num_classes"]).double()
    fixed = {f"generator.{name}": value for name, value in generator.state_dict().items()} | {
        f"discriminator.0.{name}": value for name, value in judge.state_dict().items()
    }
    state = {name: torch.empty(shape) for name, shape in case["shapes"].items() if name.endswith(FIXED)}
    mapped, unused = map_stylegan_v_state_dict(state | public_weights(case["shapes"]))
    assert unused == []
    mapped = {name: fixed[name] if name.endswith(FIXED) else value for name, value in mapped.items()}
    for prefix, module in (("generator.", generator), ("discriminator.0.", judge)):
        own = {name.removeprefix(prefix): v for name, v in mapped.items() if name.startswith(prefix)}
        module.load_state_dict(own, strict=True)
    return generator, judge


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_the_public_code(case: dict[str, Any], dtype: torch.dtype) -> None:
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    generator, judge = (part.to(dtype) for part in parts(case))
    given = {k: v.to(dtype) if v.is_floating_point() else v for k, v in golden_inputs(4).items()}
    label = {"label": given["label"] % case["num_classes"]} if case["num_classes"] else {}
    with torch.no_grad():
        frames = generator(
            {"content": given["content"], "motion": given["motion"], **label}, given["times_BT"]
        )
        judged = judge(given["x_BCTHW"], given["times_BT"].round(), label.get("label"))
    assert_like(frames, case["frames"], tolerance)
    assert judged.logits[0][:, 0].tolist() == pytest.approx(case["logits"], rel=0, abs=tolerance * 10)


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_the_public_code(case: dict[str, Any]) -> None:
    """Through both parts, and twice through the discriminator as R1 goes."""
    generator, judge = parts(case)
    given = golden_inputs(case["num_classes"])
    label_B, times_BT = given.get("label"), given["times_BT"]
    frames = generator(given, times_BT)
    judge(frames, times_BT.round(), label_B).logits[0].sum().backward()
    parameters = dict(generator.named_parameters())
    for name, expected in case["generator_gradients"].items():
        assert_like(parameters[name.replace("synthesis.motion", "motion")].grad, expected, 1e-8)

    judge.zero_grad()
    x_BCTHW = given["x_BCTHW"].requires_grad_()
    score = judge(x_BCTHW, times_BT.round(), label_B).logits[0].sum()
    (gradient,) = torch.autograd.grad(score, x_BCTHW, create_graph=True)
    gradient.square().sum().backward()  # type: ignore[no-untyped-call]
    weights = dict(judge.named_parameters())
    for name, expected in case["penalty_gradients"].items():
        assert_like(weights[name].grad, expected, 1e-8)


def test_published_size() -> None:
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in part.parameters())
            for part in (StyleGANVGenerator(), StyleGANVDiscriminator())
        ]
    assert sizes == GOLDEN["public_parameters"]


def small_generator(**options: Any) -> StyleGANVGenerator:
    torch.manual_seed(0)
    return StyleGANVGenerator(**SHARED | {"image_size": 16}, **GENERATOR | options).eval()


def test_motion_is_continuous_where_one_anchor_hands_over_to_the_next() -> None:
    """Aligners, periods and phases change at every anchor, the embedding does not jump."""
    generator = small_generator().double()
    noise_ = generator.draw_noise(2, 30, generator=torch.Generator().manual_seed(1))
    times_BT = torch.tensor([[7.9, 8 - 1e-7, 8 + 1e-7, 8.1]] * 2, dtype=torch.float64)
    with torch.no_grad():
        before, left, right, after = generator.motion_encoder(noise_["motion"], times_BT).unbind(1)
    assert float((left - right).abs().max()) < 1e-4
    assert float((before - after).abs().max()) > 1e-2


def test_truncation_pulls_styles_to_their_mean_in_eval_mode_only() -> None:
    full, none = small_generator(), small_generator(truncation=0.0)
    noise_ = full.draw_noise(3, 2, generator=torch.Generator().manual_seed(2))
    same_motion = noise_ | {"motion": noise_["motion"][:1].expand(3, -1, -1)}
    with torch.no_grad():
        clips, mean = full(same_motion), none(same_motion)
        assert not torch.equal(clips[0], clips[1])
        torch.testing.assert_close(mean[0], mean[1])
        torch.testing.assert_close(none.train()(same_motion), full.train()(same_motion))
    # Training has moved the mean away from where it began.
    assert bool(full.mapping.w_avg.any())


def test_moments_outside_the_clip_are_refused() -> None:
    generator = small_generator()
    noise_ = generator.draw_noise(1, 5)
    generator(noise_, torch.tensor([[0.0, 5.0]]))
    for moment in (-0.5, 5.5, float("nan")):
        with pytest.raises(PortError, match="clip that was drawn for 5 frames"):
            generator(noise_, torch.tensor([[moment]]))
    with pytest.raises(PortError, match=r"'motion' of shape \(clips, frames \+ 22, 20\)"):
        generator({"content": noise_["content"], "motion": noise_["motion"][:, :22]})


def test_frames_are_drawn_as_published() -> None:
    """Ends are a power of two apart, every one as likely, the frame between and the start uniform."""
    judge = StyleGANVDiscriminator(**SHARED)
    frames_BT = judge.draw_frames(20_000, 33, generator=torch.Generator().manual_seed(3))
    gaps = frames_BT[:, 2] - frames_BT[:, 0]
    shares = {gap: count / 20_000 for gap, count in Counter(gaps.tolist()).items()}
    assert shares == pytest.approx(dict.fromkeys([2, 4, 8, 16, 32], 0.2), abs=0.02)
    for gap in (8, 32):
        inner = (frames_BT[:, 1] - frames_BT[:, 0])[gaps == gap]
        share = torch.bincount(inner, minlength=gap + 1)[1:gap] / len(inner)
        assert share.tolist() == pytest.approx([1 / (gap - 1)] * (gap - 1), abs=0.03)
        starts = torch.bincount(frames_BT[gaps == gap, 0], minlength=34 - gap) / len(inner)
        assert starts.tolist() == pytest.approx([1 / (33 - gap)] * (33 - gap) + [0], abs=0.02)
    assert judge.draw_frames(5, 3, generator=torch.Generator()).tolist() == [[0, 1, 2]] * 5
    with pytest.raises(ZooError, match="judges 3 frames of a clip, which has 2"):
        judge.draw_frames(1, 2)


def test_gaps_matter_and_the_place_in_the_clip_does_not() -> None:
    torch.manual_seed(4)
    judge = StyleGANVDiscriminator(**SHARED).eval()
    x_BCTHW = torch.rand(1, 3, 3, 32, 32) * 2 - 1
    first, later, wider = (
        judge(x_BCTHW, torch.tensor([times])).logits[0] for times in ([0.0, 1, 4], [7.0, 8, 11], [0.0, 2, 4])
    )
    assert torch.equal(first, later)
    assert not torch.allclose(first, wider)


def test_wrong_weights_are_named() -> None:
    with torch.device("meta"):
        shapes = {name: torch.empty(shape) for name, shape in GOLDEN["cases"][0]["shapes"].items()}
    with pytest.raises(WeightsError, match="no StyleGAN-V generator"):
        map_stylegan_v_state_dict({"conv.weight": torch.empty(3)})
    both = shapes | {
        name.replace("G_ema.", "G."): v for name, v in shapes.items() if name.startswith("G_ema.")
    }
    with pytest.raises(WeightsError, match=r"choose one by prefix='G\.'"):
        map_stylegan_v_state_dict(both)
    mapped, unused = map_stylegan_v_state_dict(both, prefix="G_ema.")
    assert len(mapped) == len(shapes)
    assert unused
    assert all(name.startswith("G.") for name in unused)
    lacking = {name: value for name, value in shapes.items() if name != "G_ema.synthesis.b8.conv1.bias"}
    with pytest.raises(WeightsError, match=r"lack G_ema\.synthesis\.b8\.conv1\.bias"):
        map_stylegan_v_state_dict(lacking)


def test_options_that_do_not_fit_are_refused() -> None:
    for options, said in (
        ({"image_size": 48}, "image_size is 48; give a power of two"),
        ({"max_period": 4}, "max_period is 4, below the shortest period"),
        ({"num_classes": -1}, "num_classes is -1"),
    ):
        with pytest.raises(ZooError, match=said):
            StyleGANVGenerator(**SHARED | GENERATOR | options)
    for options, said in (
        ({"concat_size": 32}, "concat_size is 32; give a power of two from 8 to 16"),
        ({"num_frames": 1}, "num_frames is 1; give 2 or more"),
        ({"num_frames": 9, "max_gap": 4}, "need a gap of 8 or more"),
    ):
        with pytest.raises(ZooError, match=said):
            StyleGANVDiscriminator(**SHARED | options)


def test_scores_of_wrong_shapes_are_refused() -> None:
    judge = StyleGANVDiscriminator(**SHARED, num_classes=2)
    x_BCTHW, times_BT = torch.zeros(2, 3, 3, 32, 32), torch.arange(3).float().expand(2, -1)
    label_B = torch.tensor([0, 1])
    assert judge(x_BCTHW, times_BT, label_B).logits[0].shape == (2, 1)
    with pytest.raises(PortError, match=r"judges clips of \(B, 3, 3, 32, 32\)"):
        judge(x_BCTHW[:, :, :2], times_BT, label_B)
    with pytest.raises(PortError, match=r"needs times_BT of shape \(2, 3\)"):
        judge(x_BCTHW, times_BT[:1], label_B)
    with pytest.raises(PortError, match="needs label_B"):
        judge(x_BCTHW, times_BT)
