"""What this plugin offers; imports neither torch nor timm."""

from __future__ import annotations

from zoo.hookspecs import hookimpl
from zoo.parts import PartSpec


@hookimpl
def zoo_parts(api_version: int) -> list[PartSpec]:
    """Offer the encoder and the discriminators."""
    return [
        PartSpec(
            "encoder",
            "timm",
            "zoo_timm.encoder:TimmEncoder",
            "Any timm backbone frame by frame, then 3D convolutions that stride in time.",
            example={"backbone": "test_resnet", "stage": 1, "temporal_stride": 2, "latent_dim": 8},
            license="Apache-2.0",
        ),
        PartSpec(
            "discriminator",
            "timm-features",
            "zoo_timm.discriminator:TimmFeatures",
            "Patch logits on the features of a timm backbone, one small head a stage; judges frames.",
            example={"backbone": "test_efficientnet", "stages": [0, 1, 2], "width": 8},
            paper="https://arxiv.org/abs/2111.01007",
            license="Apache-2.0",
        ),
        PartSpec(
            "discriminator",
            "timm-projected",
            "zoo_timm.projected:ProjectedDiscriminator",
            "Projected GAN: heads on random mixtures of a frozen timm backbone's features; judges frames.",
            example={
                "backbone": "test_efficientnet",
                "stages": [0, 1, 2],
                "mixing_width": 4,
                "width": 16,
                "resize": 40,
                "num_classes": 3,
            },
            paper="https://arxiv.org/abs/2111.01007",
            license="Apache-2.0",
        ),
    ]
