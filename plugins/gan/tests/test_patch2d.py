"""The 2D PatchGAN is taming-transformers': names, parameters, scores, gradients.

`golden_patch2d.json` holds fingerprints (see golden.py) of its ``NLayerDiscriminator`` at the commit it
names, in float64.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from golden import assert_like, fill, noise
from torch import nn

from zoo_gan.patchgan.patch2d import Patch2D

GOLDEN = json.loads((Path(__file__).parent / "golden_patch2d.json").read_text())
SCALES = r"running_var|main\.(3|6|9)\.weight"


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_scores_and_gradients_are_tamings(mode: str) -> None:
    discriminator = Patch2D(base_channels=4).double()
    shapes = {name: value.shape for name, value in discriminator.state_dict().items()}
    discriminator.load_state_dict(fill(shapes, scales=SCALES))
    discriminator.train(mode == "train")
    x_BCHW = noise("frames", (2, 3, 40, 48)).requires_grad_()
    judged = discriminator(x_BCHW)
    (judged.logits[0] * noise("weigh", judged.logits[0].shape)).sum().backward()
    assert_like(judged.logits[0], GOLDEN[mode]["logits"], 1e-9)
    assert_like(x_BCHW.grad, GOLDEN[mode]["grad"], 1e-8)
    assert [feature.shape[1] for feature in judged.features] == [4, 8, 16, 32]


def test_published_size_and_names() -> None:
    with torch.device("meta"):
        discriminator = Patch2D()
    assert sum(weight.numel() for weight in discriminator.parameters()) == GOLDEN["parameters"]
    convs = [name for name, child in discriminator.named_modules() if isinstance(child, nn.Conv2d)]
    assert convs == ["main.0", "main.2", "main.5", "main.8", "main.11"]


@pytest.mark.parametrize("num_layers", [1, 2, 3, 4, 5])
def test_smallest_frame_gets_one_score(num_layers: int) -> None:
    discriminator = Patch2D(base_channels=1, num_layers=num_layers)
    _, H, W = discriminator.min_size
    x_BCHW = torch.randn(1, 3, H, W)
    assert discriminator(x_BCHW).logits[0].shape == (1, 1, 1, 1)
    widths = [feature.shape[1] for feature in discriminator(x_BCHW).features]
    assert widths[-1] == min(1 << num_layers, 8)


def test_starts_from_pix2pix_weights() -> None:
    torch.manual_seed(0)
    discriminator = Patch2D(base_channels=16)
    for layer in discriminator.main:
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 1000:
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.weight.mean().item() == pytest.approx(1, abs=0.02)
