"""Put the page together from what a run folder holds."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeGuard

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from zoo.files import new_file
from zoo.report.charts import line_chart, number, share_chart
from zoo.report.clips import Strips, collect_strips
from zoo.report.figures import Tile, comparison, tiles, value_rows, verdict
from zoo.report.names import LOSSES, display_name, with_unit
from zoo.report.run_folder import Points, RunFolder, is_number, read_run_folder

_MAX_SKIPPED = 200
_LOSSES_NOTE = "Means over the steps between two logged lines; terms before weighing."
_TOLD_ELSEWHERE = {
    "command",
    "data",
    "evaluation",
    "evaluation_error",
    "name",
    "recipe",
    "skipped",
    "status",
    "seconds",
    "waited_seconds",
    "data_wait_share",
    "format",
    "health",
    "resume_command",
    "step",
    "steps",
}


@dataclasses.dataclass(frozen=True)
class _Chart:
    name: str
    svg: Markup


@dataclasses.dataclass(frozen=True)
class _Group:
    name: str
    note: str
    charts: list[_Chart]
    folded: bool = False


def write_report(run_folder: str | Path, *, out: str | Path | None = None) -> Path:
    """Write a run's page as one HTML file that loads nothing else, and return its path.

    Works at any time, also while the run goes on: sections whose data is not there are left out, and
    files that cannot be read are named on the page. An older page is replaced in one step.

    Args:
        run_folder: What `zoo.train` writes.
        out: The page; ``report.html`` in the run folder when left out.

    Raises:
        DataError: The folder is not the folder of a run.
    """
    folder = Path(run_folder)
    run = read_run_folder(folder)
    path = Path(out) if out is not None else folder / "report.html"
    page = render(run)
    with new_file(path, force=True) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def render(run: RunFolder) -> str:
    """Return the page of a run as HTML. Every string of the run is escaped."""
    facts = run.facts
    evaluation = _mapping(facts.get("evaluation"))
    values = _mapping(evaluation.get("values"))
    recipe = _mapping(facts.get("recipe"))
    data = facts.get("data")
    bits = values.get("bits_per_clip")
    strips = collect_strips(
        run.path / "samples", bits_per_clip=bits if is_number(bits) and bits > 0 else None
    )
    skipped = _skipped(facts.get("skipped"))
    status, status_class = _status(run)
    now = datetime.datetime.now().astimezone()
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.from_string(
        files("zoo.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        title=str(facts.get("name") or run.path.resolve().name),
        summary=str(recipe.get("summary") or ""),
        status=status,
        status_class=status_class,
        command=str(facts.get("command") or ""),
        problems=[*_unmeasured(facts), *run.problems, *strips.problems],
        tiles=_tiles(run, evaluation),
        comparison=comparison(evaluation),
        verdict=verdict(evaluation),
        values=value_rows(values),
        strips=strips,
        chart_groups=_chart_groups(run),
        codebook=_codebook(evaluation),
        health=_health(facts.get("health")),
        data_facts=_rows(data if isinstance(data, Mapping) else {"data": data} if data else {}),
        skipped=None if skipped is None else skipped[:_MAX_SKIPPED],
        num_skipped=len(skipped or []),
        running=run.running,
        protocol=_protocol(evaluation, strips),
        recipe=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True) if recipe else "",
        facts=_rows(facts, without=_TOLD_ELSEWHERE),
        footer=f"Written {now:%Y-%m-%d %H:%M %Z}. This page loads nothing from elsewhere.",
    )


def _tiles(run: RunFolder, evaluation: Mapping[str, Any]) -> list[Tile]:
    channels = _mapping(_mapping(run.facts.get("recipe")).get("clip")).get("channels")
    result = tiles(evaluation, channels=channels if isinstance(channels, int) else None)
    wait = run.facts.get("data_wait_share", _last(run.train, "data_wait_share"))
    if is_number(wait):
        result.append(Tile("waited for data", f"{100 * wait:.1f}", "%", "of the training time"))
    seconds = run.facts.get("seconds", _last(run.train, "seconds"))
    if is_number(seconds):
        value, unit = _duration(float(seconds))
        step = run.last_step
        result.append(Tile("training time", value, unit, f"{step:,} steps" if step is not None else ""))
    return result


def _chart_groups(run: RunFolder) -> list[_Group]:
    losses = {name: run.train[name] for name in LOSSES if name in run.train}
    others = {name: points for name, points in run.train.items() if name not in losses and name != "seconds"}
    # A line that never moves says nothing; its value is among the facts.
    evals = {name: points for name, points in run.evals.items() if len({y for _, y in points}) > 1}
    return [
        _Group("Losses", _LOSSES_NOTE, _charts(losses, log=True)),
        _Group("Held-out clips over training", "", _charts(evals, dots=True)),
        _Group("Rates, gradients and speed", "", _charts(others), folded=True),
    ]


def _charts(series: Mapping[str, Points], *, dots: bool = False, log: bool = False) -> list[_Chart]:
    charts = []
    for name, points in series.items():
        svg = line_chart(points, x_label="step", y_label=with_unit(name), dots=dots, log=log)
        if svg:
            charts.append(_Chart(display_name(name), svg))
    return charts


@dataclasses.dataclass(frozen=True)
class _Codebook:
    text: str
    svg: Markup


def _codebook(evaluation: Mapping[str, Any]) -> _Codebook | None:
    codebook = _mapping(evaluation.get("codebook"))
    histogram = codebook.get("histogram")
    if not _is_histogram(histogram):
        return None
    used = sum(count > 0 for counts in histogram for count in counts)
    size = sum(len(counts) for counts in histogram)
    perplexity, entropy = codebook.get("perplexity"), codebook.get("entropy_bits")
    text = f"{used:,} of {size:,} codes occur in {sum(map(sum, histogram)):,} tokens of held-out clips."
    if is_number(perplexity) and is_number(entropy):
        text += (
            f" Perplexity {perplexity:.1f}, as if that many codes were used evenly: {entropy:.2f} bits of "
            f"the {math.log2(len(histogram[0])):.2f} that a token is stored in."
        )
    if len(histogram) > 1:
        text += f" Mean over {len(histogram)} codebooks."
    return _Codebook(text, share_chart(histogram))


def _is_histogram(value: Any) -> TypeGuard[list[list[int]]]:
    """Whether it is a list of counts for each codebook, all as long."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(counts, list) and counts for counts in value)
        and len({len(counts) for counts in value}) == 1
        and all(is_number(count) and count >= 0 for counts in value for count in counts)
    )


def _protocol(evaluation: Mapping[str, Any], strips: Strips) -> list[tuple[str, str]]:
    protocol = _mapping(evaluation.get("protocol"))
    rows = _rows(protocol, without={"num_clips", "of_clips", "choice"})
    if "num_clips" in protocol:
        measured = f"{protocol['num_clips']} of {protocol.get('of_clips', '?')}, {protocol.get('choice', '')}"
        rows.insert(0, ("clips measured", measured.rstrip(", ")))
    rows += [(f"{name} left out", str(why)) for name, why in _mapping(evaluation.get("left_out")).items()]
    if is_number(evaluation.get("step")):
        rows.insert(0, ("measured at step", f"{evaluation['step']:,}"))
    if any(strip.note for strip in strips.strips):
        rows.append(("videos", "H.264, each pixel enlarged; no figure is taken from them"))
    return rows


def _status(run: RunFolder) -> tuple[str, str]:
    word = str(run.facts.get("status") or "")
    step, steps = run.last_step, run.facts.get("steps")
    at = ""
    if step is not None and is_number(steps):
        at = f"step {step:,} of {int(steps):,}"
    elif step is not None:
        at = f"step {step:,}"
    css = word if word in ("finished", "running") else "failed" if word.startswith("stopped") else "other"
    return ", ".join(filter(None, (word, at))), css


def _skipped(value: Any) -> list[tuple[str, str]] | None:
    """Pairs of a file and the reason; None while nobody has looked."""
    if not isinstance(value, list):
        return None
    return [(str(pair[0]), str(pair[1])) for pair in value if isinstance(pair, list) and len(pair) == 2]


def _health(value: Any) -> list[tuple[str, str, str]]:
    """Return (monitor, state, what it saw and what to do) of each line of run.json's health."""
    rows = []
    for line in value if isinstance(value, list) else ():
        found = _mapping(line)
        warned, advice = bool(found.get("warned")), str(found.get("advice") or "")
        well = "recovered" if warned else "well" if found.get("value") else "not seen"
        state = "warned" if advice else well
        words = [str(found.get("value") or ""), advice]
        rows.append((str(found.get("monitor")), state, "; ".join(word for word in words if word)))
    return rows


def _unmeasured(facts: Mapping[str, Any]) -> list[str]:
    error = facts.get("evaluation_error")
    return [f"The model could not be measured: {error}"] if error else []


def _rows(tree: Mapping[str, Any], *, without: Iterable[str] = (), prefix: str = "") -> list[tuple[str, str]]:
    """Flatten facts to lines of text; nested names are joined by a space, empty values left out."""
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if key in without or value is None or value in ("", [], {}):
            continue
        if isinstance(value, Mapping):
            rows += _rows(value, prefix=f"{name} ")
        elif isinstance(value, bool):
            rows.append((name, "yes" if value else "no"))
        elif isinstance(value, float):
            rows.append((name, number(value)))
        elif isinstance(value, int):
            rows.append((name, f"{value:,}" if value >= 10_000 and key != "seed" else str(value)))
        elif isinstance(value, list | tuple):
            rows.append((name, ", ".join(map(str, value))))
        else:
            rows.append((name, str(value)))
    return rows


def _duration(seconds: float) -> tuple[str, str]:
    if seconds < 120:
        return f"{seconds:.0f}", "s"
    if seconds < 7200:
        return f"{seconds / 60:.1f}", "min"
    return f"{seconds / 3600:.1f}", "h"


def _last(series: Mapping[str, Points], name: str) -> float | None:
    return series[name][-1][1] if series.get(name) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
