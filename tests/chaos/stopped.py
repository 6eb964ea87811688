"""Row 4: a run is asked to stop by SIGTERM, SIGUSR1 or Ctrl-C, whatever it is doing."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from chaos.children import hidden, kill, last_step, process, run_zoo, wait_for, write_clips, write_recipe
from chaos.experiment import Experiment, Outcome

from zoo.cli.common import INTERRUPTED
from zoo.errors import ZooError
from zoo.training.checkpoint import load_checkpoint

LIMIT_S = 20.0
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
PHASES = ("start", "train", "eval", "save", "end")
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


def prepare(folder: Path) -> list[str]:
    """Write clips and a recipe that evaluates and saves now and then; return the words of the command."""
    recipe = write_recipe(folder / "recipe.yaml", eval_every=7, save_every=5)
    data = write_clips(folder / "clips")
    return ["train", str(recipe), "--data", str(data), "--device", "cpu", "--steps", str(_STEPS)]


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
        reached: Callable[[], bool] = {
            "start": lambda: _handles(started.pid, signal.SIGUSR1),
            "train": lambda: last_step(out) >= 2,
            "eval": lambda: (out / "samples" / "step-00000007").exists(),
            "save": lambda: any("checkpoint" in name for name in hidden(out)),
            "end": lambda: (out / "samples" / f"step-{_STEPS:08d}").exists(),
        }[phase]
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
    return Outcome(
        f"{fine} of {len(stops)} ({len(PHASES)} phases x 3 signals x 3 ways to send them, 0 and 2 workers): "
        f"saved, exit code {INTERRUPTED}, no process left; the slowest was out after {slowest:.1f} s",
        fine == len(stops),
        "one rank",
    )


EXPERIMENTS = [
    Experiment(
        4,
        "SIGTERM, SIGUSR1 and Ctrl-C while starting, stepping, evaluating, saving and at the end",
        "saved and out within 20 s, with the documented exit code",
        _run,
    )
]
