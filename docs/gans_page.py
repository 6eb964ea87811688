"""The table of docs/gans.md: one row for each GAN recipe, from recipes, parts and what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from zoo.assemblies import ASSEMBLIES, Gan
from zoo.building import build_part
from zoo.cli.common import count
from zoo.discovery import catalogue

MEASURED = Path(__file__).resolve().parent / "gans-measured.json"
HEAD = (
    "recipe",
    "paper",
    "clip",
    "generator",
    "discriminators",
    "makes alone",
    "s a clip",
    "FVD measured here",
)
MOMENTS = {"clip": "whole clips", "frames": "any run of frames", "continuous": "any moment"}


def gan_table(facts_of: Any) -> str:
    """Return how the numbers were measured, and the table.

    Args:
        facts_of: `zoo.cli.facts.model_facts`, or the like with a memory.
    """
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    names = catalogue().bundled_recipes()
    rows = [_row(facts_of(name), measured) for name in names if _is_gan(facts_of(name))]
    lines = [
        f"Processor seconds that a clip of a training step takes, by `{measured['command']}` on "
        f"{measured['processor']}, one thread, torch {measured['torch']}. A step is of "
        "two clips, and of one (`--clips 1`) where it says so.",
        "",
        f"| {' | '.join(HEAD)} |",
        "|---|---|---|---:|---:|---|---:|---|",
        *rows,
    ]
    return "\n".join(lines)


def _is_gan(facts: dict[str, Any]) -> bool:
    return issubclass(ASSEMBLIES[facts["assembly"]], Gan)


def _row(facts: dict[str, Any], measured: dict[str, Any]) -> str:
    judges = sum(part["parameters"] for part in facts["parts"] if part["field"].startswith("discriminator."))
    made_of = next(part for part in facts["parts"] if part["field"] == "generator")
    with torch.device("meta"):
        generator = build_part("generator", made_of["use"], **made_of["options"])
    clip = facts["clip"]
    cells = (
        f"`{facts['name']}`",
        f"[paper]({facts['paper']})" if facts["paper"] else "",
        f"{clip['num_frames']}×{clip['height']}×{clip['width']}",
        count(facts["parameters"]),
        count(judges),
        MOMENTS[getattr(generator, "time", "clip")],
        _cost(measured["recipes"].get(facts["name"])),
        _fvd(facts["results"]),
    )
    return f"| {' | '.join(cells)} |"


def _cost(measured: dict[str, Any] | None) -> str:
    if measured is None:
        return "not measured"
    alone = " (one)" if measured["clips"] == 1 else ""
    return f"{measured['seconds_a_clip']:.3g}{alone}"


def _fvd(results: list[dict[str, Any]]) -> str:
    found = [result for result in results if "fvd" in result["figures"]]
    if not found:
        return "no run yet"
    last = found[-1]
    return f"{last['figures']['fvd']:.0f}: `{last['command']}`"
