"""A decoder-only transformer over the codes of any tokenizer. Imports no torch."""

from __future__ import annotations

from zoo.parts import PartSpec

PARTS = [
    PartSpec(
        "generator",
        "gpt",
        "zoo_priors.gpt.prior:GPTPrior",
        "Decoder-only transformer over codes in raster order, of any number of frames in constant memory.",
        example={
            "codebook_size": 12,
            "grid": [2, 3, 4],
            "hidden_dim": 24,
            "num_layers": 2,
            "num_heads": 2,
            "num_classes": 3,
            "label_dropout": 0.2,
        },
        paper="https://arxiv.org/abs/2104.10157",
        license="Apache-2.0",
    ),
]
