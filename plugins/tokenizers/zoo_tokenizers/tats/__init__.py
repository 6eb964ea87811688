"""The time-agnostic VQGAN of TATS (https://arxiv.org/abs/2204.03638)."""

from zoo.converters import Converter
from zoo.parts import PartSpec

_TATS = "https://arxiv.org/abs/2204.03638"

PARTS = [
    PartSpec(
        "encoder",
        "tats",
        "zoo_tokenizers.tats.model:TATSEncoder",
        "TATS, time-agnostic: strided 3D convolutions and residual blocks that repeat the edges.",
        example={"base_channels": 8, "stride": [2, 4, 4]},
        paper=_TATS,
        license="Apache-2.0",
    ),
    PartSpec(
        "decoder",
        "tats",
        "zoo_tokenizers.tats.model:TATSDecoder",
        "TATS, time-agnostic: transposed 3D convolutions and residual blocks that repeat the edges.",
        example={"base_channels": 8, "stride": [2, 4, 4]},
        paper=_TATS,
        license="Apache-2.0",
    ),
]

CONVERTERS = [
    Converter(
        "tats",
        "zoo_tokenizers.tats.weights:map_tats_state_dict",
        recipes=("tats-video-*",),
        summary="VQGANs of TATS: vqgan_*.ckpt.",
        source="https://github.com/SongweiGe/TATS#datasets-and-trained-models",
    ),
]
