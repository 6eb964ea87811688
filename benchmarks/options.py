"""What the options of speed and memory cost and give, on a processor: ``python -m benchmarks.options``.

Every row trains the same recipe on the same clips, with one option changed, in a process of its own. The
processes take their steps in turn, so what else the machine does at a time disturbs all of them alike.

Shape legend: B batch, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import torch

import zoo
from benchmarks.measure import extra_mib, processor
from zoo.training.loop import training_step
from zoo.training.run import Labelled, start

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "performance.json"
RECIPES = {
    "vqvae-video-tiny": 4,
    "gan-video-stylegan-v-tiny": 8,
    "vqvae-prior-video-tiny": 4,
}
"""Recipes, and their clips a step here."""
WARM_UP = 2
"""Steps before the clock: torch.compile makes its programs in the first."""
OFF = "off"


def options(batch_size: int) -> dict[str, dict[str, Any]]:
    """Return what each row changes in the section `train`."""
    found: dict[str, dict[str, Any]] = {
        OFF: {},
        "precision=bf16": {"precision": "bf16"},
        "activation_checkpointing=true": {"activation_checkpointing": True},
        "compile=true": {"compile": True},
        "memory_format=channels_last_3d": {"memory_format": "channels_last_3d"},
    }
    together = {key: value for change in found.values() for key, value in change.items()}
    return found | {
        "these four": together,
        "accumulate=2": {"accumulate": 2},
        "accumulate=2, activation_checkpointing=true": {"accumulate": 2, "activation_checkpointing": True},
        f"batch_size={batch_size // 2}": {"batch_size": batch_size // 2},
    }


def work(pipe: Connection, name: str, train: dict[str, Any]) -> None:
    """Train a recipe step by step, as it is told to."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    run = start(zoo.build(name, seed=0, train={"precision": "fp32", **train}), device)
    batches = _batches(run.model.recipe.clip, run.train.batch_size)
    torch.manual_seed(0)
    while (asked := pipe.recv()) is not None:
        if asked == "step":
            cpu, wall = time.process_time(), time.perf_counter()
            loss = float(training_step(run, batches)["loss"])
            took = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
            pipe.send({**took, "loss": loss})
        else:
            process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            tensors = extra_mib(lambda: training_step(run, batches), device)
            pipe.send({"process_mib": process, "tensors_mib": tensors})


def _batches(clip: Any, num: int) -> Iterator[Labelled]:
    rng = torch.Generator().manual_seed(5)
    shape = (num, clip.channels, clip.num_frames, clip.height, clip.width)
    while True:
        yield Labelled(torch.rand(shape, generator=rng) * 2 - 1)


def measure(name: str, batch_size: int, *, rounds: int, without: Sequence[str] = ()) -> dict[str, Any]:
    """Train a recipe with every option but some, in turn, and return what each row took."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.options"])
    pipes: dict[str, Connection] = {}
    processes = []
    for row, change in options(batch_size).items():
        if row in without:
            continue
        pipes[row], theirs = context.Pipe()
        train = {"batch_size": batch_size, **change}
        processes.append(context.Process(target=work, args=(theirs, name, train), daemon=True))
        processes[-1].start()
    steps: dict[str, list[dict[str, float]]] = {row: [] for row in pipes}
    for _ in range(WARM_UP + rounds):
        for row, pipe in pipes.items():
            steps[row].append(_ask(pipe, "step"))
    found = {}
    for row, pipe in pipes.items():
        timed, first = steps[row][WARM_UP:], steps[row][0]
        found[row] = {
            "cpu_s": statistics.median(step["cpu_s"] for step in timed),
            "cpu_ratio": _ratio(timed, steps[OFF][WARM_UP:], "cpu_s"),
            "wall_ratio": _ratio(timed, steps[OFF][WARM_UP:], "wall_s"),
            "first_wall_s": first["wall_s"],
            "losses": [step["loss"] for step in steps[row]],
            **_ask(pipe, "memory"),
        }
        pipe.send(None)
    for process in processes:
        process.join()
    return found


def _ask(pipe: Connection, what: str) -> dict[str, float]:
    pipe.send(what)
    answer: dict[str, float] = pipe.recv()
    return answer


def _ratio(ours: list[dict[str, float]], off: list[dict[str, float]], clock: str) -> float:
    return statistics.median(a[clock] / b[clock] for a, b in zip(ours, off, strict=True))


@click.command()
@click.option("--rounds", default=8, show_default=True, help="Steps that are timed of each row.")
@click.option("--only", multiple=True, type=click.Choice(list(RECIPES)), help="Only these recipes anew.")
@click.option("--without", multiple=True, help="Rows to leave out, as they are called in the table.")
@click.option("--out", default=OUTPUT, type=click.Path(path_type=Path), help="JSON file of what was found.")
def main(rounds: int, only: tuple[str, ...], without: tuple[str, ...], out: Path) -> None:
    """Measure every row, print the table, and keep what was found."""
    facts = {"rounds": rounds, "processor": processor(), "torch": torch.__version__}
    before: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    recipes: dict[str, Any] = before.get("recipes", {}) if only else {}
    for name in only or RECIPES:
        batch_size = RECIPES[name]
        rows = measure(name, batch_size, rounds=rounds, without=without)
        recipes[name] = {**facts, "batch_size": batch_size, "rows": rows}
        document = {"recipes": {key: recipes[key] for key in RECIPES if key in recipes}}
        out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(table({"recipes": recipes}))


def table(document: dict[str, Any]) -> str:
    """Return what was found as Markdown; times and memory of tensors beside those of the row `off`."""
    lines = [
        "| recipe, clips a step | `train.` | processor time | wall time | memory of tensors | process, MiB "
        "| loss differs by | first step, s |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in document["recipes"].items():
        off = found["rows"][OFF]
        for row, one in found["rows"].items():
            first = f"{one['first_wall_s']:.1f}"
            if row == OFF:
                cells = (
                    f"`{name}`, {found['batch_size']}",
                    row,
                    f"{one['cpu_s']:.2f} s",
                    "",
                    f"{one['tensors_mib']:.0f} MiB",
                    f"{one['process_mib']:.0f}",
                    "",
                    first,
                )
            else:
                gap = abs(one["losses"][-1] - off["losses"][-1]) / abs(off["losses"][-1])
                cells = (
                    "",
                    f"`{row}`" if "=" in row else row,
                    f"×{one['cpu_ratio']:.2f}",
                    f"×{one['wall_ratio']:.2f}",
                    f"×{one['tensors_mib'] / off['tensors_mib']:.2f}",
                    f"{one['process_mib']:.0f}",
                    "" if row.startswith("batch_size") else f"{gap:.1g}",
                    first,
                )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
