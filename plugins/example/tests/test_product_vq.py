"""The part keeps the contract of zoo, and is what its paper says."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import zoo
import zoo_example
from zoo.parts import Part
from zoo_example.product_vq import ProductVQ


def test_part(zoo_part: Part, zoo_check: Callable[[Part], None]) -> None:
    """One test per check of the contract, for every part of this plugin."""
    zoo_check(zoo_part)


def test_every_group_takes_its_own_nearest_code() -> None:
    torch.manual_seed(0)
    quantizer = ProductVQ(latent_dim=6, num_groups=3, codebook_size=5).eval()
    z_BDthw = torch.randn(2, 6, 2, 3, 4)
    quantized = quantizer(z_BDthw)
    assert quantized.indices_Bqthw is not None
    for group in range(3):
        channels = slice(2 * group, 2 * group + 2)
        z_Nd = z_BDthw[:, channels].permute(0, 2, 3, 4, 1).reshape(-1, 2)
        nearest_N = torch.cdist(z_Nd, quantizer.codes_qKd[group]).argmin(-1)
        assert torch.equal(quantized.indices_Bqthw[:, group].flatten(), nearest_N)


def test_the_loss_is_that_of_the_vq_vae_and_moves_codes_and_latent_as_weighed() -> None:
    torch.manual_seed(0)
    quantizer = ProductVQ(latent_dim=4, num_groups=2, codebook_size=3, commitment=0.5)
    z_BDthw = torch.randn(1, 4, 1, 2, 2, requires_grad=True)
    quantized = quantizer(z_BDthw)
    gap = (quantized.z_BDthw - z_BDthw).detach()
    torch.testing.assert_close(quantized.loss.detach(), 1.5 * gap.square().mean())
    quantized.loss.backward()
    assert z_BDthw.grad is not None
    torch.testing.assert_close(z_BDthw.grad, -0.5 * 2 * gap / gap.numel())


def test_training_brings_the_codes_to_the_clusters_of_the_latent() -> None:
    torch.manual_seed(0)
    centres_KD = torch.tensor([[2.0, -1.0], [-2.0, 1.0], [2.0, 1.0], [-2.0, -1.0]])
    quantizer = ProductVQ(latent_dim=2, num_groups=2, codebook_size=2)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.05)
    for _ in range(200):
        z_ND = centres_KD[torch.randint(4, (64,))] + 0.05 * torch.randn(64, 2)
        loss = quantizer(z_ND.reshape(64, 2, 1, 1, 1)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    quantized = quantizer.eval()(centres_KD.reshape(4, 2, 1, 1, 1))
    torch.testing.assert_close(quantized.z_BDthw.reshape(4, 2), centres_KD, atol=0.1, rtol=0)
    assert quantized.stats["perplexity"].item() == pytest.approx(2)


@pytest.mark.parametrize("options", [{"latent_dim": 6, "num_groups": 4}, {"codebook_size": 0}])
def test_an_option_outside_its_range_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(zoo.ZooError, match="num_groups divides latent_dim"):
        ProductVQ(**options)


def test_the_recipe_of_this_plugin_builds_a_model_with_this_part() -> None:
    model = zoo.build("vqvae-product-video-tiny", seed=0).eval()
    assert isinstance(model.quantizer, ProductVQ)
    x_BCTHW = torch.rand(1, 3, 5, 33, 40) * 2 - 1
    with torch.no_grad():
        tokens = model.encode(x_BCTHW)
        again = model.decode(tokens)
    assert tokens.indices_Bqthw.shape[1] == 4
    assert again.shape == x_BCTHW.shape


def test_the_readme_shows_the_recipe_and_the_options_as_they_are() -> None:
    folder = Path(__file__).parents[1]
    readme = (folder / "README.md").read_text()
    recipe = Path(zoo_example.__file__).with_name("recipes.yaml").read_text()
    assert textwrap.indent(recipe, "    ") in readme
    for option in inspect.signature(ProductVQ).parameters.values():
        assert f"| `{option.name}` | {option.default} |" in readme
