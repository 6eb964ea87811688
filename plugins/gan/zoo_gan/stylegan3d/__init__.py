"""The residual 3D StyleGAN discriminator of MAGVIT (https://arxiv.org/abs/2212.05199). Imports no torch."""

from __future__ import annotations

from zoo.parts import PartSpec

PARTS = [
    PartSpec(
        "discriminator",
        "stylegan3d",
        "zoo_gan.stylegan3d.discriminator:StyleGAN3DDiscriminator",
        "MAGVIT's residual 3D discriminator: StyleGAN's with average pooling in time too, one score a clip.",
        example={
            "num_frames": 5,
            "height": 18,
            "width": 24,
            "base_channels": 4,
            "channel_multipliers": [2, 2, 3],
        },
        paper="https://arxiv.org/abs/2212.05199",
        license="Apache-2.0",
    ),
]
