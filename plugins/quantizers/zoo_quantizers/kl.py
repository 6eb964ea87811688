"""The bottleneck of a variational autoencoder, as latent diffusion models and their video kin use it.

Shapes: B batch, D latent channels, C = 2D channels of moments, t h w the latent grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.outputs import Quantized
from zoo.precision import at_least_fp32, full_precision
from zoo_quantizers.checks import require_at_least_zero, require_count, require_latent


class KL(nn.Module):
    """Reads the latent as a diagonal Gaussian; samples it in training, takes its mean in evaluation.

    The first D channels are the mean, the last D the log-variance, clamped to [-30, 20]. It has no weights:
    published models project to 2D channels before it (the encoder's last layer, or `pre_quant: conv1x1x1`).
    The KL to a standard normal is summed over the channels and positions of a clip and averaged over
    clips, as latent diffusion, VidTok and OmniTokenizer reduce it.

    Sources: https://arxiv.org/abs/1312.6114, https://arxiv.org/abs/2112.10752

    Args:
        latent_dim: Channels D of a sample; the latent it takes has `input_dim` = 2D.
        kl_weight: Weight of the KL, in nats per clip. The published 1e-6 stands beside a reconstruction error
            summed over an image (VidTok: over a frame). Beside a mean error, as in the trainer here, the same
            balance is 1e-6 divided by the number of values in it.

    Raises:
        RecipeError: An option is out of range.
    """

    continuous = True
    codebook_size = 0
    num_codebooks = 0

    dtype_anchor: Tensor

    def __init__(self, *, latent_dim: int = 4, kl_weight: float = 1e-6) -> None:
        super().__init__()
        require_count("kl", latent_dim=latent_dim)
        require_at_least_zero("kl", kl_weight=kl_weight)
        self.latent_dim = latent_dim
        self.input_dim = 2 * latent_dim
        self.kl_weight = kl_weight
        # Empty: it only follows `.to(dtype)`, so that the output has the type of the model's weights.
        self.register_buffer("dtype_anchor", torch.empty(0), persistent=False)

    def forward(self, moments_BCthw: Tensor) -> Quantized:
        """Sample (training) or take the mean (evaluation).

        Args:
            moments_BCthw: Mean, then log-variance, of any float type; in float32 inside any autocast.

        Returns:
            z_BDthw of half the channels; no indices; loss = kl_weight * KL; stats `kl`, in nats per clip.
            Training draws from torch's global generator.

        Raises:
            PortError: C is not `2 * latent_dim`.
        """
        require_latent("kl", moments_BCthw, self.input_dim, "2 * latent_dim")
        with full_precision(moments_BCthw):
            mean_BDthw, logvar_BDthw = at_least_fp32(moments_BCthw).chunk(2, dim=1)
            logvar_BDthw = logvar_BDthw.clamp(-30, 20)
            kl_BDthw = 0.5 * (mean_BDthw.square() + logvar_BDthw.exp() - 1 - logvar_BDthw)
            kl = kl_BDthw.sum() / kl_BDthw.shape[0]
            z_BDthw = mean_BDthw
            if self.training:
                z_BDthw = mean_BDthw + (0.5 * logvar_BDthw).exp() * torch.randn_like(mean_BDthw)
        return Quantized(z_BDthw.to(self.dtype_anchor.dtype), None, self.kl_weight * kl, {"kl": kl.detach()})
