"""Vector quantization with a codebook learned by exponential moving averages.

Shapes: B batch, D latent channels, t h w the latent grid, n = t*h*w, q = 1 codebook, K codes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.checks import require_indices, require_latent
from zoo.code_gradients import pull, straight_through
from zoo.codebook import code_stats, count_codes, draw_vectors, look_up, move_averages, on_grid
from zoo.errors import RecipeError
from zoo.nearest import nearest_codes
from zoo.outputs import Quantized
from zoo.precision import at_least_fp32, full_precision


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
        require_latent("quantizer vq-ema", z_BDthw, latent_dim=self.latent_dim, meaning="latent_dim")
        with full_precision(z_BDthw):
            z_BDn = at_least_fp32(z_BDthw).flatten(2)
            if self.training and not self.initialized.is_meta and not bool(self.initialized):
                self._initialize(z_BDn.detach())
            indices_Bn = nearest_codes(z_BDn, self.embeddings.to(z_BDn.dtype))
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
        require_indices("quantizer vq-ema", indices_Bqthw)
        return on_grid(look_up(self.embeddings, indices_Bqthw[:, 0].flatten(1)), indices_Bqthw.shape[2:])

    @torch.no_grad()
    def _initialize(self, z_BDn: Tensor) -> None:
        drawn_KD = draw_vectors(z_BDn, self.codebook_size)
        self.embeddings.copy_(drawn_KD)
        self.z_avg.copy_(drawn_KD)
        self.N.fill_(1)
        self.initialized.fill_(True)

    @torch.no_grad()
    def _move(self, z_BDn: Tensor, indices_Bn: Tensor) -> Tensor:
        """Update the averages and the codes; returns the number of codes restarted."""
        move_averages(self.N, self.z_avg, z_BDn, indices_Bn, decay=self.decay)
        # Laplace smoothing keeps an unused code finite; the sum of the counts stays.
        total = self.N.sum()
        smoothed_K = (self.N + 1e-7) / (total + self.codebook_size * 1e-7) * total
        codes_KD = self.z_avg / smoothed_K[:, None]
        dead_K = self.N.lt(self.restart_below)
        if self.restart_below:
            # Drawn at every step, needed or not: asking whether any code is dead would stall the device.
            codes_KD = torch.where(dead_K[:, None], draw_vectors(z_BDn, self.codebook_size), codes_KD)
        self.embeddings.copy_(codes_KD)
        return dead_K.sum().float()
