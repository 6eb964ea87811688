"""R3GAN (https://arxiv.org/abs/2501.05441) with time of its own. Imports no torch."""

from __future__ import annotations

from zoo.converters import Converter
from zoo.parts import PartSpec

R3GAN = "https://arxiv.org/abs/2501.05441"

PARTS = [
    PartSpec(
        "generator",
        "r3gan-video",
        "zoo_gan.r3gan.generator:R3GANVideoGenerator",
        "R3GAN's generator with time of its own (the published one makes images); clips of any length.",
        example={
            "widths": [12, 8, 6],
            "cardinalities": [4, 2, 2],
            "num_blocks": [1, 2, 1],
            "time_scales": [1, 2],
            "content_dim": 6,
            "motion_dim": 4,
            "num_classes": 5,
            "embedding_dim": 4,
        },
        paper=R3GAN,
        license="Apache-2.0",
    ),
    PartSpec(
        "discriminator",
        "r3gan-video",
        "zoo_gan.r3gan.discriminator:R3GANVideoDiscriminator",
        "R3GAN's discriminator with time of its own (the published one judges images); one score a clip.",
        example={
            "widths": [6, 8, 12],
            "cardinalities": [2, 2, 4],
            "num_blocks": [1, 2, 1],
            "time_scales": [2, 1],
            "num_classes": 3,
            "embedding_dim": 8,
        },
        paper=R3GAN,
        license="Apache-2.0",
    ),
]

CONVERTERS = [
    Converter(
        "r3gan",
        "zoo_gan.r3gan.weights:map_r3gan_state_dict",
        recipes=("gan-video-r3gan*",),
        summary="R3GANs for images as a start for video; state dicts of G_ema and D, saved by torch.save.",
        source="https://github.com/brownvc/R3GAN",
        arguments={"motion_dim": "generator.motion_dim"},
    )
]
