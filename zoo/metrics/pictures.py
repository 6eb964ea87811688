"""PSNR, SSIM and LPIPS of whole batches, where frames are large enough for them.

Shape legend: B clips, C colour channels, T H W frames and pixels; N frames as images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from zoo.metrics import lpips as lpips_module
from zoo.metrics.baselines import BITS_PER_LATENT
from zoo.metrics.reconstruction import SSIM_WINDOW, psnr_per_clip, ssim_per_clip

PSNR_CAP_DB = 100.0
"""What a perfectly reproduced clip counts as in a mean, dB."""

UNITS = {"psnr": "psnr_db", "ssim": "ssim", "lpips": "lpips"}
"""Metrics of pictures, and the names of their figures."""

_FRAMES_AT_ONCE = 64
_LPIPS = "LPIPS v0.1, AlexNet"


def picture_protocols() -> dict[str, dict[str, Any]]:
    """Return how each figure of a reconstruction is measured, as data."""
    bits = f"tokens x log2(codebook size), {BITS_PER_LATENT} bits a number of a continuous latent"
    counts = "exact counts over all clips, mean over codebooks"
    return {
        "psnr_db": {"estimator": f"data range 2, per clip, at most {PSNR_CAP_DB:.0f} dB, then the mean"},
        "ssim": {
            "estimator": "Gaussian 11x11, sigma 1.5, K1 0.01, K2 0.03, channels and frames, then the mean"
        },
        "lpips": {**lpips_protocol(), "estimator": "each frame, then the mean"},
        "codebook_used_share": {"estimator": counts},
        "codebook_perplexity": {"estimator": counts},
        "bits_per_clip": {"estimator": bits},
        "bits_per_pixel": {"estimator": bits},
    }


def lpips_protocol() -> dict[str, Any]:
    """Return with what LPIPS is measured, as data."""
    return {
        "detector": _LPIPS,
        "detector_sha256": lpips_module.weights_sha256(),
        "resize": f"none; frames below {lpips_module.MIN_SIZE} pixels are refused",
    }


class Pictures:
    """The picture metrics that these frames allow, as sums over a batch's clips."""

    def __init__(self, metrics: Sequence[str], x_BCTHW: Tensor) -> None:
        reasons = {"ssim": _ssim_reason(x_BCTHW), "lpips": lpips_reason(x_BCTHW)}
        self.left_out = {metric: why for metric in metrics if (why := reasons.get(metric))}
        self.metrics = [metric for metric in metrics if metric not in self.left_out]
        self.network = lpips_module.load_lpips().to(x_BCTHW.device) if "lpips" in self.metrics else None

    def sums(self, x_BCTHW: Tensor, y_BCTHW: Tensor) -> dict[str, float]:
        """Return each figure's sum over the clips, by name with unit."""
        sums = {}
        for metric in self.metrics:
            if metric == "psnr":
                per_clip = psnr_per_clip(x_BCTHW, y_BCTHW).clamp(max=PSNR_CAP_DB)
            elif metric == "ssim":
                per_clip = ssim_per_clip(x_BCTHW, y_BCTHW)
            else:
                assert self.network is not None
                per_clip = lpips_per_clip(self.network, x_BCTHW, y_BCTHW)
            sums[UNITS[metric]] = float(per_clip.double().sum())
        return sums


def lpips_per_clip(network: lpips_module.LPIPS, x_BCTHW: Tensor, y_BCTHW: Tensor) -> Tensor:
    """Return the mean LPIPS distance of the frames of each pair of clips, float64 (B,)."""
    x_NCHW, y_NCHW = (rearrange(z, "b c t h w -> (b t) c h w") for z in (x_BCTHW, y_BCTHW))
    pairs = zip(torch.split(x_NCHW, _FRAMES_AT_ONCE), torch.split(y_NCHW, _FRAMES_AT_ONCE), strict=True)
    return torch.cat([network(x, y) for x, y in pairs]).double().view(len(x_BCTHW), -1).mean(1)


def _ssim_reason(x_BCTHW: Tensor) -> str | None:
    height, width = x_BCTHW.shape[-2:]
    small = min(height, width) < SSIM_WINDOW
    return (
        f"frames of {height}x{width} are smaller than its {SSIM_WINDOW}x{SSIM_WINDOW} window"
        if small
        else None
    )


def lpips_reason(x_BCTHW: Tensor) -> str | None:
    """Return why LPIPS cannot look at these clips, or None where it can."""
    channels, (height, width) = x_BCTHW.shape[1], x_BCTHW.shape[-2:]
    if channels not in (1, 3):
        return f"it looks at RGB or grey frames; these have {channels} channels"
    least = lpips_module.MIN_SIZE
    return (
        f"frames of {height}x{width} are smaller than {least}x{least}" if min(height, width) < least else None
    )
