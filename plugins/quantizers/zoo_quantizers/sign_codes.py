"""What quantizers of signs share: their options, the entropy loss and the stats.

Shapes: B batch, D latent channels (one per bit), t h w the latent grid, q codebooks, G groups of g bits.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from zoo.errors import RecipeError
from zoo_quantizers.binary import batch_entropy, bits_to_indices, sample_entropy
from zoo_quantizers.checks import require_at_least_zero
from zoo_quantizers.rvq import level_stats

_MOST_BITS = 24
"""Bits of one index, and of one table of code probabilities: 64 MiB in float32."""


class SignCodes(nn.Module):
    """Options and entropies of a quantizer whose codes are signs, such as `lfq` and `bsq`."""

    continuous = False

    dtype_anchor: Tensor

    def __init__(
        self,
        name: str,
        *,
        num_bits: int,
        num_codebooks: int,
        group_size: int,
        entropy_weight: float,
        diversity: float,
        commitment: float,
        inverse_temperature: float,
    ) -> None:
        super().__init__()
        _require_bits(name, num_bits=num_bits, num_codebooks=num_codebooks, group_size=group_size)
        require_at_least_zero(
            name,
            entropy_weight=entropy_weight,
            diversity=diversity,
            commitment=commitment,
            inverse_temperature=inverse_temperature,
        )
        self.latent_dim = num_bits
        self.num_codebooks = num_codebooks
        self.codebook_size = 2 ** (num_bits // num_codebooks)
        self.group_size = group_size
        self.entropy_weight = entropy_weight
        self.diversity = diversity
        self.commitment = commitment
        self.inverse_temperature = inverse_temperature
        # Empty: it only follows `.to(dtype)`, so that the output has the type of the model's weights.
        self.register_buffer("dtype_anchor", torch.empty(0), persistent=False)

    def _describe(
        self, positive_BDthw: Tensor, logits_BDthw: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return indices_Bqthw, the weighted entropy loss (0 in evaluation) and the stats of a batch."""
        indices_Bqthw = bits_to_indices(positive_BDthw, self.num_codebooks)
        per_sample = sample_entropy(logits_BDthw, dim=1)
        loss = per_sample.new_zeros(())
        if self.training and self.entropy_weight:
            logits_NGg = rearrange(logits_BDthw, "b (G g) t h w -> (b t h w) G g", g=self.group_size)
            loss = self.entropy_weight * (per_sample - self.diversity * batch_entropy(logits_NGg))
        stats = level_stats(indices_Bqthw.flatten(2), self.codebook_size)
        stats["sample_entropy"] = per_sample.detach()
        return indices_Bqthw, loss, stats


def _require_bits(name: str, *, num_bits: int, num_codebooks: int, group_size: int) -> None:
    """Raise `RecipeError` unless the bits split evenly into codebooks and groups of at most 24 bits."""
    if num_bits < 1:
        raise RecipeError(f"quantizer {name}: num_bits is {num_bits}; it must be at least 1, such as 18")
    if num_codebooks < 1 or num_bits % num_codebooks or num_bits // num_codebooks > _MOST_BITS:
        raise RecipeError(
            f"quantizer {name}: num_codebooks is {num_codebooks} and num_bits {num_bits}; the bits must "
            f"split evenly, into numbers of at most {_MOST_BITS} bits, such as num_bits=36, num_codebooks=2"
        )
    if group_size == num_bits > _MOST_BITS:
        raise RecipeError(
            f"quantizer {name}: the entropy over codes of {num_bits} bits needs a table of "
            f"2^{num_bits} numbers; the most is {_MOST_BITS} bits. Quantizer bsq splits them: "
            "num_bits=36, group_size=9"
        )
    if group_size < 1 or num_bits % group_size or group_size > _MOST_BITS:
        raise RecipeError(
            f"quantizer {name}: group_size is {group_size} and num_bits {num_bits}; the bits must "
            f"split evenly, into groups of at most {_MOST_BITS}, such as num_bits=18, group_size=9"
        )
