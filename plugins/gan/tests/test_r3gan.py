"""R3GAN's parts: the published image networks frame by frame, and what time adds to them.

`golden_r3gan.json` was made by running the public code (its commit stands inside) in float64 on the weights
and inputs below, which need no random generator.

Shapes: B clips, T frames, C colours, H W pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import assert_like, fill, noise
from torch import Tensor

from zoo.converting.conversion import examine
from zoo.errors import PortError, WeightsError, ZooError
from zoo_gan.r3gan import layers
from zoo_gan.r3gan.discriminator import R3GANVideoDiscriminator
from zoo_gan.r3gan.generator import R3GANVideoGenerator
from zoo_gan.r3gan.weights import map_r3gan_state_dict

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden_r3gan.json").read_text())
CASES = [pytest.param(case, id=name) for name, case in GOLDEN["cases"].items()]
PRECISIONS = [
    pytest.param(torch.float64, 1e-10, id="float64"),
    pytest.param(torch.float32, 1e-5, id="float32"),
]
KERNEL = torch.outer(torch.tensor([1.0, 3.0, 3.0, 1.0]), torch.tensor([1.0, 3.0, 3.0, 1.0])) / 64
MOTION = 3


def public_state(case: dict[str, Any]) -> dict[str, Tensor]:
    """Weights under the names of a public snapshot."""
    state = fill(case["shapes"])
    return {name: KERNEL if name.endswith("Kernel") else value for name, value in state.items()}


def code(case: dict[str, Any]) -> tuple[Tensor, Tensor]:
    return noise("code", (2, case["generator"]["content_dim"])), torch.tensor([1, 0])


def frame(case: dict[str, Any]) -> Tensor:
    side = 4 << (len(case["generator"]["widths"]) - 1)
    return noise("frame", (2, 3, side, side))


def parts(
    case: dict[str, Any], dtype: torch.dtype
) -> tuple[R3GANVideoGenerator, R3GANVideoDiscriminator, list[str]]:
    """Our parts with public weights, in training mode, where frames are not clipped."""
    mapped, unused = map_r3gan_state_dict(public_state(case), motion_dim=MOTION)
    generator = R3GANVideoGenerator(**case["generator"], motion_dim=MOTION, time_scales=[2, 2])
    discriminator = R3GANVideoDiscriminator(**case["discriminator"], time_scales=[2, 1])
    for prefix, part in (("generator.", generator), ("discriminator.0.", discriminator)):
        weights = {k.removeprefix(prefix): v for k, v in mapped.items() if k.startswith(prefix)}
        part.to(dtype).load_state_dict(weights, strict=True)
    return generator, discriminator, unused


def still_noise(generator: R3GANVideoGenerator, case: dict[str, Any], num_frames: int) -> dict[str, Tensor]:
    """The golden codes, with any motion noise."""
    drawn = generator.draw_noise(2, num_frames, generator=torch.Generator().manual_seed(0))
    content_BZ, label_B = code(case)
    drawn["content"] = content_BZ.to(drawn["content"].dtype)
    return drawn | {"label": label_B} if generator.num_classes else drawn


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_every_frame_is_the_public_image(case: dict[str, Any], dtype: torch.dtype, tolerance: float) -> None:
    generator, _, unused = parts(case, dtype)
    assert unused
    assert all(name.endswith("Resampler.Kernel") for name in unused)
    x_BCTHW = generator(still_noise(generator, case, 3))
    for x_BCHW in x_BCTHW.unbind(2):
        assert_like(x_BCHW, case["image"], tolerance)
    torch.testing.assert_close(
        generator.eval()(still_noise(generator, case, 3)), x_BCTHW.clamp(-1, 1), rtol=0, atol=0
    )


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_a_still_clip_gets_the_public_score(
    case: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    _, discriminator, _ = parts(case, dtype)
    label_B = code(case)[1] if discriminator.num_classes else None
    for num_frames in (2, 5):
        x_BCTHW = frame(case).to(dtype)[:, :, None].expand(-1, -1, num_frames, -1, -1)
        (logits,) = discriminator(x_BCTHW, label_B).logits
        assert_like(logits, case["score"], tolerance)


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_the_public_code(case: dict[str, Any]) -> None:
    """Those of the generator, and those of R1, which are second derivatives."""
    generator, discriminator, _ = parts(case, torch.float64)
    label_B = code(case)[1] if discriminator.num_classes else None
    x_BCTHW = generator(still_noise(generator, case, 1))
    x_BCTHW.square().sum().backward()
    for name, gradient in case["generator_gradients"].items():
        found = generator.get_parameter(name).grad
        if name == "stages.0.basis.linear.weight":
            assert found is not None
            found = found[:, :-MOTION]  # the rest hears motion
        assert_like(found, gradient, 1e-9)
    x_BCHW = frame(case).requires_grad_()
    (logits,) = discriminator(x_BCHW[:, :, None].expand(-1, -1, 4, -1, -1), label_B).logits
    (slope,) = torch.autograd.grad(logits.sum(), x_BCHW, create_graph=True)
    slope.square().sum().backward()
    for name, gradient in case["penalty_gradients"].items():
        assert_like(discriminator.get_parameter(name).grad, gradient, 1e-9)


def test_a_centred_block_is_the_public_block_on_each_frame() -> None:
    case = GOLDEN["block"]
    block = layers.ResidualBlock(**case["options"]).double()
    state = {name: fill({public: case["shapes"][public]})[public] for name, public in case["names"].items()}
    missing, unexpected = block.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["temporal.weight"], [])
    x_BTCHW = noise("frames", case["size"])
    assert_like(block(layers.continue_ends(x_BTCHW)), case["output"], 1e-10)
    with torch.no_grad():
        block.temporal.weight[:, 0] = 0.5
    y_BTCHW = block(x_BTCHW)
    changed = x_BTCHW.clone()
    changed[:, 2] += 1
    moved = (block(changed) - y_BTCHW).abs().amax((0, 2, 3, 4))
    assert (moved > 1e-3).tolist() == [False, True, True]


def test_published_sizes_plus_what_time_adds() -> None:
    assert len(GOLDEN["published"]) == 5
    for preset in GOLDEN["published"].values():
        with torch.device("meta"):
            generator = R3GANVideoGenerator(**preset["generator"], time_scales=preset["ones"])
            discriminator = R3GANVideoDiscriminator(**preset["discriminator"], time_scales=preset["ones"])
        motion = generator.motion_dim * preset["generator"]["widths"][0]
        for part, extra in ((generator, motion), (discriminator, 0)):
            sizes = {name: weight.numel() for name, weight in part.named_parameters()}
            temporal = sum(size for name, size in sizes.items() if ".temporal." in name)
            assert sum(sizes.values()) - temporal - extra == preset["parameters"][part is discriminator]
            assert temporal < 0.01 * sum(sizes.values())
    defaults = GOLDEN["published"]["FFHQ-64"]["parameters"]
    with torch.device("meta"):
        ours = [
            sum(w.numel() for w in cls().parameters())
            for cls in (R3GANVideoGenerator, R3GANVideoDiscriminator)
        ]
    assert [round(a / b, 2) for a, b in zip(ours, defaults, strict=True)] == [1.0, 1.0]


def test_fresh_weights_have_the_published_spread() -> None:
    torch.manual_seed(0)
    block = layers.ResidualBlock(64, cardinality=4, expansion=2, depth=16)
    gain = (2 / 1.04) ** 0.5 / 2
    assert block.expand.weight.std().item() == pytest.approx(gain / 64**0.5, rel=0.03)
    assert block.spatial.weight.std().item() == pytest.approx(gain / (32 * 9) ** 0.5, rel=0.03)
    assert not block.reduce.weight.any()
    generator = R3GANVideoGenerator(
        widths=[512, 64], cardinalities=[4, 4], num_blocks=[1, 1], time_scales=[2], num_classes=500
    )
    stage: Any = generator.stages[0]
    assert stage.basis.basis.std().item() == pytest.approx(1, rel=0.03)
    assert stage.basis.linear.weight.std().item() == pytest.approx((64 * 3) ** -0.5, rel=0.03)
    assert generator.embed is not None
    assert generator.embed.weight.std().item() == pytest.approx(500**-0.5, rel=0.03)
    discriminator = R3GANVideoDiscriminator(
        widths=[64, 512],
        cardinalities=[4, 4],
        num_blocks=[1, 1],
        time_scales=[2],
        num_classes=500,
        embedding_dim=64,
    )
    last: Any = discriminator.stages[-1]
    assert last.basis.basis.weight.std().item() == pytest.approx(1 / 4, rel=0.03)
    assert discriminator.embed is not None
    assert discriminator.embed.weight.std().item() == pytest.approx((500 * 64) ** -0.5, rel=0.03)


@torch.no_grad()
def lively(**options: Any) -> R3GANVideoGenerator:
    """A generator in which every layer does something, time included, without clipping."""
    sizes = {
        "widths": [16, 12, 8],
        "cardinalities": [4, 2, 2],
        "num_blocks": [2, 1, 1],
        "time_scales": [2, 2],
    }
    generator = R3GANVideoGenerator(**sizes | {"content_dim": 5, "motion_dim": 3} | options).double()
    state = fill({name: value.shape for name, value in generator.state_dict().items()})
    generator.load_state_dict(state)
    return generator


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 9])
def test_frames_made_alone_are_those_of_the_clip_however_long_it_is(num_frames: int) -> None:
    generator = lively()
    draws = [generator.draw_noise(2, n, generator=torch.Generator().manual_seed(1)) for n in (num_frames, 40)]
    short, long = map(generator, draws)
    assert short.shape == (2, 3, num_frames, 16, 16)
    assert torch.equal(draws[1]["motion"][:, : draws[0]["motion"].shape[1]], draws[0]["motion"])
    torch.testing.assert_close(short, long[:, :, :num_frames], rtol=0, atol=1e-12)
    assert (short[:, :, :1] - long[:, :, 20:21]).abs().max() > 0.1
    for start in range(num_frames):
        times_BT = torch.arange(start, num_frames, dtype=torch.float64).expand(2, -1)
        alone = generator(draws[0], times_BT)
        torch.testing.assert_close(alone, short[:, :, start:], rtol=0, atol=1e-12)
    with pytest.raises(PortError, match=rf"frames {num_frames} to {num_frames} are asked"):
        generator(draws[0], torch.full((2, 1), float(num_frames)))


def test_frames_made_alone_cost_no_more_where_the_clip_is_long() -> None:
    seen: list[int] = []
    generator = lively()
    generator.to_frame.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    first: Any = generator.stages[0]
    first.register_forward_hook(lambda module, args, output: seen.append(output.shape[1]))
    drawn = generator.draw_noise(1, 200)
    generator(drawn, torch.arange(100.0, 104.0)[None])
    steps, frames = seen
    assert (steps, frames) == (5, 4)


def test_motion_noise_is_heard_near_its_frame_only() -> None:
    generator = lively()
    drawn = generator.draw_noise(1, 64, generator=torch.Generator().manual_seed(1))
    changed = drawn | {"motion": drawn["motion"].clone()}
    changed["motion"][:, generator._lead + 32] += 1
    moved = (generator(changed) - generator(drawn)).abs().amax((0, 1, 3, 4)) > 1e-12
    heard = moved.nonzero().flatten().tolist()
    assert heard == list(range(heard[0], heard[-1] + 1))
    assert heard[0] <= 32 <= heard[-1]
    assert 4 < len(heard) < 40


@pytest.mark.parametrize("num_frames", [1, 2, 5, 8])
def test_time_is_resampled_by_the_published_filter(num_frames: int) -> None:
    x_BTCHW = noise("steps", (1, num_frames + 2, 1, 1, 1))
    taps = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64)
    row = x_BTCHW.flatten()[None, None]
    up = torch.nn.functional.conv_transpose1d(row, taps[None, None] / 4, stride=2, padding=1)
    torch.testing.assert_close(layers.upsample_time(x_BTCHW).flatten(), up.flatten()[1:-1])
    ends = torch.cat([row[..., :1], row, row[..., -1:]], dim=2)
    down = torch.nn.functional.conv1d(ends, taps[None, None] / 8, stride=2)
    torch.testing.assert_close(layers.downsample_time(x_BTCHW).flatten(), down.flatten())
    assert down.shape[2] == (num_frames + 2) // 2


def test_discriminator_sees_the_order_of_frames() -> None:
    options = GOLDEN["cases"]["plain"]["discriminator"]
    discriminator = R3GANVideoDiscriminator(**options, time_scales=[2, 1]).double()
    discriminator.load_state_dict(fill({k: v.shape for k, v in discriminator.state_dict().items()}))
    x_BCTHW = noise("clip", (2, 3, 6, 16, 16))
    shuffled = x_BCTHW[:, :, [3, 0, 5, 1, 4, 2]]
    (a,), (b,) = discriminator(x_BCTHW).logits, discriminator(shuffled).logits
    assert (a - b).abs().min() > 1e-3
    assert [tuple(f.shape[:2]) for f in discriminator(x_BCTHW).features] == [(2, 6), (2, 3), (2, 3)]


def test_public_weights_become_a_model_of_the_recipe(tmp_path: Path) -> None:
    case = GOLDEN["cases"]["plain"]
    torch.save(public_state(case), tmp_path / "snapshot.pt")
    parts = {
        "generator": case["generator"] | {"motion_dim": MOTION, "time_scales": [2, 2]},
        "discriminator": [case["discriminator"] | {"use": "r3gan-video", "time_scales": [2, 1]}],
    }
    found = examine(
        tmp_path / "snapshot.pt", "gan-video-r3gan-tiny", clip={"height": 16, "width": 16}, **parts
    )
    assert found.problems == ()
    assert not found.without_discriminators
    assert all(tensor.name.endswith("Kernel") for tensor in found.unused)


def test_wrong_weights_are_named() -> None:
    case = GOLDEN["cases"]["plain"]
    state = public_state(case)
    two = state | {name.replace("G_ema", "G"): value for name, value in state.items()}
    assert map_r3gan_state_dict(two)[0].keys() == map_r3gan_state_dict(state)[0].keys()
    alone = {name: value for name, value in state.items() if name.startswith("G_ema")}
    assert all(name.startswith("generator.") for name in map_r3gan_state_dict(alone)[0])
    with pytest.raises(WeightsError, match="no R3GAN generator"):
        map_r3gan_state_dict({"conv.weight": torch.zeros(1)})
    other = {name: value * 2 if name.endswith("Kernel") else value for name, value in state.items()}
    with pytest.raises(WeightsError, match=r"Resampler\.Kernel is another filter"):
        map_r3gan_state_dict(other)
    bias = "D.Model.MainLayers.1.Layers.0.NonLinearity1.Bias"
    with pytest.raises(WeightsError, match=r"lack D\.Model\.MainLayers\.1\.Layers\.0\.NonLinearity1\.Bias"):
        map_r3gan_state_dict({name: value for name, value in state.items() if name != bias})
    with pytest.raises(WeightsError, match="stage 1 has no block"):
        map_r3gan_state_dict(
            {
                n: v
                for n, v in state.items()
                if not n.startswith("G_ema.Model.MainLayers.1.Layers.1.LinearLayer2")
            }
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": [8]}, "two stages or more"),
        ({"cardinalities": [2, 2]}, "widths has 3 stages, so give 3 numbers"),
        ({"time_scales": [2, 3]}, "each must be 1 or 2"),
        ({"cardinalities": [5, 2, 2]}, "5 groups do not divide the 32 channels"),
        ({"num_blocks": [1, 0, 1]}, "num_blocks is 0"),
        ({"num_classes": -1}, "num_classes is -1"),
    ],
)
def test_a_wrong_option_says_what_is_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ZooError, match=message):
        lively(**options)


def test_wrong_inputs_are_refused() -> None:
    generator = lively(num_classes=3)
    drawn = generator.draw_noise(2, 3)
    with pytest.raises(PortError, match=r"noise\['label'\] has shape None"):
        generator({name: value for name, value in drawn.items() if name != "label"})
    with pytest.raises(PortError, match="draw noise with draw_noise"):
        generator(drawn | {"motion": drawn["motion"][:, :4]})
    discriminator = R3GANVideoDiscriminator(**GOLDEN["cases"]["labels"]["discriminator"], time_scales=[2, 1])
    with pytest.raises(PortError, match="give it label_B"):
        discriminator(torch.zeros(1, 3, 2, 16, 16))
    with pytest.raises(PortError, match="judges frames of 16x16; it was given 32x16"):
        discriminator(torch.zeros(1, 3, 2, 32, 16), torch.zeros(1, dtype=torch.int64))
