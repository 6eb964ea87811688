"""A whole file as a model was shown its clips: at the recipe's rate, scaled, the centre cut out.

Shape legend: C colours, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.container import Reader, VideoSource
from zoo.data.limits import Limits
from zoo.data.sampling import Draw, finish, scaled_size
from zoo.data.video import at_rate, nothing_decodes
from zoo.errors import DataError
from zoo.recipes import Clip


def whole_frames(
    source: VideoSource,
    clip: Clip,
    *,
    limits: Limits | None = None,
    opened: Callable[[float], None] | None = None,
) -> Iterator[Tensor]:
    """Yield all frames of a video or image as x_CHW in [-1, 1], in constant memory.

    Args:
        source: Path or bytes.
        clip: Size, rate and channels; its number of frames does not matter.
        limits: What the file may cost; the usual when left out.
        opened: Told the frames a second, before the first.

    Raises:
        DataError: There is no video in it, no frame decodes, or a limit is exceeded.
    """
    limits = limits or Limits()
    with Reader(source, limits=limits) as reader:
        if opened is not None:
            opened(clip.fps or reader.fps)
        pictures: Iterator[tuple[float, object]] = reader.pictures()
        if clip.fps is not None:
            pictures = at_rate(pictures, start_s=0.0, fps=clip.fps, file_fps=reader.fps)
        pixels_HWC: NDArray[np.uint8] | None = None
        shown: object = None

        def size(height: int, width: int) -> tuple[int, int]:
            if pixels_HWC is not None:  # as large as the first
                return pixels_HWC.shape[0], pixels_HWC.shape[1]
            return scaled_size(height, width, clip=clip)

        for number, (_, picture) in enumerate(pictures):
            if number >= limits.max_frames:
                raise DataError(f"{reader.name}: more than {limits.max_frames} frames")
            if pixels_HWC is None or picture is not shown:
                pixels_HWC, shown = reader.rgb(picture, size), picture
            yield finish([pixels_HWC], clip=clip, chance=Draw(), augment=())[:, 0]
        if pixels_HWC is None:
            raise nothing_decodes(reader)
