"""The 3D-VQ tokenizer of MAGVIT (https://arxiv.org/abs/2212.05199)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.converters import Converter
from zoo.parts import PartSpec

if TYPE_CHECKING:
    from zoo_tokenizers.magvit.inflation import inflate

__all__ = ["PARTS", "inflate"]

_PAPER = "https://arxiv.org/abs/2212.05199"
_EXAMPLE = {
    "base_channels": 8,
    "channel_multipliers": [1, 1, 2],
    "num_residual_blocks": 1,
    "latent_dim": 6,
    "temporal_stride": 2,
    "num_groups": 4,
}

PARTS = [
    PartSpec(
        "encoder",
        "magvit",
        "zoo_tokenizers.magvit.model:MAGVITEncoder",
        "MAGVIT 3D-VQ: residual 3D convolutions, average pooling; sees the whole clip.",
        example=_EXAMPLE,
        paper=_PAPER,
        license="Apache-2.0",
    ),
    PartSpec(
        "decoder",
        "magvit",
        "zoo_tokenizers.magvit.model:MAGVITDecoder",
        "MAGVIT 3D-VQ: residual 3D convolutions, pixels repeated and convolved; sees the whole clip.",
        example=_EXAMPLE,
        paper=_PAPER,
        license="Apache-2.0",
    ),
]


def __getattr__(name: str) -> Any:
    # Late, since the manifest imports this module and must not import torch.
    if name == "inflate":
        from zoo_tokenizers.magvit.inflation import inflate

        return inflate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


CONVERTERS = [
    Converter(
        "magvit",
        "zoo_tokenizers.magvit.weights:map_magvit_state_dict",
        recipes=("magvit-video-*",),
        summary="3D-VQs of MAGVIT, Flax parameters saved flat as safetensors.",
        source="https://github.com/google-research/magvit",
        arguments={
            "num_residual_blocks": "encoder.num_residual_blocks",
            "temporal_stride": "encoder.temporal_stride",
            "quantizer": "quantizer.use",
        },
    ),
]
