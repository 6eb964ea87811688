"""MAGVIT's masked prior of many tasks (https://arxiv.org/abs/2212.05199). Imports no torch."""

from __future__ import annotations

from zoo.parts import PartSpec

PARTS = [
    PartSpec(
        "generator",
        "maskgit",
        "zoo_priors.maskgit.prior:MaskGIT",
        "Masked prior: generates, predicts, interpolates, in- and outpaints tokens in a few passes.",
        example={
            "codebook_size": 24,
            "grid": [4, 4, 4],
            "num_layers": 2,
            "hidden_dim": 16,
            "num_heads": 2,
            "mlp_dim": 24,
        },
        paper="https://arxiv.org/abs/2212.05199",
        license="Apache-2.0",
    ),
]
