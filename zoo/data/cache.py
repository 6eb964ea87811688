"""Keep small decoded videos in memory that every worker process of a loader shares.

The memory is anonymous and mapped before workers fork, so a video is decoded once whoever asked
for it first, and nothing touches /dev/shm, which containers keep tiny. A process that was spawned
instead of forked starts with an empty cache of its own; results are the same either way.
"""

from __future__ import annotations

import mmap
import multiprocessing
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MAX_ENTRIES = 200_000
_READY = 1
_WAIT_S = 5.0


class Cached(NamedTuple):
    """A decoded, scaled video: frames_THWC uint8, times_T in seconds, nominal rate, claimed length."""

    frames_THWC: NDArray[np.uint8]
    times_T: NDArray[np.float64]
    fps: float
    length_s: float


class FrameCache:
    """A budget of bytes for decoded videos, first come first kept.

    Args:
        budget_bytes: Memory that may be used; it is taken only as videos come in. 0 keeps nothing.
        num_videos: Videos there are.
    """

    def __init__(self, *, budget_bytes: int, num_videos: int) -> None:
        self.budget_bytes = budget_bytes
        self.num_videos = min(num_videos, _MAX_ENTRIES)
        self._make()

    def _make(self) -> None:
        self._arena: NDArray[np.uint8] | None = None
        if self.budget_bytes <= 0 or not self.num_videos:
            return
        try:
            self._arena = np.frombuffer(mmap.mmap(-1, self.budget_bytes), dtype=np.uint8)
            rows = np.frombuffer(mmap.mmap(-1, 8 * 8 * (self.num_videos + 1)), dtype=np.int64)
        except (OSError, ValueError, OverflowError):
            self._arena = None
            return
        # Row 0 counts the bytes in use; row i + 1 is (state, offset, T, H, W, -, fps, length) of video i.
        self._rows = rows.reshape(-1, 8)
        self._reals = self._rows.view(np.float64)
        self.renew_lock()

    def renew_lock(self) -> None:
        """Take a lock that nobody holds, for workers still to be started: one that died may have held it."""
        # A context of our own: the default one would fix the start method for the whole program.
        methods = multiprocessing.get_all_start_methods()
        self._lock = multiprocessing.get_context("fork" if "fork" in methods else "spawn").Lock()

    @property
    def used_bytes(self) -> int:
        """Bytes in use."""
        return int(self._rows[0, 0]) if self._arena is not None else 0

    def room(self, index: int) -> int:
        """Bytes that video `index` may take."""
        if self._arena is None or index >= self.num_videos:
            return 0
        return self.budget_bytes - self.used_bytes

    def get(self, index: int) -> Cached | None:
        """Return video `index` without copying it, or None."""
        if self._arena is None or index >= self.num_videos:
            return None
        if not self._lock.acquire(timeout=_WAIT_S):
            return None
        try:
            state, offset, num, height, width = (int(v) for v in self._rows[index + 1, :5])
            fps, length = (float(v) for v in self._reals[index + 1, 6:])
        finally:
            self._lock.release()
        if state != _READY:
            return None
        times = self._arena[offset : offset + 8 * num].view(np.float64)
        start = offset + 8 * num
        frames = self._arena[start : start + num * height * width * 3].reshape(num, height, width, 3)
        return Cached(frames, times, fps, length)

    def put(self, index: int, video: Cached) -> None:
        """Keep video `index` if there is room for it and nobody kept it before."""
        if self._arena is None or index >= self.num_videos:
            return
        num, height, width = video.frames_THWC.shape[:3]
        need = 8 * num + video.frames_THWC.nbytes
        need += -need % 8
        if not self._lock.acquire(timeout=_WAIT_S):
            return
        try:
            offset = self.used_bytes
            if self._rows[index + 1, 0] == _READY or offset + need > self.budget_bytes:
                return
            self._arena[offset : offset + 8 * num].view(np.float64)[:] = video.times_T
            start = offset + 8 * num
            self._arena[start : start + video.frames_THWC.nbytes] = video.frames_THWC.reshape(-1)
            self._reals[index + 1, 6:] = video.fps, video.length_s
            self._rows[index + 1, :5] = _READY, offset, num, height, width
            self._rows[0, 0] = offset + need
        finally:
            self._lock.release()

    def __getstate__(self) -> dict[str, Any]:
        return {"budget_bytes": self.budget_bytes, "num_videos": self.num_videos}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make()
