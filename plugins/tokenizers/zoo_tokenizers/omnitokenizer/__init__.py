"""OmniTokenizer, one tokenizer for images and video (https://arxiv.org/abs/2406.09399)."""

from zoo.converters import Converter
from zoo.parts import PartSpec

_PAPER = "https://arxiv.org/abs/2406.09399"
_MODEL = "zoo_tokenizers.omnitokenizer.model"
_EXAMPLE = {
    "latent_dim": 16,
    "num_heads": 2,
    "head_dim": 8,
    "temporal_depth": 1,
    "window_size": 2,
    "stride": [2, 4, 4],
}
_ENCODER_EXAMPLE = _EXAMPLE | {"spatial_layers": "tw"}
_DECODER_EXAMPLE = _EXAMPLE | {"spatial_layers": "t"}

PARTS = [
    PartSpec(
        "encoder",
        "omnitokenizer",
        f"{_MODEL}:OmniTokenizerEncoder",
        "OmniTokenizer: patches, attention in frames and windows, then in time; as published, not causal.",
        example=_ENCODER_EXAMPLE,
        paper=_PAPER,
        license="Apache-2.0",
    ),
    PartSpec(
        "decoder",
        "omnitokenizer",
        f"{_MODEL}:OmniTokenizerDecoder",
        "OmniTokenizer: attention in time, then in frames, and patches; as published, not causal.",
        example=_DECODER_EXAMPLE,
        paper=_PAPER,
        license="Apache-2.0",
    ),
    PartSpec(
        "encoder",
        "omnitokenizer-causal",
        f"{_MODEL}:CausalOmniTokenizerEncoder",
        "OmniTokenizer with the convolution between frames made causal: it streams.",
        example=_ENCODER_EXAMPLE,
        paper=_PAPER,
        license="Apache-2.0",
    ),
    PartSpec(
        "decoder",
        "omnitokenizer-causal",
        f"{_MODEL}:CausalOmniTokenizerDecoder",
        "OmniTokenizer with the convolution between frames made causal: it streams.",
        example=_DECODER_EXAMPLE,
        paper=_PAPER,
        license="Apache-2.0",
    ),
    PartSpec(
        "quantizer",
        "vq-ema-unit",
        "zoo_tokenizers.omnitokenizer.quantizer:UnitEMACodebook",
        "Latents of length 1, the code by distance; codes are moving averages of them.",
        example={"codebook_size": 32, "latent_dim": 8},
        paper=_PAPER,
        license="Apache-2.0",
    ),
]

CONVERTERS = [
    Converter(
        "omnitokenizer",
        "zoo_tokenizers.omnitokenizer.weights:map_omnitokenizer_state_dict",
        recipes=("omnitokenizer-video-*",),
        summary="OmniTokenizers: imagenet_k600.ckpt and its siblings.",
        source="https://huggingface.co/Daniel0724/OmniTokenizer",
        arguments={"positions": "encoder.positions", "in_channels": "encoder.in_channels"},
    ),
]
