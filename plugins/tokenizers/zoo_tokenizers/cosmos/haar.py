"""Haar wavelet patches: a picture or a clip as a smaller grid with more channels, and back without loss.

One halving makes bands out of each pair of neighbours along every axis, their sum and their difference,
over 2 for each axis; a band keeps all the channels of the halving before. All bands are halved again, not
only the low one.

Source: https://arxiv.org/abs/2501.03575

Shapes: B batch, C colour channels, T H W frames and pixels, p the patch size, t h w the grid of patches.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The last axis ends up outermost among the bands: as published, that is time in clips and width in pictures.
_CLIP_AXES = (4, 3, 2)
_FRAME_AXES = (2, 3)


def haar_patches(x_BCTHW: Tensor, patch_size: int, *, is_first: bool = True) -> Tensor:
    """Split clips into wavelet bands; x_BCTHW -> (B, C * p^3, 1 + (T - 1) / p, H / p, W / p).

    The first frame is repeated p - 1 times in front, so that it fills a step of its own. The eight bands
    of a halving are ordered as the binary numbers (time, height, width) with 1 for a difference.

    Args:
        x_BCTHW: Clips of 1 + k*p frames, sides multiples of p.
        patch_size: p, a power of two; 1 leaves the clip as it is.
        is_first: False for a later piece of a clip, of k*p frames, which get nothing in front.
    """
    if is_first:
        first = x_BCTHW[:, :, :1].expand(-1, -1, patch_size - 1, -1, -1)
        x_BCTHW = torch.cat([first, x_BCTHW], dim=2)
    return _split(x_BCTHW, patch_size, _CLIP_AXES)


def haar_unpatches(y_BDthw: Tensor, patch_size: int, *, is_first: bool = True) -> Tensor:
    """Undo `haar_patches`; (B, C * p^3, t, h, w) -> (B, C, 1 + (t - 1) * p, h * p, w * p)."""
    x_BCTHW = _join(y_BDthw, patch_size, _CLIP_AXES)
    return x_BCTHW[:, :, patch_size - 1 :] if is_first else x_BCTHW


def haar_frame_patches(x_BCHW: Tensor, patch_size: int) -> Tensor:
    """Split frames into wavelet bands; x_BCHW -> (B, C * p^2, H / p, W / p).

    The four bands of a halving are ordered as the binary numbers (width, height), unlike those of clips.
    """
    return _split(x_BCHW, patch_size, _FRAME_AXES)


def haar_frame_unpatches(y_BDhw: Tensor, patch_size: int) -> Tensor:
    """Undo `haar_frame_patches`; (B, C * p^2, h, w) -> (B, C, h * p, w * p)."""
    return _join(y_BDhw, patch_size, _FRAME_AXES)


def _split(x: Tensor, patch_size: int, axes: tuple[int, ...]) -> Tensor:
    for _ in range(patch_size.bit_length() - 1):
        for axis in axes:
            even, odd = torch.unflatten(x, axis, (-1, 2)).unbind(axis + 1)
            x = torch.cat([even + odd, even - odd], dim=1)
        x = x / 2 ** len(axes)
    return x


def _join(x: Tensor, patch_size: int, axes: tuple[int, ...]) -> Tensor:
    for _ in range(patch_size.bit_length() - 1):
        for axis in reversed(axes):
            low, high = x.chunk(2, dim=1)
            x = torch.stack([low + high, low - high], dim=axis + 1).flatten(axis, axis + 1)
    return x
