"""DVD-GAN (https://arxiv.org/abs/1907.06571): its generator and its two discriminators. Imports no torch."""

from __future__ import annotations

from zoo.converters import Converter
from zoo.parts import PartSpec

DVDGAN = "https://arxiv.org/abs/1907.06571"

PARTS = [
    PartSpec(
        "generator",
        "dvdgan",
        "zoo_gan.dvdgan.generator:DVDGANGenerator",
        "DVD-GAN: convolutional GRUs over feature maps and conditional residual blocks; any length.",
        example={
            "base_channels": 4,
            "channel_multipliers": [4, 4, 2],
            "noise_dim": 6,
            "num_classes": 11,
            "class_dim": 5,
        },
        paper=DVDGAN,
        license="Apache-2.0",
    ),
    PartSpec(
        "discriminator",
        "dvd-spatial",
        "zoo_gan.dvdgan.discriminators:SpatialDiscriminator",
        "DVD-GAN's spatial discriminator: scores 8 frames of a clip at full size, each by itself.",
        example={"base_channels": 4, "channel_multipliers": [1, 2, 4], "num_classes": 3},
        paper=DVDGAN,
        license="Apache-2.0",
    ),
    PartSpec(
        "discriminator",
        "dvd-temporal",
        "zoo_gan.dvdgan.discriminators:TemporalDiscriminator",
        "DVD-GAN's temporal discriminator: scores a whole clip at half the size, in 3D at first.",
        example={"base_channels": 4, "channel_multipliers": [1, 2, 4], "num_classes": 3},
        paper=DVDGAN,
        license="Apache-2.0",
    ),
    PartSpec(
        "discriminator",
        "dvd",
        "zoo_gan.dvdgan.discriminators:DualDiscriminator",
        "DVD-GAN's spatial and temporal discriminators as one part with two scores.",
        example={"base_channels": 4, "channel_multipliers": [1, 2, 4], "num_classes": 3},
        paper=DVDGAN,
        license="Apache-2.0",
    ),
]

CONVERTERS = [
    Converter(
        "dvdgan",
        "zoo_gan.dvdgan.weights:map_dvdgan_state_dict",
        recipes=("gan-video-dvdgan-port",),
        summary="Generators of the PyTorch port, *_G.pth; its discriminators beside it under ds. and dt.",
        source="https://github.com/Harrypotterrrr/DVD-GAN",
        arguments={"discriminators": "discriminator.use"},
    )
]
