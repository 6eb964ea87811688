"""DIGAN (https://arxiv.org/abs/2202.10571): clips as functions of place and time. Imports no torch."""

from __future__ import annotations

from zoo.converters import Converter
from zoo.parts import PartSpec

DIGAN = "https://arxiv.org/abs/2202.10571"

PARTS = [
    PartSpec(
        "generator",
        "digan",
        "zoo_gan.digan.generator:DIGANGenerator",
        "DIGAN: each pixel is made from its coordinates and its time; any moment, rate, length and size.",
        example={
            "image_size": 16,
            "grid_size": 8,
            "channel_base": 128,
            "channel_max": 8,
            "content_dim": 6,
            "motion_dim": 5,
            "w_dim": 7,
            "num_frequencies": 4,
            "rank": 2,
            "extra_layer_sizes": [16],
        },
        paper=DIGAN,
        license="Apache-2.0",
    ),
    PartSpec(
        "discriminator",
        "digan",
        "zoo_gan.digan.discriminator:DIGANDiscriminator",
        "DIGAN's two discriminators: of each frame, and of two frames with the time between them.",
        example={"image_size": 16, "channel_base": 128, "channel_max": 8},
        paper=DIGAN,
        license="Apache-2.0",
    ),
]

CONVERTERS = [
    Converter(
        "digan",
        "zoo_gan.digan.weights:map_digan_state_dict",
        recipes=("gan-video-digan*",),
        summary="DIGANs of the authors' code: state dicts of G_ema and D of a network snapshot.",
        source="https://github.com/sihyun-yu/digan",
    )
]
