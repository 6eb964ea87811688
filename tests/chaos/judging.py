"""Hands hostile files to the product, one child process a file, and tells what came of each.

A warm process that has imported torch and the zoo forks a child for each file (`chaos._warm`), so that a
file which crashes, hangs or fills the memory costs that child alone, and its time and memory are its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import statistics
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
_IN_ACCESS_OR_OPEN = 0x1 | 0x20


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the product said of one file.

    Attributes:
        name: Of the file.
        kind: ``taken``, ``refused`` (in words), ``crashed`` (an error that is no refusal), ``died`` (by a
            signal) or ``hung`` (over the limit on time).
        told: What was printed, or the message.
        seconds: Processor time, which other work on the machine does not lengthen.
        wall_s: Wall-clock time.
        peak_mb: Most resident memory of the whole child, torch and all.
        grown_mb: How much of it is more than before.
        events: What it did beyond the file: imports, opens, sockets, processes.
    """

    name: str
    kind: str
    told: str
    seconds: float
    wall_s: float
    peak_mb: float
    grown_mb: float
    events: tuple[str, ...] = ()

    @property
    def traceback(self) -> bool:
        """Whether a traceback was shown."""
        return "Traceback (most recent call last)" in self.told


class Judges:
    """A warm process that judges files. Use it as a context manager.

    Args:
        preload: Modules to import before the first file.
        warm: Asks to run once in the warm process itself, so that what the product imports when it is first
            used is there and does not count as done for a file.
    """

    def __init__(self, preload: Sequence[str] = (), warm: Sequence[tuple[str, Sequence[Any]]] = ()) -> None:
        self._preload = list(preload)
        self._warm = list(warm)

    def __enter__(self) -> Judges:
        path = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chaos._warm"],
            cwd=TESTS,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._send({"preload": self._preload, "warm": self._warm})
        self.baseline_mb: float = self._receive()["rss_mb"]
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.kill()  # it holds nothing that an orderly end would save
        self._process.wait()

    def judge(
        self, name: str, ask: str, *args: Any, limit_s: float = 30.0, allowed: Iterable[str] = ()
    ) -> Verdict:
        """Have a child call `ask` (``module:function``) with JSON-able arguments.

        Args:
            name: What the verdict is called.
            ask: Returns when the file was taken; a `ZooError`, or an exit code of 1 or 2, refuses it.
            limit_s: Time after which the child is killed.
            allowed: Beginnings of paths that may be opened.
        """
        self._send({"ask": ask, "args": args, "limit_s": limit_s, "allowed": list(allowed)})
        answer = self._receive()
        return Verdict(name=name, **{**answer, "events": tuple(answer["events"])})

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the warm process of the judges ended; its messages are above")
        return json.loads(line)  # type: ignore[no-any-return]


@contextlib.contextmanager
def canaries(*paths: Path) -> Iterator[list[str]]:
    """Watch files that nothing may open, native code included (inotify), and yield those that were opened."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_NONBLOCK)
    names = {
        libc.inotify_add_watch(handle, os.fsencode(path), _IN_ACCESS_OR_OPEN): str(path) for path in paths
    }
    opened: list[str] = []
    try:
        if handle < 0 or min(names, default=0) < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        yield opened
        with contextlib.suppress(BlockingIOError):
            while data := os.read(handle, 1 << 16):
                while data:
                    watch, _, _, length = struct.unpack_from("<iIII", data)
                    opened.append(names[watch])
                    data = data[16 + length :]
    finally:
        os.close(handle)


def summary(verdicts: Sequence[Verdict]) -> str:
    """Return the figures of many verdicts in a line."""
    refused, taken = (sum(v.kind == kind for v in verdicts) for kind in ("refused", "taken"))
    return (
        f"{len(verdicts)} asked: {refused} refused, {taken} taken, {len(verdicts) - refused - taken} crashes "
        f"or hangs, {sum(v.traceback for v in verdicts)} tracebacks; median "
        f"{statistics.median(v.seconds for v in verdicts):.2f} s, at most "
        f"{max(v.seconds for v in verdicts):.2f} s of processor time and "
        f"{max(v.peak_mb for v in verdicts):.0f} MB"
    )


def faults(
    verdicts: Iterable[Verdict], *, seconds: float, peak_mb: float, taken: Iterable[str] = ()
) -> list[str]:
    """Return what is wrong with verdicts: all but those `taken` are to be refused, in time and memory."""
    good = set(taken)
    found = []
    for one in verdicts:
        wanted = "taken" if one.name in good else "refused"
        if one.kind != wanted:
            found.append(f"{one.name}: {one.kind}, not {wanted}: {one.told[-300:]!r}")
        if one.traceback:
            found.append(f"{one.name}: a traceback")
        if one.seconds > seconds:
            found.append(f"{one.name}: {one.seconds:.2f} s")
        if one.peak_mb > peak_mb:
            found.append(f"{one.name}: {one.peak_mb:.0f} MB")
        if one.events:
            found.append(f"{one.name}: {one.events[:4]}")
    return found
