"""The figures at the top of the page, and the table against the baselines."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from zoo.metrics.baselines import raw_bits
from zoo.report.charts import number
from zoo.report.names import display_name
from zoo.report.run_folder import is_number


@dataclasses.dataclass(frozen=True)
class Tile:
    """One large figure."""

    name: str
    value: str
    unit: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A figure in the table; `best` where no other row is better."""

    text: str
    best: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """A model or baseline in the table."""

    name: str
    cells: list[Cell]


@dataclasses.dataclass(frozen=True)
class Table:
    """The model and its baselines."""

    columns: list[str]
    rows: list[Row]


# name: (heading, larger is better, format)
_COMPARED = {
    "psnr_db": ("PSNR, dB ↑", True, "{:.2f}"),
    "ssim": ("SSIM ↑", True, "{:.3f}"),
    "lpips": ("LPIPS ↓", False, "{:.3f}"),
}
_BASELINES = {
    "nearest": "Nearest neighbour, same stored bits",
    "mean colour": "Mean colour of the clip",
}


def tiles(evaluation: Mapping[str, Any], *, channels: int | None) -> list[Tile]:
    """Return the figures worth a glance, those that were measured.

    Args:
        evaluation: As `zoo.metrics.evaluate` gives it.
        channels: Colour channels of the clips; None when not known.
    """
    values = evaluation.get("values")
    if not isinstance(values, Mapping):
        return []
    result = []
    for name, (_, _, form) in _COMPARED.items():
        value = values.get(name)
        if is_number(value):
            unit = "dB" if name == "psnr_db" else ""
            result.append(Tile(display_name(name), form.format(value), unit, _margin(name, evaluation)))
    used, perplexity = values.get("codebook_used_share"), values.get("codebook_perplexity")
    if is_number(used):
        note = f"perplexity {perplexity:.0f}" if is_number(perplexity) else ""
        result.append(Tile("codes used", f"{100 * used:.0f}", "%", note))
    bits = values.get("bits_per_pixel")
    if is_number(bits):
        note = ""
        if channels and bits > 0:
            raw = raw_bits(1, channels=channels)
            note = f"1/{raw / bits:,.0f} of {raw}-bit {'RGB' if channels == 3 else 'pixels'}"
        result.append(Tile("stored", f"{bits:.3g}", "bit/px", note))
    diversity, real = values.get("lpips_diversity"), values.get("lpips_diversity_of_real_clips")
    if is_number(diversity):
        note = f"real clips: {real:.3f}" if is_number(real) else ""
        result.append(Tile("LPIPS diversity", f"{diversity:.3f}", "", note))
    return result


def comparison(evaluation: Mapping[str, Any]) -> Table | None:
    """Return the table of the model and its baselines, or None where no baseline was measured."""
    values, baselines = evaluation.get("values"), evaluation.get("baselines")
    if not isinstance(values, Mapping) or not isinstance(baselines, Mapping) or not baselines:
        return None
    rows = [("This model", values)]
    ordered = sorted(
        baselines,
        key=lambda name: (name not in _BASELINES, list(_BASELINES).index(name) if name in _BASELINES else 0),
    )
    for name in ordered:
        if isinstance(baselines[name], Mapping):
            rows.append((_BASELINES.get(name, str(name)), baselines[name]))
    shown = [name for name in _COMPARED if any(is_number(row.get(name)) for _, row in rows)]
    if not shown:
        return None
    best = {}
    for name in shown:
        found = [row[name] for _, row in rows if is_number(row.get(name))]
        best[name] = max(found) if _COMPARED[name][1] else min(found)
    return Table(
        [_COMPARED[name][0] for name in shown],
        [
            Row(
                who,
                [
                    Cell(_COMPARED[name][2].format(row[name]), row[name] == best[name])
                    if is_number(row.get(name))
                    else Cell("-")
                    for name in shown
                ],
            )
            for who, row in rows
        ],
    )


def verdict(evaluation: Mapping[str, Any]) -> str:
    """Say in a sentence by how much the model beats the best baseline, or that it does not."""
    rival = _best_baseline("psnr_db", evaluation)
    values = evaluation.get("values")
    value = values.get("psnr_db") if isinstance(values, Mapping) else None
    if rival is None or not is_number(value):
        return ""
    name, other = rival
    margin = value - other
    words = {
        "nearest": "nearest-neighbour resizing at the same stored bits",
        "mean colour": "the clip's mean colour",
    }
    against = words.get(name, name)
    if margin > 0:
        return f"The model is {margin:.2f} dB above its best baseline, {against}."
    return f"The model does not beat its best baseline: {against} is {-margin:.2f} dB above it."


def value_rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return every figure as a line of text."""
    return [
        (display_name(str(name)), number(float(value))) for name, value in values.items() if is_number(value)
    ]


def _margin(name: str, evaluation: Mapping[str, Any]) -> str:
    rival = _best_baseline(name, evaluation)
    return f"best baseline {_COMPARED[name][2].format(rival[1])}" if rival else ""


def _best_baseline(name: str, evaluation: Mapping[str, Any]) -> tuple[str, float] | None:
    baselines = evaluation.get("baselines")
    if not isinstance(baselines, Mapping):
        return None
    found = [
        (str(who), float(row[name]))
        for who, row in baselines.items()
        if isinstance(row, Mapping) and is_number(row.get(name))
    ]
    if not found:
        return None
    pick = max if _COMPARED[name][1] else min
    return pick(found, key=lambda pair: pair[1])
