"""No bottleneck: the latent goes to the decoder as it is.

Shapes: B batch, D latent channels, t h w the latent grid.
"""

from __future__ import annotations

from torch import Tensor, nn

from zoo.outputs import Quantized
from zoo_quantizers.checks import require_count, require_latent


class Identity(nn.Module):
    """Passes the latent on: a plain autoencoder, the upper bound for any quantizer in its place.

    Args:
        latent_dim: Channels D, in and out.

    Raises:
        RecipeError: The option is out of range.
    """

    continuous = True
    codebook_size = 0
    num_codebooks = 0

    def __init__(self, *, latent_dim: int = 16) -> None:
        super().__init__()
        require_count("identity", latent_dim=latent_dim)
        self.latent_dim = latent_dim

    def forward(self, z_BDthw: Tensor) -> Quantized:
        """Return the latent itself, no indices, loss 0 and no stats.

        Raises:
            PortError: D is not `latent_dim`.
        """
        require_latent("identity", z_BDthw, self.latent_dim)
        return Quantized(z_BDthw, None, z_BDthw.new_zeros(()), {})
