"""Row 1: a run is killed at random moments, again and again, and goes on from its newest checkpoint."""

from __future__ import annotations

import dataclasses
import random
import time
from collections import Counter
from functools import partial
from pathlib import Path

import torch
from chaos.children import hidden, kill, last_step, process, run_zoo, wait_for, write_clips, write_recipe
from chaos.experiment import Experiment, Outcome

import zoo
from zoo.errors import ZooError
from zoo.training.checkpoint import load_checkpoint, older_checkpoints

SAVE_EVERY = 3
KEEP = 2


@dataclasses.dataclass
class Kills:
    """What came of killing a run.

    Attributes:
        tries: Kills.
        at: How many came while it started, stepped and saved.
        failed: How many runs did not go on from the newest whole checkpoint.
        torn: Checkpoints and models that could not be read.
        missing: After how many fewer checkpoints were there than were to be kept.
        lost: Most steps that a kill took away.
        left: Files that a save did not clear away.
        equal: Whether the run ended with the same tensors as one that nobody killed.
    """

    tries: int
    at: Counter[str] = dataclasses.field(default_factory=Counter)
    failed: int = 0
    torn: int = 0
    missing: int = 0
    lost: int = 0
    left: int = 0
    equal: bool = False


def kill_at_random(folder: Path, tries: int, *, seed: int = 0) -> Kills:
    """Train, kill -9, go on, ...; then let it end, and compare with a run that nobody disturbed."""
    recipe = write_recipe(folder / "recipe.yaml", save_every=SAVE_EVERY)
    data = write_clips(folder / "clips")
    out, found, chance = folder / "run", Kills(tries), random.Random(seed)
    words = ["train", str(recipe), "--data", str(data), "--device", "cpu", "--keep", str(KEEP)]
    endless = [*words, "--out", str(out), "--steps", "1000000"]
    with process(run_zoo, *endless, log=folder / "log") as first:
        assert wait_for(lambda: last_step(out) > KEEP * SAVE_EVERY, first), (folder / "log").read_text()
    step, before, start_s = load_checkpoint(out / "checkpoint").state["step"], hidden(out), 1.0
    for number in range(tries):
        workers = "2" if number % 5 == 4 else "0"
        began, written = time.monotonic(), (out / "metrics.jsonl").stat().st_ino
        with process(run_zoo, *endless, "--workers", workers, "--resume", log=folder / "log") as started:
            if chance.random() < 0.85:
                stepped = wait_for(partial(_has_stepped, out, step, written), started)
                found.failed += not stepped
                start_s = time.monotonic() - began
                time.sleep(chance.uniform(0, 1.5))  # a few saves long
            else:
                time.sleep(chance.uniform(0, start_s))
            found.failed += started.exitcode is not None
            kill(started)
        now, logged = hidden(out), last_step(out)
        begun = (out / "metrics.jsonl").stat().st_ino != written and logged > step
        found.at["saving" if now - before else "stepping" if begun else "starting"] += 1
        places = [out / "checkpoint", *older_checkpoints(out / "checkpoint")]
        whole = [_whole(place) for place in places]
        found.torn += whole.count(False) + (not _loads(out))
        found.missing += len(places) < KEEP
        reached = int(load_checkpoint(out / "checkpoint").state["step"])
        found.lost = max(found.lost, logged - reached) if begun else found.lost
        if begun and reached > step and logged > reached:  # a save came to its end since the last kill
            found.left += len(now & before)
        step, before = reached, now
    steps = str(step + SAVE_EVERY + 1)
    for where, more in ((out, ["--resume"]), (folder / "undisturbed", [])):
        with process(
            run_zoo, *words, "--out", str(where), "--steps", steps, *more, log=folder / "log"
        ) as last:
            last.join()
            assert last.exitcode == 0, (folder / "log").read_text()
    found.left += len(hidden(out))
    found.equal = _equal(out / "checkpoint", folder / "undisturbed" / "checkpoint")
    return found


def _has_stepped(out: Path, step: int, written: int) -> bool:
    path = out / "metrics.jsonl"  # written anew when a run goes on, without the steps that are taken again
    return path.exists() and path.stat().st_ino != written and last_step(out) > step


def _whole(place: Path) -> bool:
    try:
        load_checkpoint(place)
    except ZooError as error:
        print(error, flush=True)
        return False
    return True


def _loads(out: Path) -> bool:
    try:
        zoo.load(out)
    except ZooError as error:
        print(error, flush=True)
        return False
    return True


def _equal(a: Path, b: Path) -> bool:
    one, other = load_checkpoint(a), load_checkpoint(b)
    return one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(tensor, other.tensors[file][name])
        for file, tensors in one.tensors.items()
        for name, tensor in tensors.items()
    )


def _run(folder: Path, quick: bool) -> Outcome:
    found = kill_at_random(folder, 20 if quick else 200)
    met = (
        found.equal
        and found.lost <= SAVE_EVERY
        and not (found.failed or found.torn or found.missing or found.left)
    )
    return Outcome(
        f"{found.tries} kills ({found.at['starting']} while starting, {found.at['stepping']} stepping, "
        f"{found.at['saving']} saving): {found.tries - found.failed} resumes, {found.torn} torn loads, "
        f"{found.missing} times fewer checkpoints than --keep {KEEP} asks for, at most {found.lost} steps "
        f"lost where {SAVE_EVERY} are a save interval, {found.left} files left over; the end is "
        f"{'' if found.equal else 'NOT '}bit-equal to a run never killed",
        met,
    )


EXPERIMENTS = [
    Experiment(
        1,
        "kill -9 at random moments of training and of saving, 200 times",
        "every resume from the newest whole checkpoint, 0 torn loads, at most one save interval lost, no "
        "file left over after the next save",
        _run,
    )
]
