"""The VidTok tokenizers, causal and not (https://arxiv.org/abs/2412.13061)."""

from zoo.converters import Converter
from zoo.parts import PartSpec

_VIDTOK = "https://arxiv.org/abs/2412.13061"
_EXAMPLE = {
    "base_channels": 8,
    "channel_multipliers": [1, 2, 2],
    "num_residual_blocks": 1,
    "latent_dim": 6,
    "stride": [4, 4, 4],
}

PARTS = [
    PartSpec(
        "encoder",
        "vidtok",
        "zoo_tokenizers.vidtok.model:VidTokEncoder",
        "VidTok: 2D convolutions in frames, 1D ones between, both mixed in the middle; causal.",
        example=_EXAMPLE,
        paper=_VIDTOK,
        license="MIT",
    ),
    PartSpec(
        "decoder",
        "vidtok",
        "zoo_tokenizers.vidtok.model:VidTokDecoder",
        "VidTok: the encoder's mirror; causal.",
        example=_EXAMPLE,
        paper=_VIDTOK,
        license="MIT",
    ),
    PartSpec(
        "decoder",
        "vidtok-smooth",
        "zoo_tokenizers.vidtok.model:VidTokSmoothDecoder",
        "VidTok 1.1: frames doubled by interpolation, which sees one latent frame ahead.",
        example=_EXAMPLE,
        paper=_VIDTOK,
        license="MIT",
    ),
    PartSpec(
        "encoder",
        "vidtok-noncausal",
        "zoo_tokenizers.vidtok.noncausal:VidTokNoncausalEncoder",
        "VidTok, not causal: every frame sees those around it.",
        example=_EXAMPLE,
        paper=_VIDTOK,
        license="MIT",
    ),
    PartSpec(
        "decoder",
        "vidtok-noncausal",
        "zoo_tokenizers.vidtok.noncausal:VidTokNoncausalDecoder",
        "VidTok, not causal: the encoder's mirror.",
        example=_EXAMPLE,
        paper=_VIDTOK,
        license="MIT",
    ),
]

CONVERTERS = [
    Converter(
        "vidtok",
        "zoo_tokenizers.vidtok.weights:map_vidtok_state_dict",
        recipes=("vidtok-video-*",),
        summary="VidTok 1.0 and 1.1, causal and not: the .ckpt files; take the recipe named like the file.",
        source="https://huggingface.co/microsoft/VidTok/tree/main/checkpoints",
    ),
]
