"""Where the time of a run goes: steps, and waiting for data within them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from zoo.training.run import Labelled


class Clock:
    """Hands out batches and keeps time: of steps, and of waiting for data within them.

    The first batch of a session starts the loader and is not counted as waiting.
    """

    def __init__(self, facts: dict[str, Any], batches: Iterator[Labelled]) -> None:
        self.failed = False
        self._facts = facts
        self._batches = batches
        self._first = True
        self._steps, self._busy, self._waited, self._wait = 0, 0.0, 0.0, 0.0
        self._since = time.perf_counter()

    def __iter__(self) -> Clock:
        return self

    def __next__(self) -> Labelled:
        self.failed = True
        asked = time.perf_counter()
        batch = next(self._batches)
        self.failed = False
        if self._first:
            self._first = False
            self._since = time.perf_counter()
        else:
            self._wait += time.perf_counter() - asked
        return batch

    def stepped(self) -> None:
        """A step is over; the run's facts are up to date."""
        took = time.perf_counter() - self._since
        self._steps += 1
        self._busy += took
        self._waited += self._wait
        facts = self._facts
        facts["seconds"] += took
        facts["waited_seconds"] += self._wait
        facts["data_wait_share"] = facts["waited_seconds"] / max(facts["seconds"], 1e-9)
        self._wait = 0.0

    def resume(self) -> None:
        """The next step begins."""
        self._since = time.perf_counter()

    def numbers(self) -> dict[str, float]:
        """Speed and waiting since the last call, and seconds of steps since the run began."""
        busy = max(self._busy, 1e-9)
        numbers = {
            "steps_per_s": self._steps / busy,
            "data_wait_share": self._waited / busy,
            "seconds": self._facts["seconds"],
        }
        self._steps, self._busy, self._waited = 0, 0.0, 0.0
        return numbers
