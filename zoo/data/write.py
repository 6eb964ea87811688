"""Write videos that every browser plays, without ever leaving half a file under the final name.

H.264, yuv420p, BT.709 limited range with its tags set, index at the front. yuv420p needs even
sides: an odd height or width gets one more row or column at the end, a copy of the last.
A path that ends in .png takes exactly one frame and keeps it exact.

Shape legend: B batch, C colours (1 grey or 3 RGB), T frames, H W pixels.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.video import to_uint8
from zoo.errors import DataError, OutputExistsError, ZooError
from zoo.files import new_file, refuse_existing

_SUFFIXES = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
_BT709 = 1
_SLOWEST, _FASTEST = 0.001, 1000.0


class VideoWriter:
    """Write frames as they come, in constant memory. Use it as a context manager.

    The file appears under its name when the block ends well; after an error nothing is left.

    Args:
        path: Ends in .mp4, .m4v, .mov or .mkv.
        fps: Frames a second, 0.001 to 1000.
        force: Replace a file that is there.
        crf: Constant rate factor of x264, 0 (lossless) to 51; 17 is visually lossless.

    Raises:
        OutputExistsError: `path` is there and `force` is not given.
        DataError: Wrong suffix or rate, no folder to write in, or frames that do not fit together.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, fps: float, force: bool = False, crf: int = 17
    ) -> None:
        self.path = Path(path)
        self.num_frames = 0
        suffix = self.path.suffix.lower()
        if suffix not in _SUFFIXES:
            raise DataError(
                f"{self.path}: videos are written as {', '.join(_SUFFIXES)}, not {suffix or 'no suffix'!r}"
            )
        if not _SLOWEST <= fps <= _FASTEST:
            raise DataError(f"{self.path}: fps goes from {_SLOWEST:g} to {_FASTEST:g}, got {fps}")
        if not 0 <= crf <= 51:
            raise DataError(f"{self.path}: crf goes from 0 (lossless) to 51, got {crf}")
        _check_free(self.path, force)
        self._file = new_file(self.path, force=force)
        self._temporary = self.path
        self._rate = Fraction(fps).limit_denominator(1001)
        self._crf = crf
        self._format = _SUFFIXES[suffix]
        self._container: Any = None
        self._stream: Any = None
        self._size_HW: tuple[int, int] | None = None

    def write(self, frames: Tensor | NDArray[np.uint8]) -> None:
        """Add frames: uint8 (T, H, W, 3), or float x_CTHW in [-1, 1]."""
        for pixels in _as_frames(frames):
            self._write_one(pixels)

    def _write_one(self, pixels_HWC: NDArray[np.uint8]) -> None:
        height, width = pixels_HWC.shape[:2]
        if self._size_HW is None:
            self._size_HW = (height, width)
            self._start(height + height % 2, width + width % 2)
        elif (height, width) != self._size_HW:
            want = "x".join(map(str, self._size_HW[::-1]))
            raise DataError(f"{self.path}: frame {self.num_frames} is {width}x{height}, the first was {want}")
        if height % 2 or width % 2:
            pixels_HWC = np.pad(pixels_HWC, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels_HWC), format="rgb24")
        frame = frame.reformat(
            format="yuv420p",
            src_color_range=ColorRange.JPEG,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=_EXACT,
        )
        frame.pts = self.num_frames
        frame.time_base = 1 / self._rate
        self.num_frames += 1
        with _told(self.path):
            self._container.mux(self._stream.encode(frame))

    def _start(self, height: int, width: int) -> None:
        options = {"movflags": "+faststart"} if self._format in ("mp4", "mov") else {}
        with _told(self.path):
            # "file:" keeps a name such as concat:a|b from being read as a protocol.
            name = "file:" + os.path.abspath(self._temporary)
            self._container = av.open(name, "w", format=self._format, options=options)
            stream = self._container.add_stream("libx264", rate=self._rate)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"crf": str(self._crf), "preset": "medium"}
            context = stream.codec_context
            context.time_base = 1 / self._rate
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = ColorRange.MPEG
            self._stream = stream

    def __enter__(self) -> Self:
        with _told(self.path):
            self._temporary = self._file.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with _told(self.path), contextlib.ExitStack() as stack:
            stack.push(lambda *late: self._file.__exit__(*(late if late[0] else (kind, error, trace))))
            if self._container is not None:
                stack.callback(self._container.close)
            if error is None:
                if not self.num_frames:
                    raise DataError(f"{self.path}: no frames were given, nothing to write")
                self._container.mux(self._stream.encode(None))


def write_video(
    path: str | os.PathLike[str],
    x_CTHW: Tensor | NDArray[np.uint8],
    fps: float,
    *,
    force: bool = False,
    crf: int = 17,
) -> Path:
    """Write a video: x_CTHW in [-1, 1], C 1 or 3, or uint8 frames (T, H, W, 3). Returns the path.

    An odd height or width gets one more row or column (see the head of this file). With a name
    that ends in .png the one frame is written as an image.

    Raises:
        OutputExistsError: `path` is there and `force` is not given.
        DataError: The shape, range, suffix or rate is wrong, or the file cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() == ".png":
        return _write_png(target, _as_frames(x_CTHW), force)
    with VideoWriter(target, fps=fps, force=force, crf=crf) as writer:
        writer.write(x_CTHW)
    return target


def side_by_side(videos: Sequence[Tensor], *, gap: int = 4) -> Tensor:
    """Put videos x_CTHW in [-1, 1] beside each other, left to right, with `gap` white columns between.

    Shorter ones hold their last frame, lower ones get black rows at the bottom, grey ones become RGB.
    """
    if not videos or any(x.ndim != 4 or x.shape[0] not in (1, 3) for x in videos):
        raise DataError(
            f"side_by_side takes videos (1 or 3, T, H, W), got {[tuple(x.shape) for x in videos]}"
        )
    num_frames = max(x.shape[1] for x in videos)
    height = max(x.shape[2] for x in videos)
    pieces: list[Tensor] = []
    for x in videos:
        x = x.detach().to("cpu", torch.float32)
        x = x.expand(3, -1, -1, -1)
        x = torch.cat([x, x[:, -1:].expand(-1, num_frames - x.shape[1], -1, -1)], dim=1)
        below = x.new_full((3, num_frames, height - x.shape[2], x.shape[3]), -1.0)
        if pieces and gap:
            pieces.append(x.new_full((3, num_frames, height, gap), 1.0))
        pieces.append(torch.cat([x, below], dim=2))
    return torch.cat(pieces, dim=3)


def _as_frames(frames: Tensor | NDArray[np.uint8]) -> NDArray[np.uint8]:
    array = torch.as_tensor(frames)
    if array.ndim != 4:
        raise DataError(f"a video has 4 axes, got shape {tuple(array.shape)}")
    if array.is_floating_point():
        if array.shape[0] not in (1, 3):
            raise DataError(f"a float video is (C, T, H, W) with C 1 or 3, got {tuple(array.shape)}")
        array = to_uint8(array)
    elif array.dtype != torch.uint8:
        raise DataError(f"a video is float in [-1, 1] or uint8, got {array.dtype}")
    if array.shape[-1] == 1:
        array = array.expand(-1, -1, -1, 3)
    if array.shape[-1] != 3 or 0 in array.shape:
        raise DataError(f"uint8 frames are (T, H, W, 3) and not empty, got {tuple(array.shape)}")
    result: NDArray[np.uint8] = array.cpu().numpy()
    return result


def _write_png(path: Path, frames_THWC: NDArray[np.uint8], force: bool) -> Path:
    if len(frames_THWC) != 1:
        raise DataError(
            f"{path}: an image holds one frame, got {len(frames_THWC)}; name it .mp4 to write a video"
        )
    _check_free(path, force)
    height, width = frames_THWC.shape[1:3]
    codec: Any = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = width, height, "rgb24", Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frames_THWC[0]), format="rgb24")
    frame.pts = 0
    packets = [bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)]]
    with _told(path), new_file(path, force=force) as temporary:
        temporary.write_bytes(b"".join(packets))
    return path


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say of what goes wrong in writing which file it was."""
    try:
        yield
    except ZooError:
        raise
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{path}: cannot be written ({error}); is the disk full?") from None


def _check_free(path: Path, force: bool) -> None:
    if path.is_dir():
        raise OutputExistsError(f"{path} is a folder; name a file in it")
    refuse_existing(path, force=force)
    if not path.parent.is_dir():
        raise DataError(f"{path}: there is no folder {path.parent}; make it first")
