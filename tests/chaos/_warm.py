"""The warm process of `chaos.judging`: forks a child for each ask on its input, and answers a line each."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from typing import Any

_WATCHED = ("socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec")
_WATCHED += (
    "os.posix_spawn",
    "os.fork",
    "os.forkpty",
    "os.startfile",
    "pty.spawn",
    "urllib.Request",
    "ctypes.dlopen",
)
_HARMLESS = ("/proc/", "/sys/", "/dev/null", "/dev/urandom")


def resident_mb(field: str) -> float:
    """Return a size out of /proc/self/status: VmRSS is held now, VmHWM was held at most."""
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith(field + ":"))
    return int(line.split()[1]) / 1024


def call(ask: str, args: list[Any]) -> Any:
    """Call ``module:function``."""
    module, _, name = ask.partition(":")
    return getattr(importlib.import_module(module), name)(*args)


def _judged(ask: str, args: list[Any]) -> tuple[str, str]:
    from zoo.errors import ZooError

    try:
        call(ask, args)
    except ZooError as error:
        return "refused", str(error)
    except SystemExit as error:
        if error.code in (0, None):
            return "taken", ""
        return ("refused" if error.code in (1, 2) else "crashed"), f"exit {error.code}"
    except BaseException:
        return "crashed", traceback.format_exc()
    return "taken", ""


def _watch(events: list[str], allowed: list[str]) -> None:
    """Note what only a file that has its way would have done; installed for the rest of this process."""
    fine = (*_HARMLESS, *allowed)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "import":
            if not args[0].startswith("encodings."):
                events.append(f"import {args[0]}")
        elif event == "open":
            path = os.fsdecode(args[0]) if isinstance(args[0], str | bytes) else ""
            if path and not path.startswith(fine) and "/encodings/" not in path:
                events.append(f"open {path}")
        elif event in _WATCHED:
            events.append(f"{event} {args!r:.80}")

    sys.addaudithook(hook)


def _child(request: dict[str, Any], answer: int, printed: int) -> None:
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    before = resident_mb("VmRSS")
    events: list[str] = []
    _watch(events, request["allowed"])
    start, used = time.perf_counter(), time.process_time()
    kind, told = _judged(request["ask"], request["args"])
    wall_s, seconds = time.perf_counter() - start, time.process_time() - used
    seen = list(events)
    peak = resident_mb("VmHWM")
    result = {
        "kind": kind,
        "told": told,
        "seconds": seconds,
        "wall_s": wall_s,
        "peak_mb": peak,
        "grown_mb": peak - before,
    }
    sys.stdout.flush()
    sys.stderr.flush()
    with os.fdopen(answer, "w", encoding="utf-8") as file:
        json.dump({**result, "events": seen}, file)


def _ask(request: dict[str, Any]) -> dict[str, Any]:
    read, write = os.pipe()
    with tempfile.TemporaryFile() as printed:
        start = time.perf_counter()
        child = os.fork()
        if not child:
            try:
                os.close(read)
                _child(request, write, printed.fileno())
            finally:
                os._exit(0)
        os.close(write)
        parts = []
        while True:
            left = request["limit_s"] - (time.perf_counter() - start)
            if not select.select([read], [], [], max(0.0, left))[0]:
                os.kill(child, signal.SIGKILL)
                break
            if not (part := os.read(read, 1 << 16)):
                break
            parts.append(part)
        os.close(read)
        _, status = os.waitpid(child, 0)
        seconds = time.perf_counter() - start
        printed.seek(0)
        text = printed.read(1 << 16).decode("utf-8", "replace")
    if not parts or left <= 0:
        signal_number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        kind = "hung" if signal_number == signal.SIGKILL and seconds >= request["limit_s"] else "died"
        sizes = {"peak_mb": 0.0, "grown_mb": 0.0}
        return {
            "kind": kind,
            "told": f"signal {signal_number} {text}",
            "seconds": seconds,
            "wall_s": seconds,
            **sizes,
            "events": [],
        }
    answer = json.loads(b"".join(parts))
    return {**answer, "told": "\n".join(filter(None, (answer["told"], text)))}


def main() -> None:
    """Serve until the input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    first = json.loads(sys.stdin.readline())
    importlib.import_module("torch").set_num_threads(1)
    for module in first["preload"]:
        importlib.import_module(module)
    for ask, args in first["warm"]:
        with contextlib.redirect_stdout(io.StringIO()):
            kind, told = _judged(ask, args)
        if kind != "taken":
            raise SystemExit(f"{ask}{tuple(args)} was to warm up and is {kind}: {told}")
    print(json.dumps({"rss_mb": resident_mb("VmRSS")}), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(_ask(json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
