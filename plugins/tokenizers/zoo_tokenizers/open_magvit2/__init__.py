"""The video tokenizer of Open-MAGVIT2 (https://arxiv.org/abs/2409.04410), as published and truly causal."""

from zoo.converters import Converter
from zoo.parts import PartSpec

_PAPER = "https://arxiv.org/abs/2409.04410"
_EXAMPLE = {
    "base_channels": 8,
    "channel_multipliers": [1, 1, 1],
    "num_residual_blocks": 1,
    "latent_dim": 6,
    "temporal_stride": 2,
    "num_groups": 4,
}

PARTS = [
    PartSpec(
        "encoder",
        "open-magvit2",
        "zoo_tokenizers.open_magvit2.model:OpenMagvit2Encoder",
        "Open-MAGVIT2 as published: causal convolutions, but norms that see the whole clip.",
        example=_EXAMPLE,
        paper=_PAPER,
        license="Apache-2.0",
    ),
    PartSpec(
        "decoder",
        "open-magvit2",
        "zoo_tokenizers.open_magvit2.model:OpenMagvit2Decoder",
        "Open-MAGVIT2 as published: depth to space, norms that follow the statistics of the whole latent.",
        example=_EXAMPLE,
        paper=_PAPER,
        license="Apache-2.0",
    ),
    PartSpec(
        "encoder",
        "open-magvit2-causal",
        "zoo_tokenizers.open_magvit2.model:OpenMagvit2CausalEncoder",
        "Open-MAGVIT2 with the same weights and norms per frame: truly causal, it streams.",
        example=_EXAMPLE,
        paper=_PAPER,
        license="Apache-2.0",
    ),
    PartSpec(
        "decoder",
        "open-magvit2-causal",
        "zoo_tokenizers.open_magvit2.model:OpenMagvit2CausalDecoder",
        "Open-MAGVIT2 with the same weights and norms and statistics per frame: truly causal, it streams.",
        example=_EXAMPLE,
        paper=_PAPER,
        license="Apache-2.0",
    ),
]

CONVERTERS = [
    Converter(
        "open-magvit2",
        "zoo_tokenizers.open_magvit2.weights:map_open_magvit2_state_dict",
        recipes=("open-magvit2-*",),
        summary="Open-MAGVIT2 for video: video_128_262144.ckpt.",
        source="https://huggingface.co/TencentARC/Open-MAGVIT2-Tokenizer-262144-Video",
    ),
]
