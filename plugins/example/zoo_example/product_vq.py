"""Product quantization of the latent (sliced DVQ, https://arxiv.org/abs/1803.03382).

Shape legend: B batch, D latent channels, t h w the latent grid, q groups, d channels of a group, K codes of a
group, N = B*t*h*w places.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import ZooError
from zoo.outputs import Quantized
from zoo.precision import full_precision


class ProductVQ(nn.Module):
    """Quantize groups of channels on their own, each by the nearest code of its own codebook.

    q groups of K codes give K**q combinations from q*K vectors, where a single codebook needs a vector for
    each. Codebooks learn by gradient and the encoder by the straight-through estimator, as in VQ-VAE
    (https://arxiv.org/abs/1711.00937); the DVQ paper splits the channels alike and moves its codes by EMA.
    """

    continuous = False

    def __init__(
        self,
        *,
        latent_dim: int = 64,
        num_groups: int = 4,
        codebook_size: int = 64,
        commitment: float = 0.25,
    ) -> None:
        """Build the codebooks.

        Args:
            latent_dim: Channels of the latent, a multiple of num_groups.
            num_groups: Groups of channels, and so codebooks and indices a place.
            codebook_size: Codes of each codebook.
            commitment: Weight beta of the term that holds the latent to its code; the other's is 1.

        Raises:
            ZooError: An option is outside its range.
        """
        super().__init__()
        if min(latent_dim, num_groups, codebook_size) < 1 or latent_dim % num_groups:
            raise ZooError(
                f"product-vq got latent_dim={latent_dim}, num_groups={num_groups}, "
                f"codebook_size={codebook_size}; all are 1 or more, and num_groups divides latent_dim"
            )
        if commitment < 0:
            raise ZooError(f"product-vq got commitment={commitment}; it must be 0 or more")
        self.latent_dim = latent_dim
        self.num_codebooks = num_groups
        self.codebook_size = codebook_size
        self.commitment = commitment
        # Small codes differ in direction, so that latents of any scale spread over them; with a deviation of
        # 1 the few codes nearest to 0 win all latents of an untrained encoder, and no other ever learns.
        shape_qKd = (num_groups, codebook_size, latent_dim // num_groups)
        self.codes_qKd = nn.Parameter(0.1 * torch.randn(shape_qKd))

    def forward(self, z_BDthw: Tensor) -> Quantized:
        """Quantize a latent; stat `perplexity` (1 to K, mean over groups) tells how many codes are in use."""
        batch, _, t, h, w = z_BDthw.shape
        with full_precision(z_BDthw):
            z_qNd = rearrange(z_BDthw.float(), "b (q d) t h w -> q (b t h w) d", q=self.num_codebooks)
            codes_qKd = self.codes_qKd.float()
            # The squared distance, less |z|^2, which is the same for every code.
            distance_qNK = codes_qKd.square().sum(-1).unsqueeze(1) - 2 * z_qNd @ codes_qKd.mT
            indices_qN = distance_qNK.argmin(-1)
            code_qNd = _gather(codes_qKd, indices_qN)
            codebook_loss = F.mse_loss(code_qNd, z_qNd.detach())
            commitment_loss = F.mse_loss(z_qNd, code_qNd.detach())
            out_qNd = z_qNd + (code_qNd - z_qNd).detach()
        places = {"b": batch, "t": t, "h": h, "w": w}
        return Quantized(
            rearrange(out_qNd, "q (b t h w) d -> b (q d) t h w", **places).to(z_BDthw.dtype),
            rearrange(indices_qN, "q (b t h w) -> b q t h w", **places),
            codebook_loss + self.commitment * commitment_loss,
            {"perplexity": self._perplexity(indices_qN)},
        )

    def lookup(self, indices_Bqthw: Tensor) -> Tensor:
        """Return the codes of indices as z_BDthw."""
        batch, _, t, h, w = indices_Bqthw.shape
        code_qNd = _gather(self.codes_qKd, rearrange(indices_Bqthw, "b q t h w -> q (b t h w)"))
        return rearrange(code_qNd, "q (b t h w) d -> b (q d) t h w", b=batch, t=t, h=h, w=w)

    @torch.no_grad()
    def _perplexity(self, indices_qN: Tensor) -> Tensor:
        used_qK = torch.zeros(self.num_codebooks, self.codebook_size, device=indices_qN.device)
        used_qK.scatter_add_(1, indices_qN, torch.ones_like(indices_qN, dtype=used_qK.dtype))
        share_qK = used_qK / indices_qN.shape[1]
        return torch.special.entr(share_qK).sum(-1).exp().mean()


def _gather(codes_qKd: Tensor, indices_qN: Tensor) -> Tensor:
    return codes_qKd.gather(1, indices_qN.unsqueeze(-1).expand(-1, -1, codes_qKd.shape[-1]))
