"""Open one video safely and decode it frame by frame, in constant memory.

What comes out of a file, whatever is in it:

- the best video stream, without cover pictures; packets that do not decode are skipped and counted;
- pixels as stored: the sample aspect ratio is not applied (a 176x144 file with 16:11 pixels gives
  176x144), fields of interlaced video stay woven, HDR is not tone-mapped;
- upright: the display rotation, in quarter turns, is applied;
- RGB uint8, full range: by the file's own matrix and range; where it states none, BT.709 from
  720 lines or 1280 columns up and BT.601 below, limited range, as players do. Alpha is laid over black;
- times in seconds from the first frame, so a file that starts at 101 s starts at 0.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from zoo.data.limits import FREE_PIXELS, Limits, grant_memory
from zoo.errors import DataError

VideoSource = str | os.PathLike[str] | bytes
"""A path to a file, or the bytes of one."""
SizeRule = Callable[[int, int], tuple[int, int]]
"""Height and width of an upright frame -> height and width wanted."""

_SCALING = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_PLAYLISTS = frozenset({"hls", "dash", "concat", "imf", "sdp", "rtsp", "rtp", "lavfi", "image2"})
# Flash films may be deflated as a whole: a megabyte unfolds to any size before there is a frame to count.
_FORMATS = ",".join(sorted(name for name in av.formats_available if "swf" not in name.split(",")))
_DEFAULT_FPS = 25.0
_CORRUPT_LIMIT = 100_000


class Decoded(NamedTuple):
    """A decoded picture that is not yet converted: time in seconds from the first, FFmpeg's frame."""

    time_s: float
    picture: Any


def name_of(source: VideoSource) -> str:
    """Name `source` in a message."""
    return f"{len(source)} bytes" if isinstance(source, bytes) else os.fspath(source)


def open_bytes(source: VideoSource) -> BinaryIO:
    """Open `source` for reading. Only regular files: a pipe, socket or device could block for ever.

    Raises:
        DataError: It is missing, a folder, not a regular file, empty or not readable.
    """
    if isinstance(source, bytes):
        if not source:
            raise DataError("0 bytes: empty, there is no video in it")
        return io.BytesIO(source)
    path = os.fspath(source)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise DataError(f"{path}: is a folder, not a video file")
        if not stat.S_ISREG(mode):
            raise DataError(f"{path}: is not a regular file (a pipe, socket or device)")
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read ({error})") from None
    if os.fstat(file.fileno()).st_size == 0:
        file.close()
        raise DataError(f"{path}: empty file (0 bytes)")
    return file


class _Unnamed(io.RawIOBase):
    """A stream without a name: FFmpeg guesses patterns and formats from names, content is enough."""

    def __init__(self, file: BinaryIO, max_silence: int) -> None:
        self._file = file
        self._max_silence = max_silence
        self.silence = 0
        """Bytes read since the last frame."""

    @property
    def over(self) -> bool:
        """Whether so much was read without a frame that the file counts as ended."""
        return self.silence > self._max_silence

    def read(self, size: int = -1) -> bytes:
        data = b"" if self.over else self._file.read(size)
        self.silence += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _refuse(url: str, *_: object) -> None:
    raise DataError(f"the file asks for another one ({url!r}); playlists are not followed")


class Reader:
    """An open video. Use it as a context manager.

    Args:
        source: Path or bytes.
        limits: What it may cost; pictures that are too large are refused before they are decoded.

    Attributes:
        name: What messages call it.
        limits: What it may cost.
        fps: The stream's nominal rate; 25 where it states none.
        header_s: Seconds that the header claims, or None.
        num_frames_header: Frames that the header claims, or None. Often wrong.
        num_damaged: Packets skipped so far because they did not decode.

    Raises:
        DataError: There is no video in it, with the reason.
    """

    def __init__(self, source: VideoSource, *, limits: Limits | None = None) -> None:
        self.name = name_of(source)
        self.num_damaged = 0
        self.limits = limits or Limits()
        self._num_frames = self._num_pixels = self._num_bytes = 0
        self._origin: float | None = None
        self._converter = VideoReformatter()
        self._file = open_bytes(source)
        grant_memory(self.limits)
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        try:
            self._stream_in = _Unnamed(self._file, self.limits.max_silence)
            self._container: Any = av.open(
                self._stream_in,
                mode="r",
                metadata_errors="replace",
                io_open=_refuse,
                options={"max_pixels": str(self.limits.max_pixels), "format_whitelist": _FORMATS},
            )
        except (av.FFmpegError, DataError, OSError, ValueError) as error:
            raise DataError(f"{self.name}: not a readable video ({_short(error)})") from None
        try:
            self._choose_stream()
        except BaseException:
            self._container.close()
            raise

    def _choose_stream(self) -> None:
        container: Any = self._container
        if set(container.format.name.split(",")) & _PLAYLISTS:
            raise DataError(f"{self.name}: a playlist ({container.format.name}), not a video")
        stream = container.streams.best("video")
        if stream is None or int(stream.disposition) & 0x400:
            kinds = [str(s.type) for s in container.streams if s is not stream]
            what = ", ".join(f"{kinds.count(k)} {k}" for k in sorted(set(kinds))) or "no streams at all"
            cover = "; its only picture is a cover" if stream is not None else ""
            raise DataError(f"{self.name}: has no video stream ({what}{cover})")
        if stream.codec_context is None:
            raise DataError(f"{self.name}: its video codec is unknown to FFmpeg")
        self._check_size(stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.thread_count = 1
        # FFmpeg looks at it before it takes memory for a frame, also where the size changes on the way.
        stream.codec_context.options = {"max_pixels": str(self.limits.max_pixels)}
        self._stream: Any = stream
        self.codec: str = stream.codec_context.name
        rate = stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate else _DEFAULT_FPS
        self.num_frames_header: int | None = int(stream.frames) or None
        self.header_s: float | None = None
        if stream.duration:
            self.header_s = float(stream.duration * stream.time_base)
        elif container.duration:
            self.header_s = container.duration / 1e6

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self.limits.max_pixels:
            raise DataError(
                f"{self.name}: {width}x{height} is more than the {self.limits.max_pixels} pixels allowed "
                "(ZOO_MAX_PIXELS)"
            )

    def _count(self, picture: Any) -> None:
        """Refuse a file that unfolds beyond what its size can be worth."""
        self._check_size(picture.width, picture.height)
        self._num_frames += 1
        self._num_pixels += picture.width * picture.height
        limits = self.limits
        if self._num_frames > limits.max_frames:
            raise DataError(f"{self.name}: more than {limits.max_frames} frames (ZOO_MAX_FRAMES)")
        if self._num_pixels > FREE_PIXELS + limits.max_unfolding * self._num_bytes:
            raise DataError(
                f"{self.name}: {self._num_frames} frames of {picture.width}x{picture.height} out of "
                f"{self._num_bytes:,} bytes; at most {limits.max_unfolding:,} pixels a byte are allowed "
                "(ZOO_MAX_UNFOLDING)"
            )

    @property
    def num_video_streams(self) -> int:
        """Video streams in the file."""
        return len(self._container.streams.video)

    def pictures(self, from_s: float = 0.0) -> Iterator[Decoded]:
        """Decode pictures in order of presentation, skipping packets that are damaged.

        Starts with the picture on screen at `from_s`, or a few before; from the first where the
        file cannot seek there.
        """
        if from_s > 0 and self._origin is None:
            for _ in self._decode():
                break
        if self._origin is not None:
            self._seek(from_s)
        iterator = self._decode()
        if from_s <= 0 or self._origin is None:
            yield from iterator
            return
        first = next(iterator, None)
        if first is not None and first.time_s <= from_s:
            yield first
            yield from iterator
        else:
            self._seek(0.0)
            yield from self._decode()

    def _seek(self, to_s: float) -> None:
        assert self._origin is not None
        if to_s > 0:
            try:
                target = int((self._origin + to_s) / self._stream.time_base)
                self._container.seek(target, stream=self._stream, backward=True)
                return
            except (av.FFmpegError, OverflowError):
                pass
        self._container.close()
        self._file.seek(0)
        self._open()

    def _decode(self) -> Iterator[Decoded]:
        period = 1.0 / self.fps
        last = -period + (self._origin or 0.0)
        corrupt = 0
        self._num_frames = self._num_pixels = self._num_bytes = 0
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                self._num_bytes += packet.size
                pictures = packet.decode()
            except (av.FFmpegError, DataError, ValueError, OSError) as error:
                self.num_damaged += 1
                corrupt += 1
                # A demuxer that raised is over; one that goes on for ever is hostile.
                if isinstance(error, DataError) or corrupt > _CORRUPT_LIMIT:
                    break
                continue
            for picture in pictures:
                self._count(picture)
                self._stream_in.silence = 0
                time_s = picture.time if picture.time is not None else last + period
                if self._origin is None:
                    self._origin = time_s
                last = time_s
                yield Decoded(time_s - self._origin, picture)
        if self._stream_in.over:
            raise DataError(
                f"{self.name}: more than {self.limits.max_silence:,} bytes without a frame (ZOO_MAX_SILENCE)"
            )

    def last_time_s(self) -> float:
        """Find the time of the last packet without decoding; then start again from the first picture.

        Of a file beyond the limit on bytes without a frame, that of the last packet within.
        """
        if self._origin is not None:
            self._seek(0.0)
        times: list[float] = []
        try:
            for packet in self._container.demux(self._stream):
                if packet.pts is not None:
                    times.append(float(packet.pts * self._stream.time_base))
        except (av.FFmpegError, DataError):
            self.num_damaged += 1
        self._container.close()
        self._file.seek(0)
        self._open()
        return max(times) - (self._origin if self._origin is not None else min(times)) if times else 0.0

    def rgb(self, picture: Any, size: SizeRule | None = None) -> NDArray[np.uint8]:
        """Convert a decoded picture to upright RGB, (H, W, 3) uint8.

        `size` scales it by antialiased bilinear weights (swscale) on the way.
        """
        turns = quarter_turns(picture)
        upright = (picture.width, picture.height) if turns % 2 else (picture.height, picture.width)
        height, width = size(*upright) if size is not None else upright
        if turns % 2:
            height, width = width, height
        alpha = any(part.is_alpha for part in picture.format.components)
        try:
            pixels = self._convert(picture, height, width, "rgba" if alpha else "rgb24")
        except (av.FFmpegError, ValueError) as error:
            raise DataError(
                f"{self.name}: {picture.format.name} cannot be converted ({_short(error)})"
            ) from None
        if alpha:
            cover = pixels[..., 3:].astype(np.uint16)
            pixels = ((pixels[..., :3] * cover + 127) // 255).astype(np.uint8)
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels

    def _convert(self, picture: Any, height: int, width: int, pixel_format: str) -> NDArray[np.uint8]:
        name = picture.format.name
        space: Colorspace | None = None
        full_range: ColorRange | None = None
        if not picture.format.is_rgb:
            if picture.colorspace in (0, 2, 3):
                large = picture.height >= 720 or picture.width >= 1280
                space = Colorspace.ITU709 if large else Colorspace.ITU601
            whole = name.startswith("yuvj") or picture.color_range == ColorRange.JPEG
            whole = whole or (name.startswith("gray") and picture.color_range == 0)
            full_range = ColorRange.JPEG if whole else ColorRange.MPEG
        converted = self._converter.reformat(
            picture,
            width=width,
            height=height,
            format=pixel_format,
            src_colorspace=space,
            src_color_range=full_range,
            dst_color_range=ColorRange.JPEG,
            interpolation=_SCALING,
            threads=1,
        )
        pixels: Any = converted.to_ndarray()
        return np.asarray(pixels, np.uint8)

    def close(self) -> None:
        """Close the file."""
        self._container.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def quarter_turns(picture: Any) -> int:
    """Counter-clockwise quarter turns that bring a picture upright, 0 to 3."""
    return round(picture.rotation / 90) % 4


def _short(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).split(";")[0].strip()


def first_line(error: BaseException) -> str:
    """Say in one line what a foreign library raised."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__


def reason_of(error: Exception) -> str:
    """Say why a source cannot be used, whatever reading it raised; a hostile file can set off anything."""
    return str(error) if isinstance(error, DataError) else first_line(error)


def is_regular(path: Path) -> bool:
    """Whether `path` is a regular file, links followed; False for what cannot be looked at."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False
