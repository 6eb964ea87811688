"""Index back-propagation: every code learns from every latent, through the softmax of the choice.

Shapes: B batch, D latent channels, t h w the latent grid, n = t*h*w, N = B*n vectors, q = 1 codebook,
K codes, R rows of a piece.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.codebook import code_stats, count_codes, look_up, on_grid
from zoo.errors import RecipeError
from zoo.nearest import nearest_codes
from zoo.outputs import Quantized
from zoo.precision import at_least_fp32, full_precision
from zoo_quantizers.checks import require_at_least_zero, require_indices, require_latent, require_sizes
from zoo_quantizers.recompute import in_pieces


class IBQ(nn.Module):
    """Takes the code of greatest inner product; the gradient is that of the softmax of all of them.

    The value is ``hard @ codes``, the gradient that of ``softmax(z . codes) @ codes``: it reaches the
    latent and every code, so that none falls behind and there is nothing to revive. The loss is the
    double quantization loss, mean (out - z)^2 + mean (sg(code) - z)^2 + commitment * mean
    (code - sg(z))^2, plus entropy_weight * (mean entropy of a latent's choice - entropy of the mean
    choice) at `entropy_temperature`. N x K is never kept: pieces are computed again in the backward pass.

    Source: https://arxiv.org/abs/2412.02692

    Args:
        codebook_size: Number of codes K; the paper goes from 1024 to 2^18.
        latent_dim: Channels D of a code.
        commitment: Weight beta of the term that pulls the codes to the latents.
        entropy_weight: Weight of the entropy term; 0 leaves it out.
        entropy_temperature: Inner products are divided by it for the entropy term.

    Raises:
        RecipeError: An option is out of range.
    """

    continuous = False
    num_codebooks = 1

    def __init__(
        self,
        *,
        codebook_size: int = 16384,
        latent_dim: int = 256,
        commitment: float = 0.25,
        entropy_weight: float = 0.05,
        entropy_temperature: float = 0.01,
    ) -> None:
        super().__init__()
        require_sizes("ibq", codebook_size=codebook_size, latent_dim=latent_dim)
        require_at_least_zero("ibq", commitment=commitment, entropy_weight=entropy_weight)
        if not entropy_temperature > 0:
            raise RecipeError(
                f"quantizer ibq: entropy_temperature is {entropy_temperature}; "
                "it must be above 0, such as 0.01"
            )
        self.codebook_size = codebook_size
        self.latent_dim = latent_dim
        self.commitment = commitment
        self.entropy_weight = entropy_weight
        self.entropy_temperature = entropy_temperature
        self.embeddings = nn.Parameter(torch.randn(codebook_size, latent_dim))

    def forward(self, z_BDthw: Tensor) -> Quantized:
        """Quantize; evaluation passes no gradient.

        Args:
            z_BDthw: Latent of any float type; computed in float32 inside any autocast.

        Returns:
            z_BDthw exactly the codes; indices (B, 1, t, h, w); the loss while training, 0 in evaluation
            (as published), which computes no softmax; stats `perplexity` and `usage` of this batch.

        Raises:
            PortError: D is not `latent_dim`.
        """
        require_latent("ibq", z_BDthw, self.latent_dim)
        with full_precision(z_BDthw):
            z_BDn = at_least_fp32(z_BDthw).flatten(2)
            codes_KD = self.embeddings.to(z_BDn.dtype)
            if self.training:
                z_ND = rearrange(z_BDn, "b d n -> (b n) d")
                out_ND, indices_N, loss = self._choose(z_ND, codes_KD)
                out_BDn = rearrange(out_ND, "(b n) d -> b d n", b=z_BDn.shape[0]).contiguous()
                out_BDn = out_BDn.to(self.embeddings.dtype)
                indices_Bn = indices_N.view(z_BDn.shape[0], -1)
            else:
                indices_Bn = nearest_codes(z_BDn, codes_KD, codes_KD.new_zeros(self.codebook_size))
                out_BDn = look_up(self.embeddings, indices_Bn)
                loss = z_BDn.new_zeros(())
            stats = code_stats(count_codes(indices_Bn, self.codebook_size))
        grid = z_BDthw.shape[2:]
        return Quantized(on_grid(out_BDn, grid), on_grid(indices_Bn[:, None], grid), loss, stats)

    def lookup(self, indices_Bqthw: Tensor) -> Tensor:
        """Return the codes z_BDthw of int64 indices (B, 1, t, h, w)."""
        require_indices("ibq", indices_Bqthw)
        return on_grid(look_up(self.embeddings, indices_Bqthw[:, 0].flatten(1)), indices_Bqthw.shape[2:])

    def _choose(self, z_ND: Tensor, codes_KD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output, the indices and the loss."""
        parts = in_pieces(self._choose_some, z_ND, codes_KD, codebook_size=self.codebook_size)
        outs, indices, squares, entropies, totals = zip(*parts, strict=True)
        loss = torch.stack(squares).sum() / z_ND.numel()
        if self.entropy_weight:
            mean_K = torch.stack(totals).sum(dim=0) / z_ND.shape[0]
            of_mean = -(mean_K * torch.log(mean_K + 1e-5)).sum()
            of_each = torch.stack(entropies).sum() / z_ND.shape[0]
            loss = loss + self.entropy_weight * (of_each - of_mean)
        return torch.cat(outs), torch.cat(indices), loss

    def _choose_some(self, z_RD: Tensor, codes_KD: Tensor) -> tuple[Tensor, ...]:
        """Return output, indices, weighted squared distances, entropies and probabilities, summed over R."""
        logits_RK = z_RD @ codes_KD.t()
        indices_R = logits_RK.detach().argmax(dim=1)
        code_RD = F.embedding(indices_R, codes_KD)
        soft_RK = logits_RK.softmax(dim=1)
        # soft - soft is exactly 0, so the value is exactly the code.
        out_RD = code_RD + (soft_RK - soft_RK.detach()) @ codes_KD
        squares = (
            (out_RD - z_RD).square().sum()
            + (code_RD.detach() - z_RD).square().sum()
            + self.commitment * (code_RD - z_RD.detach()).square().sum()
        )
        if not self.entropy_weight:
            return out_RD, indices_R, squares, squares.new_zeros(()), squares.new_zeros(())
        log_p_RK = (logits_RK / self.entropy_temperature).log_softmax(dim=1)
        p_RK = log_p_RK.exp()
        return out_RD, indices_R, squares, -(p_RK * log_p_RK).sum(), p_RK.sum(dim=0)
