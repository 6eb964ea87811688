"""Finite scalar quantization: an implicit codebook, the grid of a few levels per channel.

Shapes: B batch, D latent channels (one per level), t h w the latent grid, q = 1 codebook.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from zoo.checks import require_indices
from zoo.codebook import code_stats, count_codes
from zoo.errors import PortError, RecipeError
from zoo.outputs import Quantized
from zoo.precision import at_least_fp32, full_precision

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
        self._basis = [math.prod(levels[:channel]) for channel in range(len(levels))]
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
            if not torch.is_grad_enabled():
                z_BDthw = z_BDthw.detach()  # so that nothing is kept for a backward pass
            table = self._table(z_BDthw)
            out_BDthw, number_Bthw = _Round.apply(z_BDthw, table, self._basis)  # type: ignore[no-untyped-call]
            lowest = sum(level // 2 * step for level, step in zip(self.levels, self._basis, strict=True))
            indices_Bqthw = (number_Bthw + lowest).long()[:, None]
            stats = code_stats(count_codes(indices_Bqthw, self.codebook_size))
        return Quantized(out_BDthw.to(self.dtype_anchor.dtype), indices_Bqthw, z_BDthw.new_zeros(()), stats)

    def lookup(self, indices_Bqthw: Tensor) -> Tensor:
        """Return the code values z_BDthw of int64 indices (B, 1, t, h, w)."""
        require_indices("quantizer fsq", indices_Bqthw)
        basis_D111, levels_D111, half_D111 = (
            _per_channel(values, indices_Bqthw)
            for values in (self._basis, self.levels, [level // 2 for level in self.levels])
        )
        digits_BDthw = indices_Bqthw // basis_D111 % levels_D111
        dtype = self.dtype_anchor.dtype
        steps_BDthw = (digits_BDthw - half_D111).to(torch.promote_types(dtype, torch.float32))
        return (steps_BDthw / half_D111).to(dtype)

    # Tensors are made anew instead of kept as buffers, which a model built on the meta device would lose.
    def _table(self, z_BDthw: Tensor) -> Tensor:
        """Shift, half range, offset and half width of every channel, in one copy to the device."""
        halves = [(level - 1) * (1 + _EPS) / 2 for level in self.levels]
        offsets = [0.0 if level % 2 else 0.5 for level in self.levels]
        shifts = [math.atanh(offset / half) for offset, half in zip(offsets, halves, strict=True)]
        return z_BDthw.new_tensor([shifts, halves, offsets, [level // 2 for level in self.levels]])


class _Round(torch.autograd.Function):
    """The levels, with the gradient of the bounded input, and their number, with 0 for the middle ones."""

    @staticmethod
    def forward(ctx: Any, z_BDthw: Tensor, table: Tensor, basis: list[int]) -> tuple[Tensor, Tensor]:
        shift, half, offset, half_width = table.view(4, -1, 1, 1, 1).unbind(0)
        tanh_BDthw = (z_BDthw + shift).tanh_()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(tanh_BDthw, half / half_width)
            scaled_BDthw = tanh_BDthw * half
        else:
            scaled_BDthw = tanh_BDthw.mul_(half)
        steps_BDthw = scaled_BDthw.sub_(offset).round_()
        # Whole numbers of at most 2^24, which float32 adds exactly.
        number_Bthw = torch.zeros_like(steps_BDthw[:, 0])
        for steps_Bthw, step in zip(steps_BDthw.unbind(1), basis, strict=True):
            number_Bthw.add_(steps_Bthw, alpha=step)
        ctx.mark_non_differentiable(number_Bthw)
        return steps_BDthw.div_(half_width), number_Bthw

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BDthw: Tensor, _: Tensor | None) -> tuple[Tensor, None, None]:
        tanh_BDthw, slope = ctx.saved_tensors
        inner_BDthw = (tanh_BDthw * tanh_BDthw).neg_().add_(1)
        return inner_BDthw.mul_(slope).mul_(gradient_BDthw), None, None


def _per_channel(values: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device).view(-1, 1, 1, 1)
