"""What this plugin offers; imports no torch, so that `zoo list` stays fast."""

from __future__ import annotations

from pathlib import Path

from zoo.hookspecs import hookimpl
from zoo.parts import PartSpec


@hookimpl
def zoo_parts(api_version: int) -> list[PartSpec]:
    """Offer the quantizer."""
    return [
        PartSpec(
            "quantizer",
            "product-vq",
            "zoo_example.product_vq:ProductVQ",
            "Product quantization: channels in groups, a codebook each, learned by gradient.",
            example={"latent_dim": 6, "num_groups": 2, "codebook_size": 8},
            paper="https://arxiv.org/abs/1803.03382",
            license="Apache-2.0",
        )
    ]


@hookimpl
def zoo_recipes() -> list[Path]:
    """Offer a recipe that uses it."""
    return [Path(__file__).parent / "recipes.yaml"]
