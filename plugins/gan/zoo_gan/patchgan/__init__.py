"""PatchGAN discriminators (https://arxiv.org/abs/1611.07004), for tokenizers and GANs. Imports no torch."""

from __future__ import annotations

from zoo.parts import PartSpec

PATCHGAN = "https://arxiv.org/abs/1611.07004"

PARTS = [
    PartSpec(
        "discriminator",
        "patch2d",
        "zoo_gan.patchgan.patch2d:Patch2D",
        "PatchGAN of pix2pix as in taming-transformers, for single frames: any size, features for matching.",
        example={"base_channels": 4, "num_layers": 2},
        paper=PATCHGAN,
        license="Apache-2.0",
    ),
    PartSpec(
        "discriminator",
        "patch3d",
        "zoo_gan.patchgan.patch3d:Patch3D",
        "3D PatchGAN as in TATS, for tokenizers and GANs: any size, features for feature matching.",
        example={"base_channels": 4, "num_layers": 2},
        paper=PATCHGAN,
        license="Apache-2.0",
    ),
]
