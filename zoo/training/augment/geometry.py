"""Resampling of clips by a 3x3 matrix each, low-passed by a wavelet as in ADA, differentiable twice.

The clip is padded by reflection, doubled in size by the orthogonal wavelet sym6, sampled bilinearly at the
places the matrix says, and halved by the same wavelet run backwards: without a change of place that is the
identity (https://arxiv.org/abs/2006.06676, appendix B).

Shape legend: B batch, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

# Low-pass of Daubechies' least asymmetric wavelet with six vanishing moments, sum sqrt(2).
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
_TAPS = len(SYM6)
_REACH = _TAPS // 4 * 2  # pixels on each side that the two passes of the filter reach into


def warp(x_BCTHW: Tensor, inverse_B33: Tensor) -> Tensor:
    """Resample every frame of a clip at the places its matrix says.

    Args:
        x_BCTHW: Clips, fp32.
        inverse_B33: Maps a pixel of the result to its source, (x, y, 1) from the frame's centre, fp32.

    Returns:
        x_BCTHW of the same size.
    """
    height, width = x_BCTHW.shape[3:]
    x = rearrange(x_BCTHW, "b c t h w -> b (c t) h w")
    (left, right), (top, bottom) = _margins(inverse_B33, height, width)
    x = _double(F.pad(x, [left, right, top, bottom], mode="reflect"))
    places_BYX2 = _places(inverse_B33, height, width)
    offset = torch.tensor([left - right, top - bottom], dtype=x.dtype, device=x.device)
    sizes = torch.tensor([x.shape[3], x.shape[2]], dtype=x.dtype, device=x.device)
    # Twice the scale, and half a pixel back: the wavelet's centre lies that far from its middle tap.
    grid_BYX2 = (2 * (places_BYX2 + offset / 2) - 0.5) * 2 / sizes
    x = _halve(_Sample.apply(x, grid_BYX2))  # type: ignore[no-untyped-call]
    return rearrange(x, "b (c t) h w -> b c t h w", c=x_BCTHW.shape[1])


def _places(inverse_B33: Tensor, height: int, width: int) -> Tensor:
    """Return sources of the doubled grid with its margins, in pixels from the centre of the clip."""
    axes = []
    for size in (height, width):
        num = 2 * (size + _REACH)
        at = torch.arange(num, dtype=inverse_B33.dtype, device=inverse_B33.device)
        axes.append((at - (num - 1) / 2 + 0.5) / 2)
    y, x = torch.meshgrid(*axes, indexing="ij")
    points_YX3 = torch.stack([x, y, torch.ones_like(x)], -1)
    return torch.einsum("bij,yxj->byxi", inverse_B33, points_YX3)[..., :2]


def _margins(inverse_B33: Tensor, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return how far corners and filter reach beyond each edge; a reflection ends at size - 1."""
    half = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64)
    signs = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)
    corners_3N = torch.cat([signs * half, torch.ones(4, 1, dtype=torch.float64)], 1).T
    reached_B2N = (inverse_B33.detach().cpu().double() @ corners_3N)[:, :2]
    margins = []
    for axis, size in enumerate((width, height)):
        lowest, highest = float(reached_B2N[:, axis].min()), float(reached_B2N[:, axis].max())
        pair = [math.ceil(reach + _REACH - (size - 1) / 2 - 1e-6) for reach in (-lowest, highest)]
        margins.append((min(max(pair[0], 0), size - 1), min(max(pair[1], 0), size - 1)))
    return margins[0], margins[1]


def _double(x_BCHW: Tensor) -> Tensor:
    taps = x_BCHW.new_tensor(SYM6) / sum(SYM6) * 2
    x = rearrange(x_BCHW, "b c h w -> (b c) 1 h w")
    x = F.conv_transpose2d(x, taps.view(1, 1, -1, 1), stride=(2, 1), padding=(_TAPS // 2 - 1, 0))
    x = F.conv_transpose2d(x, taps.view(1, 1, 1, -1), stride=(1, 2), padding=(0, _TAPS // 2 - 1))
    return rearrange(x, "(b c) 1 h w -> b c h w", b=len(x_BCHW))


def _halve(x_BCHW: Tensor) -> Tensor:
    taps = x_BCHW.new_tensor(SYM6) / sum(SYM6)
    x = rearrange(x_BCHW[:, :, 1:-1, 1:-1], "b c h w -> (b c) 1 h w")
    x = F.conv2d(x, taps.view(1, 1, -1, 1), stride=(2, 1))
    x = F.conv2d(x, taps.view(1, 1, 1, -1), stride=(1, 2))
    return rearrange(x, "(b c) 1 h w -> b c h w", b=len(x_BCHW))


class _Sample(torch.autograd.Function):
    """Bilinear sampling as a linear map of the images: torch's own has no second derivative."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, grid_BYX2: Tensor) -> Tensor:
        ctx.save_for_backward(grid_BYX2)
        ctx.size = x_BCHW.shape
        return F.grid_sample(x_BCHW, grid_BYX2, align_corners=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (grid_BYX2,) = ctx.saved_tensors
        spread: Tensor = _Spread.apply(gradient, grid_BYX2, ctx.size)  # type: ignore[no-untyped-call]
        return spread, None


class _Spread(torch.autograd.Function):
    """The transpose of `_Sample`."""

    @staticmethod
    def forward(ctx: Any, y_BCYX: Tensor, grid_BYX2: Tensor, size: torch.Size) -> Tensor:
        ctx.save_for_backward(grid_BYX2)
        # Bilinear, zeros outside, corners not aligned; the images' values do not enter their own gradient.
        images = y_BCYX.new_empty(1).expand(size)
        spread: Tensor = torch.ops.aten.grid_sampler_2d_backward(
            y_BCYX.contiguous(), images, grid_BYX2, 0, 0, False, (True, False)
        )[0]
        return spread

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (grid_BYX2,) = ctx.saved_tensors
        sampled: Tensor = _Sample.apply(gradient, grid_BYX2)  # type: ignore[no-untyped-call]
        return sampled, None, None
