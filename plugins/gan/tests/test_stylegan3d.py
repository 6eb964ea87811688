"""MAGVIT's discriminator: the same scores, slopes and penalties as the public JAX code.

`golden_stylegan3d.json` was made by running the public code (its commit stands inside) with 64-bit numbers
on the weights and clips below, which need no random generator.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import assert_like, fill, noise

from zoo.errors import PortError, WeightsError, ZooError
from zoo_gan.stylegan3d.discriminator import StyleGAN3DDiscriminator
from zoo_gan.stylegan3d.weights import map_stylegan3d_state_dict

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden_stylegan3d.json").read_text())
CASES = [pytest.param(case, id=name) for name, case in GOLDEN["cases"].items()]
SIZE = ("num_frames", "height", "width")


def mapped(case: dict[str, Any]) -> tuple[dict[str, torch.Tensor], list[str]]:
    state = {f"discriminator.{name}": value for name, value in fill(case["shapes"]).items()}
    return map_stylegan3d_state_dict(state | {"step": torch.zeros(())}, **{name: case[name] for name in SIZE})


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_is_the_published_one(case: dict[str, Any], dtype: torch.dtype) -> None:
    options = {name: case[name] for name in (*SIZE, "base_channels", "channel_multipliers")}
    judge = StyleGAN3DDiscriminator(**options).to(dtype)
    weights, unused = mapped(case)
    judge.load_state_dict(weights)
    assert unused == ["step"]
    x_BCTHW = noise("x", (2, 3, *judge.min_size)).to(dtype).requires_grad_()
    (logits,) = judge(x_BCTHW).logits
    (slope,) = torch.autograd.grad(logits.sum(), x_BCTHW, create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), judge.get_parameter("blocks.1.conv_0.weight"))
    assert_like(logits, case["logits"], 2e-6)
    assert_like(slope, case["grad"], 2e-6)
    assert_like(second, case["r1_weight_grad"], 2e-6)


@pytest.mark.parametrize(("base_channels", "model"), [(64, "B"), (128, "L")])
def test_published_sizes(base_channels: int, model: str) -> None:
    with torch.device("meta"):
        judge = StyleGAN3DDiscriminator(base_channels=base_channels)
        judged = judge(torch.empty(2, 3, 16, 128, 128))
    assert sum(weight.numel() for weight in judge.parameters()) == GOLDEN["counts"][model]
    assert judged.logits[0].shape == (2, 1)
    assert [tuple(feature.shape[2:]) for feature in judged.features] == [
        (8, 64, 64),
        (4, 32, 32),
        (2, 16, 16),
        (1, 8, 8),
        (1, 4, 4),
    ]


def test_weights_start_by_xaviers_rule() -> None:
    torch.manual_seed(0)
    judge = StyleGAN3DDiscriminator(
        num_frames=4, height=8, width=8, base_channels=16, channel_multipliers=[2]
    )
    weight = judge.get_parameter("blocks.0.conv_1.weight")
    limit = (6 / (27 * (16 + 32))) ** 0.5
    assert 0.95 * limit < weight.abs().max().item() <= limit
    assert not judge.get_parameter("conv_in.bias").any()


def test_errors_say_what_fits() -> None:
    with pytest.raises(ZooError, match="channel_multipliers is empty"):
        StyleGAN3DDiscriminator(channel_multipliers=[])
    with pytest.raises(ZooError, match=r"channel_multipliers\[1\] is 0"):
        StyleGAN3DDiscriminator(channel_multipliers=[1, 0])
    judge = StyleGAN3DDiscriminator(num_frames=4, height=8, width=8, base_channels=1, channel_multipliers=[1])
    with pytest.raises(PortError, match=r"built for clips of \(4, 8, 8\) .* was given \(4, 8, 16\)"):
        judge(torch.zeros(1, 3, 4, 8, 16))
    case = GOLDEN["cases"]["odd"]
    with pytest.raises(WeightsError, match=r"Dense_0\.kernel is .* where .* fits"):
        mapped(case | {"height": 64})
    with pytest.raises(WeightsError, match="no MAGVIT discriminator"):
        map_stylegan3d_state_dict({"w": torch.zeros(1)}, num_frames=4, height=8, width=8)
