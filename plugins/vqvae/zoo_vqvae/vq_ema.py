"""Vector quantization with a codebook learned by exponential moving averages.

Shapes: B batch, D latent channels, t h w the latent grid, q = 1 codebook; N = B*t*h*w vectors,
K codes.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.errors import PortError, RecipeError
from zoo.outputs import Quantized
from zoo.precision import at_least_fp32, full_precision
from zoo_vqvae.code_stats import code_stats, count_codes

_MAX_DISTANCES = 2**24
"""Distances held at once: 64 MiB in float32."""


class EMACodebook(nn.Module):
    """Replaces every latent vector by its nearest code; the codes follow the vectors they stand for.

    The codebook takes no gradient. While training, N (how many vectors a code gets) and z_avg (their
    sum) are moving averages, and a code is z_avg / N. The first training batch fills the codebook with
    vectors of its own, and a code whose N is below `restart_below` is replaced by a vector of the
    batch at every step until it is used. Both draw from torch's global generator, only in train
    mode. In eval mode nothing changes. Across processes the sums are added up and the drawn
    vectors come from rank 0, so the codebook is the same on every rank.

    Sources: https://arxiv.org/abs/1711.00937 (appendix A.1), https://arxiv.org/abs/2104.10157

    Args:
        codebook_size: Number of codes K.
        latent_dim: Channels D of a code.
        decay: Weight of the past in the moving averages, in [0, 1).
        commitment: Weight beta of the term that pulls the encoder's output to its code.
        restart_below: Moving-average count under which a code is dead; 0 restarts none.

    Raises:
        RecipeError: An option is out of range.
    """

    continuous = False
    num_codebooks = 1

    embeddings: Tensor
    N: Tensor
    z_avg: Tensor
    initialized: Tensor

    def __init__(
        self,
        *,
        codebook_size: int = 2048,
        latent_dim: int = 256,
        decay: float = 0.99,
        commitment: float = 0.25,
        restart_below: float = 1.0,
    ) -> None:
        super().__init__()
        if codebook_size < 2 or latent_dim < 1:
            raise RecipeError(
                f"quantizer vq-ema: codebook_size is {codebook_size} and latent_dim {latent_dim}; "
                "they must be at least 2 and 1, such as codebook_size=2048, latent_dim=256"
            )
        if not 0 <= decay < 1 or commitment < 0 or restart_below < 0:
            raise RecipeError(
                f"quantizer vq-ema: decay is {decay}, commitment {commitment} and restart_below "
                f"{restart_below}; decay must be in [0, 1) and the others 0 or more, "
                "such as decay=0.99, commitment=0.25, restart_below=1.0"
            )
        self.codebook_size = codebook_size
        self.latent_dim = latent_dim
        self.decay = decay
        self.commitment = commitment
        self.restart_below = restart_below
        embeddings_KD = torch.randn(codebook_size, latent_dim)
        self.register_buffer("embeddings", embeddings_KD)
        self.register_buffer("N", torch.zeros(codebook_size))
        self.register_buffer("z_avg", embeddings_KD.clone())
        self.register_buffer("initialized", torch.tensor(False))

    def forward(self, z_BDthw: Tensor) -> Quantized:
        """Quantize, and while training move the codebook.

        Args:
            z_BDthw: Latent of any float type; computed in float32 inside any autocast.

        Returns:
            z_BDthw exactly the codes, with the gradient passed straight to the input; indices
            (B, 1, t, h, w); loss = commitment * mean (z - code)^2; stats `perplexity` and `usage` of
            this batch and `restarted`, the number of dead codes replaced.

        Raises:
            PortError: D is not `latent_dim`.
        """
        if z_BDthw.ndim != 5 or z_BDthw.shape[1] != self.latent_dim:
            raise PortError(
                f"quantizer vq-ema got a latent of shape {tuple(z_BDthw.shape)}; it takes (B, D, t, h, w) "
                f"with D = latent_dim = {self.latent_dim}"
            )
        with full_precision(z_BDthw):
            z_BDthw = at_least_fp32(z_BDthw)
            z_ND = rearrange(z_BDthw.detach(), "b d t h w -> (b t h w) d")
            if self.training and not self.initialized.is_meta and not bool(self.initialized):
                self._initialize(z_ND)
            indices_N = self._nearest(z_ND)
            b, _, t, h, w = z_BDthw.shape
            indices_Bqthw = rearrange(indices_N, "(b q t h w) -> b q t h w", b=b, q=1, t=t, h=h, w=w)
            codes_BDthw = self.lookup(indices_Bqthw)
            loss = self.commitment * F.mse_loss(z_BDthw, codes_BDthw.to(z_BDthw.dtype))
            # z - z is exactly 0, so the value is exactly the code and the gradient exactly that of z.
            out_BDthw = codes_BDthw + (z_BDthw - z_BDthw.detach()).to(codes_BDthw.dtype)

            counts_K = count_codes(indices_N, self.codebook_size)
            stats = code_stats(counts_K)
            stats["restarted"] = counts_K.new_zeros(())
            if self.training:
                stats["restarted"] = self._move(z_ND, indices_N, counts_K)
        return Quantized(out_BDthw, indices_Bqthw, loss, stats)

    def lookup(self, indices_Bqthw: Tensor) -> Tensor:
        """Return the codes z_BDthw of int64 indices (B, 1, t, h, w)."""
        if indices_Bqthw.ndim != 5 or indices_Bqthw.shape[1] != 1:
            raise PortError(
                f"quantizer vq-ema got indices of shape {tuple(indices_Bqthw.shape)}; "
                "it takes (B, 1, t, h, w)"
            )
        codes_BthwD = F.embedding(indices_Bqthw[:, 0], self.embeddings)
        return rearrange(codes_BthwD, "b t h w d -> b d t h w").contiguous()

    def _nearest(self, z_ND: Tensor) -> Tensor:
        codes_KD = self.embeddings.to(z_ND.dtype)
        half_norms_K = 0.5 * codes_KD.square().sum(dim=1)
        rows = max(1, _MAX_DISTANCES // self.codebook_size)
        # |z - e|^2 / 2 without the |z|^2 / 2 that every code of a row shares.
        nearest = [
            torch.addmm(half_norms_K, z, codes_KD.t(), alpha=-1).argmin(dim=1)
            for z in torch.split(z_ND, rows)
        ]
        return torch.cat(nearest)

    def _draw(self, z_ND: Tensor) -> Tensor:
        """Draw K vectors of the batch without repeats, or jittered repeats where it has fewer than K."""
        num = z_ND.shape[0]
        if num < self.codebook_size:
            z_ND = z_ND.repeat(-(-self.codebook_size // num), 1)
            z_ND = z_ND + torch.randn_like(z_ND) * (0.01 / self.latent_dim**0.5)
        drawn_KD = z_ND[torch.randperm(z_ND.shape[0], device=z_ND.device)[: self.codebook_size]]
        if _distributed():
            dist.broadcast(drawn_KD, 0)
        return drawn_KD

    @torch.no_grad()
    def _initialize(self, z_ND: Tensor) -> None:
        drawn_KD = self._draw(z_ND)
        self.embeddings.copy_(drawn_KD)
        self.z_avg.copy_(drawn_KD)
        self.N.fill_(1)
        self.initialized.fill_(True)

    @torch.no_grad()
    def _move(self, z_ND: Tensor, indices_N: Tensor, counts_K: Tensor) -> Tensor:
        """Update the averages and the codes; returns the number of codes restarted."""
        sums_KD = z_ND.new_zeros(self.codebook_size, self.latent_dim).index_add_(0, indices_N, z_ND)
        if _distributed():
            counts_K = counts_K.clone()
            dist.all_reduce(counts_K)
            dist.all_reduce(sums_KD)
        self.N.mul_(self.decay).add_(counts_K, alpha=1 - self.decay)
        self.z_avg.mul_(self.decay).add_(sums_KD, alpha=1 - self.decay)
        # Laplace smoothing keeps an unused code finite; the sum of the counts stays.
        total = self.N.sum()
        smoothed_K = (self.N + 1e-7) / (total + self.codebook_size * 1e-7) * total
        dead_K = self.N.lt(self.restart_below)
        # Drawn at every step, needed or not: asking whether any code is dead would stall the device.
        codes_KD = torch.where(dead_K[:, None], self._draw(z_ND), self.z_avg / smoothed_K[:, None])
        self.embeddings.copy_(codes_KD)
        return dead_K.sum().float()


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
