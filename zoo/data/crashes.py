"""Which clip a worker was reading when the decoder took it down."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.sharedctypes import RawArray
from typing import Any

from torch.utils.data import DataLoader, get_worker_info

_NOTHING = -1
_DYING_S = 1.0


class AtWork:
    """What each worker of a loader is reading, in memory that its parent sees.

    A decoder that crashes in native code ends its process; what it was reading is then still written here.

    Args:
        num_workers: Workers of the loader.
    """

    def __init__(self, num_workers: int) -> None:
        self._slots = RawArray("q", 2 * num_workers)  # of each worker: its process, the source

    def begin(self, index: int) -> None:
        """Source `index` is read from here on."""
        self._note(index)

    def end(self) -> None:
        """Nothing is read any more."""
        self._note(_NOTHING)

    def _note(self, index: int) -> None:
        worker = get_worker_info()
        if worker is not None:
            self._slots[2 * worker.id], self._slots[2 * worker.id + 1] = os.getpid(), index

    def left_by_the_dead(self) -> list[int] | None:
        """Return the sources that workers which are gone were reading; None where none is gone.

        A process that dies closes what it had open before it counts as gone, so it is waited for.
        """
        deadline = time.monotonic() + _DYING_S
        while True:
            alive = {child.pid for child in multiprocessing.active_children()}
            pairs = zip(self._slots[::2], self._slots[1::2], strict=True)
            left = [index for process, index in pairs if process and process not in alive]
            if left or time.monotonic() > deadline:
                return sorted(set(left) - {_NOTHING}) if left else None
            time.sleep(0.01)


def start_quietly(loader: DataLoader[Any]) -> Any:
    """Start a loader's workers without the handler of torch that raises wherever the main thread is.

    The death of a worker is then seen where its batch is missed, within seconds.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if before is not None:
        signal.signal(signal.SIGCHLD, before)
    return batches
