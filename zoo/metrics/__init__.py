"""Numbers with their protocol: PSNR, SSIM, LPIPS, codebook usage, and what to compare them with.

Importing this package imports no torch; every name below is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.metrics.baselines import best_nearest, mean_colour, nearest, nearest_grids, stored_bits
    from zoo.metrics.codebook import CodebookUsage
    from zoo.metrics.evaluation import Stopped, evaluate
    from zoo.metrics.lpips import LPIPS, load_lpips
    from zoo.metrics.reconstruction import psnr, psnr_per_clip, ssim, ssim_per_clip

_HOMES = {
    "CodebookUsage": "codebook",
    "LPIPS": "lpips",
    "Stopped": "evaluation",
    "best_nearest": "baselines",
    "evaluate": "evaluation",
    "load_lpips": "lpips",
    "mean_colour": "baselines",
    "nearest": "baselines",
    "nearest_grids": "baselines",
    "psnr": "reconstruction",
    "psnr_per_clip": "reconstruction",
    "ssim": "reconstruction",
    "ssim_per_clip": "reconstruction",
    "stored_bits": "baselines",
}

__all__ = [
    "LPIPS",
    "CodebookUsage",
    "Stopped",
    "best_nearest",
    "evaluate",
    "load_lpips",
    "mean_colour",
    "nearest",
    "nearest_grids",
    "psnr",
    "psnr_per_clip",
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
