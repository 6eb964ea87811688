"""Clips for the page: what belongs side by side becomes one video, so that it cannot drift apart.

Shape legend: C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

import base64
import dataclasses
import re
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from zoo.data import Video, read_video, write_video
from zoo.errors import ZooError
from zoo.metrics.baselines import best_nearest

_SHOWN = 6
_CELL = 192  # pixels of a clip's longer side on the page
_GAP = 8
_MAX_FRAMES = 96
_STEP = re.compile(r"step-(\d+)")


@dataclasses.dataclass(frozen=True)
class Strip:
    """One video for the page.

    Attributes:
        labels: What stands side by side, left to right.
        uri: ``data:`` address of the mp4.
        width: Pixels.
        height: Pixels.
        note: What else is to be said of it.
    """

    labels: list[str]
    uri: str
    width: int
    height: int
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Strips:
    """The videos of a run's last step, and what could not be shown.

    Attributes:
        strips: Videos, in order of their number.
        step: Step they were made at.
        kind: "reconstruction" or "sample".
        problems: Files that cannot be read, in words.
    """

    strips: list[Strip]
    step: int | None
    kind: str
    problems: list[str]


def collect_strips(samples: Path, *, bits_per_clip: float | None = None) -> Strips:
    """Make the videos of a run's latest samples.

    Args:
        samples: The run's ``samples`` folder; need not exist.
        bits_per_clip: What the model stores for a clip. When given, the nearest-neighbour baseline at
            that many bits stands beside original and reconstruction.
    """
    steps = sorted(
        (int(match[1]), folder)
        for folder in (samples.iterdir() if samples.is_dir() else ())
        if (match := _STEP.fullmatch(folder.name)) and folder.is_dir() and any(folder.glob("*.mp4"))
    )
    originals = samples / "original"
    kind = "reconstruction" if originals.is_dir() else "sample"
    if not steps:
        return Strips([], None, kind, [])
    step, folder = steps[-1]
    problems: list[str] = []
    if kind == "sample":
        return Strips(_sample_grid(folder, problems), step, kind, problems)
    strips = []
    for path in _numbered(folder)[:_SHOWN]:
        original = originals / path.name
        try:
            strips.append(_compare(original, path, bits_per_clip))
        except (ZooError, OSError) as error:
            problems.append(str(error))
    return Strips(strips, step, kind, problems)


def _compare(original: Path, made: Path, bits_per_clip: float | None) -> Strip:
    video = read_video(original, num_frames=_MAX_FRAMES)
    x_CTHW, y_CTHW = video.x_CTHW, read_video(made, num_frames=_MAX_FRAMES).x_CTHW
    columns = {"original": x_CTHW, "reconstruction": y_CTHW}
    note = ""
    if bits_per_clip:
        near_BCTHW, grids = best_nearest(x_CTHW[None], bits_per_clip)
        columns["nearest, same bits"] = near_BCTHW[0]
        frames, rows, cells = grids[0]
        note = f"nearest: {frames} of {x_CTHW.shape[1]} frames of {rows}x{cells} stored pixels"
    return _strip(list(columns.values()), list(columns), fps=video.fps, note=note)


def _sample_grid(folder: Path, problems: list[str]) -> list[Strip]:
    videos: list[Video] = []
    for path in _numbered(folder)[:16]:
        try:
            videos.append(read_video(path, num_frames=_MAX_FRAMES))
        except (ZooError, OSError) as error:
            problems.append(str(error))
    rows = [videos[start : start + 4] for start in range(0, len(videos), 4)]
    return [_strip([video.x_CTHW for video in row], [""] * len(row), fps=row[0].fps) for row in rows]


def _strip(videos: list[Tensor], labels: list[str], *, fps: float, note: str = "") -> Strip:
    length = max(x.shape[1] for x in videos)
    height, width = videos[0].shape[2:]
    zoom = max(1, _CELL // max(height, width))
    columns = []
    for x_CTHW in videos:
        # Whole pixels are repeated before the codec sees them: its chroma subsampling then costs nothing.
        x_CTHW = x_CTHW[..., :height, :width].repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
        held = x_CTHW[:, -1:].expand(-1, length - x_CTHW.shape[1], -1, -1)
        x_CTHW = torch.cat([x_CTHW, held], 1).expand(3, -1, -1, -1)
        if x_CTHW.shape[2:] != (height * zoom, width * zoom):
            sizes = ", ".join(f"{x.shape[3]}x{x.shape[2]}" for x in videos)
            raise ZooError(f"clips of different sizes do not go side by side: {sizes} pixels")
        columns += [x_CTHW, x_CTHW.new_zeros(3, length, height * zoom, _GAP)]
    strip_CTHW = torch.cat(columns[:-1], 3)
    with tempfile.TemporaryDirectory() as folder:
        path = write_video(Path(folder) / "strip.mp4", strip_CTHW, fps, crf=20)
        encoded = base64.b64encode(path.read_bytes()).decode("ascii")
    rows, cells = strip_CTHW.shape[2:]
    return Strip(labels, f"data:video/mp4;base64,{encoded}", cells, rows, note)


def _numbered(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.mp4"), key=lambda path: (len(path.stem), path.stem))
