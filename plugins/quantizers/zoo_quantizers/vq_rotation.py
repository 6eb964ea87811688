"""Vector quantization with the rotation trick: a gradient that knows where in its cell a latent lies.

Shapes: B batch, D latent channels, n positions of the latent grid.
"""

from __future__ import annotations

from torch import Tensor

from zoo.code_gradients import rotated
from zoo_quantizers.vq import VQ


class RotationVQ(VQ):
    """`vq` with another gradient of the output: turned and scaled from the code back to the latent.

    Straight through, all latents of a code's cell get the same gradient. Here the angle between
    gradient and code is, after the pass, the angle between gradient and latent. Loss, options and
    state are those of `vq`.

    Source: https://arxiv.org/abs/2410.06424
    """

    _name = "vq-rotation"

    def _pass_gradient(self, z_BDn: Tensor, codes_BDn: Tensor) -> Tensor:
        return rotated(z_BDn, codes_BDn)
