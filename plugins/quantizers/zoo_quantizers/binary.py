"""Codes made of signs: their numbers, and the exact entropy of soft assignments to them.

A bit of logit l is 1 (the sign +) with probability sigmoid(l), and the bits of a token are independent.

Shapes: N tokens, G groups of g bits; B batch, D bits, t h w the latent grid, q codebooks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from zoo.ranks import everywhere, world_size

_PIECE = 4096
"""Tokens worked on together: 8 MiB a table at 18 bits, in float32."""


def bits_to_indices(positive_BDthw: Tensor, num_codebooks: int) -> Tensor:
    """Number the codes: int64 indices_Bqthw, of D / q bits each, the first bit the highest."""
    bits_Bqkthw = rearrange(positive_BDthw, "b (q k) t h w -> b q k t h w", q=num_codebooks).long()
    shifts = torch.arange(bits_Bqkthw.shape[2] - 1, -1, -1, device=bits_Bqkthw.device)
    return (bits_Bqkthw << shifts.view(-1, 1, 1, 1)).sum(dim=2)


def indices_to_signs(indices_Bqthw: Tensor, num_bits: int, dtype: torch.dtype) -> Tensor:
    """Return the code of every index, D = num_bits values of -1 or 1."""
    per_codebook = num_bits // indices_Bqthw.shape[1]
    shifts = torch.arange(per_codebook - 1, -1, -1, device=indices_Bqthw.device)
    bits_Bqkthw = (indices_Bqthw[:, :, None] >> shifts.view(-1, 1, 1, 1)) & 1
    return rearrange(2 * bits_Bqkthw - 1, "b q k t h w -> b (q k) t h w").to(dtype)


def sample_entropy(logits: Tensor, *, dim: int) -> Tensor:
    """Return the entropy in nats of each token's code, averaged over tokens.

    The code's probability is the product of those of its bits, so its entropy is their sum.
    """
    size = logits.abs()
    # Written for |l|: softplus(l) - l * sigmoid(l) would lose all digits of a certain bit.
    bits = F.softplus(-size) + size * torch.sigmoid(-size)
    return bits.sum(dim=dim).mean()


def batch_entropy(logits_NGg: Tensor) -> Tensor:
    """Return the entropy in nats of the mean distribution over the 2^g codes, summed over groups.

    Exact, in time of three products of (2^(g/2) x N) and (N x 2^(g/2)) matrices with the backward
    pass, and without a table of N x 2^g: a token's distribution is the outer product of those over its
    first and its last bits, and a sum of outer products is a matrix product. Across processes
    the mean is over the tokens of all (as many on each).
    """
    entropy: Tensor = _BatchEntropy.apply(logits_NGg)  # type: ignore[no-untyped-call]
    return entropy


class _BatchEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NGg: Tensor) -> Tensor:
        num_tokens = logits_NGg.shape[0]
        mean_Gab: Tensor | None = None
        for piece_NGg in torch.split(logits_NGg, _PIECE):
            high_GNa, low_GNb = _halves(piece_NGg)
            if mean_Gab is None:
                mean_Gab = torch.bmm(high_GNa.mT, low_GNb)
            else:
                mean_Gab.baddbmm_(high_GNa.mT, low_GNb)
        assert mean_Gab is not None, "at least one token"
        mean_Gab /= num_tokens
        mean_Gab = everywhere(mean_Gab) / world_size()
        ctx.save_for_backward(logits_NGg, mean_Gab)
        return torch.special.entr(mean_Gab).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        logits_NGg, mean_Gab = ctx.saved_tensors
        # A code of probability 0 is 0 for every token too, which the clamped logarithm is multiplied by.
        # The 1 in -(log p + 1) is left out: probabilities that sum to 1 do not feel it.
        # Per process the mean takes 1/world, which data parallel training's average of gradients divides by
        # once more while the same entropy stands in every process's loss: so it is left out as well.
        slope_Gab = mean_Gab.clamp(min=torch.finfo(mean_Gab.dtype).tiny).log() * (-grad / logits_NGg.shape[0])
        return torch.cat([_backward(piece_NGg, slope_Gab) for piece_NGg in torch.split(logits_NGg, _PIECE)])


def _backward(logits_NGg: Tensor, slope_Gab: Tensor) -> Tensor:
    """Return the gradient of every bit's logit, E[slope * bit] - p * E[slope]."""
    high_GNa, low_GNb = _halves(logits_NGg)
    num_high = logits_NGg.shape[2] // 2
    by_low_GNb = torch.bmm(high_GNa, slope_Gab).mul_(low_GNb)
    by_high_GNa = torch.bmm(low_GNb, slope_Gab.mT).mul_(high_GNa)
    mean_GN1 = by_low_GNb.sum(dim=2, keepdim=True)
    bits_GNg = torch.cat(
        [
            by_high_GNa @ _bit_table(num_high, by_high_GNa),
            by_low_GNb @ _bit_table(logits_NGg.shape[2] - num_high, by_low_GNb),
        ],
        dim=2,
    )
    bits_NGg, mean_NG1 = rearrange(bits_GNg, "G n g -> n G g"), rearrange(mean_GN1, "G n o -> n G o")
    return bits_NGg - logits_NGg.sigmoid() * mean_NG1


def _halves(logits_NGg: Tensor) -> tuple[Tensor, Tensor]:
    """Distributions over the codes of the first g // 2 bits and of the others."""
    num_high = logits_NGg.shape[2] // 2
    bits_GNg2 = rearrange([(-logits_NGg).sigmoid(), logits_NGg.sigmoid()], "s n G g -> G n g s")
    return _joint(bits_GNg2[:, :, :num_high]), _joint(bits_GNg2[:, :, num_high:])


def _joint(bits_GNg2: Tensor) -> Tensor:
    """Multiply the distributions of single bits out to one over 2^g codes, the first bit the highest."""
    num_bits = bits_GNg2.shape[2]
    if num_bits == 0:
        return bits_GNg2.new_ones(*bits_GNg2.shape[:2], 1)
    if num_bits == 1:
        return bits_GNg2[:, :, 0]
    high_GNa, low_GNb = _joint(bits_GNg2[:, :, : num_bits // 2]), _joint(bits_GNg2[:, :, num_bits // 2 :])
    return (high_GNa[..., :, None] * low_GNb[..., None, :]).flatten(2)


def _bit_table(num_bits: int, like: Tensor) -> Tensor:
    """All codes of num_bits as rows of 0 and 1, the first bit the highest."""
    codes = torch.arange(2**num_bits, device=like.device)
    shifts = torch.arange(num_bits - 1, -1, -1, device=like.device)
    return ((codes[:, None] >> shifts) & 1).to(like.dtype)
