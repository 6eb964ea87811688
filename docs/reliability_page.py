"""The table of docs/reliability.md: one row for each experiment, from docs/reliability.json."""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "reliability.json"


def reliability_table() -> str:
    """Return the table of what was measured."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []
    lines = [
        "| | what is done | what has to come of it | measured | met | s |",
        "|---:|---|---|---|---|---:|",
    ]
    for row in rows:
        measured = row["measured"] + (f"; {row['note']}" if row["note"] else "")
        met = "yes" if row["met"] else "**no**"
        cells = (str(row["number"]), row["title"], row["goal"], measured, met, str(row["seconds"]))
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(lines)
