"""TAEHV, the tiny autoencoders for the latents of video generators (https://github.com/madebyollin/taehv)."""

from zoo.converters import Converter
from zoo.parts import PartSpec

_SOURCE = "https://github.com/madebyollin/taehv"
_MODEL = "zoo_tokenizers.taehv.model"
_EXAMPLE = {"latent_dim": 6, "stride": [4, 16, 16]}

PARTS = [
    PartSpec(
        "encoder",
        "taehv",
        f"{_MODEL}:TAEHVEncoder",
        "TAEHV: a small network of 2D convolutions that see the frame before.",
        example=_EXAMPLE | {"base_channels": 8, "alignment": "black"},
        paper=_SOURCE,
        license="MIT",
    ),
    PartSpec(
        "decoder",
        "taehv",
        f"{_MODEL}:TAEHVDecoder",
        "TAEHV: a small network of 2D convolutions that see the frame before; plain or wide blocks.",
        example=_EXAMPLE | {"widths": [16, 8, 8, 8]},
        paper=_SOURCE,
        license="MIT",
    ),
    PartSpec(
        "decoder",
        "taehv-super",
        f"{_MODEL}:TAEHVSuperDecoder",
        "TAEHV of higher quality: depthwise convolutions of 7x7 that see the frame before.",
        example=_EXAMPLE | {"widths": [16, 8, 8, 8]},
        paper=_SOURCE,
        license="MIT",
    ),
]

CONVERTERS = [
    Converter(
        "taehv",
        "zoo_tokenizers.taehv.weights:map_taehv_state_dict",
        recipes=("taehv-video-*",),
        summary="TAEHV: taehv.pth, taew2_1.pth and its siblings.",
        source="https://github.com/madebyollin/taehv",
    ),
]
