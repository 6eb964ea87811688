"""The VQGAN of taming-transformers and latent diffusion, frame by frame (arXiv 2012.09841)."""

from zoo.converters import Converter
from zoo.parts import PartSpec

_TAMING = "https://arxiv.org/abs/2012.09841"

PARTS = [
    PartSpec(
        "encoder",
        "taming",
        "zoo_tokenizers.taming.model:TamingEncoder",
        "VQGAN of taming-transformers, frame by frame: 2D residual blocks, attention at the coarsest.",
        example={"base_channels": 32, "channel_multipliers": [1, 2], "attention_levels": [1]},
        paper=_TAMING,
        license="Apache-2.0",
    ),
    PartSpec(
        "decoder",
        "taming",
        "zoo_tokenizers.taming.model:TamingDecoder",
        "VQGAN of taming-transformers, frame by frame: attention, then 2D residual blocks that double.",
        example={"base_channels": 32, "channel_multipliers": [1, 2], "attention_levels": [1]},
        paper=_TAMING,
        license="Apache-2.0",
    ),
]

CONVERTERS = [
    Converter(
        "taming",
        "zoo_tokenizers.taming.weights:map_taming_state_dict",
        recipes=("vqgan-image-*",),
        summary="VQGANs of taming-transformers and latent diffusion: last.ckpt, model.ckpt.",
        source="https://github.com/CompVis/taming-transformers#overview-of-pretrained-models",
        arguments={"quantizer": "quantizer.use"},
    ),
]
