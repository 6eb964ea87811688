"""Runs the experiments on reliability and writes docs/reliability.json and the table of docs/reliability.md.

make reliability                                # all of them, hours
cd tests && python -m chaos --only 1 --only 5   # some; the other rows stay as they were
cd tests && python -m chaos --quick             # a tenth of the tries; nothing is written
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import tempfile
import time
from pathlib import Path

import click
import torch
from chaos.experiment import Experiment

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "reliability.json"


def experiments() -> list[Experiment]:
    """Return those of every topic, in the order of the table."""
    found: list[Experiment] = []
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if not module.name.startswith(("_", "test_")):
            found += getattr(importlib.import_module(f"chaos.{module.name}"), "EXPERIMENTS", [])
    return sorted(found, key=lambda one: one.number)


@click.command()
@click.option("--only", multiple=True, type=int, help="Only these rows anew.")
@click.option("--quick", is_flag=True, help="A tenth of the tries; prints, and writes nothing.")
def main(only: tuple[int, ...], quick: bool) -> None:
    """Run the experiments, print a line each, and keep what was measured."""
    for one in experiments():
        if only and one.number not in only:
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            outcome = one.run(Path(folder), quick)
        seconds = time.monotonic() - began
        verdict = "met" if outcome.met else "NOT met"
        print(
            f"{one.number}. {one.title}: {outcome.measured} [{verdict}, {seconds:.0f} s] {outcome.note}",
            flush=True,
        )
        if quick:
            continue
        # Read only now: another experiment may have been written in the meantime.
        document = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"rows": []}
        rows = {row["number"]: row for row in document["rows"]}
        rows[one.number] = {
            "number": one.number,
            "title": one.title,
            "goal": one.goal,
            "measured": outcome.measured,
            "met": outcome.met,
            "note": outcome.note,
            "seconds": round(seconds),
            "torch": torch.__version__,
        }
        document = {"rows": [rows[number] for number in sorted(rows)]}
        RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if not quick:
        print("now: python docs/generate.py")


if __name__ == "__main__":
    main()
