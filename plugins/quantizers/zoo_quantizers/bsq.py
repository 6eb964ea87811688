"""Binary spherical quantization: the signs of a latent on the unit sphere.

Shapes: B batch, D latent channels (one per bit), t h w the latent grid, q codebooks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.outputs import Quantized
from zoo.precision import at_least_fp32, full_precision
from zoo_quantizers.binary import indices_to_signs
from zoo_quantizers.checks import require_indices, require_latent
from zoo_quantizers.sign_codes import SignCodes


class BSQ(SignCodes):
    """Gives every latent vector length 1 and replaces it by its signs / sqrt(D), also of length 1.

    The entropy loss is that of `lfq`, with bits of probability sigmoid(4 * inverse_temperature * z / sqrt(D))
    and the batch's entropy summed over groups of bits: an upper bound of the entropy over all codes, which
    it is when group_size = num_bits. In evaluation the loss is the commitment alone.

    Source: https://arxiv.org/abs/2406.07548

    Args:
        num_bits: Channels D; there are 2^num_bits codes.
        num_codebooks: Numbers that a code is written as, of num_bits / num_codebooks bits each, the first
            bits first. Changes nothing else.
        group_size: Bits whose joint use is evened out, a divisor of num_bits.
        entropy_weight: Weight of the entropy loss, sample entropy - diversity * batch entropy, in nats.
        diversity: Weight of the batch's entropy within it.
        commitment: Weight of the squared distance from the unit vector to its code.
        inverse_temperature: Sharpness of the soft assignment.

    Raises:
        RecipeError: An option is out of range.
    """

    def __init__(
        self,
        *,
        num_bits: int = 18,
        num_codebooks: int = 1,
        group_size: int = 9,
        entropy_weight: float = 0.1,
        diversity: float = 1.0,
        commitment: float = 0.0,
        inverse_temperature: float = 1.0,
    ) -> None:
        super().__init__(
            "bsq",
            num_bits=num_bits,
            num_codebooks=num_codebooks,
            group_size=group_size,
            entropy_weight=entropy_weight,
            diversity=diversity,
            commitment=commitment,
            inverse_temperature=inverse_temperature,
        )

    def forward(self, z_BDthw: Tensor) -> Quantized:
        """Quantize.

        Args:
            z_BDthw: Latent of any float type and length; computed in float32 inside any autocast.

        Returns:
            z_BDthw exactly the codes, values of -1/sqrt(D) (also for 0) or 1/sqrt(D), with the gradient of
            the unit vector; indices (B, q, t, h, w), the first bit the highest; the loss; stats `perplexity`
            and `usage` of this batch, means over the codebooks, and `sample_entropy`, in nats per token.

        Raises:
            PortError: D is not `num_bits`.
        """
        require_latent("bsq", z_BDthw, self.latent_dim)
        with full_precision(z_BDthw):
            # The floor keeps the gradient of a vector of zeros finite.
            unit_BDthw = F.normalize(at_least_fp32(z_BDthw), dim=1, eps=1e-6)
            positive_BDthw = unit_BDthw.detach() > 0
            codes_BDthw = (2 * positive_BDthw.to(unit_BDthw.dtype) - 1) * self.latent_dim**-0.5
            # unit - unit is exactly 0: the value is exactly the code.
            out_BDthw = codes_BDthw + (unit_BDthw - unit_BDthw.detach())
            logits_BDthw = (4 * self.inverse_temperature * self.latent_dim**-0.5) * unit_BDthw
            indices_Bqthw, entropy_loss, stats = self._describe(positive_BDthw, logits_BDthw)
            loss = self.commitment * (unit_BDthw - codes_BDthw).square().sum(dim=1).mean() + entropy_loss
        return Quantized(out_BDthw.to(self.dtype_anchor.dtype), indices_Bqthw, loss, stats)

    def lookup(self, indices_Bqthw: Tensor) -> Tensor:
        """Return the codes z_BDthw of int64 indices (B, q, t, h, w)."""
        require_indices("bsq", indices_Bqthw, self.num_codebooks)
        dtype = self.dtype_anchor.dtype
        wide = torch.promote_types(dtype, torch.float32)
        return (indices_to_signs(indices_Bqthw, self.latent_dim, wide) * self.latent_dim**-0.5).to(dtype)
