"""Read a video: what is in it, all of it, a part of it, or one frame after the other.

`zoo.data.container` says what a frame is (upright RGB, pixels as stored, damaged packets skipped).

Shape legend: T frames, H W pixels, C = 3 colours (RGB).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.container import Reader, VideoSource, name_of, quarter_turns
from zoo.data.limits import Limits
from zoo.errors import DataError

_T = TypeVar("_T")
_LUMA = (0.299, 0.587, 0.114)
_TIE_S = 1e-6  # a frame that appears at the very limit counts, however its time was rounded


@dataclass(frozen=True)
class VideoInfo:
    """What a file says about itself, and what its first frame is."""

    width: int
    """Columns of an upright frame."""
    height: int
    """Rows of an upright frame."""
    fps: float
    """Nominal frames a second."""
    duration_s: float | None
    """Seconds, as the header claims; None where it does not."""
    num_frames_header: int | None
    """Frames, as the header claims; None where it does not. Often wrong."""
    codec: str
    """FFmpeg's name of the codec."""
    pixel_format: str
    """FFmpeg's name of the stored pixel format."""
    quarter_turns: int
    """Counter-clockwise quarter turns that were applied."""
    num_video_streams: int
    """Video streams in the file; the best one is read."""


class Frame(NamedTuple):
    """One frame: pixels_HWC uint8 RGB, and its time in seconds from the first."""

    time_s: float
    pixels_HWC: NDArray[np.uint8]

    @property
    def x_CHW(self) -> Tensor:
        """The frame as float32 in [-1, 1]."""
        return to_float(torch.from_numpy(self.pixels_HWC)[None])[:, 0]


@dataclass(frozen=True)
class Video:
    """Decoded frames.

    Attributes:
        frames_THWC: uint8 RGB.
        fps: Frames a second: the rate asked for, or the file's nominal rate.
        times_s: Presentation time of every frame in its file, in seconds from the first frame.
        num_damaged: Packets that did not decode and were skipped.
        source: Where it came from.
    """

    frames_THWC: Tensor
    fps: float
    times_s: list[float] = field(repr=False)
    num_damaged: int = 0
    source: str = ""

    @property
    def x_CTHW(self) -> Tensor:
        """The frames as float32 in [-1, 1]."""
        return to_float(self.frames_THWC)


def to_float(frames_THWC: Tensor) -> Tensor:
    """Convert uint8 frames (T, H, W, C) to x_CTHW, float32 in [-1, 1]: 0 -> -1, 255 -> 1."""
    return frames_THWC.permute(3, 0, 1, 2).to(torch.float32).div_(127.5).sub_(1.0).contiguous()


def to_grey(x_CTHW: Tensor) -> Tensor:
    """Convert RGB x_CTHW to one channel, by the luma weights of BT.601."""
    return (x_CTHW * x_CTHW.new_tensor(_LUMA).view(3, 1, 1, 1)).sum(0, keepdim=True)


def to_uint8(x_CTHW: Tensor) -> Tensor:
    """Convert x_CTHW in [-1, 1] to uint8 frames (T, H, W, C), rounding; values outside are clamped."""
    x = x_CTHW.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(x).all()):
        raise DataError("the video has values that are not finite; the model that made it has diverged")
    return x.add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 3, 0).contiguous()


def probe_video(source: VideoSource) -> VideoInfo:
    """Read what a file says about itself and decode its first frame.

    Raises:
        DataError: There is no video in it; the message says why.
    """
    with Reader(source) as reader:
        for _, picture in reader.pictures():
            turns = quarter_turns(picture)
            height, width = picture.height, picture.width
            return VideoInfo(
                width=height if turns % 2 else width,
                height=width if turns % 2 else height,
                fps=reader.fps,
                duration_s=reader.header_s,
                num_frames_header=reader.num_frames_header,
                codec=reader.codec,
                pixel_format=picture.format.name,
                quarter_turns=turns,
                num_video_streams=reader.num_video_streams,
            )
        raise nothing_decodes(reader)


def nothing_decodes(reader: Reader) -> DataError:
    """The refusal of a file that opens and gives no frame."""
    damaged = f"; {reader.num_damaged} damaged packets" if reader.num_damaged else ""
    return DataError(
        f"{reader.name}: no frame can be decoded ({reader.codec}{damaged}); is it truncated, or are its "
        f"frames larger than the {reader.limits.max_pixels} pixels allowed (ZOO_MAX_PIXELS)?"
    )


def iter_frames(
    source: VideoSource, *, start_s: float = 0.0, fps: float | None = None, limits: Limits | None = None
) -> Iterator[Frame]:
    """Yield frames one after the other, in constant memory, each in its own size.

    Args:
        source: Path or bytes.
        start_s: Seconds from the first frame; starts with the frame on screen then.
        fps: Frames a second, chosen by presentation time (see `at_rate`); every frame as stored
            when left out.
        limits: What the file may cost; `max_frames` holds for the frames yielded, too.

    Raises:
        DataError: There is no video in it, no frame decodes, or a limit is exceeded.
    """
    limits = limits or Limits()
    with Reader(source, limits=limits) as reader:
        pictures: Iterator[tuple[float, object]] = _from(
            _counted(reader.pictures(start_s), reader, limits), start_s
        )
        if fps is not None:
            pictures = at_rate(pictures, start_s=start_s, fps=fps, file_fps=reader.fps)
        frame: Frame | None = None
        shown: object = None
        for time_s, picture in _counted(pictures, reader, limits):
            if frame is None or picture is not shown:
                frame, shown = Frame(time_s, reader.rgb(picture)), picture
            yield frame
        if frame is None:
            raise nothing_decodes(reader)


def _from(pictures: Iterable[tuple[float, _T]], start_s: float) -> Iterator[tuple[float, _T]]:
    """Drop pictures that are over before `start_s`; nothing is dropped for 0."""
    before: tuple[float, _T] | None = None
    started = start_s <= 0
    for time_s, picture in pictures:
        if not started:
            if time_s < start_s:
                before = (time_s, picture)
                continue
            if before is not None and time_s > start_s + 1e-6:
                yield before
            started = True
        yield time_s, picture


def at_rate(
    pictures: Iterable[tuple[float, _T]], *, start_s: float, fps: float, file_fps: float
) -> Iterator[tuple[float, _T]]:
    """Yield the picture on screen at start, start + 1/fps, start + 2/fps, ...

    The law: of the pictures with time <= wanted + tolerance the last one, where the tolerance is
    half a period of the faster of the two rates. At equal rates that gives every frame once,
    whatever the rounding of time stamps; a frame that stays on screen is repeated. The first
    wanted time is moved to the time of the picture that it selects.
    """
    tolerance = 0.5 / max(fps, file_fps) + _TIE_S
    period = 1.0 / file_fps
    on_screen: tuple[float, _T] | None = None
    base: float | None = None
    count = 0
    for time_s, picture in pictures:
        if on_screen is not None:
            if base is None and time_s > start_s + tolerance:
                base = on_screen[0]
                yield on_screen
                count = 1
            while base is not None and base + count / fps + tolerance < time_s:
                yield on_screen
                count += 1
        on_screen = (time_s, picture)
    if on_screen is None:
        return
    if base is None:
        base = on_screen[0]
    while count == 0 or base + count / fps < on_screen[0] + period - tolerance:
        yield on_screen
        count += 1


def read_video(
    source: VideoSource,
    *,
    start_s: float = 0.0,
    num_frames: int | None = None,
    fps: float | None = None,
    limits: Limits | None = None,
) -> Video:
    """Decode a video, or `num_frames` of it from `start_s` on; fewer where the file ends.

    Args:
        source: Path or bytes. An image is a video of one frame.
        start_s: Seconds from the first frame.
        num_frames: Frames wanted; all that follow when left out.
        fps: Frames a second, chosen by presentation time (see `at_rate`); every frame as stored
            when left out.
        limits: What the file may cost.

    Returns:
        Video: frames_THWC uint8; frames of another size than the first are scaled to it.

    Raises:
        DataError: There is no video in it, no frame decodes, a limit is exceeded, or the file ends
            before `start_s`.
    """
    if start_s < 0 or (num_frames is not None and num_frames < 1) or (fps is not None and fps <= 0):
        raise DataError(
            f"{name_of(source)}: asked for start_s={start_s}, num_frames={num_frames}, fps={fps}; "
            "start_s is 0 or more, num_frames at least 1, fps positive"
        )
    times: list[float] = []
    data = bytearray()  # grows in place, where a list of frames would be copied into one array at the end
    limits = limits or Limits()
    with Reader(source, limits=limits) as reader:
        pictures: Iterator[tuple[float, object]] = _from(
            _counted(reader.pictures(start_s), reader, limits), start_s
        )
        if fps is not None:
            pictures = at_rate(pictures, start_s=start_s, fps=fps, file_fps=reader.fps)
        previous: object = None
        pixels_HWC: NDArray[np.uint8] | None = None
        size: Callable[[int, int], tuple[int, int]] | None = None
        for time_s, picture in pictures:
            if pixels_HWC is None or picture is not previous:
                pixels_HWC, previous = reader.rgb(picture, size), picture
            height, width = pixels_HWC.shape[:2]
            size = size or _always(height, width)
            times.append(time_s)
            if len(data) + pixels_HWC.nbytes > limits.max_bytes:
                raise DataError(
                    f"{reader.name}: {len(times)} frames of {width}x{height} are "
                    f"more than the {limits.max_bytes / 2**30:.1f} GiB allowed at once; read a part "
                    "(start_s, num_frames, fps) or use iter_frames"
                )
            data += np.ascontiguousarray(pixels_HWC).data
            if len(times) == num_frames:
                break
        if not times:
            if start_s > 0 and (length := reader.last_time_s()) < start_s:
                raise DataError(f"{reader.name}: ends at {length:.2f} s, asked for {start_s:.2f} s")
            raise nothing_decodes(reader)
        return Video(
            frames_THWC=torch.frombuffer(data, dtype=torch.uint8).view(-1, height, width, 3),
            fps=fps or reader.fps,
            times_s=times,
            num_damaged=reader.num_damaged,
            source=reader.name,
        )


def _always(height: int, width: int) -> Callable[[int, int], tuple[int, int]]:
    return lambda _h, _w: (height, width)


def _counted(
    pictures: Iterable[tuple[float, object]], reader: Reader, limits: Limits
) -> Iterator[tuple[float, object]]:
    for count, (time_s, picture) in enumerate(pictures):
        if count >= limits.max_frames:
            raise DataError(f"{reader.name}: more than {limits.max_frames} frames")
        yield time_s, picture
