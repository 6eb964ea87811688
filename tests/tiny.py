"""A real autoencoder at the smallest useful size, for tests."""

from __future__ import annotations

from typing import Any

TINY: dict[str, Any] = {
    "summary": "For tests.",
    "assembly": "autoencoder",
    "clip": {"num_frames": 4, "height": 16, "width": 16},
    "encoder": {"use": "videogpt", "hidden_dim": 8, "num_residual_blocks": 1, "stride": [2, 4, 4]},
    "pre_quant": "conv1x1x1",
    "quantizer": {"use": "vq-ema", "codebook_size": 16, "latent_dim": 4},
    "post_quant": "conv1x1x1",
    "decoder": {"use": "videogpt", "hidden_dim": 8, "num_residual_blocks": 1, "stride": [2, 4, 4]},
}
