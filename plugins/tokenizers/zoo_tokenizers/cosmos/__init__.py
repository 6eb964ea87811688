"""The Cosmos tokenizers for video and images (https://arxiv.org/abs/2501.03575)."""

from zoo.parts import PartSpec

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

PARTS = [
    PartSpec(
        "encoder",
        "cosmos",
        "zoo_tokenizers.cosmos.model:CosmosEncoder",
        "Cosmos: Haar wavelet patches, causal factorised convolutions and attention.",
        example=_COSMOS_EXAMPLE,
        paper=_COSMOS,
        license="Apache-2.0",
    ),
    PartSpec(
        "decoder",
        "cosmos",
        "zoo_tokenizers.cosmos.model:CosmosDecoder",
        "Cosmos: causal factorised convolutions and attention, then wavelet patches put together.",
        example=_COSMOS_EXAMPLE,
        paper=_COSMOS,
        license="Apache-2.0",
    ),
    PartSpec(
        "encoder",
        "cosmos-image",
        "zoo_tokenizers.cosmos.image:CosmosImageEncoder",
        "Cosmos for images, frame by frame: Haar wavelet patches, 2D residual blocks.",
        example=_COSMOS_IMAGE_EXAMPLE,
        paper=_COSMOS,
        license="Apache-2.0",
    ),
    PartSpec(
        "decoder",
        "cosmos-image",
        "zoo_tokenizers.cosmos.image:CosmosImageDecoder",
        "Cosmos for images, frame by frame: 2D residual blocks, then wavelet patches put together.",
        example=_COSMOS_IMAGE_EXAMPLE,
        paper=_COSMOS,
        license="Apache-2.0",
    ),
]
