"""Row 9: a long run of tiny steps: memory, open files and the time of a step stay as they are."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from chaos.children import TINY_RUN, process
from chaos.experiment import Experiment, Outcome
from training.squares import Squares

import zoo
from zoo.training import Callback

_WARM = 0.1
"""Share of the steps after which memory counts: allocators and caches have filled by then."""
_LOOKS = 200


@dataclasses.dataclass
class Soak:
    """What a long run took.

    Attributes:
        steps: Steps.
        growth: Memory at the end over memory after the first tenth, less 1.
        files: Open files after the first tenth and at the end.
        median_ms: Time of a step in the middle.
        p99_ms: Time that one step in a hundred exceeds.
    """

    steps: int
    growth: float
    files: tuple[int, int]
    median_ms: float
    p99_ms: float


class Looks(Callback):
    """Times every step, and looks at memory and open files now and then."""

    def __init__(self, steps: int) -> None:
        self.every = max(steps // _LOOKS, 1)
        self.times: list[float] = []
        self.memory: list[int] = []
        self.files: list[int] = []
        self._last = 0.0

    def on_log(self, step: int, numbers: Any) -> None:
        now = time.perf_counter()
        if self._last:
            self.times.append(now - self._last)
        if step % self.every == 0:
            self.memory.append(resident_bytes())
            self.files.append(len(os.listdir("/proc/self/fd")))
        self._last = time.perf_counter()

    def on_save(self, step: int, folder: Path) -> None:
        self._last = 0.0  # a step that saves is not timed


def resident_bytes() -> int:
    """Return the memory that this process holds (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def soak(folder: str, steps: int) -> None:
    """Train so many steps with workers, saving now and then, and write down what it took."""
    looks = Looks(steps)
    zoo.train(
        TINY_RUN,
        data=Squares(64),
        out=Path(folder) / "run",
        steps=steps,
        progress=False,
        num_workers=2,
        device="cpu",
        callbacks=[looks],
        train={"log_every": 1, "save_every": max(steps // 20, 1), "batch_size": 2},
    )
    warm = int(len(looks.memory) * _WARM)
    times = np.array(looks.times[len(looks.times) // 20 :]) * 1000
    found = Soak(
        steps,
        float(np.median(looks.memory[-5:]) / np.median(looks.memory[warm : warm + 5]) - 1),
        (looks.files[warm], looks.files[-1]),
        float(np.median(times)),
        float(np.percentile(times, 99)),
    )
    (Path(folder) / "soak.json").write_text(json.dumps(dataclasses.asdict(found)))


def measure(folder: Path, steps: int) -> Soak:
    """Soak in a process of its own, so that nothing else is counted."""
    with process(soak, str(folder), steps, log=folder / "log") as started:
        started.join()
        assert started.exitcode == 0, (folder / "log").read_text()
    facts = json.loads((folder / "soak.json").read_text())
    return Soak(**{**facts, "files": tuple(facts["files"])})


def _run(folder: Path, quick: bool) -> Outcome:
    found = measure(folder, 2_000 if quick else 20_000)
    ratio = found.p99_ms / found.median_ms
    return Outcome(
        f"{found.steps:,} steps with 2 workers: memory {100 * found.growth:+.2f} %, open files "
        f"{found.files[0]} and {found.files[1]}, a step takes {found.median_ms:.1f} ms in the median and "
        f"{found.p99_ms:.1f} ms at the 99th percentile ({ratio:.1f} times)",
        found.growth < 0.01 and found.files[0] == found.files[1] and ratio < 3,
        "every step is logged; the machine's two cores were shared with other work"
        if os.getloadavg()[1] > 2.5
        else "every step is logged",
    )


EXPERIMENTS = [
    Experiment(
        9,
        "a soak of 20,000 tiny steps",
        "memory grows by less than 1 %, open files stay as many, the 99th percentile of a step is under 3 "
        "times the median",
        _run,
    )
]
