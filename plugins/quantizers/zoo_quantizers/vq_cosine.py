"""Vector quantization on the unit sphere, with a codebook learned by exponential moving averages.

Shapes: B batch, D latent channels, t h w the latent grid, n = t*h*w, q = 1 codebook, K codes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.code_gradients import pull, straight_through
from zoo.codebook import code_stats, count_codes, draw_vectors, k_means, look_up, move_averages, on_grid
from zoo.nearest import nearest_codes
from zoo.outputs import Quantized
from zoo.precision import at_least_fp32, full_precision
from zoo_quantizers.checks import (
    require_at_least_zero,
    require_decay,
    require_indices,
    require_latent,
    require_sizes,
)


class CosineVQ(nn.Module):
    """Scales every latent vector to length 1 and replaces it by the code of greatest cosine similarity.

    Codes have length 1 as well. They take no gradient: while training, N (how many vectors a code gets)
    and z_avg (the sum of those, at length 1) are moving averages, and a code is the direction of z_avg.
    The first training batch fills the codebook by spherical k-means, and a code whose N is below
    `restart_below` is replaced by a vector of the batch. Both draw from torch's global generator, only
    in train mode. In eval mode nothing changes. Across processes sums are added up and the drawn vectors
    come from rank 0, so the codebook is the same on every rank.

    Sources: https://arxiv.org/abs/2110.04627 (section 3.2), and for the moving averages
    https://arxiv.org/abs/1711.00937 (appendix A.1)

    Args:
        codebook_size: Number of codes K.
        latent_dim: Channels D of a code; the paper finds 32 or fewer to be enough.
        decay: Weight of the past in the moving averages, in [0, 1).
        commitment: Weight beta of the term that pulls the encoder's output to its code.
        kmeans_steps: Rounds of k-means on the first training batch; 0 keeps random directions.
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
        codebook_size: int = 8192,
        latent_dim: int = 32,
        decay: float = 0.99,
        commitment: float = 0.25,
        kmeans_steps: int = 10,
        restart_below: float = 1.0,
    ) -> None:
        super().__init__()
        require_sizes("vq-cosine", codebook_size=codebook_size, latent_dim=latent_dim)
        require_at_least_zero(
            "vq-cosine", commitment=commitment, kmeans_steps=kmeans_steps, restart_below=restart_below
        )
        require_decay("vq-cosine", decay)
        self.codebook_size = codebook_size
        self.latent_dim = latent_dim
        self.decay = decay
        self.commitment = commitment
        self.kmeans_steps = kmeans_steps
        self.restart_below = restart_below
        embeddings_KD = F.normalize(torch.randn(codebook_size, latent_dim), dim=1)
        self.register_buffer("embeddings", embeddings_KD)
        self.register_buffer("N", torch.ones(codebook_size))
        self.register_buffer("z_avg", embeddings_KD.clone())
        self.register_buffer("initialized", torch.tensor(kmeans_steps == 0))

    def forward(self, z_BDthw: Tensor) -> Quantized:
        """Quantize, and while training move the codebook.

        Args:
            z_BDthw: Latent of any float type and length; computed in float32 inside any autocast.

        Returns:
            z_BDthw exactly the codes, of length 1, with the gradient passed straight to the latent of
            length 1 (and through the scaling to the input); indices (B, 1, t, h, w); loss =
            commitment * mean (z / |z| - code)^2; stats `perplexity` and `usage` of this batch and
            `restarted`, the number of dead codes replaced.

        Raises:
            PortError: D is not `latent_dim`.
        """
        require_latent("vq-cosine", z_BDthw, self.latent_dim)
        with full_precision(z_BDthw):
            z_BDn = F.normalize(at_least_fp32(z_BDthw).flatten(2), dim=1, eps=1e-6)
            if self.training and not self.initialized.is_meta and not bool(self.initialized):
                self._initialize(z_BDn.detach())
            codes_KD = self.embeddings.to(z_BDn.dtype)
            indices_Bn = nearest_codes(z_BDn, codes_KD, codes_KD.new_zeros(self.codebook_size))
            codes_BDn = look_up(self.embeddings, indices_Bn)
            loss = pull(
                z_BDn, codes_BDn, self.embeddings, indices_Bn, codebook=0.0, commitment=self.commitment
            )
            out_BDn = straight_through(z_BDn, codes_BDn)
            counts_K = count_codes(indices_Bn, self.codebook_size)
            stats = code_stats(counts_K)
            stats["restarted"] = counts_K.new_zeros(())
            if self.training:
                stats["restarted"] = self._move(z_BDn.detach(), indices_Bn)
        grid = z_BDthw.shape[2:]
        return Quantized(on_grid(out_BDn, grid), on_grid(indices_Bn[:, None], grid), loss, stats)

    def lookup(self, indices_Bqthw: Tensor) -> Tensor:
        """Return the codes z_BDthw of int64 indices (B, 1, t, h, w)."""
        require_indices("vq-cosine", indices_Bqthw)
        return on_grid(look_up(self.embeddings, indices_Bqthw[:, 0].flatten(1)), indices_Bqthw.shape[2:])

    @torch.no_grad()
    def _initialize(self, z_BDn: Tensor) -> None:
        means_KD, counts_K = k_means(z_BDn, self.codebook_size, steps=self.kmeans_steps, cosine=True)
        self.embeddings.copy_(means_KD)
        self.N.copy_(counts_K)
        self.z_avg.copy_(means_KD * counts_K[:, None])
        self.initialized.fill_(True)

    @torch.no_grad()
    def _move(self, z_BDn: Tensor, indices_Bn: Tensor) -> Tensor:
        """Update the averages and the codes; returns the number of codes restarted."""
        move_averages(self.N, self.z_avg, z_BDn, indices_Bn, decay=self.decay)
        norms_K1 = self.z_avg.norm(dim=1, keepdim=True)
        # A code that never got a vector has a sum of 0, which has no direction.
        self.embeddings.copy_(
            torch.where(norms_K1 > 1e-12, self.z_avg / norms_K1.clamp(min=1e-12), self.embeddings)
        )
        if self.restart_below == 0:
            return z_BDn.new_zeros((), dtype=torch.float32)
        dead_K = self.N.lt(self.restart_below)
        drawn_KD = F.normalize(draw_vectors(z_BDn, self.codebook_size), dim=1)
        self.embeddings.copy_(torch.where(dead_K[:, None], drawn_KD, self.embeddings))
        # A new code starts at the limit; it has to be used to stay.
        self.N.copy_(self.N.masked_fill(dead_K, self.restart_below))
        self.z_avg.copy_(torch.where(dead_K[:, None], drawn_KD * self.restart_below, self.z_avg))
        return dead_K.sum().float()
