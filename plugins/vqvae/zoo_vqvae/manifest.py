"""What this plugin offers. Imports no torch, so that listing parts stays quick."""

from __future__ import annotations

from collections.abc import Iterable

from zoo.converters import Converter
from zoo.hookspecs import hookimpl
from zoo.parts import PartSpec

_VIDEOGPT = "https://arxiv.org/abs/2104.10157"


@hookimpl
def zoo_converters(api_version: int) -> Iterable[Converter]:
    """Offer the converter of VideoGPT's VQ-VAE."""
    return [
        Converter(
            "videogpt",
            "zoo_vqvae.videogpt_weights:map_videogpt_state_dict",
            recipes=("vqvae-video-*",),
            summary="VQ-VAEs of VideoGPT: the Lightning checkpoints that its load_vqvae downloads.",
            source="https://github.com/wilson1yan/VideoGPT#using-pretrained-vq-vaes",
        )
    ]


@hookimpl
def zoo_parts(api_version: int) -> Iterable[PartSpec]:
    """Offer the parts of this plugin."""
    return [
        PartSpec(
            "encoder",
            "videogpt",
            "zoo_vqvae.videogpt:VideoGPTEncoder",
            "VideoGPT: strided 3D convolutions, then residual blocks with axial attention.",
            example={"hidden_dim": 16, "num_residual_blocks": 1, "stride": [2, 4, 4]},
            paper=_VIDEOGPT,
            license="Apache-2.0",
        ),
        PartSpec(
            "decoder",
            "videogpt",
            "zoo_vqvae.videogpt:VideoGPTDecoder",
            "VideoGPT: residual blocks with axial attention, then transposed 3D convolutions.",
            example={"hidden_dim": 16, "num_residual_blocks": 1, "stride": [2, 4, 4]},
            paper=_VIDEOGPT,
            license="Apache-2.0",
        ),
        PartSpec(
            "quantizer",
            "vq-ema",
            "zoo_vqvae.vq_ema:EMACodebook",
            "Codebook learned by moving averages, initialised from data, dead codes restarted.",
            example={"codebook_size": 32, "latent_dim": 8},
            paper=_VIDEOGPT,
            license="Apache-2.0",
        ),
        PartSpec(
            "quantizer",
            "fsq",
            "zoo_vqvae.fsq:FSQ",
            "Finite scalar quantization: each channel rounded to a few levels, no codebook to learn.",
            example={"levels": [5, 4, 3]},
            paper="https://arxiv.org/abs/2309.15505",
            license="Apache-2.0",
        ),
    ]
