"""Row 5: the disk fills up, earlier or later in a save."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from chaos.children import hidden, process, run_zoo, write_clips, write_recipe
from chaos.experiment import Experiment, Outcome

import zoo
from zoo.errors import ZooError
from zoo.training.checkpoint import load_checkpoint

SAVE_EVERY = 3
_SIZE = 64 * 2**20
_LOG = 8192
"""Bytes that the log of a run may take where files are kept small."""


@dataclasses.dataclass
class Full:
    """What came of a full disk.

    Attributes:
        levels: How often it was tried, each with more space left.
        stopped: How many runs ended for want of space; the others had enough.
        unclear: Those that did not say so in a message, or left with another exit code than 1.
        lost: After how many the old checkpoint did not load.
        stuck: How many did not go on once there was space again.
        messages: What was said.
    """

    levels: int
    stopped: int = 0
    unclear: int = 0
    lost: int = 0
    stuck: int = 0
    messages: set[str] = dataclasses.field(default_factory=set)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small file system where that is allowed; say whether it was."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def limited(max_bytes: int, *words: str) -> None:
    """Run the command line where no file may grow beyond so many bytes, as a quota has it."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, resource.RLIM_INFINITY))
    run_zoo(*words)


def fill(folder: Path, disk: Path, levels: int, *, mounted: bool) -> Full:
    """Train to a checkpoint; then go on with less space than the next one takes, and once more with enough.

    Args:
        folder: For clips and logs, on a disk with space.
        disk: For the run.
        levels: How much space is left, from none to all that a save needs.
        mounted: Whether `disk` is a small file system; files are kept small otherwise.
    """
    recipe = write_recipe(folder / "recipe.yaml", save_every=SAVE_EVERY)
    words = ["train", str(recipe), "--data", str(write_clips(folder / "clips")), "--workers", "0"]
    out, before, log = disk / "run", folder / "before", folder / "log"
    words += ["--device", "cpu", "--out", str(out), "--steps"]
    with process(run_zoo, *words, str(SAVE_EVERY), log=log) as first:
        first.join()
        assert first.exitcode == 0, log.read_text()
    shutil.copytree(out, before)
    sizes = [path.stat().st_size for name in ("checkpoint", "model") for path in (out / name).iterdir()]
    found = Full(levels)
    for level in range(levels):
        log.write_text("")
        space = level * (sum(sizes) if mounted else max(sizes)) // max(levels - 1, 1)
        shutil.rmtree(out)
        shutil.copytree(before, out)
        going_on = [*words, str(3 * SAVE_EVERY), "--resume"]
        if mounted:
            with _filler(disk, space), process(run_zoo, *going_on, log=log) as run:
                run.join()
        else:
            with process(limited, max(space, _LOG), *going_on, log=log) as run:
                run.join()
        said = log.read_text()
        if run.exitcode != 0:
            last = next((line for line in said.splitlines() if line.startswith("Error: ")), "")
            found.stopped += 1
            clear = str(out) in last and ("No space left" in last or "File too large" in last)
            if run.exitcode != 1 or "Traceback" in said or not clear:
                found.unclear += 1
                print(f"level {level}: exit code {run.exitcode}: {said[-2000:]}", flush=True)
            found.messages.add(last.replace(str(disk), "DISK"))
        found.lost += not _loads(out)
        with process(run_zoo, *going_on, log=log) as again:
            again.join()
        if again.exitcode != 0 or hidden(out):
            found.stuck += 1
            print(
                f"level {level}, again: {again.exitcode}, {hidden(out)}: {log.read_text()[-2000:]}",
                flush=True,
            )
    return found


@contextlib.contextmanager
def _filler(disk: Path, space: int) -> Iterator[None]:
    """Take all but some bytes of a disk."""
    facts = os.statvfs(disk)
    taken = facts.f_bavail * facts.f_frsize - space
    with (disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(taken, 1))
    try:
        yield
    finally:
        (disk / "filler").unlink()


def _loads(out: Path) -> bool:
    try:
        zoo.load(out)
        return int(load_checkpoint(out / "checkpoint").state["step"]) >= SAVE_EVERY
    except ZooError:
        return False


def _run(folder: Path, quick: bool) -> Outcome:
    with small_disk(folder / "disk") as mounted:
        found = fill(folder, folder / "disk", 4 if quick else 20, mounted=mounted)
    for message in sorted(found.messages):
        print(message, flush=True)
    return Outcome(
        f"{found.levels} fill levels: {found.stopped} runs stopped for want of space, {found.unclear} of "
        f"them without a clear message and exit code 1; the old checkpoint and model load in "
        f"{found.levels - found.lost} of {found.levels}; {found.levels - found.stuck} go on once there is "
        "space",
        not (found.unclear or found.lost or found.stuck) and found.stopped > found.levels // 2,
        "" if mounted else "no small file system can be mounted here: a limit on the size of files instead",
    )


EXPERIMENTS = [
    Experiment(
        5,
        "the disk is full, at 20 fill levels",
        "a clear message, the old checkpoint loads 20 of 20, --keep 1 never leaves zero",
        _run,
    )
]
