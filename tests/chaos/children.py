"""Whole processes that run `zoo`, and die as they are told, at little cost.

Each is a process group of its own with its own exit code, as from a shell, but forked from one that has
imported everything already: importing torch takes seconds, and an experiment wants hundreds of runs.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
from tiny import TINY
from training.squares import train_section

from zoo.data import write_video

TINY_RUN: dict[str, Any] = {
    **TINY,
    "train": train_section(
        {"reconstruction": {"loss": "mse"}, "quantizer": {}},
        optimizer={"use": "adamw", "lr": 3e-3},
        ema={"decay": 0.9},
    ),
}
"""A recipe whose step takes milliseconds."""


@functools.cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["chaos._preload"])
    return context


@contextlib.contextmanager
def process(target: Callable[..., None], *args: Any, log: Path) -> Iterator[ForkServerProcess]:
    """Start a function in a process group of its own, which is gone when the block ends.

    Args:
        target: What runs there; its module is imported in the process.
        *args: Its arguments.
        log: File that takes what it prints.
    """
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # of the one they are forked from
    try:
        started = _context().Process(target=_run, args=(target, args, str(log)))
        started.start()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    try:
        yield started
    finally:
        kill(started)
        started.join()


def kill(started: ForkServerProcess, number: int = signal.SIGKILL, *, group: bool = True) -> None:
    """Send a signal to a process and, with `group`, to its workers; gone ones are no error."""
    assert started.pid is not None
    with contextlib.suppress(ProcessLookupError):
        if group:
            with contextlib.suppress(ProcessLookupError):  # before it has its group
                os.killpg(started.pid, number)
                return
        os.kill(started.pid, number)


def run_zoo(*words: str) -> None:
    """Run the command line, and leave with its exit code."""
    from zoo.cli.group import cli

    cli.main(list(words), prog_name="zoo")


def _run(target: Callable[..., None], args: Sequence[Any], log: str) -> None:
    with contextlib.suppress(OSError):
        os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # of workers: as where this was not inherited
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - for the life of the process
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - alike
    code = 0
    try:
        target(*args)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    atexit._run_exitfuncs()  # as an interpreter that ends by itself does, and a forked one does not
    os._exit(code)


def write_recipe(path: Path, recipe: dict[str, Any] = TINY_RUN, **train: Any) -> Path:
    """Write a recipe as a file that `zoo train` takes."""
    whole = {**recipe, "train": {**recipe["train"], **train}}
    path.write_text(json.dumps({"recipes": {"tiny": whole}}), encoding="utf-8")
    return path


def write_clips(folder: Path, *, train: int = 13, test: int = 3) -> Path:
    """Write tiny videos of a moving square, in splits."""
    for split, num in (("train", train), ("test", test)):
        (folder / split).mkdir(parents=True)
        for number in range(num):
            draw = np.random.default_rng([number, num])
            frames = np.full((4, 16, 16, 3), 30, np.uint8)
            for at in range(4):
                frames[at, 4:10, 2 * at : 2 * at + 6] = draw.integers(100, 256, 3)
            write_video(folder / split / f"{number:04d}.mp4", frames, 10)
    return folder


def last_step(out: Path) -> int:
    """Return the last step that a run has logged; 0 where there is none."""
    try:
        lines = (out / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return 0
    return max((json.loads(line)["step"] for line in lines), default=0)


def wait_for(what: Callable[[], bool], started: ForkServerProcess, *, seconds: float = 60) -> bool:
    """Wait until something is so; return False when the process ended or the time is over before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if what():
            return True
        if started.exitcode is not None:
            return what()
        time.sleep(0.001)
    return False


def hidden(out: Path) -> set[str]:
    """Return what is half written, or was left half written, in a run's folder."""
    return {str(path.relative_to(out)) for path in out.rglob(".*")}
