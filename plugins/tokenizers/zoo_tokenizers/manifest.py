"""What this plugin offers. Imports no torch, so that listing parts stays quick."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from zoo.hookspecs import hookimpl
from zoo.parts import PartSpec

_TAMING = "https://arxiv.org/abs/2012.09841"
_TATS = "https://arxiv.org/abs/2204.03638"
_COSMOS = "https://arxiv.org/abs/2501.03575"
_COSMOS_EXAMPLE = {
    "base_channels": 8,
    "channel_multipliers": [1, 2, 2],
    "num_residual_blocks": 1,
    "latent_dim": 6,
    "stride": [4, 4, 4],
    "patch_size": 2,
}
_COSMOS_IMAGE_EXAMPLE = {
    "base_channels": 32,
    "channel_multipliers": [1, 2],
    "num_residual_blocks": 1,
    "latent_dim": 6,
    "stride": [1, 4, 4],
    "patch_size": 2,
}


@hookimpl
def zoo_parts(api_version: int) -> Iterable[PartSpec]:
    """Offer the parts of this plugin."""
    return [
        PartSpec(
            "encoder",
            "taming",
            "zoo_tokenizers.taming:TamingEncoder",
            "VQGAN of taming-transformers, frame by frame: 2D residual blocks, attention at the coarsest.",
            example={"base_channels": 32, "channel_multipliers": [1, 2], "attention_levels": [1]},
            paper=_TAMING,
            license="Apache-2.0",
        ),
        PartSpec(
            "decoder",
            "taming",
            "zoo_tokenizers.taming:TamingDecoder",
            "VQGAN of taming-transformers, frame by frame: attention, then 2D residual blocks that double.",
            example={"base_channels": 32, "channel_multipliers": [1, 2], "attention_levels": [1]},
            paper=_TAMING,
            license="Apache-2.0",
        ),
        PartSpec(
            "encoder",
            "tats",
            "zoo_tokenizers.tats:TATSEncoder",
            "TATS, time-agnostic: strided 3D convolutions and residual blocks that repeat the edges.",
            example={"base_channels": 8, "stride": [2, 4, 4]},
            paper=_TATS,
            license="Apache-2.0",
        ),
        PartSpec(
            "decoder",
            "tats",
            "zoo_tokenizers.tats:TATSDecoder",
            "TATS, time-agnostic: transposed 3D convolutions and residual blocks that repeat the edges.",
            example={"base_channels": 8, "stride": [2, 4, 4]},
            paper=_TATS,
            license="Apache-2.0",
        ),
        PartSpec(
            "encoder",
            "cosmos",
            "zoo_tokenizers.cosmos:CosmosEncoder",
            "Cosmos: Haar wavelet patches, causal factorised convolutions and attention.",
            example=_COSMOS_EXAMPLE,
            paper=_COSMOS,
            license="Apache-2.0",
        ),
        PartSpec(
            "decoder",
            "cosmos",
            "zoo_tokenizers.cosmos:CosmosDecoder",
            "Cosmos: causal factorised convolutions and attention, then wavelet patches put together.",
            example=_COSMOS_EXAMPLE,
            paper=_COSMOS,
            license="Apache-2.0",
        ),
        PartSpec(
            "encoder",
            "cosmos-image",
            "zoo_tokenizers.cosmos_image:CosmosImageEncoder",
            "Cosmos for images, frame by frame: Haar wavelet patches, 2D residual blocks.",
            example=_COSMOS_IMAGE_EXAMPLE,
            paper=_COSMOS,
            license="Apache-2.0",
        ),
        PartSpec(
            "decoder",
            "cosmos-image",
            "zoo_tokenizers.cosmos_image:CosmosImageDecoder",
            "Cosmos for images, frame by frame: 2D residual blocks, then wavelet patches put together.",
            example=_COSMOS_IMAGE_EXAMPLE,
            paper=_COSMOS,
            license="Apache-2.0",
        ),
    ]


@hookimpl
def zoo_recipes() -> Iterable[Path]:
    """Offer the recipes that use them."""
    here = Path(__file__).parent
    return [here / "recipes.yaml", here / "recipes_cosmos.yaml"]
