"""What a training step of every GAN recipe costs, for docs/gans.md.

    python -m benchmarks.gan_table                    # all of them, then: python docs/generate.py
    python -m benchmarks.gan_table --only "*-tiny"    # these anew, the others stay as they are

A step is one update of the generator and as many of the discriminators as the recipe says, with what the
recipe adds to them, on random clips of its size, on one thread; its seconds are divided by its clips.
Processor time is counted, so that what else runs on the machine matters little. Steps with a lazy penalty and
steps without are timed apart and count as often as they come. A recipe that is not through with one of each
within the limit, or has no memory for it, is left out.
"""

from __future__ import annotations

import fnmatch
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch

import zoo
from benchmarks.measure import processor
from zoo.assemblies import ASSEMBLIES, Gan
from zoo.discovery import catalogue
from zoo.recipe_files import resolve
from zoo.training.bench import lazy_periods
from zoo.training.loop import training_step
from zoo.training.regularizers import due
from zoo.training.run import Labelled, Run, start

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "gans-measured.json"
STEPS = 5


def names() -> list[str]:
    """List the GAN recipes that come with the zoo."""
    known = catalogue()
    return [
        name
        for name in known.bundled_recipes()
        if issubclass(ASSEMBLIES[resolve(known.recipes[name], {}, known.recipes).recipe.assembly], Gan)
    ]


def kinds_of_step(run: Run) -> dict[tuple[float, ...], list[int]]:
    """Return the numbers of the steps in which the same penalties are due, over one period of all of them."""
    assert run.adversarial is not None
    every, turns = lazy_periods(run.model.recipe), run.adversarial.discriminator_steps
    kinds: dict[tuple[float, ...], list[int]] = {}
    for step in range(math.lcm(*every)):
        kind = tuple(due(each, step * turns + turn) for each in every for turn in range(turns))
        kinds.setdefault(kind, []).append(step)
    return kinds


def seconds_a_step(name: str, clips: int, limit_s: float) -> float:
    """Train a few steps in this process, which ends when they pass the limit; mean processor seconds."""
    torch.set_num_threads(1)
    model = zoo.build(name, seed=0, train={"batch_size": clips})
    assert isinstance(model, Gan)
    clip = model.recipe.clip
    shape = (clips, clip.channels, clip.num_frames, clip.height, clip.width)
    labels = torch.arange(clips) % model.num_classes if model.num_classes else None
    run = start(model, torch.device("cpu"))
    signal.setitimer(signal.ITIMER_PROF, limit_s)  # ends the process, in the middle of a kernel too
    batches = itertools.repeat(Labelled(torch.rand(shape) * 2 - 1, labels))
    kinds = kinds_of_step(run)
    training_step(run, batches)
    share_s = (limit_s - time.process_time()) / 2 / len(kinds)
    total = 0.0
    for steps in kinds.values():
        began, taken = time.process_time(), 0
        while not taken or (taken < STEPS and time.process_time() - began < share_s):
            run.step = steps[0]
            training_step(run, batches)
            taken += 1
        total += len(steps) * (time.process_time() - began) / taken
    return total / sum(map(len, kinds.values()))


@click.command()
@click.option("--only", default="*", show_default=True, help="Shell pattern on recipe names.")
@click.option("--limit", default=60.0, show_default=True, help="Processor seconds a recipe may take.")
@click.option("--clips", default=2, show_default=True, help="Clips of a step.")
@click.option("--output", type=click.Path(path_type=Path), default=OUTPUT, help="The file to write.")
@click.option("--one", hidden=True, help="Measure only this recipe, in this process.")
def main(only: str, limit: float, clips: int, output: Path, one: str | None) -> None:
    """Measure every GAN recipe, and write the file that the page is made from."""
    if one is not None:
        print(json.dumps(seconds_a_step(one, clips, limit)))
        return
    old: dict[str, Any] = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    found: dict[str, Any] = {name: one for name, one in old.get("recipes", {}).items() if name in names()}
    for name in names():
        if not fnmatch.fnmatch(name, only):
            continue
        words = [sys.executable, "-m", "benchmarks.gan_table", "--one", name]
        words += ["--limit", str(limit), "--clips", str(clips)]
        done = subprocess.run(words, capture_output=True, text=True, cwd=OUTPUT.parent.parent)
        if done.returncode:
            why = done.stderr.strip()[-200:]
            print(f"{name}: left out, it ended with {done.returncode} {why}", flush=True)
            continue
        found[name] = {"seconds_a_clip": json.loads(done.stdout.splitlines()[-1]) / clips, "clips": clips}
        print(name, found[name], flush=True)
        document = {
            "command": f"python -m benchmarks.gan_table --limit {limit:g}",
            "processor": processor(),
            "cores": os.cpu_count(),
            "torch": torch.__version__.partition("+")[0],
            "recipes": found,
        }
        output.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
