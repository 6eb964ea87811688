"""StyleGAN-V (https://arxiv.org/abs/2112.14683): its generator and its discriminator. Imports no torch."""

from __future__ import annotations

from zoo.converters import Converter
from zoo.parts import PartSpec

STYLEGAN_V = "https://arxiv.org/abs/2112.14683"

PARTS = [
    PartSpec(
        "generator",
        "stylegan-v",
        "zoo_gan.stylegan_v.generator:StyleGANVGenerator",
        "StyleGAN-V: a StyleGAN2 whose input moves in continuous time; any length, any moment alone.",
        example={
            "image_size": 16,
            "channel_base": 128,
            "channel_max": 16,
            "content_dim": 12,
            "w_dim": 10,
            "motion_dim": 6,
            "motion_code_dim": 7,
            "motion_distance": 4,
            "num_frequencies": 5,
            "max_period": 64,
            "num_classes": 3,
        },
        paper=STYLEGAN_V,
        license="Apache-2.0",
    ),
    PartSpec(
        "discriminator",
        "stylegan-v",
        "zoo_gan.stylegan_v.discriminator:StyleGANVDiscriminator",
        "StyleGAN-V's discriminator: one score for three frames and the gaps between them.",
        example={
            "image_size": 16,
            "concat_size": 8,
            "channel_base": 128,
            "channel_max": 16,
            "gap_dim": 6,
            "max_frames": 64,
            "num_classes": 3,
        },
        paper=STYLEGAN_V,
        license="Apache-2.0",
    ),
]

CONVERTERS = [
    Converter(
        "stylegan-v",
        "zoo_gan.stylegan_v.weights:map_stylegan_v_state_dict",
        recipes=("gan-video-stylegan-v*",),
        summary="StyleGAN-Vs of the authors' training code: state dicts of G or G_ema, D beside it.",
        source="https://github.com/universome/stylegan-v",
    )
]
