"""Vector quantization with a codebook learned by gradients.

Shapes: B batch, D latent channels, t h w the latent grid, n = t*h*w, q = 1 codebook, K codes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.code_gradients import pull, straight_through
from zoo.codebook import code_stats, count_codes, draw_vectors, k_means, look_up, on_grid
from zoo.nearest import nearest_codes
from zoo.outputs import Quantized
from zoo.precision import at_least_fp32, full_precision
from zoo.ranks import everywhere
from zoo_quantizers.checks import (
    require_at_least_zero,
    require_decay,
    require_indices,
    require_latent,
    require_sizes,
)


class VQ(nn.Module):
    """Replaces every latent vector by its nearest code; the codes are parameters.

    The loss is mean (sg(z) - code)^2 + commitment * mean (z - sg(code))^2, where sg stops the gradient:
    the first term moves the codes, the second the encoder. The gradient of the output passes straight
    to the latent. The first training batch fills the codebook by k-means (`kmeans_steps` 0 keeps the
    uniform start). N counts, as a moving average, how many vectors a code gets per step; codes below
    `restart_below` are replaced by vectors of the batch. Both draw from torch's global generator, only
    in train mode; across processes the drawn vectors are those of rank 0. In eval mode nothing changes.

    Source: https://arxiv.org/abs/1711.00937 (equation 3)

    Args:
        codebook_size: Number of codes K.
        latent_dim: Channels D of a code.
        commitment: Weight beta of the term that pulls the encoder's output to its code.
        kmeans_steps: Rounds of k-means on the first training batch; 0 keeps codes uniform in
            [-1/K, 1/K].
        decay: Weight of the past in N, in [0, 1).
        restart_below: Count N under which a code is dead; 0 restarts none.

    Raises:
        RecipeError: An option is out of range.
    """

    continuous = False
    num_codebooks = 1
    _name = "vq"

    N: Tensor
    initialized: Tensor

    def __init__(
        self,
        *,
        codebook_size: int = 1024,
        latent_dim: int = 256,
        commitment: float = 0.25,
        kmeans_steps: int = 10,
        decay: float = 0.99,
        restart_below: float = 0.0,
    ) -> None:
        super().__init__()
        require_sizes(self._name, codebook_size=codebook_size, latent_dim=latent_dim)
        require_at_least_zero(
            self._name, commitment=commitment, kmeans_steps=kmeans_steps, restart_below=restart_below
        )
        require_decay(self._name, decay)
        self.codebook_size = codebook_size
        self.latent_dim = latent_dim
        self.commitment = commitment
        self.kmeans_steps = kmeans_steps
        self.decay = decay
        self.restart_below = restart_below
        self.embeddings = nn.Parameter(torch.empty(codebook_size, latent_dim))
        nn.init.uniform_(self.embeddings, -1 / codebook_size, 1 / codebook_size)
        self.register_buffer("N", torch.ones(codebook_size))
        self.register_buffer("initialized", torch.tensor(kmeans_steps == 0))

    def forward(self, z_BDthw: Tensor) -> Quantized:
        """Quantize, and while training fill the codebook (once) and replace dead codes.

        Args:
            z_BDthw: Latent of any float type; computed in float32 inside any autocast.

        Returns:
            z_BDthw exactly the codes; indices (B, 1, t, h, w); the loss; stats `perplexity` and
            `usage` of this batch and `restarted`, the number of dead codes replaced.

        Raises:
            PortError: D is not `latent_dim`.
        """
        require_latent(self._name, z_BDthw, self.latent_dim)
        with full_precision(z_BDthw):
            z_BDn = at_least_fp32(z_BDthw).flatten(2)
            if self.training and not self.initialized.is_meta and not bool(self.initialized):
                self._initialize(z_BDn.detach())
            indices_Bn = nearest_codes(z_BDn, self.embeddings.to(z_BDn.dtype))
            codes_BDn = look_up(self.embeddings, indices_Bn)
            loss = pull(
                z_BDn, codes_BDn, self.embeddings, indices_Bn, codebook=1.0, commitment=self.commitment
            )
            out_BDn = self._pass_gradient(z_BDn, codes_BDn)
            counts_K = count_codes(indices_Bn, self.codebook_size)
            stats = code_stats(counts_K)
            stats["restarted"] = counts_K.new_zeros(())
            if self.training:
                stats["restarted"] = self._restart(z_BDn.detach(), counts_K)
        grid = z_BDthw.shape[2:]
        return Quantized(on_grid(out_BDn, grid), on_grid(indices_Bn[:, None], grid), loss, stats)

    def lookup(self, indices_Bqthw: Tensor) -> Tensor:
        """Return the codes z_BDthw of int64 indices (B, 1, t, h, w)."""
        require_indices(self._name, indices_Bqthw)
        return on_grid(look_up(self.embeddings, indices_Bqthw[:, 0].flatten(1)), indices_Bqthw.shape[2:])

    def _pass_gradient(self, z_BDn: Tensor, codes_BDn: Tensor) -> Tensor:
        return straight_through(z_BDn, codes_BDn)

    @torch.no_grad()
    def _initialize(self, z_BDn: Tensor) -> None:
        means_KD, _ = k_means(z_BDn, self.codebook_size, steps=self.kmeans_steps)
        self.embeddings.copy_(means_KD)
        self.initialized.fill_(True)

    @torch.no_grad()
    def _restart(self, z_BDn: Tensor, counts_K: Tensor) -> Tensor:
        """Move the counts on; returns the number of codes restarted."""
        self.N.mul_(self.decay).add_(everywhere(counts_K), alpha=1 - self.decay)
        if self.restart_below == 0:
            return counts_K.new_zeros(())
        dead_K = self.N.lt(self.restart_below)
        drawn_KD = draw_vectors(z_BDn, self.codebook_size).to(self.embeddings.dtype)
        self.embeddings.copy_(torch.where(dead_K[:, None], drawn_KD, self.embeddings))
        # A new code starts at the limit; it has to be used to stay.
        self.N.copy_(self.N.masked_fill(dead_K, self.restart_below))
        return dead_K.sum().float()
