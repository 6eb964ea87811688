"""Inference in bfloat16, over every autoencoder small enough to try.

Shapes: B batch, C channels, T H W frames and pixels.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import zoo
from zoo.assemblies.autoencoder import Autoencoder
from zoo.building import resolve_recipe
from zoo.discovery import catalogue
from zoo.errors import WeightsError, ZooError
from zoo.precision import lower_precision

TINY = sorted(
    name
    for name in catalogue().recipes
    if name.endswith("-tiny") and resolve_recipe(name).recipe.assembly == "autoencoder"
)


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_is_near_float32(name: str) -> None:
    full = zoo.build(name, seed=0)
    assert isinstance(full, Autoencoder)
    low = copy.deepcopy(full)
    lower_precision(low, "bfloat16")
    x_BCTHW = torch.rand(1, 3, 9, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        tokens = full.encode(x_BCTHW)
        low_tokens = low.encode(x_BCTHW)
        found, wanted = low.decode(tokens), full.decode(tokens)
    assert low_tokens.z_BDthw is not None
    assert low_tokens.z_BDthw.dtype == found.dtype == torch.float32
    assert {p.dtype for p in low.encoder.parameters()} == {torch.bfloat16}
    if tokens.indices_Bqthw is not None:
        assert low_tokens.indices_Bqthw is not None
        assert (tokens.indices_Bqthw == low_tokens.indices_Bqthw).float().mean() > 0.5
    noise, peak = (found - wanted).square().mean(), wanted.abs().max()
    psnr = 10 * torch.log10(4 * peak.square() / noise)
    assert 30 < psnr < 100


def test_reconstruction_in_bfloat16_takes_and_gives_float32() -> None:
    model = zoo.build(TINY[0], seed=0, dtype=torch.bfloat16)
    assert isinstance(model, Autoencoder)
    with torch.no_grad():
        y_BCTHW = model.reconstruct(torch.zeros(1, 3, 9, 32, 32))
    assert y_BCTHW.dtype == torch.float32
    assert y_BCTHW.isfinite().all()


def test_a_lowered_model_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is in bfloat16"):
        zoo.save(zoo.build(TINY[0], dtype="bfloat16"), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_other_precisions_and_models_are_refused() -> None:
    with pytest.raises(ZooError, match="float32, bfloat16"):
        zoo.build(TINY[0], dtype="int8")
    with pytest.raises(ZooError, match="autoencoders"):
        zoo.build("gan-video-tiny", dtype="bfloat16")
