"""The bottleneck of a variational autoencoder, as a continuous quantizer.

Shapes: B batch, D latent channels, t h w the latent grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.errors import PortError, RecipeError
from zoo.outputs import Quantized
from zoo.precision import at_least_fp32, full_precision


class GaussianBottleneck(nn.Module):
    """Turns every latent vector into a diagonal Gaussian; samples it in training, takes the mean else.

    A 1x1x1 convolution `moments` gives mean and log-variance, the latter clamped to [-30, 20].
    The KL to a standard normal is summed over channels and averaged over positions and clips, so
    that `kl_weight` means the same at every clip size. (Latent diffusion sums both the KL and the
    reconstruction over the clip; its 1e-6 beside a *mean* reconstruction error is smaller than
    ours by the number of pixel values per latent position.)

    Sources: https://arxiv.org/abs/1312.6114, https://arxiv.org/abs/2112.10752

    Args:
        latent_dim: Channels D, in and out.
        kl_weight: Weight of the KL, in nats per position.

    Raises:
        RecipeError: An option is out of range.
    """

    continuous = True
    codebook_size = 0
    num_codebooks = 0

    def __init__(self, *, latent_dim: int = 16, kl_weight: float = 1e-6) -> None:
        super().__init__()
        if latent_dim < 1 or kl_weight < 0:
            raise RecipeError(
                f"quantizer gaussian: latent_dim is {latent_dim} and kl_weight {kl_weight}; they must be at "
                "least 1 and 0, such as latent_dim=16, kl_weight=1e-6"
            )
        self.latent_dim = latent_dim
        self.kl_weight = kl_weight
        self.moments = nn.Conv3d(latent_dim, 2 * latent_dim, 1)

    def forward(self, z_BDthw: Tensor) -> Quantized:
        """Sample (training) or take the mean (evaluation).

        Args:
            z_BDthw: Latent of any float type; computed in float32 inside any autocast.

        Returns:
            z_BDthw of the same shape; no indices; loss = kl_weight * KL; stats `kl`, in nats per
            position. Training draws from torch's global generator.

        Raises:
            PortError: D is not `latent_dim`.
        """
        if z_BDthw.ndim != 5 or z_BDthw.shape[1] != self.latent_dim:
            raise PortError(
                f"quantizer gaussian got a latent of shape {tuple(z_BDthw.shape)}; it takes (B, D, t, h, w) "
                f"with D = latent_dim = {self.latent_dim}"
            )
        dtype = self.moments.weight.dtype
        with full_precision(z_BDthw):
            moments = at_least_fp32(self.moments(z_BDthw.to(dtype)))
            mean_BDthw, logvar_BDthw = moments.chunk(2, dim=1)
            logvar_BDthw = logvar_BDthw.clamp(-30, 20)
            kl_BDthw = 0.5 * (mean_BDthw.square() + logvar_BDthw.exp() - 1 - logvar_BDthw)
            kl = kl_BDthw.sum(dim=1).mean()
            out_BDthw = mean_BDthw
            if self.training:
                out_BDthw = mean_BDthw + (0.5 * logvar_BDthw).exp() * torch.randn_like(mean_BDthw)
        return Quantized(out_BDthw.to(dtype), None, self.kl_weight * kl, {"kl": kl.detach()})
