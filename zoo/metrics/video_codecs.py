"""H.264 and H.265 as a measure: clips through x264 and x265 in memory, at given bits.

Bits are those of the bare stream (Annex B) without the encoders' notes on themselves: parameter sets and
frames, no container.

Shape legend: T frames, H W pixels, 3 RGB.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray

from zoo.errors import DataError

PRESET = "medium"
MOST_CRF = 51.0
"""The coarsest that both encoders go."""

_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
_SEARCHES = 9
_CLOSE = 0.02
_START = re.compile(rb"\x00\x00\x00?\x01")


class VideoCodec(NamedTuple):
    """A codec, its encoder and decoder in PyAV, and what tells the kind of a unit of its streams.

    Frames with a side below `least` pixels are not given to the encoder.
    """

    name: str
    encoder: str
    decoder: str
    options: dict[str, str]
    is_note: Callable[[int], bool]
    least: int

    @property
    def is_there(self) -> bool:
        """Whether the installed PyAV has its encoder."""
        return self.encoder in av.codecs_available


CODECS = (
    VideoCodec("H.264", "libx264", "h264", {"threads": "1"}, lambda byte: byte & 31 == 6, 2),
    VideoCodec(
        "H.265",
        "libx265",
        "hevc",
        {"x265-params": "log-level=none:info=0:pools=none:frame-threads=1"},
        lambda byte: byte >> 1 & 63 in (39, 40),
        64,  # its largest block; libx265 as PyAV 18.1 bundles it writes past its memory on smaller frames
    ),
)


class Coded(NamedTuple):
    """A clip as a codec's stream.

    Attributes:
        crf: Constant rate factor it was made with.
        data: The stream.
    """

    crf: float
    data: bytes

    @property
    def bits(self) -> int:
        return 8 * len(self.data)


def encode(codec: VideoCodec, frames_THW3: NDArray[np.uint8], *, fps: float, crf: float) -> Coded:
    """Encode a clip with the encoder's preset `PRESET`, yuv420p, BT.709, everything else by default.

    Raises:
        DataError: The encoder does not take such frames.
    """
    num, height, width, _ = frames_THW3.shape
    if min(height, width) < codec.least:
        raise DataError(
            f"{codec.encoder} takes frames of {codec.least}x{codec.least} or more, not {height}x{width}"
        )
    sides = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    frames_THW3 = np.pad(frames_THW3, sides, mode="edge") if height % 2 or width % 2 else frames_THW3
    rate = Fraction(fps).limit_denominator(1001)
    try:
        context: Any = av.CodecContext.create(codec.encoder, "w")
        context.height, context.width = frames_THW3.shape[1:3]
        context.pix_fmt, context.framerate, context.time_base = "yuv420p", rate, 1 / rate
        context.options = {"crf": f"{crf:.3f}", "preset": PRESET, **codec.options}
        packets = []
        for index in range(num):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frames_THW3[index]), format="rgb24")
            frame = frame.reformat(
                format="yuv420p",
                src_color_range=ColorRange.JPEG,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=_EXACT,
            )
            frame.pts, frame.time_base = index, 1 / rate
            packets += context.encode(frame)
        packets += context.encode(None)
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"{codec.encoder} does not encode {height}x{width} ({error})") from None
    stream = b"".join(map(bytes, packets))
    units = [unit for unit in _START.split(stream) if unit and not codec.is_note(unit[0])]
    return Coded(crf, b"".join(b"\x00\x00\x00\x01" + unit for unit in units))


def decode(codec: VideoCodec, coded: Coded, size_HW: tuple[int, int]) -> NDArray[np.uint8]:
    """Decode a clip to RGB frames (T, H, W, 3), without what was added to make sides even."""
    context: Any = av.CodecContext.create(codec.decoder, "r")
    packets = [*context.parse(coded.data), *context.parse(None)]
    frames = [frame for packet in packets for frame in context.decode(packet)] + context.decode(None)
    height, width = size_HW
    pixels = [
        frame.reformat(
            format="rgb24",
            src_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=_EXACT,
        ).to_ndarray()[:height, :width]
        for frame in frames
    ]
    return np.stack(pixels)


def at_bits(codec: VideoCodec, frames_THW3: NDArray[np.uint8], bits: float, *, fps: float) -> Coded:
    """Encode a clip with the constant rate factor whose bits are the nearest to those wanted.

    Found by bisection over 0 (finest) to `MOST_CRF`; both ends are as far as the encoder goes.
    """
    low, high = 0.0, MOST_CRF
    best = encode(codec, frames_THW3, fps=fps, crf=high)
    if best.bits >= bits:
        return best
    for _ in range(_SEARCHES):
        coded = encode(codec, frames_THW3, fps=fps, crf=(low + high) / 2)
        if _distance(coded, bits) < _distance(best, bits):
            best = coded
        if _distance(best, bits) <= _CLOSE:
            break
        low, high = (coded.crf, high) if coded.bits > bits else (low, coded.crf)
    return best


def _distance(coded: Coded, bits: float) -> float:
    return abs(math.log(coded.bits / bits))
