"""Clips for models: read, sample, write and check videos.

`open_clips` turns a folder, a `datasets` object or a name into clips, `make_loader` into batches;
`read_video` and `write_video` are for single files. Names are imported on first use, so that
``import zoo.data`` is free of torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.data.check import FileReport, check_data, iter_check
    from zoo.data.clips import ClipDataset, ClipItem
    from zoo.data.demo import demo_clips
    from zoo.data.limits import Limits
    from zoo.data.loader import Batch, make_loader
    from zoo.data.sources import open_clips
    from zoo.data.stream import ClipStream
    from zoo.data.video import (
        Frame,
        Video,
        VideoInfo,
        iter_frames,
        probe_video,
        read_video,
        to_float,
        to_grey,
        to_uint8,
    )
    from zoo.data.write import VideoWriter, side_by_side, write_video

_HOME = {
    "check": ("FileReport", "check_data", "iter_check"),
    "clips": ("ClipDataset", "ClipItem"),
    "demo": ("demo_clips",),
    "loader": ("Batch", "make_loader"),
    "sources": ("open_clips",),
    "stream": ("ClipStream",),
    "video": (
        "Frame",
        "Limits",
        "Video",
        "VideoInfo",
        "iter_frames",
        "probe_video",
        "read_video",
        "to_float",
        "to_grey",
        "to_uint8",
    ),
    "write": ("VideoWriter", "side_by_side", "write_video"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Batch",
    "ClipDataset",
    "ClipItem",
    "ClipStream",
    "FileReport",
    "Frame",
    "Limits",
    "Video",
    "VideoInfo",
    "VideoWriter",
    "check_data",
    "demo_clips",
    "iter_check",
    "iter_frames",
    "make_loader",
    "open_clips",
    "probe_video",
    "read_video",
    "side_by_side",
    "to_float",
    "to_grey",
    "to_uint8",
    "write_video",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'zoo.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"zoo.data.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
