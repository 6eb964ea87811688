"""Ctrl-C, SIGTERM and SIGUSR1, held back until a step is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""What ends a run: Ctrl-C, what systems send before they kill, and what Slurm is often told to send."""


class Interrupts:
    """Within it, the first of `SIGNALS` is only noted; a second Ctrl-C interrupts at once.

    Outside the main thread Python lets nobody handle signals, and it does nothing.

    Args:
        at_once: Raise KeyboardInterrupt for each of them instead: nothing is there yet to be saved.

    Attributes:
        noted: Name of the signal that came, or None.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.at_once = at_once
        self.noted: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.at_once or (self.noted is not None and number == signal.SIGINT):
            raise KeyboardInterrupt
        self.noted = signal.Signals(number).name
