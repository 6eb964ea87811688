"""Read every video of a source to its end, and say what is there or why it cannot be used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zoo.data.clips import Source
from zoo.data.container import Reader, quarter_turns, reason_of
from zoo.data.demo import demo_clips
from zoo.data.folders import find_files
from zoo.data.hub import Columns, Rows, choose_split, is_saved, open_local
from zoo.data.reach import Reach
from zoo.data.video import nothing_decodes
from zoo.errors import DataError


@dataclass(frozen=True)
class FileReport:
    """What one video is."""

    source: str
    """Path below the folder given, or row."""
    reason: str | None = None
    """Why it cannot be used; None for a usable video."""
    num_frames: int = 0
    """Frames that decode."""
    width: int = 0
    """Columns of an upright frame."""
    height: int = 0
    """Rows of an upright frame."""
    fps: float = 0.0
    """Nominal frames a second."""
    duration_s: float = 0.0
    """Seconds from the first frame to the end of the last."""
    codec: str = ""
    """FFmpeg's name of the codec."""
    notes: list[str] = field(default_factory=list)
    """What is unusual and does no harm: damaged packets, rotation, a wrong header."""

    @property
    def ok(self) -> bool:
        """Whether it can be used."""
        return self.reason is None

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-able values."""
        return {"ok": self.ok, **asdict(self)}


def check_data(source: str | os.PathLike[str]) -> list[FileReport]:
    """Decode every video of a source and report on each, good or bad.

    Args:
        source: A folder, one video, a folder that ``datasets.save_to_disk`` wrote, parquet, or ``demo``.

    Raises:
        DataError: There is no such source, or no video in it.
    """
    return list(iter_check(source))


def iter_check(source: str | os.PathLike[str]) -> Iterator[FileReport]:
    """Yield the reports of `check_data` one by one, as each video has been read.

    Raises:
        DataError: As `check_data`.
    """
    for item in _sources(os.fspath(source)):
        yield _check_one(item)


def _sources(name: str) -> Iterator[Source]:
    path = demo_clips() if name == "demo" else Path(name).expanduser()
    if path.is_dir() and not is_saved(path):
        files = find_files(path)
        if files:
            for file in files:
                where = str(file.path)
                yield Source(file.relative, -1, lambda where=where: where)  # type: ignore[misc]
            return
        if next(path.rglob("*.parquet"), None) is None:
            raise DataError(
                f"{name}: no videos or images in this folder, by their suffixes (.mp4, .webm, ...)"
            )
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".parquet"):
        parts, _, _ = choose_split(open_local(path, streaming=False), None)
        columns = [Columns(part) for part in parts]
        yield from Rows(columns, name=name, split=None, reach=Reach.of_path(path))
    elif path.exists():
        yield Source(name, -1, lambda: str(path))
    else:
        raise DataError(
            f"{name!r}: there is no such file or folder. Name a folder of videos, one video, a folder that "
            "datasets.save_to_disk wrote, parquet, or demo"
        )


def _check_one(source: Source) -> FileReport:
    try:
        with Reader(source.content()) as reader:
            return _read(reader, source.name)
    except Exception as error:
        return FileReport(source=source.name, reason=reason_of(error))


def _read(reader: Reader, name: str) -> FileReport:
    num, last_s = 0, 0.0
    first: Any = None
    sizes: set[tuple[int, int]] = set()
    for time_s, picture in reader.pictures():
        if first is None:
            first = picture
            reader.rgb(picture, lambda height, width: (min(height, 256), min(width, 256)))
        sizes.add((picture.width, picture.height))
        num += 1
        last_s = max(last_s, time_s)
    if first is None:
        raise nothing_decodes(reader)
    turns = quarter_turns(first)
    notes = []
    if reader.num_damaged:
        notes.append(f"{reader.num_damaged} damaged packets skipped")
    if reader.num_frames_header not in (None, num):
        notes.append(f"the header says {reader.num_frames_header} frames")
    if turns:
        notes.append(f"turned by {turns * 90} degrees counter-clockwise")
    if reader.num_video_streams > 1:
        notes.append(f"best of {reader.num_video_streams} video streams")
    if len(sizes) > 1:
        notes.append(f"{len(sizes)} frame sizes; frames are scaled to the first")
    if first.interlaced_frame:
        notes.append("interlaced; the fields stay woven")
    return FileReport(
        source=name,
        num_frames=num,
        width=first.height if turns % 2 else first.width,
        height=first.width if turns % 2 else first.height,
        fps=reader.fps,
        duration_s=last_s + 1.0 / reader.fps,
        codec=reader.codec,
        notes=notes,
    )
