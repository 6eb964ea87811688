"""How close a reconstruction is to its original: PSNR and SSIM of clips in [-1, 1].

Shape legend: B clips, C colour channels, T H W frames and pixels; N single channels of single frames.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.errors import ZooError

DATA_RANGE = 2.0
"""Distance from black (-1) to white (1)."""

SSIM_WINDOW = 11
"""Pixels on a side of the Gaussian window; frames have to be at least this large."""

_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03


def psnr(x_BCTHW: Tensor, y_BCTHW: Tensor) -> Tensor:
    """Return the mean over clips of `psnr_per_clip`, in dB: a float64 scalar."""
    return psnr_per_clip(x_BCTHW, y_BCTHW).mean()


def psnr_per_clip(x_BCTHW: Tensor, y_BCTHW: Tensor) -> Tensor:
    """Return each clip's peak signal-to-noise ratio in dB, shape (B,), float64.

    10 log10(DATA_RANGE^2 / mean squared error), the error taken over all pixels, frames and channels
    of the clip. Equal clips give infinity.

    Args:
        x_BCTHW: Clips in [-1, 1].
        y_BCTHW: Clips of the same shape in [-1, 1]. The order of the two does not matter.
    """
    _check(x_BCTHW, y_BCTHW)
    mse_B = (x_BCTHW.double() - y_BCTHW.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(DATA_RANGE**2 / mse_B)


def ssim(x_BCTHW: Tensor, y_BCTHW: Tensor) -> Tensor:
    """Return the mean over clips of `ssim_per_clip`: a float64 scalar, at most 1."""
    return ssim_per_clip(x_BCTHW, y_BCTHW).mean()


def ssim_per_clip(x_BCTHW: Tensor, y_BCTHW: Tensor) -> Tensor:
    """Return each clip's structural similarity, shape (B,), float64, 1 for equal clips.

    Gaussian 11x11 window with sigma 1.5, K1 0.01, K2 0.03, population covariance, only windows that
    lie inside the frame; every channel of every frame by itself, then the mean. This is the setting
    of Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861, and what scikit-image computes with
    ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``.

    Args:
        x_BCTHW: Clips in [-1, 1] of at least 11x11 pixels.
        y_BCTHW: Clips of the same shape in [-1, 1]. The order of the two does not matter.

    Raises:
        ZooError: The frames are smaller than the window.
    """
    _check(x_BCTHW, y_BCTHW)
    height, width = x_BCTHW.shape[-2:]
    if min(height, width) < SSIM_WINDOW:
        raise ZooError(
            f"SSIM needs frames of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels; these are {height}x{width}"
        )
    return torch.stack([_ssim_of_clip(x, y) for x, y in zip(x_BCTHW, y_BCTHW, strict=True)])


def _ssim_of_clip(x_CTHW: Tensor, y_CTHW: Tensor) -> Tensor:
    # One clip at a time: the five blurred float64 maps of a whole batch would need 20x its memory.
    x_NHW, y_NHW = x_CTHW.double().flatten(0, 1), y_CTHW.double().flatten(0, 1)
    num = len(x_NHW)
    maps = _blur(torch.cat([x_NHW, y_NHW, x_NHW * x_NHW, y_NHW * y_NHW, x_NHW * y_NHW]))
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = torch.split(maps, num)
    var_x, var_y = mean_xx - mean_x.square(), mean_yy - mean_y.square()
    covariance = mean_xy - mean_x * mean_y
    c1, c2 = (_K1 * DATA_RANGE) ** 2, (_K2 * DATA_RANGE) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    mean: Tensor = (luminance * structure).mean()
    return mean


def _blur(x_NHW: Tensor) -> Tensor:
    offset = torch.arange(SSIM_WINDOW, dtype=x_NHW.dtype, device=x_NHW.device) - SSIM_WINDOW // 2
    weight = torch.exp(-offset.square() / (2 * _SIGMA**2))
    weight = weight / weight.sum()
    x_N1HW = F.conv2d(x_NHW.unsqueeze(1), weight.view(1, 1, -1, 1))
    return F.conv2d(x_N1HW, weight.view(1, 1, 1, -1)).squeeze(1)


def _check(x_BCTHW: Tensor, y_BCTHW: Tensor) -> None:
    if x_BCTHW.ndim != 5 or x_BCTHW.shape != y_BCTHW.shape:
        raise ZooError(
            "two batches of clips of one shape (B, C, T, H, W) are compared; "
            f"got {tuple(x_BCTHW.shape)} and {tuple(y_BCTHW.shape)}"
        )
