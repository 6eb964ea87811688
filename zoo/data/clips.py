"""Data sets of clips: item i of epoch e depends on the seed, e and i, and on nothing else.

`zoo.data.sampling` says which frames a clip is made of. Here they are read, cached and, where a
file is bad, replaced.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.cache import Cached, FrameCache
from zoo.data.container import Reader, VideoSource, reason_of
from zoo.data.crashes import AtWork
from zoo.data.sampling import Draw, check_clip, choose, draw, finish, scaled_size
from zoo.data.video import nothing_decodes
from zoo.errors import DataError
from zoo.recipes import Clip

MAX_BAD = 0.5
"""Share of bad files at which a data set is refused."""
_REPLACEMENTS = 50
_WHOLE_S = 20.0
"""Videos up to this length are read from their first frame, longer ones from a key frame."""


class ClipItem(TypedDict):
    """One clip."""

    x_CTHW: Tensor
    """float32 in [-1, 1]."""
    label: int
    """Index into the data set's `labels`, -1 when there is none."""
    source: str
    """Name of the file or row."""
    start_s: float
    """Time of the first frame in its file."""
    index: int
    """Which source it is; another one than asked for where that was bad."""
    skipped: list[tuple[str, str]]
    """Bad sources met on the way: (source, reason)."""


@dataclass(frozen=True)
class Source:
    """A video to sample clips from; `content` gives its path or bytes when it is its turn."""

    name: str
    label: int
    content: Callable[[], VideoSource]


class Taken(NamedTuple):
    """Frames of a clip, each (H, W, 3) uint8, scaled but not cropped."""

    frames: Sequence[NDArray[np.uint8]]
    start_s: float


class ClipDataset(Dataset[ClipItem]):
    """Clips of `clip.num_frames` x `clip.height` x `clip.width`, one for every source and epoch.

    Attributes:
        clip: Size, length and rate of a clip.
        labels: Names of the labels; an item's `label` is an index into them.
        description: One line about what is in it, for people.
        epoch: Which clips ``dataset[i]`` gives; see `set_epoch`. ``dataset[epoch, i]`` names both.
        random: Whether clips are drawn by chance (training) or from the middle (evaluation).
        at_work: Where a loader's workers write down what they are reading.
    """

    def __init__(
        self,
        *,
        clip: Clip,
        labels: Sequence[str],
        description: str,
        random: bool,
        seed: int = 0,
        augment: Sequence[str] = (),
        max_bad: float = MAX_BAD,
    ) -> None:
        check_clip(clip)
        unknown = sorted(set(augment) - {"flip"})
        if unknown:
            raise DataError(f"unknown augmentation {unknown[0]!r}; there is: flip")
        self.clip = clip
        self.labels = list(labels)
        self.description = description
        self.random = random
        self.seed = seed
        self.augment = tuple(augment) if random else ()
        self.max_bad = max_bad
        self.epoch = 0
        self.at_work: AtWork | None = None
        self._skipped: dict[str, str] = {}
        self._crashed: dict[int, str] = {}

    @abstractmethod
    def __len__(self) -> int:
        """Number of clips in an epoch."""

    @abstractmethod
    def _take(self, index: int, chance: Draw) -> tuple[Taken, str, int]:
        """Give the frames of source `index`, its name and its label, or raise DataError."""

    @abstractmethod
    def _name(self, index: int) -> str:
        """Name source `index`."""

    def set_epoch(self, epoch: int) -> None:
        """Choose which clips ``dataset[i]`` gives."""
        self.epoch = epoch

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Bad sources met so far, each with its reason; a loader adds what its workers met."""
        return sorted(self._skipped.items())

    def note_skipped(self, skipped: Iterable[tuple[str, str]]) -> None:
        """Add bad sources that another process met.

        Raises:
            DataError: More than `max_bad` of the sources are bad.
        """
        self._skipped.update(skipped)
        if len(self._skipped) > self.max_bad * len(self):
            raise DataError(self._too_many())

    def note_crash(self, index: int, reason: str) -> None:
        """Never read source `index` again: the process that read it died."""
        self._crashed[index] = f"{self._name(index)}: the process that read it died ({reason})"

    def _too_many(self) -> str:
        examples = "; ".join(reason for _, reason in self.skipped[:3])
        return (
            f"{len(self._skipped)} of {len(self)} videos cannot be used, more than the "
            f"{100 * self.max_bad:g}% allowed by --max-bad ({self.description}). First: {examples}. "
            "`zoo data check PATH` lists all of them"
        )

    def __getitem__(self, key: int | tuple[int, int]) -> ClipItem:
        epoch, index = key if isinstance(key, tuple) else (self.epoch, key)
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        index %= len(self)
        chance = draw(self.seed, epoch, index) if self.random else Draw()
        skipped: list[tuple[str, str]] = []
        for candidate in self._candidates(index):
            # Not remembered for the next time: whether a damaged file gives a clip can depend on the draw.
            try:
                taken, name, label = self._read(candidate, chance)
            except DataError as error:
                skipped.append((self._name(candidate), str(error)))
                self.note_skipped(skipped[-1:])
                continue
            x = finish(taken.frames, clip=self.clip, chance=chance, augment=self.augment)
            return ClipItem(
                x_CTHW=x,
                label=label,
                source=name,
                start_s=taken.start_s,
                index=candidate,
                skipped=skipped,
            )
        raise DataError(self._too_many())

    def _read(self, index: int, chance: Draw) -> tuple[Taken, str, int]:
        if index in self._crashed:
            raise DataError(self._crashed[index])
        if self.at_work is None:
            return self._take(index, chance)
        self.at_work.begin(index)
        try:
            return self._take(index, chance)
        finally:
            self.at_work.end()

    def _candidates(self, index: int) -> Iterator[int]:
        """The source asked for, then those that stand in for it: the same ones on every run."""
        yield index
        if len(self) > 1:
            others = np.random.default_rng([self.seed, index, 0x5E1EC7])
            for _ in range(_REPLACEMENTS):
                yield int(others.integers(len(self)))

    def __iter__(self) -> Iterator[ClipItem]:
        return (self[index] for index in range(len(self)))


class FileClips(ClipDataset):
    """Clips of video files.

    Args:
        sources: One per video; anything with a length and items.
        cache_mb: Memory for small decoded videos, shared by the workers of a loader.
        facts: The arguments of `ClipDataset`.
    """

    def __init__(self, sources: Sequence[Source], *, cache_mb: float, **facts: Any) -> None:
        super().__init__(**facts)
        if not len(sources):
            raise DataError(f"no videos in it: {self.description}")
        self.sources = sources
        self.cache = FrameCache(budget_bytes=int(cache_mb * 2**20), num_videos=len(sources))

    def __len__(self) -> int:
        return len(self.sources)

    def _name(self, index: int) -> str:
        return self.sources[index].name

    def note_crash(self, index: int, reason: str) -> None:
        super().note_crash(index, reason)
        self.cache.renew_lock()

    def _take(self, index: int, chance: Draw) -> tuple[Taken, str, int]:
        source = self.sources[index]
        cached = self.cache.get(index)
        if cached is not None:
            return take_cached(cached, clip=self.clip, time=chance.time), source.name, source.label
        room = self.cache.room(index)
        try:
            with Reader(source.content()) as reader:
                taken, whole = take_read(reader, clip=self.clip, time=chance.time, room=room)
        except Exception as error:
            reason = reason_of(error)
            raise DataError(reason if source.name in reason else f"{source.name}: {reason}") from None
        if whole is not None:
            self.cache.put(index, whole)
        return taken, source.name, source.label


def take_cached(video: Cached, *, clip: Clip, time: float) -> Taken:
    """Choose the frames of a clip from a decoded video."""
    pictures = list(zip(video.times_T.tolist(), range(len(video.times_T)), strict=True))
    chosen = choose(
        lambda _start_s: pictures, clip=clip, length_s=video.length_s, file_fps=video.fps, time=time
    )
    return Taken([video.frames_THWC[number] for _, number in chosen], chosen[0][0])


def take_read(reader: Reader, *, clip: Clip, time: float, room: int = 0) -> tuple[Taken, Cached | None]:
    """Choose and read the frames of a clip from an open video.

    Returns:
        The frames, and the whole video scaled when it is short and takes at most `room` bytes. Both
        ways choose the same frames.

    Raises:
        DataError: No frame decodes.
    """

    def size(height: int, width: int) -> tuple[int, int]:
        return scaled_size(height, width, clip=clip)

    length_s = reader.header_s
    if length_s is None or length_s <= 0:
        length_s = reader.last_time_s() + 1.0 / reader.fps
    short = length_s <= _WHOLE_S
    if short and room > 0:
        with contextlib.suppress(Exception):  # what ails a frame must matter only to clips that hold it
            whole = _read_whole(reader, clip=clip, length_s=length_s, room=room)
            if whole is not None:
                return take_cached(whole, clip=clip, time=time), whole
    chosen = choose(
        lambda start_s: reader.pictures(0.0 if short else start_s),
        clip=clip,
        length_s=length_s,
        file_fps=reader.fps,
        time=time,
    )
    if not chosen:
        raise nothing_decodes(reader)
    frames: list[NDArray[np.uint8]] = []
    for number, (_, picture) in enumerate(chosen):
        held = number > 0 and picture is chosen[number - 1][1]
        frames.append(
            frames[-1] if held else reader.rgb(picture, (lambda *_: frames[0].shape[:2]) if frames else size)
        )
    return Taken(frames, chosen[0][0]), None


def _read_whole(reader: Reader, *, clip: Clip, length_s: float, room: int) -> Cached | None:
    frames: list[NDArray[np.uint8]] = []
    times: list[float] = []
    held = 0
    for time_s, picture in reader.pictures():
        shape = frames[0].shape[:2] if frames else None
        frames.append(
            reader.rgb(picture, lambda h, w, shape=shape: shape or scaled_size(h, w, clip=clip))  # type: ignore[misc]
        )
        times.append(time_s)
        if not held and frames[0].nbytes * length_s * reader.fps > room:
            return None
        held += frames[0].nbytes + 16
        if held > room:
            return None
    if not frames:
        raise nothing_decodes(reader)
    return Cached(np.stack(frames), np.asarray(times), reader.fps, length_s)
