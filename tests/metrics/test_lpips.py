"""LPIPS against the figures its authors publish."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.errors import ZooError
from zoo.metrics import load_lpips

IMAGES = Path(__file__).parent / "lpips_images"


def image(name: str) -> torch.Tensor:
    with Image.open(IMAGES / f"{name}.png") as picture:
        x_HWC = torch.from_numpy(np.array(picture.convert("RGB")))
    return x_HWC.permute(2, 0, 1)[None].float() / 127.5 - 1


def test_published_distances_of_the_reference_images() -> None:
    lpips = load_lpips()
    reference, others = image("ex_ref"), torch.cat([image("ex_p0"), image("ex_p1")])
    found = lpips(reference.expand(2, -1, -1, -1), others)
    assert found.tolist() == pytest.approx([0.722, 0.138], abs=5e-4)
    # What the float16 copy of the weights gives, so that a change of arithmetic is seen.
    assert found.tolist() == pytest.approx([0.72186, 0.13756], abs=2e-5)
    torch.testing.assert_close(lpips(others, reference.expand(2, -1, -1, -1)), found, rtol=1e-5, atol=0)
    assert lpips(others, others).tolist() == [0.0, 0.0]


def test_gradients_reach_the_images_only_and_stay_finite_where_features_are_zero() -> None:
    lpips = load_lpips().train()
    x = torch.cat([image("ex_p0"), torch.full((1, 3, 64, 64), -1.0)]).requires_grad_()
    lpips(x, image("ex_ref").expand(2, -1, -1, -1)).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
    assert bool((x.grad.flatten(1).abs().sum(1) > 0).all())
    assert not lpips.training
    assert not any(parameter.requires_grad for parameter in lpips.parameters())


def test_loading_leaves_the_global_seed_alone_and_autocast_changes_nothing() -> None:
    before = torch.get_rng_state()
    lpips = load_lpips()
    assert torch.equal(torch.get_rng_state(), before)
    x, y = image("ex_ref"), image("ex_p1")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(lpips(x, y), lpips(x, y).float())
        under_autocast = lpips(x, y)
    assert torch.equal(under_autocast, lpips(x, y))


def test_sizes_and_channels() -> None:
    lpips = load_lpips()
    grey = image("ex_ref")[:, :1, :31, :31]
    assert (
        lpips(grey, grey.flip(-1)).item()
        == lpips(*(z.expand(-1, 3, -1, -1) for z in (grey, grey.flip(-1)))).item()
    )
    with pytest.raises(ZooError, match="at least 31x31"):
        lpips(grey[..., :30], grey[..., :30])
    with pytest.raises(ZooError, match="4 channels"):
        lpips(torch.zeros(1, 4, 64, 64), torch.zeros(1, 4, 64, 64))
