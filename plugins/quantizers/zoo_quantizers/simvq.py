"""SimVQ: a frozen random codebook seen through one learned linear layer.

Shapes: B batch, D latent channels, t h w the latent grid, n = t*h*w, q = 1 codebook, K codes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.code_gradients import pull, straight_through
from zoo.codebook import code_stats, count_codes, look_up, on_grid
from zoo.nearest import nearest_codes
from zoo.outputs import Quantized
from zoo.precision import at_least_fp32, full_precision
from zoo_quantizers.checks import require_at_least_zero, require_indices, require_latent, require_sizes


class SimVQ(nn.Module):
    """Replaces every latent vector by the nearest row of ``frozen @ projection.T``.

    Only the D x D matrix is learned, so that a gradient to one code moves all of them and none is left
    behind; there is nothing to fill from data and no dead code to revive. The loss is
    mean (sg(z) - code)^2 + commitment * mean (z - sg(code))^2; the gradient of the output passes
    straight to the latent.

    Source: https://arxiv.org/abs/2411.02038

    Args:
        codebook_size: Number of codes K; the paper goes to 2^18.
        latent_dim: Channels D of a code.
        commitment: Weight beta of the term that pulls the encoder's output to its code.

    Raises:
        RecipeError: An option is out of range.
    """

    continuous = False
    num_codebooks = 1

    frozen: Tensor

    def __init__(
        self, *, codebook_size: int = 65536, latent_dim: int = 128, commitment: float = 0.25
    ) -> None:
        super().__init__()
        require_sizes("simvq", codebook_size=codebook_size, latent_dim=latent_dim)
        require_at_least_zero("simvq", commitment=commitment)
        self.codebook_size = codebook_size
        self.latent_dim = latent_dim
        self.commitment = commitment
        self.register_buffer("frozen", torch.randn(codebook_size, latent_dim) * latent_dim**-0.5)
        self.projection = nn.Linear(latent_dim, latent_dim, bias=False)

    def forward(self, z_BDthw: Tensor) -> Quantized:
        """Quantize.

        Args:
            z_BDthw: Latent of any float type; computed in float32 inside any autocast.

        Returns:
            z_BDthw exactly the codes; indices (B, 1, t, h, w); the loss; stats `perplexity` and
            `usage` of this batch.

        Raises:
            PortError: D is not `latent_dim`.
        """
        require_latent("simvq", z_BDthw, self.latent_dim)
        with full_precision(z_BDthw):
            z_BDn = at_least_fp32(z_BDthw).flatten(2)
            codes_KD = self._codes()
            indices_Bn = nearest_codes(z_BDn, codes_KD.to(z_BDn.dtype))
            codes_BDn = look_up(codes_KD, indices_Bn)
            loss = pull(z_BDn, codes_BDn, codes_KD, indices_Bn, codebook=1.0, commitment=self.commitment)
            out_BDn = straight_through(z_BDn, codes_BDn)
            stats = code_stats(count_codes(indices_Bn, self.codebook_size))
        grid = z_BDthw.shape[2:]
        return Quantized(on_grid(out_BDn, grid), on_grid(indices_Bn[:, None], grid), loss, stats)

    def lookup(self, indices_Bqthw: Tensor) -> Tensor:
        """Return the codes z_BDthw of int64 indices (B, 1, t, h, w)."""
        require_indices("simvq", indices_Bqthw)
        with full_precision(self.frozen):
            codes_KD = self._codes()
        return on_grid(look_up(codes_KD, indices_Bqthw[:, 0].flatten(1)), indices_Bqthw.shape[2:])

    def _codes(self) -> Tensor:
        codes_KD: Tensor = self.projection(self.frozen)
        return codes_KD
