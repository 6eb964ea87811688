"""Residual vector quantization: a sum of codes, the first ones the coarse and the last the fine part.

Shapes: B batch, D latent channels, t h w the latent grid, n = t*h*w, q levels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.code_gradients import straight_through
from zoo.codebook import code_stats, count_codes
from zoo.errors import PortError, RecipeError
from zoo.outputs import Quantized
from zoo.precision import at_least_fp32, full_precision
from zoo_quantizers.checks import require_at_least_zero, require_decay, require_latent, require_sizes
from zoo_quantizers.residual import ResidualCodes, commitment_loss, draw_depths


class ResidualVQ(nn.Module):
    """Quantizes by a chain of codebooks, each coding the residual of those before it.

    The codebooks take no gradient: they are filled from the first training batch, then follow moving
    averages, and codes that fall out of use are replaced by residuals of the batch. With quantizer
    dropout a training clip uses only its first levels, so that any prefix of the indices decodes.
    All draws, in train mode only, are from torch's global generator; across processes the
    codebooks stay equal.

    Sources: https://arxiv.org/abs/2107.03312, https://arxiv.org/abs/2210.13438

    Args:
        num_levels: Codebooks q.
        codebook_size: Codes K of each.
        latent_dim: Channels D.
        decay: Weight of the past in the moving averages, in [0, 1).
        commitment: Weight of the pull of the latent to its codes.
        kmeans_steps: Rounds of k-means on the first training batch; 0 takes vectors of the batch.
        restart_below: Moving-average count under which a code is dead; 0 restarts none.
        quantizer_dropout: Probability that a training clip uses a random number of levels, from 1
            to q, instead of all; in [0, 1].

    Raises:
        RecipeError: An option is out of range.
    """

    continuous = False

    def __init__(
        self,
        *,
        num_levels: int = 8,
        codebook_size: int = 1024,
        latent_dim: int = 128,
        decay: float = 0.99,
        commitment: float = 0.25,
        kmeans_steps: int = 10,
        restart_below: float = 2.0,
        quantizer_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        require_residual(
            "rvq",
            num_levels=num_levels,
            decay=decay,
            commitment=commitment,
            kmeans_steps=kmeans_steps,
            restart_below=restart_below,
            quantizer_dropout=quantizer_dropout,
        )
        require_sizes("rvq", codebook_size=codebook_size, latent_dim=latent_dim)
        self.num_codebooks = num_levels
        self.codebook_size = codebook_size
        self.latent_dim = latent_dim
        self.commitment = commitment
        self.quantizer_dropout = quantizer_dropout
        self.residual = ResidualCodes(
            num_levels=num_levels,
            codebook_size=codebook_size,
            latent_dim=latent_dim,
            decay=decay,
            kmeans_steps=kmeans_steps,
            restart_below=restart_below,
        )

    def forward(self, z_BDthw: Tensor) -> Quantized:
        """Quantize, and while training move the codebooks.

        Args:
            z_BDthw: Latent of any float type; computed in float32 inside any autocast.

        Returns:
            z_BDthw exactly the sum of the codes of the levels in use, with the gradient passed
            straight to the input; indices (B, q, t, h, w), of every level; loss = commitment * mean
            squared residual over the levels in use; stats `perplexity` and `usage` of this batch,
            means over the levels, and `restarted`, the number of dead codes replaced.

        Raises:
            PortError: D is not `latent_dim`.
        """
        require_latent("rvq", z_BDthw, self.latent_dim)
        num_clips, grid = z_BDthw.shape[0], z_BDthw.shape[2:]
        depths = None
        if self.training:
            depths = draw_depths(num_clips, self.num_codebooks, self.quantizer_dropout)
        with full_precision(z_BDthw):
            z_BDn = at_least_fp32(z_BDthw).flatten(2)
            found = self.residual.quantize(z_BDn, depths)
            num_used = num_clips * self.num_codebooks if depths is None else sum(depths)
            mean = commitment_loss(z_BDn, found.squares, found.pull_BDn) / (num_used * z_BDn[0].numel())
            out_BDn = straight_through(z_BDn, found.codes_BDn)
            stats = level_stats(found.indices_Bqn, self.codebook_size)
            stats["restarted"] = found.restarted
        indices_Bqthw = found.indices_Bqn.view(num_clips, self.num_codebooks, *grid)
        return Quantized(out_BDn.view(z_BDthw.shape), indices_Bqthw, self.commitment * mean, stats)

    def lookup(self, indices_Bqthw: Tensor) -> Tensor:
        """Return the sum of codes z_BDthw of int64 indices (B, q', t, h, w), of the first q' <= q levels."""
        require_prefix("rvq", indices_Bqthw, self.num_codebooks)
        codes_BDn = self.residual.look_up(indices_Bqthw.flatten(2))
        return codes_BDn.view(*codes_BDn.shape[:2], *indices_Bqthw.shape[2:])


def require_residual(
    name: str,
    *,
    num_levels: int,
    decay: float,
    commitment: float,
    kmeans_steps: int,
    restart_below: float,
    quantizer_dropout: float,
) -> None:
    """Raise `RecipeError` unless the options shared by residual quantizers are in range."""
    if num_levels < 1:
        raise RecipeError(f"quantizer {name}: num_levels is {num_levels}; it must be at least 1, such as 8")
    if not 0 <= quantizer_dropout <= 1:
        raise RecipeError(
            f"quantizer {name}: quantizer_dropout is {quantizer_dropout}; it must be in [0, 1], such as 0.5"
        )
    require_decay(name, decay)
    require_at_least_zero(name, commitment=commitment, kmeans_steps=kmeans_steps, restart_below=restart_below)


def require_prefix(name: str, indices_Bqthw: Tensor, num_codebooks: int) -> None:
    """Raise `PortError` unless the indices are (B, q', t, h, w) with 1 <= q' <= num_codebooks."""
    if indices_Bqthw.ndim != 5 or not 1 <= indices_Bqthw.shape[1] <= num_codebooks:
        raise PortError(
            f"quantizer {name} got indices of shape {tuple(indices_Bqthw.shape)}; it takes (B, q, t, h, w) "
            f"with q from 1 to {num_codebooks}"
        )


def level_stats(indices_Bqn: Tensor, codebook_size: int) -> dict[str, Tensor]:
    """Return `perplexity` and `usage` of a batch, each the mean over the codebooks."""
    levels = [code_stats(count_codes(indices_Bn, codebook_size)) for indices_Bn in indices_Bqn.unbind(1)]
    return {name: torch.stack([level[name] for level in levels]).mean() for name in ("perplexity", "usage")}
