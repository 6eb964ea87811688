"""Numbers with their protocol: FVD, KVD, precision, recall, PSNR, SSIM, LPIPS, codebook usage, and baselines.

Importing this package imports no torch; every name below is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.metrics.baselines import best_nearest, mean_colour, nearest, nearest_grids, stored_bits
    from zoo.metrics.chosen import Stopped
    from zoo.metrics.codebook import CodebookUsage
    from zoo.metrics.distribution import ClipDistances
    from zoo.metrics.evaluation import evaluate
    from zoo.metrics.frame_distance import FrameNetwork
    from zoo.metrics.frechet import GaussianStatistics, frechet_distance
    from zoo.metrics.i3d import I3D, load_i3d
    from zoo.metrics.i3d_weights import fetch_i3d
    from zoo.metrics.kernel import kernel_distance
    from zoo.metrics.lpips import LPIPS, load_lpips
    from zoo.metrics.manifold import inside_manifolds
    from zoo.metrics.protocol import ProtocolError, compare
    from zoo.metrics.rates import rate_distortion
    from zoo.metrics.reconstruction import psnr, psnr_per_clip, ssim, ssim_per_clip

_HOMES = {
    "ClipDistances": "distribution",
    "CodebookUsage": "codebook",
    "FrameNetwork": "frame_distance",
    "GaussianStatistics": "frechet",
    "I3D": "i3d",
    "LPIPS": "lpips",
    "ProtocolError": "protocol",
    "Stopped": "chosen",
    "best_nearest": "baselines",
    "compare": "protocol",
    "evaluate": "evaluation",
    "fetch_i3d": "i3d_weights",
    "frechet_distance": "frechet",
    "inside_manifolds": "manifold",
    "kernel_distance": "kernel",
    "load_i3d": "i3d",
    "load_lpips": "lpips",
    "mean_colour": "baselines",
    "nearest": "baselines",
    "nearest_grids": "baselines",
    "psnr": "reconstruction",
    "psnr_per_clip": "reconstruction",
    "rate_distortion": "rates",
    "ssim": "reconstruction",
    "ssim_per_clip": "reconstruction",
    "stored_bits": "baselines",
}

__all__ = [
    "I3D",
    "LPIPS",
    "ClipDistances",
    "CodebookUsage",
    "FrameNetwork",
    "GaussianStatistics",
    "ProtocolError",
    "Stopped",
    "best_nearest",
    "compare",
    "evaluate",
    "fetch_i3d",
    "frechet_distance",
    "inside_manifolds",
    "kernel_distance",
    "load_i3d",
    "load_lpips",
    "mean_colour",
    "nearest",
    "nearest_grids",
    "psnr",
    "psnr_per_clip",
    "rate_distortion",
    "ssim",
    "ssim_per_clip",
    "stored_bits",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
