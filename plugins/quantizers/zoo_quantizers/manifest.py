"""What this plugin offers. Imports no torch, so that listing parts stays quick."""

from __future__ import annotations

from collections.abc import Iterable

from zoo.hookspecs import hookimpl
from zoo.parts import PartSpec


@hookimpl
def zoo_parts(api_version: int) -> Iterable[PartSpec]:
    """Offer the parts of this plugin."""
    return [
        PartSpec(
            "quantizer",
            "vq",
            "zoo_quantizers.vq:VQ",
            "Codebook learned by gradients: straight-through, codebook and commitment loss.",
            example={"codebook_size": 32, "latent_dim": 8},
            paper="https://arxiv.org/abs/1711.00937",
            license="Apache-2.0",
        ),
        PartSpec(
            "quantizer",
            "vq-rotation",
            "zoo_quantizers.vq_rotation:RotationVQ",
            "Codebook learned by gradients; the latent's gradient is rotated and scaled from code to latent.",
            example={"codebook_size": 32, "latent_dim": 8},
            paper="https://arxiv.org/abs/2410.06424",
            license="Apache-2.0",
        ),
        PartSpec(
            "quantizer",
            "vq-cosine",
            "zoo_quantizers.vq_cosine:CosineVQ",
            "Latents and codes of length 1, the code by cosine similarity; codes by moving averages.",
            example={"codebook_size": 32, "latent_dim": 8},
            paper="https://arxiv.org/abs/2110.04627",
            license="Apache-2.0",
        ),
        PartSpec(
            "quantizer",
            "gumbel",
            "zoo_quantizers.gumbel:GumbelVQ",
            "Codes drawn by Gumbel-softmax from logits, with a KL to the uniform distribution.",
            example={"codebook_size": 32, "latent_dim": 8},
            paper="https://arxiv.org/abs/2102.12092",
            license="Apache-2.0",
        ),
        PartSpec(
            "quantizer",
            "simvq",
            "zoo_quantizers.simvq:SimVQ",
            "Frozen random codes behind one learned linear layer, so that all codes move together.",
            example={"codebook_size": 32, "latent_dim": 8},
            paper="https://arxiv.org/abs/2411.02038",
            license="Apache-2.0",
        ),
        PartSpec(
            "quantizer",
            "ibq",
            "zoo_quantizers.ibq:IBQ",
            "Index back-propagation: the gradient goes through the softmax over all codes.",
            example={"codebook_size": 32, "latent_dim": 8},
            paper="https://arxiv.org/abs/2412.02692",
            license="Apache-2.0",
        ),
        PartSpec(
            "quantizer",
            "rvq",
            "zoo_quantizers.rvq:ResidualVQ",
            "Residual codebooks whose codes add up; any prefix of the levels decodes (quantizer dropout).",
            example={"num_levels": 3, "codebook_size": 32, "latent_dim": 8},
            paper="https://arxiv.org/abs/2107.03312",
            license="Apache-2.0",
        ),
        PartSpec(
            "quantizer",
            "grouped-rvq",
            "zoo_quantizers.grouped_rvq:GroupedResidualVQ",
            "The channels in groups, each with residual codebooks of its own.",
            example={"num_groups": 2, "num_levels": 2, "codebook_size": 32, "latent_dim": 8},
            paper="https://arxiv.org/abs/2305.02765",
            license="Apache-2.0",
        ),
        PartSpec(
            "quantizer",
            "lfq",
            "zoo_quantizers.lfq:LFQ",
            "Lookup-free quantization: a code is the signs of the channels, kept in use by exact entropies.",
            example={"num_bits": 6, "num_codebooks": 2},
            paper="https://arxiv.org/abs/2310.05737",
            license="Apache-2.0",
        ),
        PartSpec(
            "quantizer",
            "bsq",
            "zoo_quantizers.bsq:BSQ",
            "Binary spherical quantization: the signs of a latent on the unit sphere.",
            example={"num_bits": 6, "group_size": 3},
            paper="https://arxiv.org/abs/2406.07548",
            license="Apache-2.0",
        ),
        PartSpec(
            "quantizer",
            "kl",
            "zoo_quantizers.kl:KL",
            "Continuous bottleneck of latent diffusion: the latent is a Gaussian's mean and log-variance.",
            example={"latent_dim": 4},
            paper="https://arxiv.org/abs/2112.10752",
            license="Apache-2.0",
        ),
        PartSpec(
            "quantizer",
            "identity",
            "zoo_quantizers.identity:Identity",
            "No bottleneck: the latent goes on as it is, the upper bound for any quantizer.",
            example={"latent_dim": 8},
            license="Apache-2.0",
        ),
    ]
