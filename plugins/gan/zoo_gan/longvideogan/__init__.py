"""LongVideoGAN's low-resolution pair (https://arxiv.org/abs/2206.03429). Imports no torch."""

from __future__ import annotations

from zoo.converters import Converter
from zoo.parts import PartSpec

LONGVIDEOGAN = "https://arxiv.org/abs/2206.03429"

PARTS = [
    PartSpec(
        "generator",
        "longvideogan",
        "zoo_gan.longvideogan.generator:LongVideoGANGenerator",
        "LongVideoGAN's low-resolution network: noise blurred over thousands of frames; any stretch alone.",
        example={
            "height": 18,
            "width": 32,
            "base_channels": 4,
            "latent_dim": 12,
            "noise_channels": 2,
            "blur_widths": 4,
            "shortest_blur": 20,
            "longest_blur": 80,
        },
        paper=LONGVIDEOGAN,
        license="Apache-2.0",
    ),
    PartSpec(
        "discriminator",
        "longvideogan",
        "zoo_gan.longvideogan.discriminator:LongVideoGANDiscriminator",
        "LongVideoGAN's 3D discriminator of whole low-resolution clips, five frames in each kernel.",
        example={"num_frames": 16, "height": 18, "width": 32, "base_channels": 2, "head_channels": 8},
        paper=LONGVIDEOGAN,
        license="Apache-2.0",
    ),
]

CONVERTERS = [
    Converter(
        "longvideogan",
        "zoo_gan.longvideogan.weights:map_longvideogan_state_dict",
        recipes=("gan-video-longvideogan*",),
        summary="LongVideoGAN's low-resolution network: state dicts of generator and discriminator.",
        source="https://github.com/NVlabs/long-video-gan",
        arguments={
            "height": "generator.height",
            "width": "generator.width",
            "blur_widths": "generator.blur_widths",
            "longest_blur": "generator.longest_blur",
        },
    ),
]
