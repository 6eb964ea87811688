"""How fast a recipe trains on several ranks, and what they send and hold; on clips drawn by chance.

Each number of ranks is measured in processes of its own, as `torchrun` starts them, with as many clips a rank
whatever their number: what grows is the batch.

Shape legend: B batch, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from zoo.assemblies import Sampler
from zoo.building import build, resolve_recipe
from zoo.devices import pick_device
from zoo.errors import TrainingError
from zoo.ranks import gathered, is_first, joined, own_device, own_share, rank, world_size
from zoo.recipes import Recipe
from zoo.training.anneal import check_anneal
from zoo.training.loop import training_step
from zoo.training.objectives import check_objective
from zoo.training.player import Numbers
from zoo.training.rng import isolated_rng
from zoo.training.run import Labelled, Run, start

WARMUP_STEPS = 2


@dataclasses.dataclass(frozen=True)
class Speed:
    """What so many ranks do.

    Attributes:
        ranks: Their number.
        batch_size: Clips of a step, of all ranks together.
        clips_per_s: Clips of all ranks in a second, by the clock.
        processor_s_per_clip: Seconds of processors that a clip takes, of all ranks together.
        sent_bytes: What a rank sends in a step where what is gathered and summed goes around a ring.
        activation_bytes: What a clip leaves for a backward pass, of the update that leaves most.
        held_bytes: What a rank holds between two steps: weights, their average, the optimisers' state.
        peak_bytes: The most that a rank had on its GPU; None on a processor.
    """

    ranks: int
    batch_size: int
    clips_per_s: float
    processor_s_per_clip: float
    sent_bytes: float
    activation_bytes: float
    held_bytes: float
    peak_bytes: float | None


def bench(
    name: str,
    *,
    ranks: Sequence[int] = (1, 2, 4),
    steps: int = 10,
    clips_per_rank: int = 4,
    fsdp: bool = False,
    device: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> list[Speed]:
    """Measure a recipe on each number of ranks of this machine, one after the other.

    Args:
        name: Recipe, or its file.
        ranks: Numbers of ranks.
        steps: Steps that are measured, after two that are not; rounded up to whole turns of lazy penalties.
        clips_per_rank: Clips of a step on each rank.
        fsdp: Cut weights over the ranks, where there are several.
        device: Where each computes; the GPU of its number, or the processor, when left out.
        overrides: Changes to the recipe.

    Raises:
        TrainingError: Ranks did not come to the end.
        ZooError: As `zoo.build`.
    """
    overrides = dict(overrides or {})
    resolved = resolve_recipe(name, overrides)  # told here, and not by each of the ranks
    check_objective(resolved.name, resolved.recipe)
    check_anneal(resolved.name, resolved.recipe.train)
    if "batch_size" in overrides.get("train", {}):
        raise TrainingError(
            f"{resolved.name!r} is measured with as many clips on each rank: say how many (--clips) instead "
            "of train.batch_size"
        )
    turn = _lazy_turn(resolved.recipe)
    steps = -(-steps // turn) * turn
    found = []
    for number in ranks:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "speed.json"
            options = {
                "name": name,
                "steps": steps,
                "batch_size": number * clips_per_rank,
                "fsdp": fsdp and number > 1,
                "device": device,
                "overrides": overrides,
            }
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number)]
            launcher += ["--log-dir", folder, "--redirects", "2"]
            command = [sys.executable, *(launcher if number > 1 else []), "-m", __name__]
            # What torchrun sets for several ranks holds for one alone, or they could not be compared.
            environment = {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", **os.environ}
            ended = subprocess.run(
                [*command, str(out), json.dumps(options)],
                capture_output=True,
                text=True,
                check=False,
                env=environment,
            )
            if ended.returncode or not out.exists():
                said = _last_words(Path(folder)) or ended.stderr[-2000:]
                raise TrainingError(f"{number} ranks did not come to the end:\n{said}")
            found.append(Speed(**json.loads(out.read_text(encoding="utf-8"))))
    return found


def _last_words(folder: Path) -> str:
    """Return what each rank wrote to its stderr; nothing where torchrun did not come to start them."""
    files = sorted(folder.rglob("stderr.log"))
    said = {path.parent.name: path.read_text(errors="replace").strip() for path in files}
    return "\n".join(f"rank {number}: {words[-2000:]}" for number, words in said.items() if words)


def measure(
    *, name: str, steps: int, batch_size: int, fsdp: bool, device: str | None, overrides: Mapping[str, Any]
) -> Speed:
    """Measure among the ranks that there are; every rank calls it."""
    onto = pick_device(own_device(device))
    train = {**overrides.get("train", {}), "batch_size": batch_size}
    with joined(onto), isolated_rng(0):
        model = build(name, seed=0, **{**overrides, "train": train})
        run = start(model, onto, fsdp=fsdp)
        if (adversarial := run.train.objective.adversarial) is not None:
            run.step = adversarial.start_step  # both players are at work
        batches = _batches(run, batch_size // world_size())
        for _ in range(WARMUP_STEPS):
            training_step(run, batches)
        with counted_sends() as sent:
            gathered(None)  # all begin together
            began, busy = time.perf_counter(), time.process_time()
            for _ in range(steps):
                training_step(run, batches)
            if onto.type == "cuda":
                torch.cuda.synchronize(onto)
            gathered(None)
            took_s, busy_s = time.perf_counter() - began, time.process_time() - busy
        clips = steps * batch_size
        peak = float(torch.cuda.max_memory_allocated(onto)) if onto.type == "cuda" else None
        kept = _activations(run, batches) * world_size() / batch_size
        return Speed(
            ranks=world_size(),
            batch_size=batch_size,
            clips_per_s=clips / took_s,
            processor_s_per_clip=sum(gathered(busy_s)) / clips,
            sent_bytes=sum(sent) / steps,
            activation_bytes=kept,
            held_bytes=_held(run),
            peak_bytes=peak,
        )


def _lazy_turn(recipe: Recipe) -> int:
    """Return after how many steps every lazy penalty has been due as often as it is in a long run."""
    return math.lcm(*lazy_periods(recipe))


def lazy_periods(recipe: Recipe) -> list[int]:
    """Return every how many updates each penalty on slopes is due."""
    adversarial = recipe.train.objective.adversarial
    if adversarial is None:
        return []
    terms = (adversarial.r1, adversarial.r2, adversarial.gradient_penalty, adversarial.path_length)
    return [term.every for term in terms if term is not None]


@contextlib.contextmanager
def counted_sends() -> Iterator[list[float]]:
    """Count the bytes that this rank sends: of each sum and each gathering, as if around a ring."""
    sent: list[float] = []
    originals = {name: getattr(dist, name) for name in _TIMES_AROUND if hasattr(dist, name)}

    def counting(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            # A sum is of one tensor; what is scattered or gathered is as large as the larger one of two.
            tensors = [x for x in [*args, *kwargs.values()] if isinstance(x, Tensor)]
            size = max(x.numel() * x.element_size() for x in tensors)
            sent.append(_TIMES_AROUND[name] * size * (world_size() - 1) / world_size())
            return originals[name](*args, **kwargs)

        return call

    for name in originals:
        setattr(dist, name, counting(name))
    try:
        yield sent
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


_TIMES_AROUND = {
    "all_reduce": 2,
    "all_gather_into_tensor": 1,
    "all_gather_single": 1,
    "reduce_scatter_tensor": 1,
    "reduce_scatter_single": 1,
}
"""How often what a collective is of goes around; `fully_shard` calls one pair or the other."""


def _activations(run: Run, batches: Iterator[Labelled]) -> int:
    """Take a step; return the bytes that its largest update keeps for the backward pass, without weights."""
    updates: list[dict[int, int]] = []
    learn = run.learn

    def note(x: Tensor) -> Tensor:
        if updates and not isinstance(x, torch.nn.Parameter):
            updates[-1][x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    def noting(*args: Any, **kwargs: Any) -> Numbers:
        updates.append({})
        return learn(*args, **kwargs)

    run.learn = noting  # type: ignore[method-assign]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        training_step(run, batches)
    return max(sum(kept.values()) for kept in updates)


def _batches(run: Run, num: int) -> Iterator[Labelled]:
    clip, model = run.model.recipe.clip, run.model
    rng = torch.Generator().manual_seed(rank())
    classes = model.num_classes if isinstance(model, Sampler) else 0
    while True:
        shape = (num, clip.channels, clip.num_frames, clip.height, clip.width)
        label_B = torch.randint(classes, (num,), generator=rng) if classes else None
        yield Labelled(torch.rand(shape, generator=rng) * 2 - 1, label_B)


def _held(run: Run) -> float:
    tensors = [*run.model.state_dict().values()]
    if run.average is not None:
        tensors += run.average.tensors().values()
    players = [player for player in (run.player, run.opponent) if player is not None]
    for player in players:
        for state in player.optimizer.state.values():
            tensors += [value for value in state.values() if isinstance(value, Tensor)]
    return float(sum(own_share(x).numel() * x.element_size() for x in tensors))


def table(speeds: Sequence[Speed]) -> str:
    """Write a table of what was measured, for a terminal."""
    lines = [
        f"{'ranks':>5} {'batch':>6} {'clips/s':>9} {'efficiency':>10} {'processor':>11} {'sent':>9} "
        f"{'held':>9} {'activations':>12}",
        f"{'':>5} {'':>6} {'':>9} {'':>10} {'ms/clip':>11} {'MB/step':>9} {'MB/rank':>9} {'MB/clip':>12}",
    ]
    alone = speeds[0].clips_per_s / speeds[0].ranks
    for one in speeds:
        efficiency = one.clips_per_s / one.ranks / alone
        lines.append(
            f"{one.ranks:>5} {one.batch_size:>6} {one.clips_per_s:>9.2f} {efficiency:>10.0%} "
            f"{1e3 * one.processor_s_per_clip:>11.1f} {one.sent_bytes / 1e6:>9.2f} "
            f"{one.held_bytes / 1e6:>9.2f} {one.activation_bytes / 1e6:>12.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure as one of the ranks; the first writes what came of it."""
    out, options = sys.argv[1:]
    found = measure(**json.loads(options))
    if is_first():
        Path(out).write_text(json.dumps(dataclasses.asdict(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
