"""Lookup-free quantization: a code is the signs of the channels.

Shapes: B batch, D latent channels (one per bit), t h w the latent grid, q codebooks.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from zoo.outputs import Quantized
from zoo.precision import at_least_fp32, full_precision
from zoo_quantizers.binary import indices_to_signs
from zoo_quantizers.checks import require_indices, require_latent
from zoo_quantizers.sign_codes import SignCodes


class LFQ(SignCodes):
    """Replaces every channel by its sign, -1 (also for 0) or 1; no codebook to learn or to look up.

    The entropy loss asks every token to be sure of its code and the batch to use all codes alike. Under soft
    assignment, by the softmax over codes of 2 * inverse_temperature * z . code, a bit is 1 with
    probability sigmoid(4 * inverse_temperature * z). Both entropies are exact at any number of bits.
    In evaluation the loss is the commitment alone.

    Source: https://arxiv.org/abs/2310.05737

    Args:
        num_bits: Channels D; there are 2^num_bits codes.
        num_codebooks: Numbers that a code is written as, of num_bits / num_codebooks bits each, the first
            bits first (two of 9 bits are easier to predict than one of 18). Changes nothing else.
        entropy_weight: Weight of the entropy loss, sample entropy - diversity * batch entropy, in nats.
        diversity: Weight of the batch's entropy within it.
        commitment: Weight of mean (z - code)^2.
        inverse_temperature: Sharpness of the soft assignment.

    Raises:
        RecipeError: An option is out of range.
    """

    def __init__(
        self,
        *,
        num_bits: int = 18,
        num_codebooks: int = 1,
        entropy_weight: float = 0.1,
        diversity: float = 1.0,
        commitment: float = 0.25,
        inverse_temperature: float = 100.0,
    ) -> None:
        super().__init__(
            "lfq",
            num_bits=num_bits,
            num_codebooks=num_codebooks,
            group_size=num_bits,
            entropy_weight=entropy_weight,
            diversity=diversity,
            commitment=commitment,
            inverse_temperature=inverse_temperature,
        )

    def forward(self, z_BDthw: Tensor) -> Quantized:
        """Quantize.

        Args:
            z_BDthw: Latent of any float type; computed in float32 inside any autocast.

        Returns:
            z_BDthw exactly the signs, with the gradient passed straight to the input; indices
            (B, q, t, h, w), the first bit the highest; the loss; stats `perplexity` and `usage` of this
            batch, means over the codebooks, and `sample_entropy`, in nats per token.

        Raises:
            PortError: D is not `num_bits`.
        """
        require_latent("lfq", z_BDthw, self.latent_dim)
        with full_precision(z_BDthw):
            z_BDthw = at_least_fp32(z_BDthw)
            positive_BDthw = z_BDthw.detach() > 0
            signs_BDthw = 2 * positive_BDthw.to(z_BDthw.dtype) - 1
            # z - z is exactly 0: the value is exactly the sign and the gradient exactly that of z.
            out_BDthw = signs_BDthw + (z_BDthw - z_BDthw.detach())
            logits_BDthw = 4 * self.inverse_temperature * z_BDthw
            indices_Bqthw, entropy_loss, stats = self._describe(positive_BDthw, logits_BDthw)
            loss = self.commitment * F.mse_loss(z_BDthw, signs_BDthw) + entropy_loss
        return Quantized(out_BDthw.to(self.dtype_anchor.dtype), indices_Bqthw, loss, stats)

    def lookup(self, indices_Bqthw: Tensor) -> Tensor:
        """Return the signs z_BDthw of int64 indices (B, q, t, h, w)."""
        require_indices("lfq", indices_Bqthw, self.num_codebooks)
        return indices_to_signs(indices_Bqthw, self.latent_dim, self.dtype_anchor.dtype)
