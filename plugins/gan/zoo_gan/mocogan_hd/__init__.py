"""MoCoGAN-HD (https://arxiv.org/abs/2104.15069): motion in the latent space of an image generator.

Imports no torch.
"""

from __future__ import annotations

from zoo.converters import Converter
from zoo.parts import PartSpec

MOCOGAN_HD = "https://arxiv.org/abs/2104.15069"

PARTS = [
    PartSpec(
        "generator",
        "mocogan-hd",
        "zoo_gan.mocogan_hd.generator:MoCoGANHDGenerator",
        "MoCoGAN-HD: an LSTM walks through the latents of a StyleGAN2 image generator; any length.",
        example={
            "image_size": 16,
            "channel_base": 64,
            "channel_max": 8,
            "style_dim": 12,
            "num_mapping_layers": 2,
            "hidden_dim": 10,
            "num_directions": 6,
            "num_samples": 200,
            "train_image_generator": True,
        },
        paper=MOCOGAN_HD,
        license="Apache-2.0",
    ),
    PartSpec(
        "discriminator",
        "mocogan-hd-video",
        "zoo_gan.mocogan_hd.discriminator:VideoDiscriminator",
        "MoCoGAN-HD's video discriminator: each frame beside the first, 3D patches at two scales.",
        example={"base_channels": 4},
        paper=MOCOGAN_HD,
        license="Apache-2.0",
    ),
    PartSpec(
        "discriminator",
        "mocogan-hd-pair",
        "zoo_gan.mocogan_hd.discriminator:PairDiscriminator",
        "MoCoGAN-HD's in-domain image discriminator: a frame beside the first, 2D patches at two scales.",
        example={"base_channels": 4},
        paper=MOCOGAN_HD,
        license="Apache-2.0",
    ),
    PartSpec(
        "discriminator",
        "mocogan-hd-image",
        "zoo_gan.mocogan_hd.image_discriminator:ImageDiscriminator",
        "BigGAN's image discriminator as in MoCoGAN-HD, with a projection for a contrastive loss.",
        example={"image_size": 32, "base_channels": 4, "projection_dim": 8},
        paper=MOCOGAN_HD,
        license="Apache-2.0",
    ),
    PartSpec(
        "discriminator",
        "mocogan-hd-cross-domain",
        "zoo_gan.mocogan_hd.image_discriminator:CrossDomainDiscriminator",
        "MoCoGAN-HD's cross-domain image discriminator: later frames of made clips against first ones.",
        example={"image_size": 32, "base_channels": 4, "projection_dim": 8},
        paper=MOCOGAN_HD,
        license="Apache-2.0",
    ),
]

CONVERTERS = [
    Converter(
        "mocogan-hd",
        "zoo_gan.mocogan_hd.weights:map_mocogan_hd_state_dict",
        recipes=("gan-video-mocogan-hd",),
        summary="MoCoGAN-HDs of the public code: image generator (g_ema) and motion net (modelR_*.pth); or "
        "an image generator alone, to train a motion net on.",
        source="https://github.com/snap-research/MoCoGAN-HD",
        arguments={
            "hidden_dim": "generator.hidden_dim",
            "num_directions": "generator.num_directions",
            "layer_noise": "generator.layer_noise",
        },
    )
]
