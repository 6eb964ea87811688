"""Which frames a clip is made of, and how they become a tensor. The laws, without files.

- In time: clip frame k is the frame on screen at start + k / fps (`zoo.data.video.at_rate`); without
  an fps the frames follow each other as stored. The start is uniform over all starts that leave
  room for the clip when training, the middle one otherwise.
- A video that is shorter than the clip holds its last frame until the clip is full.
- In space: scaled by antialiased bilinear weights so that the shorter side fits, then cropped to the
  clip's size: anywhere when training, the centre otherwise. Small videos are scaled up.
- Chance: what clip i of epoch e is depends on (seed, e, i) alone.

Shape legend: C colours, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.video import at_rate, to_float, to_grey
from zoo.errors import DataError
from zoo.recipes import Clip

_T = TypeVar("_T")


class Draw(NamedTuple):
    """The chance in one clip, each number uniform in [0, 1): 0.5 is the middle."""

    time: float = 0.5
    top: float = 0.5
    left: float = 0.5
    flip: float = 1.0


def draw(seed: int, epoch: int, index: int) -> Draw:
    """Draw the chance of clip `index` of `epoch`; the same on every machine."""
    return Draw(*np.random.default_rng([seed, epoch, index, 0x0C11B5]).random(4).tolist())


def check_clip(clip: Clip) -> None:
    """Refuse channel counts that videos do not have."""
    if clip.channels not in (1, 3):
        raise DataError(f"clip.channels is {clip.channels}; videos give 1 (grey) or 3 (RGB)")


def in_order(
    pictures: Iterable[tuple[float, _T]], *, start_s: float, file_fps: float
) -> Iterator[tuple[float, _T]]:
    """Yield the picture on screen at `start_s`, within half a period, and all that follow."""
    before: tuple[float, _T] | None = None
    started = False
    for time_s, picture in pictures:
        if not started and time_s <= start_s + 0.5 / file_fps:
            before = (time_s, picture)
            continue
        if not started and before is not None:
            yield before
        started = True
        yield time_s, picture
    if not started and before is not None:
        yield before


def choose(
    pictures_from: Callable[[float], Iterable[tuple[float, _T]]],
    *,
    clip: Clip,
    length_s: float,
    file_fps: float,
    time: float,
) -> list[tuple[float, _T]]:
    """Choose the pictures of a clip: `clip.num_frames` of them, fewer only when there are none.

    Args:
        pictures_from: Gives (seconds, picture) in order, from the picture on screen at a time on.
        length_s: What the file claims to last. Where it ends earlier, the start is drawn again.
        file_fps: Nominal rate of the file.
        time: Where the clip lies, 0 first to 1 last.
    """
    period = 1.0 / file_fps
    span = (clip.num_frames - 1) / (clip.fps or file_fps)
    for _ in range(2):
        seen: list[tuple[float, _T]] = []

        def watched(start_s: float, seen: list[tuple[float, _T]] = seen) -> Iterator[tuple[float, _T]]:
            for picture in pictures_from(start_s):
                seen[:] = [picture]
                yield picture

        start_s = time * max(0.0, length_s - period - span)
        if clip.fps is None:
            selected = in_order(watched(start_s), start_s=start_s, file_fps=file_fps)
        else:
            selected = at_rate(watched(start_s), start_s=start_s, fps=clip.fps, file_fps=file_fps)
        chosen = list(islice(selected, clip.num_frames))
        if len(chosen) == clip.num_frames or not seen:
            break
        held = [*chosen, *(seen * (clip.num_frames - len(chosen)))]
        if seen[0][0] + 2.5 * period > length_s:
            return held
        chosen = held
        length_s = seen[0][0] + period
    return chosen


def scaled_size(height: int, width: int, *, clip: Clip) -> tuple[int, int]:
    """Height and width of a frame once its shorter side, relative to the clip, fits."""
    scale = max(clip.height / height, clip.width / width)
    return max(clip.height, round(height * scale)), max(clip.width, round(width * scale))


def finish(
    frames: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    *,
    clip: Clip,
    chance: Draw,
    augment: Sequence[str],
) -> Tensor:
    """Crop scaled frames (T, H, W, 3) and return x_CTHW, float32 in [-1, 1]."""
    height, width = frames[0].shape[:2]
    top = min(int(chance.top * (height - clip.height + 1)), height - clip.height)
    left = min(int(chance.left * (width - clip.width + 1)), width - clip.width)
    rows, columns = slice(top, top + clip.height), slice(left, left + clip.width)
    cropped = torch.from_numpy(np.stack([frame[rows, columns] for frame in frames]))
    x_CTHW = to_float(cropped)
    if "flip" in augment and chance.flip < 0.5:
        x_CTHW = x_CTHW.flip(3)
    if clip.channels == 1:
        x_CTHW = to_grey(x_CTHW)
    return x_CTHW
