"""Whole videos as they go into a tokenizer: all frames, scaled, cropped and timed as clips are.

The laws of `zoo.data.sampling` hold: the recipe's rate, the shorter side scaled to fit, the centre cropped,
a video that is shorter than a clip holds its last frame. Data that are made on the fly have no length of
their own: each row is a clip of as many frames as asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.clips import ClipDataset, FileClips, Source
from zoo.data.container import Reader, reason_of
from zoo.data.limits import Limits
from zoo.data.sampling import Draw, finish, scaled_size
from zoo.data.sources import open_clips
from zoo.data.video import at_rate, nothing_decodes
from zoo.errors import DataError
from zoo.recipes import Clip

_LIMITS = Limits()


class WholeClips:
    """The videos of a split.

    Args:
        data: As for `zoo.data.open_clips`.
        clip: Size, rate and, for data made on the fly, length.
        split: As for `open_clips`.
        num_clips: Videos at most; as many clips of data that are made on the fly.
        max_frames: Frames of each at most.

    Attributes:
        labels: Names of the labels.

    Raises:
        DataError: There is no such source, no video in it, or it has no length.
    """

    def __init__(
        self,
        data: Any,
        *,
        clip: Clip,
        split: str,
        num_clips: int | None = None,
        max_frames: int | None = None,
    ) -> None:
        length = clip.num_frames if max_frames is None else max_frames
        # RGB in any case: encoding turns it grey for a model of one channel.
        self._clip = clip.model_copy(update={"channels": 3, "num_frames": length})
        self._max_frames = max_frames
        dataset = open_clips(data, clip=self._clip, split=split, cache_mb=0)
        if not isinstance(dataset, ClipDataset):
            raise DataError(
                f"{data}: a stream has no length and cannot be gone on with after a kill; leave `stream:` "
                "out, or download it and give the folder"
            )
        self._dataset = dataset
        self._made = str(data).partition(":")[0]
        self.labels = dataset.labels
        made = not isinstance(dataset, FileClips) and dataset.random
        there = len(dataset)
        self._num = there if num_clips is None else num_clips if made else min(num_clips, there)

    def __len__(self) -> int:
        return self._num

    def names(self) -> Iterator[str]:
        """Yield the name of every clip, in order."""
        for index in range(len(self)):
            yield self.name(index)

    def name(self, index: int) -> str:
        """Name a clip."""
        if isinstance(self._dataset, FileClips):
            return self._dataset.sources[index].name
        return f"{self._made}#{index}"

    def digest(self) -> str:
        """Return the SHA-256 of all names."""
        digest = hashlib.sha256()
        for name in self.names():
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        return digest.hexdigest()

    def open(self, index: int) -> WholeClip:
        """Open a clip; frames are read when they are asked for."""
        if not isinstance(self._dataset, FileClips):
            item = self._dataset[divmod(index, len(self._dataset))]
            return WholeClip(
                self.name(index), item["label"], self._clip.playback_fps, iter(item["x_CTHW"].unbind(1))
            )
        source = self._dataset.sources[index]
        opened = WholeClip(source.name, source.label, 0.0, iter(()))
        opened.frames_CHW = islice(_read(source, self._clip, opened), self._max_frames)
        return opened


class WholeClip:
    """A clip whose frames come one after the other.

    Attributes:
        source: Name of the file or row.
        label: Index into the labels, -1 for none.
        fps: Frames a second; known once the first frame is read.
        frames_CHW: Frames x_CHW, RGB in [-1, 1]. Reading one raises DataError where the video is bad.
        num_frames: Frames given by `filled` so far.
        num_held: How many of them hold the last one.
    """

    def __init__(self, source: str, label: int, fps: float, frames_CHW: Iterator[Tensor]) -> None:
        self.source = source
        self.label = label
        self.fps = fps
        self.frames_CHW = frames_CHW
        self.num_frames = 0
        self.num_held = 0

    def filled(self, min_frames: int) -> Iterator[Tensor]:
        """Yield all frames, and the last one again until there are `min_frames`."""
        last: Tensor | None = None
        for last in self.frames_CHW:
            self.num_frames += 1
            yield last
        while last is not None and self.num_frames < min_frames:
            self.num_frames += 1
            self.num_held += 1
            yield last


def _read(source: Source, clip: Clip, opened: WholeClip) -> Iterator[Tensor]:
    try:
        with Reader(source.content()) as reader:
            opened.fps = clip.fps or reader.fps
            pictures: Iterable[tuple[float, Any]] = reader.pictures()
            if clip.fps is not None:
                pictures = at_rate(pictures, start_s=0.0, fps=clip.fps, file_fps=reader.fps)
            pixels_HWC: NDArray[np.uint8] | None = None
            shown: Any = None
            for number, (_, picture) in enumerate(pictures):
                if number >= _LIMITS.max_frames:
                    raise DataError(f"{reader.name}: more than {_LIMITS.max_frames} frames")
                if pixels_HWC is None or picture is not shown:
                    size = None if pixels_HWC is None else pixels_HWC.shape[:2]
                    pixels_HWC = reader.rgb(
                        picture,
                        lambda h, w, size=size: size or scaled_size(h, w, clip=clip),  # type: ignore[misc]
                    )
                    shown = picture
                yield finish([pixels_HWC], clip=clip, chance=Draw(), augment=())[:, 0]
            if pixels_HWC is None:
                raise nothing_decodes(reader)
    except Exception as error:  # a hostile file can set off anything
        reason = reason_of(error)
        raise DataError(reason if source.name in reason else f"{source.name}: {reason}") from None
