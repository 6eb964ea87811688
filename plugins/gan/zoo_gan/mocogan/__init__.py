"""MoCoGAN (https://arxiv.org/abs/1707.04993): its generator and its four discriminators. Imports no torch."""

from __future__ import annotations

from zoo.converters import Converter
from zoo.parts import PartSpec

MOCOGAN = "https://arxiv.org/abs/1707.04993"

PARTS = [
    PartSpec(
        "generator",
        "mocogan",
        "zoo_gan.mocogan.generator:MoCoGANGenerator",
        "MoCoGAN: one content code a clip, motion codes from a GRU, frames from a DCGAN; any length.",
        example={
            "image_size": 16,
            "base_channels": 4,
            "content_dim": 6,
            "motion_dim": 4,
            "num_categories": 3,
        },
        paper=MOCOGAN,
        license="Apache-2.0",
    ),
    PartSpec(
        "discriminator",
        "mocogan-image",
        "zoo_gan.mocogan.discriminators:ImageDiscriminator",
        "MoCoGAN's DCGAN image discriminator: one score for a whole frame.",
        example={"image_size": 16, "base_channels": 4},
        paper=MOCOGAN,
        license="Apache-2.0",
    ),
    PartSpec(
        "discriminator",
        "mocogan-patch-image",
        "zoo_gan.mocogan.discriminators:PatchImageDiscriminator",
        "MoCoGAN's patch image discriminator (the one it was trained with): a score for each patch.",
        example={"base_channels": 4},
        paper=MOCOGAN,
        license="Apache-2.0",
    ),
    PartSpec(
        "discriminator",
        "mocogan-video",
        "zoo_gan.mocogan.discriminators:VideoDiscriminator",
        "MoCoGAN's 3D video discriminator (the one it was trained with): one score for 16 frames.",
        example={"image_size": 16, "base_channels": 4, "num_categories": 3},
        paper=MOCOGAN,
        license="Apache-2.0",
    ),
    PartSpec(
        "discriminator",
        "mocogan-patch-video",
        "zoo_gan.mocogan.discriminators:PatchVideoDiscriminator",
        "MoCoGAN's patch video discriminator: a score for each patch of space and time.",
        example={"base_channels": 4},
        paper=MOCOGAN,
        license="Apache-2.0",
    ),
]

CONVERTERS = [
    Converter(
        "mocogan",
        "zoo_gan.mocogan.weights:map_mocogan_state_dict",
        recipes=("gan-video-base", "gan-video-tiny"),
        summary="MoCoGANs of the authors' training code: generator_*.pytorch, discriminators beside it.",
        source="https://github.com/sergeytulyakov/mocogan",
        arguments={
            "num_categories": "generator.num_categories",
            "discriminators": "discriminator.use",
            "named": "discriminator.num_categories",
        },
    )
]
