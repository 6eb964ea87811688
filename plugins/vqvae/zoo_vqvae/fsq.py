"""Finite scalar quantization: an implicit codebook, the grid of a few levels per channel.

Shapes: B batch, D latent channels (one per level), t h w the latent grid, q = 1 codebook.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.errors import PortError, RecipeError
from zoo.outputs import Quantized
from zoo.precision import at_least_fp32, full_precision
from zoo_vqvae.code_stats import code_stats, count_codes

_EPS = 1e-3
"""How far the bounded value may pass the outermost level, as a fraction of the range."""


class FSQ(nn.Module):
    """Rounds every channel to one of a few levels; nothing is learned and no code can die.

    A channel of L levels is bounded by a tanh, rounded (gradient straight through) and divided by
    L // 2: odd L gives values in [-1, 1] with 0 the middle, even L one more level below 0 than above.
    The index counts levels, the first channel the fastest.

    Source: https://arxiv.org/abs/2309.15505

    Args:
        levels: Number of levels of each channel; their product is the codebook size. The paper
            advises [8, 6, 5], [8, 5, 5, 5] and [7, 5, 5, 5, 5] for about 2^8, 2^10 and 2^12 codes.

    Raises:
        RecipeError: There is no level, a level is outside [2, 256], or there are over 2^24 codes.
    """

    continuous = False
    num_codebooks = 1

    dtype_anchor: Tensor

    def __init__(self, *, levels: list[int] = [8, 5, 5, 5]) -> None:  # noqa: B006 - read, never changed
        super().__init__()
        if not levels or not all(isinstance(level, int) and 2 <= level <= 256 for level in levels):
            raise RecipeError(
                f"quantizer fsq: levels is {levels}; it must be a list of whole numbers from 2 to 256, "
                "such as [8, 5, 5, 5]"
            )
        if math.prod(levels) > 2**24:
            raise RecipeError(
                f"quantizer fsq: levels {levels} make {math.prod(levels)} codes; the most is 2^24 = {2**24}"
            )
        self.levels = tuple(levels)
        self.latent_dim = len(levels)
        self.codebook_size = math.prod(levels)
        # Empty: it only follows `.to(dtype)`, so that the output has the type of the model's weights.
        self.register_buffer("dtype_anchor", torch.empty(0), persistent=False)

    def forward(self, z_BDthw: Tensor) -> Quantized:
        """Quantize.

        Args:
            z_BDthw: Latent of any float type; computed in float32 inside any autocast.

        Returns:
            z_BDthw exactly the code values, with the gradient of the bounded input; indices
            (B, 1, t, h, w); loss 0; stats `perplexity` and `usage` of this batch.

        Raises:
            PortError: D is not the number of levels.
        """
        if z_BDthw.ndim != 5 or z_BDthw.shape[1] != self.latent_dim:
            raise PortError(
                f"quantizer fsq got a latent of shape {tuple(z_BDthw.shape)}; it takes (B, D, t, h, w) with "
                f"D = {self.latent_dim}, one channel for each of levels={list(self.levels)}"
            )
        with full_precision(z_BDthw):
            z_BDthw = at_least_fp32(z_BDthw)
            bounded_BDthw = self._bound(z_BDthw)
            steps_BDthw = bounded_BDthw.detach().round()
            half_D111 = self._halves(z_BDthw.device)
            digits_BDthw = steps_BDthw.long() + half_D111
            indices_Bqthw = (digits_BDthw * self._basis(z_BDthw.device)).sum(dim=1, keepdim=True)
            # bounded - bounded is exactly 0: the value is exactly the level.
            out_BDthw = (steps_BDthw + (bounded_BDthw - bounded_BDthw.detach())) / half_D111
            stats = code_stats(count_codes(indices_Bqthw.flatten(), self.codebook_size))
        return Quantized(out_BDthw.to(self.dtype_anchor.dtype), indices_Bqthw, z_BDthw.new_zeros(()), stats)

    def lookup(self, indices_Bqthw: Tensor) -> Tensor:
        """Return the code values z_BDthw of int64 indices (B, 1, t, h, w)."""
        if indices_Bqthw.ndim != 5 or indices_Bqthw.shape[1] != 1:
            raise PortError(
                f"quantizer fsq got indices of shape {tuple(indices_Bqthw.shape)}; it takes (B, 1, t, h, w)"
            )
        device = indices_Bqthw.device
        digits_BDthw = indices_Bqthw // self._basis(device) % _per_channel(self.levels, device)
        half_D111 = self._halves(device)
        dtype = self.dtype_anchor.dtype
        steps_BDthw = (digits_BDthw - half_D111).to(torch.promote_types(dtype, torch.float32))
        return (steps_BDthw / half_D111).to(dtype)

    def _bound(self, z_BDthw: Tensor) -> Tensor:
        halves = [(level - 1) * (1 + _EPS) / 2 for level in self.levels]
        offsets = [0.0 if level % 2 else 0.5 for level in self.levels]
        shifts = [math.atanh(offset / half) for offset, half in zip(offsets, halves, strict=True)]
        half, offset, shift = (
            z_BDthw.new_tensor(values).view(-1, 1, 1, 1) for values in (halves, offsets, shifts)
        )
        return (z_BDthw + shift).tanh() * half - offset

    # Made anew instead of kept as buffers, which a model built on the meta device would lose.
    def _halves(self, device: torch.device) -> Tensor:
        return _per_channel([level // 2 for level in self.levels], device)

    def _basis(self, device: torch.device) -> Tensor:
        return _per_channel([math.prod(self.levels[:i]) for i in range(self.latent_dim)], device)


def _per_channel(values: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(-1, 1, 1, 1)
