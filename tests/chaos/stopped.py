"""Row 4: a run is asked to stop by SIGTERM, SIGUSR1 or Ctrl-C, whatever it is doing."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from chaos.children import hidden, kill, last_step, process, run_zoo, wait_for, write_clips, write_recipe
from chaos.experiment import Experiment, Outcome
from chaos.ranks import environment

from zoo.cli.common import INTERRUPTED
from zoo.errors import ZooError
from zoo.training.checkpoint import load_checkpoint

LIMIT_S = 20.0
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
PHASES = ("start", "train", "eval", "save", "end")
ON_RANKS = ((signal.SIGTERM, "launcher"), (signal.SIGINT, "group"), (signal.SIGUSR1, "rank 1"))
"""What ranks are asked with, and who of them is."""
_STEPS = 30


@dataclasses.dataclass
class Stop:
    """What came of a signal.

    Attributes:
        seconds: From the signal until the process and its workers were gone.
        code: Exit code.
        trouble: What is not as it should be; empty when all is saved.
    """

    seconds: float
    code: int | None
    trouble: str = ""

    @property
    def fine(self) -> bool:
        """Whether all is saved, in time, with the exit code that is documented."""
        return not self.trouble and self.code == INTERRUPTED and self.seconds < LIMIT_S

    @property
    def fine_on_ranks(self) -> bool:
        """The same of ranks, whose launcher has an exit code of its own."""
        return not self.trouble and self.code == 1 and self.seconds < LIMIT_S


def prepare(folder: Path) -> list[str]:
    """Write clips and a recipe that evaluates and saves now and then; return the words of the command."""
    recipe = write_recipe(folder / "recipe.yaml", eval_every=7, save_every=5)
    data = write_clips(folder / "clips")
    return ["train", str(recipe), "--data", str(data), "--device", "cpu", "--steps", str(_STEPS)]


def _reached(out: Path, pids: Callable[[], Sequence[int | None]]) -> dict[str, Callable[[], bool]]:
    """Return what tells that a run has come to each of `PHASES`."""
    return {
        "start": lambda: all(_handles(pid, signal.SIGUSR1) for pid in pids()),
        "train": lambda: last_step(out) >= 2,
        "eval": lambda: (out / "samples" / "step-00000007").exists(),
        "save": lambda: any("checkpoint" in name for name in hidden(out)),
        "end": lambda: (out / "samples" / f"step-{_STEPS:08d}").exists(),
    }


def stop(
    words: Sequence[str], out: Path, *, phase: str, number: signal.Signals, workers: int, group: bool
) -> Stop:
    """Start a run, send it a signal in a phase of it, and look at what it leaves.

    Args:
        words: The command, from `prepare`.
        out: Folder for the run.
        phase: One of `PHASES`.
        number: The signal.
        workers: Processes that decode clips.
        group: Send it to the workers as well, as a terminal and some schedulers do.
    """
    log = out.with_suffix(".log")
    with process(run_zoo, *words, "--out", str(out), "--workers", str(workers), log=log) as started:
        assert started.pid is not None
        reached = _reached(out, lambda: [started.pid])[phase]
        assert wait_for(reached, started), log.read_text()
        began = time.monotonic()
        kill(started, number, group=group)
        started.join(3 * LIMIT_S)
        while _alive(started.pid) and time.monotonic() - began < 3 * LIMIT_S:
            time.sleep(0.01)
        found = Stop(time.monotonic() - began, started.exitcode)
        alone = not _alive(started.pid)
    said = log.read_text()
    if not alone:
        found.trouble = "workers are left"
    elif "Traceback" in said:
        found.trouble = "a traceback"
    elif out.exists() or phase != "start":
        found.trouble = _unsaved(out, said)
    return found


def stop_ranks(words: Sequence[str], out: Path, *, phase: str, number: signal.Signals, whom: str) -> Stop:
    """Do the same to a run of two ranks that `torchrun` started.

    Args:
        words: The command, from `prepare`.
        out: Folder for the run.
        phase: One of `PHASES`.
        number: The signal.
        whom: Who gets it: the "launcher", the "group" of all processes as from a terminal, or "rank 1" alone.
    """
    log = out.with_suffix(".log")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "zoo", *words, "--out", str(out), "--workers", "0", "--rank-timeout", "60"]
    with log.open("w") as said:
        started = subprocess.Popen(
            command, env=environment(), stdout=said, stderr=said, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 180
        reached = _reached(out, lambda: [pid for _, pid in _ranks(started.pid)])[phase]
        while not (len(_ranks(started.pid)) == 2 and reached()):
            assert started.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.002)
        began = time.monotonic()
        if whom == "group":
            os.killpg(started.pid, number)
        else:
            os.kill(started.pid if whom == "launcher" else dict(_ranks(started.pid))[1], number)
        started.wait(3 * LIMIT_S)
        while _alive(started.pid) and time.monotonic() - began < 3 * LIMIT_S:
            time.sleep(0.01)
        found = Stop(time.monotonic() - began, started.returncode)
        found.trouble = "processes are left" if _alive(started.pid) else ""
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()
    if not found.trouble and (out.exists() or phase != "start"):
        found.trouble = _unsaved(out, log.read_text())
    return found


def _ranks(launcher: int) -> list[tuple[int, int]]:
    """Return number and process of each rank that a launcher has started so far (Linux)."""
    found = []
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        with contextlib.suppress(OSError):
            given = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            found += [(int(value[5:]), int(child)) for value in given if value.startswith(b"RANK=")]
    return sorted(found)


def _unsaved(out: Path, said: str) -> str:
    try:
        step = load_checkpoint(out / "checkpoint").state["step"]
    except ZooError as error:
        return str(error)
    if step != last_step(out):
        return f"saved at step {step} of {last_step(out)}"
    if hidden(out):
        return f"left over: {hidden(out)}"
    return "" if "all is saved. Go on with:" in said else "it does not say how to go on"


def _handles(pid: int | None, number: signal.Signals) -> bool:
    """Whether a process has a handler of its own for a signal (Linux)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def _alive(group: int | None) -> bool:
    assert group is not None
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _run(folder: Path, quick: bool) -> Outcome:
    words, stops = prepare(folder), []
    ways = [(0, False), (2, False), (2, True)]
    for at, (phase, number, (workers, group)) in enumerate(itertools.product(PHASES, SIGNALS, ways)):
        if quick and at % 10:
            continue
        found = stop(words, folder / f"run-{at}", phase=phase, number=number, workers=workers, group=group)
        stops.append(found)
        if not found.fine:
            print(f"{phase}, {number.name}, {workers} workers, group {group}: {found}", flush=True)
    slowest = max(found.seconds for found in stops)
    fine = sum(found.fine for found in stops)
    on_ranks = []
    for at, (phase, (number, whom)) in enumerate(itertools.product(PHASES, ON_RANKS)):
        if quick and at % 4:
            continue
        found = stop_ranks(words, folder / f"ranks-{at}", phase=phase, number=number, whom=whom)
        on_ranks.append(found)
        if not found.fine_on_ranks:
            print(f"{phase}, {number.name} to {whom}: {found}", flush=True)
    fine_on_ranks = sum(found.fine_on_ranks for found in on_ranks)
    slowest_of_ranks = max(found.seconds for found in on_ranks)
    return Outcome(
        f"{fine} of {len(stops)} ({len(PHASES)} phases x 3 signals x 3 ways to send them, 0 and 2 workers): "
        f"saved, exit code {INTERRUPTED}, no process left; the slowest was out after {slowest:.1f} s; two "
        f"ranks under torchrun: {fine_on_ranks} of {len(on_ranks)} (SIGTERM to the launcher, Ctrl-C to all, "
        f"SIGUSR1 to rank 1), the slowest after {slowest_of_ranks:.1f} s",
        fine == len(stops) and fine_on_ranks == len(on_ranks),
        "torchrun itself ends with 1 whatever its ranks end with",
    )


EXPERIMENTS = [
    Experiment(
        4,
        "SIGTERM, SIGUSR1 and Ctrl-C while starting, stepping, evaluating, saving and at the end",
        "saved and out within 20 s, with the documented exit code",
        _run,
    )
]
