"""Resampling by a FIR filter, alone and around a convolution, as StyleGAN2 does it.

All of it is torch's own convolutions, so gradients of any order work on every device.

Source: StyleGAN2, https://arxiv.org/abs/1912.04958

Shape legend: B images, C channels, H W pixels; I O channels in and out, y x sides of a kernel; f filter taps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TAPS = (1, 3, 3, 1)


def make_filter(taps: Sequence[float] = TAPS) -> Tensor:
    """Return the separable low-pass filter of these taps as f_ff, its sum 1."""
    taps_f = torch.tensor(taps, dtype=torch.float32)
    filter_ff = torch.outer(taps_f, taps_f)
    return filter_ff / filter_ff.sum()


def filter_2d(
    x_BCHW: Tensor, filter_ff: Tensor, *, padding: Sequence[int], down: int = 1, gain: float = 1.0
) -> Tensor:
    """Filter every channel, keeping each `down`-th pixel.

    Args:
        x_BCHW: Images.
        filter_ff: What `make_filter` returns; symmetric, so that filtering is convolution.
        padding: Zeros before and after, in both directions.
        down: Stride.
        gain: Factor on the result.
    """
    before, after = padding
    channels = x_BCHW.shape[1]
    kernel = (filter_ff * gain).to(x_BCHW.dtype).expand(channels, 1, -1, -1)
    if before != after:
        x_BCHW = F.pad(x_BCHW, (before, after, before, after))
        before = 0
    return F.conv2d(x_BCHW, kernel, stride=down, padding=before, groups=channels)


def channels_innermost(x_BCHW: Tensor) -> Tensor:
    """Lay out images with their channels innermost where convolutions are faster so, on the CPU."""
    if x_BCHW.device.type != "cpu":
        return x_BCHW
    return x_BCHW.contiguous(memory_format=torch.channels_last)


def upsample_2d(x_BCHW: Tensor, filter_ff: Tensor) -> Tensor:
    """Double height and width: zeros between the pixels, then the filter; an even number of taps."""
    channels, taps = x_BCHW.shape[1], filter_ff.shape[0]
    kernel = (filter_ff * 4).to(x_BCHW.dtype).expand(channels, 1, -1, -1)
    return F.conv_transpose2d(x_BCHW, kernel, stride=2, padding=taps // 2 - 1, groups=channels)


def downsample_2d(x_BCHW: Tensor, filter_ff: Tensor) -> Tensor:
    """Halve height and width: the filter, then every second pixel; an even number of taps."""
    margin = filter_ff.shape[0] // 2 - 1
    return filter_2d(x_BCHW, filter_ff, padding=(margin, margin), down=2)


def conv2d_up(x_BIHW: Tensor, weight_OIyx: Tensor, filter_ff: Tensor) -> Tensor:
    """Convolve and double height and width, filtered once; the kernel's sides are 1 or 3."""
    if weight_OIyx.shape[-1] == 1:
        return upsample_2d(F.conv2d(x_BIHW, weight_OIyx), filter_ff)
    # Convolving the spread image is a transposed convolution; 2H + 1 pixels come out of it.
    y_BOHW = F.conv_transpose2d(x_BIHW, weight_OIyx.transpose(0, 1), stride=2)
    margin = filter_ff.shape[0] // 2 - 1
    return filter_2d(y_BOHW, filter_ff, padding=(margin, margin), gain=4.0)


def conv2d_down(
    x_BIHW: Tensor, weight_OIyx: Tensor, filter_ff: Tensor, bias_O: Tensor | None = None
) -> Tensor:
    """Filter, convolve and halve height and width; the kernel's sides are 1 or 3."""
    if weight_OIyx.shape[-1] == 1:
        return F.conv2d(downsample_2d(x_BIHW, filter_ff), weight_OIyx, bias_O)
    margin = filter_ff.shape[0] // 2
    y_BIHW = filter_2d(x_BIHW, filter_ff, padding=(margin, margin))
    return F.conv2d(y_BIHW, weight_OIyx, bias_O, stride=2)
