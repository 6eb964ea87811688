"""The padding rule: any clip is made to fit a stride, and the result is cut back to its size.

Edges are repeated at the end of each axis (below, to the right, after the last frame) until height and
width are multiples of the stride, and the number of frames is k * s_t, or 1 + k * s_t for a part whose first
frame is a latent frame of its own.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int, int]


def padded_size(size_THW: Size, stride: Size, *, lead_frame: bool) -> Size:
    """Return the smallest valid size (T, H, W) that holds a clip."""
    (t, h, w), (s_t, s_h, s_w) = size_THW, stride
    frames = 1 + math.ceil((t - 1) / s_t) * s_t if lead_frame else math.ceil(t / s_t) * s_t
    return frames, math.ceil(h / s_h) * s_h, math.ceil(w / s_w) * s_w


def latent_size(size_THW: Size, stride: Size, *, lead_frame: bool) -> Size:
    """Return the latent grid (t, h, w) of a clip of any size."""
    frames, height, width = padded_size(size_THW, stride, lead_frame=lead_frame)
    s_t, s_h, s_w = stride
    return (1 + (frames - 1) // s_t if lead_frame else frames // s_t), height // s_h, width // s_w


def pad(x_BCTHW: Tensor, stride: Size, *, lead_frame: bool) -> Tensor:
    """Repeat the edges at the end of each axis until the clip fits the stride."""
    t, h, w = x_BCTHW.shape[-3:]
    frames, height, width = padded_size((t, h, w), stride, lead_frame=lead_frame)
    if (frames, height, width) == (t, h, w):
        return x_BCTHW
    return F.pad(x_BCTHW, (0, width - w, 0, height - h, 0, frames - t), mode="replicate")


def touched_cells(hole_B1THW: Tensor, stride: Size, *, lead_frame: bool) -> Tensor:
    """Return which latent cells, bool (B, 1, t, h, w), hold a pixel of a hole, bool (B, 1, T, H, W)."""
    if lead_frame:  # one frame alone: as many of it make a cell like the others
        lead_B1tHW = hole_B1THW[:, :, :1].expand(-1, -1, stride[0] - 1, -1, -1)
        hole_B1THW = torch.cat([lead_B1tHW, hole_B1THW], 2)
    return F.max_pool3d(hole_B1THW.float(), stride, stride, ceil_mode=True) > 0


def crop(x_BCTHW: Tensor, size_THW: Size) -> Tensor:
    """Cut a clip back to the size it had before padding."""
    t, h, w = size_THW
    return x_BCTHW[:, :, :t, :h, :w]
