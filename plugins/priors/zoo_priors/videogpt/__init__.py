"""The prior of VideoGPT (https://arxiv.org/abs/2104.10157). Imports no torch."""

from __future__ import annotations

from zoo.converters import Converter
from zoo.parts import PartSpec

PARTS = [
    PartSpec(
        "generator",
        "videogpt",
        "zoo_priors.videogpt.prior:VideoGPTPrior",
        "VideoGPT's prior: a causal transformer over code vectors, conditioned on classes or frames.",
        example={
            "codebook_size": 12,
            "latent_dim": 5,
            "grid": [2, 3, 4],
            "hidden_dim": 24,
            "num_heads": 2,
            "num_layers": 2,
            "num_classes": 3,
        },
        paper="https://arxiv.org/abs/2104.10157",
        license="Apache-2.0",
    ),
]

CONVERTERS = [
    Converter(
        "videogpt-prior",
        "zoo_priors.videogpt.weights:map_videogpt_prior_state_dict",
        recipes=("vqvae-prior-video-base*",),
        summary="VideoGPT with the VQ-VAE in it: the Lightning checkpoints that its load_videogpt downloads.",
        source="https://github.com/wilson1yan/VideoGPT#using-pretrained-videogpts",
        arguments={"attention": "generator.attention"},
    )
]
