"""The manifest: light to import, and recipes that build what they say."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import zoo
from zoo.assemblies import Autoencoder
from zoo.discovery import catalogue

RECIPES = sorted(name for name, source in catalogue().recipes.items() if source.plugin == "tokenizers")


def test_manifest_imports_no_torch() -> None:
    code = "import sys, zoo_tokenizers.manifest as m; m.zoo_parts(1); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_builds_with_its_stated_number_of_parameters(name: str) -> None:
    model = zoo.build(name, device="meta")
    assert model.num_parameters() == model.recipe.parameters


@pytest.mark.parametrize("name", [name for name in RECIPES if name.endswith("-tiny")])
def test_tiny_recipe_decodes_its_tokens_at_any_size(name: str) -> None:
    """From indices alone where there are any."""
    model = zoo.build(name, seed=0)
    assert isinstance(model, Autoencoder)
    x_BCTHW = torch.rand(1, 3, 3, 21, 18, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        tokens = model.encode(x_BCTHW)
        again = model.decode(tokens)
        assert again.shape == x_BCTHW.shape
        if not model.quantizer.continuous:
            assert torch.equal(model.decode(tokens._replace(z_BDthw=None)), again)
