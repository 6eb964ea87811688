"""Several ranks, as `torchrun` starts them, against one process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from chaos.experiment import Experiment, Outcome

from zoo.discovery import DISTRIBUTION, catalogue
from zoo.training.bench import bench

TESTS = Path(__file__).resolve().parents[1]
WITHIN = 1e-5
WAYS: dict[str, tuple[int, dict[str, Any]]] = {
    "alone": (1, {}),
    "2 ranks": (2, {}),
    "4 ranks": (4, {}),
    "2 ranks with --fsdp": (2, {"fsdp": True}),
}
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


def same_as_one(
    folder: Path, *, steps: int, ways: tuple[str, ...], recipes: tuple[str, ...] = ("gan", "vqgan")
) -> dict[str, Any]:
    """Train the same models in one process and on several ranks.

    Args:
        folder: Where the runs go.
        steps: Steps of each.
        ways: Of `WAYS`; one that comes twice has to give the same twice.
        recipes: Of `chaos.rank_jobs.RECIPES`.

    Returns:
        By "recipe, way" the largest relative difference of any number of any step; "ranks differ" and
        "repeats differ", which must stay empty.
    """
    options = {"recipes": recipes, "steps": steps}
    found: dict[str, Any] = {"ranks differ": [], "repeats differ": []}
    run("train", 1, folder / "alone", options)
    (alone,) = results(folder / "alone")
    for number, way in enumerate(ways):
        world, more = WAYS[way]
        before = results(folder / str(ways.index(way)))
        run("train", world, folder / str(number), options | more)
        ranks = results(folder / str(number))
        if before and before != ranks:
            found["repeats differ"].append(way)
        for name in alone:
            found[f"{name}, {way}"] = difference(alone[name]["lines"], ranks[0][name]["lines"])
            if len({one[name]["sha256"] for one in ranks}) != 1 or len(ranks) != world:
                found["ranks differ"].append(f"{name}, {way}")
    return found


def files_that_differ(folder: Path, *, way: str, steps: int, other: str = "alone") -> list[str]:
    """Compare what several ranks save with what another number of them makes of the same state.

    Args:
        folder: Where the runs go.
        way: Who trains, of `WAYS`.
        steps: Steps.
        other: Who goes on from there for no step and saves again.

    Returns:
        The files of weights, optimisers and random generators, and the config, that are not the same bytes.
    """
    first, again = folder / "first", folder / "again"
    options = {"recipes": ["gan", "vqgan"], "steps": steps}
    world, more = WAYS[way]
    run("train", world, first, options | more)
    shutil.copytree(first, again)
    for path in again.rglob("*.safetensors"):
        if path.parent.name == "model":
            path.unlink()  # so that it has to be written again
    world, more = WAYS[other]
    run("train", world, again, options | {"resume": True} | more)
    kept = [path for kind in ("*.safetensors", "config.json") for path in sorted(first.rglob(kind))]
    assert len(kept) == 2 * (1 + 1 + 4)
    return [
        str(path.relative_to(first))
        for path in kept
        if path.read_bytes() != (again / path.relative_to(first)).read_bytes()
    ]


def bad_numbers(folder: Path, *, way: str, names: tuple[str, ...]) -> dict[str, list[Any]]:
    """Break something on rank 1 alone; return the cases that did not end finite, as asked and alike."""
    world, more = WAYS[way]
    run("not_finite", world, folder, {"names": names, "fsdp": bool(more)})
    ranks = results(folder)
    assert len(ranks) == world
    return {
        case: [one[case] for one in ranks]
        for case in ranks[0]
        if ranks[0][case][:2] != [True, True] or any(one[case] != ranks[0][case] for one in ranks)
    }


def bundled() -> list[str]:
    """Return every part of ours with weights that can be cut over ranks, as "kind/name"."""
    parts = [part for part in catalogue().parts if part.distribution == DISTRIBUTION]
    return [f"{part.kind}/{part.full_name}" for part in parts if part.kind != "quantizer"]


def gradients_apart(folder: Path, parts: list[str]) -> dict[str, float]:
    """Return the parts whose gradients on two ranks with cut weights are not those of whole ones."""
    run("cut_parts", 2, folder, {"parts": parts})
    return {name: apart for name, apart in results(folder)[0].items() if apart > WITHIN}


def quantizers() -> list[str]:
    """Return every bundled quantizer."""
    return [part.full_name for part in catalogue().parts if part.kind == "quantizer"]


def codebooks_that_differ(
    folder: Path, *, world: int, steps: int, parts: list[str] | None = None
) -> list[str]:
    """Return the quantizers whose state is not the same on all ranks after every step."""
    parts = parts or quantizers()
    run("codebooks", world, folder, {"parts": parts, "steps": steps})
    ranks = results(folder)
    return [name for name in parts if any(one[name] != ranks[0][name] for one in ranks)]


def rows_measured(folder: Path, *, world: int, most: int) -> dict[int, int]:
    """Train on 1 to `most` clips on so many ranks; return how many were measured of each number."""
    run("uneven", world, folder, {"most": most})
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


def run(job: str, world: int, folder: Path, options: dict[str, Any]) -> None:
    """Launch a job that has to end well.

    Raises:
        RuntimeError: It does not.
    """
    ended = launch(job, world, folder, options)
    if ended.returncode:
        raise RuntimeError(f"{job} on {world} ranks: {ended.stderr[-3000:]}")


def _same(folder: Path, quick: bool) -> Outcome:
    ways = ("2 ranks", "4 ranks", "2 ranks with --fsdp", "2 ranks", "2 ranks with --fsdp")
    found = same_as_one(folder, steps=5 if quick else 50, ways=ways)
    differ = found.pop("ranks differ") + found.pop("repeats differ")
    words = "; ".join(f"{name} {value:.1e}" for name, value in found.items())
    return Outcome(
        f"largest difference of any number of any step: {words}; weights differ between ranks or repeats in "
        f"{len(differ)} cases",
        met=not differ and max(found.values()) <= WITHIN,
        note="Adam with eps 1e-4, since with 1e-8 gradients that are only rounding become whole steps, and a "
        "rate of 5e-5: at 2e-4 a rounding error chose another code after 26 steps, and from there on the "
        "VQGANs part",
    )


def _published(folder: Path, quick: bool) -> Outcome:
    trained = [way for way in WAYS if way != "alone" and not (quick and way == "4 ranks")]
    pairs = [(way, "alone") for way in trained]
    pairs += [("alone", "2 ranks with --fsdp"), ("2 ranks", "2 ranks with --fsdp")]
    differ = []
    for number, (way, other) in enumerate(pairs):
        files = files_that_differ(folder / str(number), way=way, steps=6, other=other)
        differ += [f"{file} ({way}, then {other})" for file in files]
    each = "; ".join(f"{way}, then {other}" for way, other in pairs)
    return Outcome(
        f"a GAN and a VQGAN are trained, taken over for no further step and saved again ({each}): "
        + (
            ", ".join(differ)
            or "every file of weights, optimizers and generators, and config.json, is the same"
        ),
        met=not differ,
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


def _scaling(folder: Path, quick: bool) -> Outcome:
    name = "vqgan-video-tiny"
    one, two, four = bench(name, ranks=(1, 2, 4), steps=2 if quick else 16, clips_per_rank=4, device="cpu")
    speeds = ", ".join(f"{speed.clips_per_s:.1f}" for speed in (one, two, four))
    ring = four.sent_bytes / two.sent_bytes
    return Outcome(
        f"{name} on {os.cpu_count()} cores, {speeds} clips a second (2 ranks: "
        f"{two.clips_per_s / one.clips_per_s / 2:.0%} of twice one); "
        f"{', '.join(f'{speed.sent_bytes / 1e6:.2f}' for speed in (one, two, four))} MB a step leave a rank; "
        f"four ranks send {ring:.2f} times what two do, where a ring is 1.50",
        met=two.clips_per_s > one.clips_per_s and abs(ring - 1.5) < 0.03,
        note="[distributed.md](distributed.md) has Slurm and Kubernetes examples, this table with --fsdp and "
        "for larger models, and what follows for 8 to 256 GPUs",
    )


EXPERIMENTS = [
    Experiment(
        14,
        "What several ranks gain and send: zoo bench --ranks 1,2,4",
        "more clips a second than one where there is a core for each; bytes that follow the ring, from which "
        "those of any number of GPUs follow",
        _scaling,
    ),
    Experiment(
        13,
        "What several ranks save, with weights cut over them or not, is taken over and saved by one process",
        "the same bytes: weights, optimizers, random generators, config",
        _published,
    ),
    Experiment(
        10,
        "One process, 2 and 4 ranks, and 2 with --fsdp, train the same GAN and VQGAN, 50 steps",
        "the same numbers within 1e-5; repeats bit for bit",
        _same,
    ),
    Experiment(
        11,
        "Every quantizer learns on several ranks with different latents",
        "its state is the same on all ranks at every step, to the bit",
        _codebooks,
    ),
]
