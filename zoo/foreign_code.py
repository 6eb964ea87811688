"""Calling code of strangers that may not come back: in a thread of its own, and only for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from zoo.errors import PluginError
from zoo.global_state import FOREIGN

_LEAST_S = 0.1


class Clock:
    """What is left of the time that manifests which are not ours have together."""

    deadline = 0.0

    @classmethod
    def start(cls, seconds: float) -> None:
        """Give all of them so long from now on."""
        cls.deadline = time.monotonic() + seconds

    @classmethod
    def least(cls) -> float:
        """Return what is left for the next, which is never nothing."""
        return max(_LEAST_S, cls.deadline - time.monotonic())


class LateError(PluginError):
    """A call that has not returned yet."""

    def __init__(self, message: str, thread: threading.Thread, result: Callable[[], Any]) -> None:
        super().__init__(message)
        self.thread = thread
        self.result = result


def within_time(load: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """Call `load` in a thread of its own and give up on it after a while.

    Raises:
        LateError: It has not returned; its thread goes on.
    """
    outcome: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((load(), None))
        except BaseException as error:
            outcome.append((None, error))

    def result() -> Any:
        value, error = outcome[0]
        if error is not None:
            raise error if isinstance(error, Exception | SystemExit) else PluginError(repr(error))
        return value

    thread = threading.Thread(target=run, name=f"{FOREIGN}import", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not outcome:
        raise LateError(
            f"{what} within {timeout_s:.1f} s of the time that plugins have; a manifest must import no "
            "model code (ZOO_IMPORT_TIMEOUT_S raises the limit)",
            thread,
            result,
        )
    return result()
