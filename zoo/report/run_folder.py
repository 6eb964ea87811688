"""Read what a run has left so far, forgiving whatever is missing, half written or damaged."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any, TypeGuard

from zoo import plain_json
from zoo.errors import DataError
from zoo.files import read_regular

MAX_FACTS_BYTES, _MAX_METRICS_BYTES = 64 << 20, 256 << 20

Points = list[tuple[float, float]]
"""(step, value), in the order of logging."""


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The facts and numbers of one run.

    Attributes:
        path: The folder.
        facts: ``run.json`` as it is; empty when it cannot be read.
        train: Logged numbers by name, from lines of kind "train".
        evals: The same from lines of kind "eval".
        problems: What could not be read, in words.
    """

    path: Path
    facts: dict[str, Any]
    train: dict[str, Points]
    evals: dict[str, Points]
    problems: list[str]

    @property
    def running(self) -> bool:
        """Whether run.json says that the run goes on, or says nothing of it."""
        return self.facts.get("status", "running") == "running"

    @property
    def last_step(self) -> int | None:
        """The last step that run.json speaks of or, while the run goes on, any later one that a line does."""
        told = self.facts.get("step")
        steps = [told] if is_number(told) else []
        if self.running or not steps:
            steps += [points[-1][0] for points in (*self.train.values(), *self.evals.values()) if points]
        return int(max(steps)) if steps else None


def read_run_folder(path: Path) -> RunFolder:
    """Read ``run.json`` and ``metrics.jsonl`` of a run.

    Raises:
        DataError: The folder is not there, or holds neither file.
    """
    facts_path, metrics_path = path / "run.json", path / "metrics.jsonl"
    if not facts_path.is_file() and not metrics_path.is_file():
        raise DataError(
            f"{path} is not the folder of a run: it holds neither run.json nor metrics.jsonl. "
            "A run folder is what `zoo train NAME --data X --out DIR` writes"
        )
    problems: list[str] = []
    facts = _read_facts(facts_path, problems)
    train: dict[str, Points] = {}
    evals: dict[str, Points] = {}
    for line in _read_lines(metrics_path, problems):
        step = line.get("step")
        if not is_number(step):
            continue
        series = evals if line.get("kind") == "eval" else train
        for name, value in line.items():
            # What is not finite is kept: the chart counts it.
            if name != "step" and (
                value is None or (isinstance(value, int | float) and not isinstance(value, bool))
            ):
                series.setdefault(name, []).append((float(step), math.nan if value is None else float(value)))
    return RunFolder(path, facts, _resumed(train), _resumed(evals), problems)


def _resumed(series: dict[str, Points]) -> dict[str, Points]:
    """Drop lines that a resumed run has logged anew: where steps go back, the later line holds."""
    result = {}
    for name, points in series.items():
        kept: Points = []
        for point in points:
            while kept and kept[-1][0] >= point[0]:
                kept.pop()
            kept.append(point)
        result[name] = kept
    return result


def _read_facts(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        facts = plain_json.forgiving(read_regular(path, most=MAX_FACTS_BYTES))
    except FileNotFoundError:
        problems.append("run.json is not there yet")
        return {}
    except (OSError, ValueError) as error:
        problems.append(f"run.json cannot be read: {error}")
        return {}
    if not isinstance(facts, dict):
        problems.append("run.json does not hold an object")
        return {}
    return facts


def _read_lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    try:
        data = read_regular(path, most=_MAX_METRICS_BYTES)
    except FileNotFoundError:
        problems.append("metrics.jsonl is not there yet")
        return []
    except (OSError, ValueError) as error:
        problems.append(f"metrics.jsonl cannot be read: {error}")
        return []
    lines, unread = [], 0
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            value = plain_json.forgiving(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            lines.append(value)
        else:
            unread += 1
    if unread:
        problems.append(f"metrics.jsonl: {unread} line(s) cannot be read, the last may be half written")
    return lines


def is_number(value: Any) -> TypeGuard[float]:
    """Say whether a value is a finite number."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and abs(value) <= sys.float_info.max
