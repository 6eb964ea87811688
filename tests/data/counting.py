"""Videos whose frames carry their number, and numbers read back from frames."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_BITS = 10
_TICKS = 1000


def counting_frame(number: int, *, height: int = 48, width: int = 80) -> NDArray[np.uint8]:
    """Draw `number` as ten columns, white for 1, the highest bit at the left."""
    bits = [255 if number >> bit & 1 else 0 for bit in reversed(range(_BITS))]
    row = np.repeat(np.array(bits, np.uint8), width // _BITS)
    return np.broadcast_to(row[None, :, None], (height, len(row), 3)).copy()


def number_on(pixels_HWC: NDArray[np.uint8] | Tensor) -> int:
    """Read the number on a frame of any size."""
    pixels = np.asarray(pixels_HWC)[..., 0].astype(float)
    columns = pixels.mean(0)
    centres = ((np.arange(_BITS) + 0.5) * len(columns) / _BITS).astype(int)
    return int("".join("1" if columns[at] > 127 else "0" for at in centres), 2)


def numbers_in(x_CTHW: Tensor) -> list[int]:
    """Read the numbers on the frames of a clip in [-1, 1]."""
    return [number_on((frame.permute(1, 2, 0) + 1) * 127.5) for frame in x_CTHW.unbind(1)]


def write_counting(path: Path, times_ms: Sequence[int], *, gop: int = 12) -> Path:
    """Write frames 0, 1, 2, ... shown at `times_ms`, as H.264 in Matroska, whose clock ticks once a ms."""
    with av.open(str(path), "w", format="matroska") as container:
        gaps = np.diff(times_ms)
        rate = Fraction(_TICKS, int(np.median(gaps)) if len(gaps) else 40)
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        stream.options = {"crf": "18", "preset": "ultrafast", "g": str(gop)}
        for number, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(counting_frame(number), format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, _TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
