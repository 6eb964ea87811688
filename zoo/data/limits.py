"""What a video file may cost before it is refused, so that a hostile one cannot fill the memory or the day.

The variables ZOO_MAX_PIXELS, ZOO_MAX_FRAMES, ZOO_MAX_BYTES, ZOO_MAX_UNFOLDING and ZOO_MAX_SILENCE change the
limits of every command; `Limits` changes those of one call.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from zoo.errors import DataError

FREE_PIXELS = 1_000_000_000
"""Pixels that any file may unfold to: 8 minutes of 256x256, 16 s of full HD."""
_ALLOCATION = 256 << 20
_granted = 0


def _from(variable: str, default: int) -> Callable[[], int]:
    def read() -> int:
        text = os.environ.get(variable, "")
        if text and not text.isdecimal():
            raise DataError(f"{variable} is {text!r}; it must be a whole number, such as {default}")
        return int(text) if text else default

    return read


@dataclass(frozen=True)
class Limits:
    """What a file may cost before it is refused."""

    max_pixels: int = field(default_factory=_from("ZOO_MAX_PIXELS", 20_000_000))
    """Pixels in one frame: 4096x4096 and 5K fit, 8K video needs more (and 1 GB of memory)."""
    max_frames: int = field(default_factory=_from("ZOO_MAX_FRAMES", 1_000_000))
    """Frames decoded from one file."""
    max_bytes: int = field(default_factory=_from("ZOO_MAX_BYTES", 4 * 2**30))
    """Bytes of decoded frames that `read_video` holds at once."""
    max_unfolding: int = field(default_factory=_from("ZOO_MAX_UNFOLDING", 100_000))
    """Pixels decoded for each byte of the file, beyond the first `FREE_PIXELS`; a black film has 50,000."""
    max_silence: int = field(default_factory=_from("ZOO_MAX_SILENCE", 64 * 2**20))
    """Bytes read in a row that give no frame."""


def grant_memory(limits: Limits) -> None:
    """Keep FFmpeg in this process from taking more at once than the largest frame allowed needs."""
    global _granted
    most = max(_ALLOCATION, 8 * limits.max_pixels)
    if most <= _granted:
        return
    try:  # a library finds what the libraries it is linked to export
        av_max_alloc = ctypes.CDLL(importlib.import_module("av._core").__file__).av_max_alloc
    except (OSError, AttributeError, ImportError, TypeError):
        return  # the other limits hold
    av_max_alloc.argtypes, av_max_alloc.restype = [ctypes.c_size_t], None
    av_max_alloc(most)
    _granted = most
