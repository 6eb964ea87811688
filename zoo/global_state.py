"""What a process shares, kept as it is while code of strangers is imported."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TextIO

FOREIGN = "zoo-plugin-"
"""How the names of threads begin that run code of plugins."""
_PATCHED = (
    *("builtins", "os", "sys", "json", "io", "threading"),
    *("click", "click.core", "click.utils", "pluggy"),
)
_RAN: list[bool] = []
"""Not empty once code of strangers was imported."""
_CHANGING = {"sys.last_type", "sys.last_value", "sys.last_traceback", "sys.last_exc", "builtins._"}
_PLACES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "the working directory": (os.getcwd, os.chdir),
    "the environment": (lambda: dict(os.environ), lambda old: _replace(os.environ, old)),
    "sys.path": (lambda: list(sys.path), lambda old: sys.path.__setitem__(slice(None), old)),
    "sys.meta_path": (lambda: list(sys.meta_path), lambda old: sys.meta_path.__setitem__(slice(None), old)),
    "the limit on recursion": (sys.getrecursionlimit, sys.setrecursionlimit),
    "random's state": (random.getstate, random.setstate),
    "the filters of warnings": (lambda: list(warnings.filters), lambda old: _filters(old)),
    "the handlers of logging": (lambda: list(logging.root.handlers), lambda old: _handlers(old)),
    "the level of logging": (lambda: logging.root.level, logging.root.setLevel),
    "the umask": (lambda: _umask(), os.umask),
}


def _replace(target: Any, old: dict[str, Any]) -> None:
    for key in [key for key in target if key not in old]:
        del target[key]
    target.update(old)


def _filters(old: list[Any]) -> None:
    warnings.filters[:] = old  # type: ignore[index]


def _handlers(old: list[Any]) -> None:
    logging.root.handlers[:] = old


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


@contextlib.contextmanager
def kept() -> Iterator[list[str]]:
    """Put back what the block changes of what a process shares, and yield what that was once it has ended.

    Kept are what `_PLACES` names, the modules that are loaded, and what stands in a few of them. It is no
    wall: code that means harm has other ways.
    """
    before = {name: get() for name, (get, _) in _PLACES.items()}
    loaded = dict(sys.modules)
    inside = [(sys.modules[name], dict(vars(sys.modules[name]))) for name in _PATCHED if name in sys.modules]
    _RAN.append(True)
    changed: list[str] = []
    try:
        yield changed
    finally:
        for module, old in inside:
            now = vars(module)
            for name in [name for name in {*old, *now} if now.get(name, old) is not old.get(name, now)]:
                label = f"{module.__name__}.{name}"
                if label not in _CHANGING:
                    changed.append(label)
                if name in old:
                    setattr(module, name, old[name])
                elif name in now:
                    delattr(module, name)
        for name, value in loaded.items():
            if sys.modules.get(name) is not value:
                sys.modules[name] = value
                changed.append(f"the module {name}")
        for name, (get, put) in _PLACES.items():
            with contextlib.suppress(OSError):
                if _differs(get, before[name]):
                    put(before[name])
                    changed.append(name)


def _differs(get: Callable[[], Any], old: Any) -> bool:
    try:
        return bool(get() != old)
    except OSError:
        return True


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send what is printed on standard output to standard error, whatever way it is printed."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    saved = None
    with contextlib.suppress(OSError):
        saved = os.dup(1)
        os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)


class OwnStdout(io.TextIOBase):
    """Standard output for all threads but those of plugins, of which one may go on for ever."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        foreign = threading.current_thread().name.startswith(FOREIGN)
        return (sys.stderr if foreign else self._stream).write(text)

    def __getattribute__(self, name: str) -> Any:
        if name in ("write", "_stream", "__class__", "writelines"):
            return super().__getattribute__(name)
        return getattr(super().__getattribute__("_stream"), name)


def leave(code: int) -> None:
    """End the process with a code where code of strangers was imported; do nothing elsewhere.

    Neither their threads nor what they left to be done at the end can hold it up, or write after our output.
    """
    if _RAN:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):  # full, or closed
                code = code or 1
        os._exit(code)


def own_stdout() -> None:
    """Turn standard output into an `OwnStdout` where a thread of a plugin goes on."""
    going_on = any(thread.name.startswith(FOREIGN) for thread in threading.enumerate())
    if going_on and not isinstance(sys.stdout, OwnStdout):
        sys.stdout = OwnStdout(sys.stdout)
