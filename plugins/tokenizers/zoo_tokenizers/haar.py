"""Haar wavelet patches: a clip as a smaller grid with more channels, and back without loss.

Shapes: B batch, C colour channels, T H W frames and pixels, t h w the grid of patches, D = C * p^3.
"""

from __future__ import annotations

import torch
from torch import Tensor

_AXES = (4, 3, 2)
"""Width first, so that the bands of time end up outermost among the channels."""


def haar_patches(x_BCTHW: Tensor, patch_size: int) -> Tensor:
    """Split clips into wavelet bands; x_BCTHW -> (B, C * p^3, 1 + (T - 1) / p, H / p, W / p).

    The first frame is repeated p - 1 times in front, so that it fills a step of its own. Each halving
    makes eight bands out of 2x2x2 neighbours, sums and differences along each axis over 8; they are
    ordered as the binary numbers (time, height, width) with 1 for a difference, every band with all the
    channels of the halving before. All bands are halved again, not only the low one.

    Source: https://arxiv.org/abs/2501.03575

    Args:
        x_BCTHW: Clips of 1 + k*p frames, sides multiples of p.
        patch_size: p, a power of two; 1 leaves the clip as it is.
    """
    first = x_BCTHW[:, :, :1].expand(-1, -1, patch_size - 1, -1, -1)
    y = torch.cat([first, x_BCTHW], dim=2)
    for _ in range(patch_size.bit_length() - 1):
        for axis in _AXES:
            even, odd = torch.unflatten(y, axis, (-1, 2)).unbind(axis + 1)
            y = torch.cat([even + odd, even - odd], dim=1)
        y = y / 8
    return y


def haar_unpatches(y_BDthw: Tensor, patch_size: int) -> Tensor:
    """Undo `haar_patches`; (B, C * p^3, t, h, w) -> (B, C, 1 + (t - 1) * p, h * p, w * p)."""
    x = y_BDthw
    for _ in range(patch_size.bit_length() - 1):
        for axis in reversed(_AXES):
            low, high = x.chunk(2, dim=1)
            x = torch.stack([low + high, low - high], dim=axis + 1).flatten(axis, axis + 1)
    return x[:, :, patch_size - 1 :]
