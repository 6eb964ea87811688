"""The zoo's own causal tokenizer: made for speed on any processor and for streams."""

from zoo.parts import PartSpec

_EXAMPLE = {
    "widths": [16, 32],
    "num_blocks": [1, 1],
    "latent_dim": 5,
    "stride": [4, 4, 4],
    "patch_size": [2, 2, 2],
}

PARTS = [
    PartSpec(
        "encoder",
        "zoo-causal",
        "zoo_tokenizers.zoo_causal.model:ZooCausalEncoder",
        "The zoo's own: pixel patches, causal factorised convolutions, shortcuts past every change of size.",
        example=_EXAMPLE,
        license="Apache-2.0",
    ),
    PartSpec(
        "decoder",
        "zoo-causal",
        "zoo_tokenizers.zoo_causal.model:ZooCausalDecoder",
        "The zoo's own: causal factorised convolutions, shortcuts past every change of size, pixel patches.",
        example=_EXAMPLE,
        license="Apache-2.0",
    ),
]
