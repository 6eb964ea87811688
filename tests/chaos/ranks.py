"""Several ranks, as `torchrun` starts them, against one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from chaos.experiment import Experiment, Outcome

from zoo.discovery import catalogue

TESTS = Path(__file__).resolve().parents[1]
WITHIN = 1e-5
PER_RANK = ("quantizer/perplexity", "quantizer/usage", "quantizer/restarted")
"""What a rank counts in its own share of a batch; the mean over ranks is not the count over the batch."""


def launch(
    job: str,
    world: int,
    folder: Path,
    options: dict[str, Any],
    *,
    torchrun: tuple[str, ...] = (),
    timeout_s: float = 1800,
) -> subprocess.CompletedProcess[str]:
    """Run a job of `chaos.rank_jobs` on so many ranks, or in one process without a launcher.

    Args:
        job: Name of the function.
        world: Number of ranks.
        folder: Where it writes.
        options: What it is told.
        torchrun: More options of `torchrun`.
        timeout_s: Seconds after which all of it is killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starter = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world), *torchrun]
    command = [sys.executable, *(starter if world > 1 else [])]
    command += ["-m", "chaos.rank_jobs", job, str(folder), json.dumps(options)]
    return subprocess.run(
        command,
        cwd=TESTS,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def environment() -> dict[str, str]:
    """Return the environment of a rank: one thread, no GPU, and what the tests import."""
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def results(folder: Path) -> list[Any]:
    """Return what each rank of a job wrote down, in their order."""
    files = sorted(folder.glob("rank-*.json"), key=lambda path: int(path.stem.partition("-")[2]))
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def difference(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> float:
    """Return the largest difference between the numbers of two runs, relative to the largest of its kind."""
    worst = 0.0
    for name in a[-1]:
        if name in ("step", "kind", *PER_RANK):
            continue
        pairs = [(x[name], y[name]) for x, y in zip(a, b, strict=True) if name in x]
        largest = max(abs(x) for x, _ in pairs)
        if largest:
            worst = max(worst, *(abs(x - y) / largest for x, y in pairs))
    return worst


def same_as_one(folder: Path, *, steps: int, worlds: tuple[int, ...], repeat: bool) -> dict[str, Any]:
    """Train a GAN and a VQGAN in one process and on several ranks.

    Returns:
        By "recipe on N ranks" the largest relative difference of any number of any step; "ranks differ" and
        "repeats differ", which must stay empty.
    """
    options = {"recipes": ["gan", "vqgan"], "steps": steps}
    found: dict[str, Any] = {"ranks differ": [], "repeats differ": []}
    _run("train", 1, folder / "1", options)
    (alone,) = results(folder / "1")
    for world in worlds:
        _run("train", world, folder / str(world), options)
        ranks = results(folder / str(world))
        for name in alone:
            found[f"{name} on {world} ranks"] = difference(alone[name]["lines"], ranks[0][name]["lines"])
            if len({one[name]["sha256"] for one in ranks}) != 1 or len(ranks) != world:
                found["ranks differ"].append(f"{name} on {world}")
    if repeat:
        _run("train", 2, folder / "again", options)
        if results(folder / "again") != results(folder / "2"):
            found["repeats differ"].append("2 ranks")
    return found


def quantizers() -> list[str]:
    """Return every bundled quantizer."""
    return [part.full_name for part in catalogue().parts if part.kind == "quantizer"]


def codebooks_that_differ(
    folder: Path, *, world: int, steps: int, parts: list[str] | None = None
) -> list[str]:
    """Return the quantizers whose state is not the same on all ranks after every step."""
    parts = parts or quantizers()
    _run("codebooks", world, folder, {"parts": parts, "steps": steps})
    ranks = results(folder)
    return [name for name in parts if any(one[name] != ranks[0][name] for one in ranks)]


def rows_measured(folder: Path, *, world: int, most: int) -> dict[int, int]:
    """Train on 1 to `most` clips on so many ranks; return how many were measured of each number."""
    _run("uneven", world, folder, {"most": most})
    return {int(num): measured for num, measured in results(folder)[0].items()}


def death_of_a_rank(folder: Path, *, restarts: int) -> dict[str, Any]:
    """Kill rank 1 in the middle of a run of 30 steps.

    Returns:
        `seconds` from the first attempt's death to the end of rank 0, `exit` of the launcher, and what the
        ranks wrote down in the end.
    """
    options = {"steps": 30, "dies_at": 26, "slow_s": 0.05, "timeout_s": 10.0}
    more = ("--max-restarts", str(restarts))
    ended = launch("one_dies", 2, folder, options, torchrun=more, timeout_s=300)
    died = max(path.stat().st_mtime for path in (folder / "run").rglob("checkpoint/state.json"))
    last = float((folder / "ended-0-0").read_text(encoding="utf-8"))
    return {
        "seconds": last - died,
        "exit": ended.returncode,
        "ranks": results(folder),
        "said": ended.stderr,
    }


def _run(job: str, world: int, folder: Path, options: dict[str, Any]) -> None:
    ended = launch(job, world, folder, options)
    if ended.returncode:
        raise RuntimeError(f"{job} on {world} ranks: {ended.stderr[-3000:]}")


def _same(folder: Path, quick: bool) -> Outcome:
    found = same_as_one(folder, steps=5 if quick else 50, worlds=(2, 4), repeat=True)
    differ = found.pop("ranks differ") + found.pop("repeats differ")
    words = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
    return Outcome(
        f"largest difference of any number of any step: {words}; weights differ between ranks or repeats in "
        f"{len(differ)} cases",
        met=not differ and max(found.values()) <= WITHIN,
        note="Adam with eps 1e-4, since with 1e-8 gradients that are only rounding become whole steps, and a "
        "rate of 5e-5: at 2e-4 a rounding error chose another code after 26 steps, and from there on the "
        "VQGANs part; no FSDP",
    )


def _codebooks(folder: Path, quick: bool) -> Outcome:
    steps = 20 if quick else 200
    bad = []
    for world in (2, 4):
        bad += codebooks_that_differ(folder / str(world), world=world, steps=steps)
    return Outcome(
        f"{len(quantizers())} quantizers, {steps} steps, 2 and 4 ranks: "
        f"{', '.join(bad) or 'no state ever differs by a bit'}",
        met=not bad,
        note="no rank is ever without clips: a batch that cannot be shared out alike is refused at once",
    )


def _uneven(folder: Path, quick: bool) -> Outcome:
    most = 5 if quick else 17
    wrong = []
    for world in (2, 3, 4):
        measured = rows_measured(folder / str(world), world=world, most=most)
        wrong += [f"{num} on {world} ranks: {of}" for num, of in measured.items() if num != of]
    began = time.monotonic()
    stays_down = death_of_a_rank(folder / "down", restarts=0)
    goes_on = death_of_a_rank(folder / "up", restarts=1)
    ranks = goes_on["ranks"]
    whole = goes_on["exit"] == 0 and {one["step"] for one in ranks} == {30}
    _run("one_dies", 2, folder / "whole", {"steps": 30, "dies_at": None, "slow_s": 0.0, "timeout_s": 10.0})
    same = whole and ranks[0]["sha256"] == results(folder / "whole")[0]["sha256"]
    return Outcome(
        f"1 to {most} rows on 2, 3, 4 ranks: {', '.join(wrong) or 'each measured once'}; rank 1 killed: the "
        f"other is out {stays_down['seconds']:.1f} s after the last checkpoint; started again by torchrun: "
        f"{'ends with the weights of a run that nothing happened to' if same else 'does not end alike'}",
        met=not wrong and stays_down["seconds"] < 15 and stays_down["exit"] != 0 and same,
        note=f"{time.monotonic() - began:.0f} s for both deaths",
    )


EXPERIMENTS = [
    Experiment(
        10,
        "One process, 2 and 4 ranks train the same GAN and VQGAN, 50 steps",
        "the same numbers within 1e-5; repeats bit for bit",
        _same,
    ),
    Experiment(
        11,
        "Every quantizer learns on several ranks with different latents",
        "its state is the same on all ranks at every step, to the bit",
        _codebooks,
    ),
    Experiment(
        12,
        "Fewer rows than ranks, rows that do not divide; a rank is killed",
        "no hang, each row measured once; all down within 15 s, started again, nothing lost",
        _uneven,
    ),
]
