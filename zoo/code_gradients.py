"""Gradients through the choice of a code, and of the losses that pull latents and codes together.

Shapes: B batch, D channels, n positions of the latent grid, K codes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo.codebook import sum_by_code
from zoo.nearest import pieces

_MIN_NORM = 1e-6


def straight_through(z_BDn: Tensor, codes_BDn: Tensor) -> Tensor:
    """Return exactly the codes, with the gradient passed to the latent as it comes.

    Source: https://arxiv.org/abs/1711.00937
    """
    if torch.is_grad_enabled() and z_BDn.requires_grad:
        out_BDn: Tensor = _StraightThrough.apply(z_BDn, codes_BDn)  # type: ignore[no-untyped-call]
        return out_BDn
    return codes_BDn


def rotated(z_BDn: Tensor, codes_BDn: Tensor) -> Tensor:
    """Return exactly the codes, with the gradient turned back from the code's direction to the latent's.

    The code is written as (|code| / |z|) R z with R the rotation in the plane of z and the code, and
    the factor and R are held constant: the gradient of z is (|code| / |z|) R^T g.

    Source: https://arxiv.org/abs/2410.06424 (section 4.2)
    """
    if torch.is_grad_enabled() and z_BDn.requires_grad:
        out_BDn: Tensor = _Rotated.apply(z_BDn, codes_BDn)  # type: ignore[no-untyped-call]
        return out_BDn
    return codes_BDn


def pull(
    z_BDn: Tensor,
    codes_BDn: Tensor,
    codes_KD: Tensor,
    indices_Bn: Tensor,
    *,
    codebook: float,
    commitment: float,
) -> Tensor:
    """Return (codebook + commitment) * mean (z - code)^2, of which each term moves one side only.

    The gradient of the `codebook` term goes to codes_KD, that of the `commitment` term to z. Nothing
    as large as z is kept for it besides z and codes_BDn themselves.

    Args:
        z_BDn: Latents.
        codes_BDn: The code of each.
        codes_KD: The codebook that codes_BDn were taken from.
        indices_Bn: Their numbers.
        codebook: Weight of the term that moves the codes.
        commitment: Weight of the term that moves the latents.
    """
    weights = codebook, commitment
    loss: Tensor = _Pull.apply(z_BDn, codes_BDn.detach(), codes_KD, indices_Bn, weights)  # type: ignore[no-untyped-call]
    return loss


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z_BDn: Tensor, codes_BDn: Tensor) -> Tensor:
        ctx.dtype = z_BDn.dtype
        return codes_BDn.view_as(codes_BDn)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BDn: Tensor) -> tuple[Tensor, None]:
        return gradient_BDn.to(ctx.dtype), None


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z_BDn: Tensor, codes_BDn: Tensor) -> Tensor:
        ctx.save_for_backward(z_BDn, codes_BDn)
        return codes_BDn.view_as(codes_BDn)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BDn: Tensor) -> tuple[Tensor, None]:
        z_BDn, codes_BDn = ctx.saved_tensors
        turned_BDn = torch.empty_like(z_BDn)
        for clips, places in pieces(z_BDn):
            turned_BDn[clips, :, places] = _turn_back(
                gradient_BDn[clips, :, places].to(z_BDn.dtype),
                z_BDn[clips, :, places],
                codes_BDn[clips, :, places].to(z_BDn.dtype),
            )
        return turned_BDn, None


def _turn_back(gradient_BDn: Tensor, z_BDn: Tensor, codes_BDn: Tensor) -> Tensor:
    z_norm_B1n = z_BDn.norm(dim=1, keepdim=True).clamp(min=_MIN_NORM)
    code_norm_B1n = codes_BDn.norm(dim=1, keepdim=True)
    u_BDn = z_BDn / z_norm_B1n
    v_BDn = codes_BDn / code_norm_B1n.clamp(min=_MIN_NORM)
    middle_BDn = torch.nn.functional.normalize(u_BDn + v_BDn, dim=1, eps=_MIN_NORM)
    along_middle_B1n = (middle_BDn * gradient_BDn).sum(dim=1, keepdim=True)
    along_code_B1n = (v_BDn * gradient_BDn).sum(dim=1, keepdim=True)
    turned_BDn = gradient_BDn - 2 * middle_BDn * along_middle_B1n + 2 * u_BDn * along_code_B1n
    scaled_BDn: Tensor = turned_BDn * (code_norm_B1n / z_norm_B1n)
    return scaled_BDn


class _Pull(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z_BDn: Tensor,
        codes_BDn: Tensor,
        codes_KD: Tensor,
        indices_Bn: Tensor,
        weights: tuple[float, float],
    ) -> Tensor:
        ctx.save_for_backward(z_BDn, codes_BDn, indices_Bn)
        ctx.weights, ctx.codebook_size, ctx.dtype = weights, codes_KD.shape[0], codes_KD.dtype
        total = z_BDn.new_zeros(())
        for clips, places in pieces(z_BDn):
            apart = z_BDn[clips, :, places] - codes_BDn[clips, :, places]
            total = total + apart.square_().sum()
        loss: Tensor = total * (sum(weights) / z_BDn.numel())
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None, None, None]:
        z_BDn, codes_BDn, indices_Bn = ctx.saved_tensors
        codebook, commitment = ctx.weights
        # codes - z, for both sides; times one factor each.
        apart_BDn = codes_BDn - z_BDn
        unit = gradient * (2 / z_BDn.numel())
        codes_KD = None
        if ctx.needs_input_grad[2]:
            sums_KD = sum_by_code(apart_BDn, indices_Bn, ctx.codebook_size)
            codes_KD = sums_KD.mul_(unit * codebook).to(ctx.dtype)
        z_gradient_BDn = apart_BDn.mul_(unit * -commitment) if ctx.needs_input_grad[0] else None
        return z_gradient_BDn, None, codes_KD, None, None
