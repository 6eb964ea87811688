"""The Cosmos tokenizers for video and images (https://arxiv.org/abs/2501.03575)."""

from zoo.converters import Converter
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

_COSMOS_WEIGHTS = "https://huggingface.co/collections/nvidia/cosmos-tokenizer-672b93023add81b66a8ff8e6"

CONVERTERS = [
    Converter(
        "cosmos",
        "zoo_tokenizers.cosmos.weights:map_cosmos_state_dict",
        recipes=("cosmos-video-*",),
        summary="Cosmos tokenizers for video: autoencoder.jit, or encoder.jit and decoder.jit.",
        source=_COSMOS_WEIGHTS,
        arguments={"stride": "encoder.stride", "patch_size": "encoder.patch_size"},
    ),
    Converter(
        "cosmos-image",
        "zoo_tokenizers.cosmos.weights:map_cosmos_image_state_dict",
        recipes=("cosmos-image-*",),
        summary="Cosmos tokenizers for images: autoencoder.jit, or encoder.jit and decoder.jit.",
        source=_COSMOS_WEIGHTS,
        arguments={"stride": "encoder.stride", "patch_size": "encoder.patch_size"},
    ),
]
