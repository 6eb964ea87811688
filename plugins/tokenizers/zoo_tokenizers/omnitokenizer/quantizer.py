"""The codebook of OmniTokenizer: latents of length 1, codes that are means of them.

Shapes: B batch, D latent channels, t h w the latent grid, q = 1 codebook.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from zoo.outputs import Quantized
from zoo.precision import at_least_fp32, full_precision
from zoo_vqvae.vq_ema import EMACodebook


class UnitEMACodebook(EMACodebook):
    """Scales every latent vector to length 1 and replaces it by the code at the least distance.

    All else is `vq-ema`: a code is the mean of its vectors, so it is not longer than 1 and mostly shorter.
    That tells it from `vq-cosine`, whose codes have length 1 and are chosen by direction alone.

    Source: https://arxiv.org/abs/2406.09399

    Args:
        codebook_size: Number of codes K.
        latent_dim: Channels D of a code.
        decay: Weight of the past in the moving averages, in [0, 1).
        commitment: Weight of the term that pulls the encoder's output (at length 1) to its code.
        restart_below: Moving-average count under which a code is dead; 0, as published, restarts none.

    Raises:
        RecipeError: An option is out of range.
    """

    def __init__(
        self,
        *,
        codebook_size: int = 8192,
        latent_dim: int = 8,
        decay: float = 0.99,
        commitment: float = 0.25,
        restart_below: float = 0.0,
    ) -> None:
        super().__init__(
            codebook_size=codebook_size,
            latent_dim=latent_dim,
            decay=decay,
            commitment=commitment,
            restart_below=restart_below,
        )

    def forward(self, z_BDthw: Tensor) -> Quantized:
        """Quantize, and while training move the codebook; the gradient passes through the scaling.

        Args:
            z_BDthw: Latent of any float type and length; computed in float32 inside any autocast.

        Raises:
            PortError: D is not `latent_dim`.
        """
        with full_precision(z_BDthw):
            return super().forward(F.normalize(at_least_fp32(z_BDthw), dim=1))
