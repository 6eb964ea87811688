"""What every autoencoder recipe costs, for docs/tokenizers.md.

    python -m benchmarks.tokenizer_table                    # all of them, then: python docs/generate.py
    python -m benchmarks.tokenizer_table --only "*-tiny"    # these anew, the others stay as they are
    python -m benchmarks.tokenizer_table --limit 0          # only what follows from the code

Operations and what streams keep are counted on the meta device (`zoo.costs`). Frames a second and memory are
measured: one clip of the recipe's size is encoded and decoded with random weights in fp32, in a process of
its own and on one thread, whose processor time is counted, so that what else runs on the machine matters
little. Recipes of the same parts share their numbers. What would take longer than the limit is not measured;
that is foreseen from the operations where they would take as long at `_BEST_GFLOPS`, and else the process is
ended.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch

import zoo
from benchmarks.measure import processor
from zoo.assemblies import Autoencoder
from zoo.cli.facts import model_facts
from zoo.costs import Costs, costs, parts_key
from zoo.discovery import catalogue
from zoo.recipe_files import resolve

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "tokenizers-measured.json"
_BEST_GFLOPS = 75.0
_THREADS = 1
_ROUNDS = 3
_ENOUGH_S = 6.0
_MIB = 2**20


def names() -> list[str]:
    """List the autoencoder recipes that come with the zoo."""
    known = catalogue()
    return [
        name
        for name in known.bundled_recipes()
        if resolve(known.recipes[name], {}, known.recipes).recipe.assembly == "autoencoder"
    ]


def measure_here(name: str, limit_s: float) -> dict[str, float]:
    """Encode and decode a clip a few times in this process, which ends when the rounds pass the limit.

    Returns:
        ``frames_per_second`` by the median round, the first left out unless it took long; ``peak_mib``, the
        resident set at its highest less what it was with the weights in memory; ``rounds``.
    """
    torch.set_num_threads(_THREADS)
    model = zoo.build(name, seed=0).eval()
    assert isinstance(model, Autoencoder)
    clip = model.recipe.clip
    x_BCTHW = torch.rand(1, clip.channels, clip.num_frames, clip.height, clip.width) * 2 - 1
    before_mib = _resident_mib("VmRSS")
    _reset_peak()
    seconds: list[float] = []
    signal.setitimer(signal.ITIMER_PROF, limit_s)  # ends the process, in the middle of a kernel too
    with torch.no_grad():
        while len(seconds) <= _ROUNDS and sum(seconds) < _ENOUGH_S:
            start = time.process_time()
            model.decode(model.encode(x_BCTHW))
            seconds.append(time.process_time() - start)
    rounds = seconds[1:] or seconds
    return {
        "frames_per_second": clip.num_frames / statistics.median(rounds),
        "peak_mib": _resident_mib("VmHWM") - before_mib,
        "rounds": len(rounds),
    }


def measure_apart(name: str, limit_s: float) -> dict[str, float] | None:
    """Measure in a process of its own; None when it takes longer than the limit or fails."""
    words = [sys.executable, "-m", "benchmarks.tokenizer_table", "--one", name, "--limit", str(limit_s)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=OUTPUT.parent.parent)
    if done.returncode:
        if done.returncode != -signal.SIGPROF:
            print(f"{name}: {done.returncode} {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def entry(found: Costs, mark: str, measured: dict[str, float] | None) -> dict[str, Any]:
    """Return what the file holds of a recipe."""
    return {"fingerprint": mark, "costs": dataclasses.asdict(found), "measured": measured}


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": _THREADS,
        "torch": torch.__version__.partition("+")[0],
        "python": platform.python_version(),
    }


def _resident_mib(field: str) -> float:
    """Return VmRSS (now) or VmHWM (the most so far) of this process."""
    for line in _lines("/proc/self/status"):
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (_MIB if sys.platform == "darwin" else 1024)


def _reset_peak() -> None:
    """Forget the peak of building the model, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("the peak of building the model cannot be forgotten; memory may read too high", file=sys.stderr)


def _yield_memory_first() -> None:
    """Where memory runs out, let the system end this process and not its neighbours."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        return


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


@click.command()
@click.option("--only", default="*", show_default=True, help="Shell pattern on recipe names.")
@click.option(
    "--limit", default=30.0, show_default=True, help="Seconds that the rounds of a recipe may take."
)
@click.option("--output", type=click.Path(path_type=Path), default=OUTPUT, help="The file to write.")
@click.option("--one", hidden=True, help="Measure only this recipe, in this process.")
def main(only: str, limit: float, output: Path, one: str | None) -> None:
    """Count and measure every autoencoder recipe, and write the file that the page is made from."""
    if one is not None:
        _yield_memory_first()
        print(json.dumps(measure_here(one, limit)))
        return
    old: dict[str, Any] = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    before: dict[str, Any] = old.get("recipes", {})
    head = {
        "command": "python -m benchmarks.tokenizer_table",
        "machine": old["machine"] if old and not limit else machine(),
    }
    entries: dict[str, Any] = {}
    alike: dict[str, Any] = {}
    for name in names():
        mark, wanted = parts_key(model_facts(name)), fnmatch.fnmatch(name, only)
        kept = before.get(name, {})
        if kept.get("fingerprint") != mark:
            kept = {}
        if kept and not wanted:
            entries[name] = kept
        elif mark in alike:
            entries[name] = alike[mark]
        else:
            model = zoo.build(name, device="meta").eval()
            assert isinstance(model, Autoencoder)
            found = costs(model)
            gflop = (found.encode_flops + found.decode_flops) / 1e9
            measured = kept.get("measured")
            if wanted and limit:
                measured = measure_apart(name, limit) if gflop < limit * _BEST_GFLOPS else None
            entries[name] = alike[mark] = entry(found, mark, measured)
            print(f"{name}: {gflop:,.1f} GFLOP, {measured or 'not measured'}", flush=True)
        # Written as it goes: a run that is stopped has lost nothing.
        _write(output, {**head, "recipes": {**before, **entries}})
    _write(output, {**head, "recipes": entries})


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
