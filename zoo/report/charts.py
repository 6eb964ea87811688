"""Charts as inline SVG: a line over steps, and the shares of codes. Colours come from the page's CSS.

Everything a caller gives as text is escaped here; the result is safe to put into a page.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from zoo.report.run_folder import Points

WIDTH, HEIGHT = 440.0, 230.0
"""Of a chart, in units of its own."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 14.0, 12.0, 42.0
_MAX_POINTS = 400
_LOG_FROM = 30.0
_LARGEST, _SMALLEST = 1e100, 1e-100
"""Larger numbers are drawn as not finite, smaller ones as 0: their products and ratios have to be finite."""


def line_chart(
    points: Points, *, x_label: str, y_label: str, dots: bool = False, log: bool = False
) -> Markup:
    """Draw one quantity over steps.

    Noisy curves of many points get a smoothed line over a pale raw one. Values that are not finite, or as
    good as that, are left out and counted under the chart.

    Args:
        points: (step, value), steps rising.
        x_label: What runs to the right.
        y_label: What is measured, with its unit.
        dots: Mark every point; for the few points of evaluations.
        log: Logarithmic height where all values are positive and most of them span a factor of 30.
    """
    finite = [(_drawn(x), _drawn(y)) for x, y in points if abs(x) <= _LARGEST and abs(y) <= _LARGEST]
    missing = len(points) - len(finite)
    if not finite:
        return Markup("")
    log = log and _spans_decades([y for _, y in finite])
    smooth = _smoothed(finite, log=log) if len(finite) >= 40 and not dots else None
    raw = _thinned(finite)
    frame = _Frame(x=(finite[0][0], finite[-1][0]), y=_range([y for _, y in finite], log=log), log=log)
    parts = [frame.axes(x_label, y_label + (", log scale" if log else ""))]
    if smooth is not None:
        parts.append(Markup('<polyline class="raw" points="{}"/>').format(frame.path(raw)))
        parts.append(Markup('<polyline class="line" points="{}"/>').format(frame.path(_thinned(smooth))))
    else:
        parts.append(Markup('<polyline class="line" points="{}"/>').format(frame.path(raw)))
    marked = raw if dots or len(raw) < 3 else []
    for x, y in marked:
        parts.append(
            Markup('<circle class="dot" cx="{}" cy="{}" r="3"><title>{} {}: {}</title></circle>').format(
                *frame.place(x, y), x_label, number(x), number(y)
            )
        )
    if missing:
        parts.append(
            Markup('<text class="warn" x="{}" y="{}">{} value(s) not finite</text>').format(
                _LEFT + 6, _TOP + 14, missing
            )
        )
    (x0, y0), (x1, y1) = finite[0], finite[-1]
    spoken = f"{y_label}: {number(y0)} at {x_label} {number(x0)}, {number(y1)} at {x_label} {number(x1)}"
    return _svg(parts, spoken)


def curves(series: Mapping[str, Points], *, x_label: str, y_label: str) -> Markup:
    """Draw one quantity over another, several curves in one plot area, as the inside of an SVG.

    Args:
        series: (x, y) of each curve, x rising and above 0, on a logarithmic axis; a single point is a mark.
        x_label: What runs to the right.
        y_label: What is measured, with its unit.
    """
    every = [point for points in series.values() for point in points]
    if not every:
        return Markup("")
    xs, ys = [x for x, _ in every], [y for _, y in every]
    frame = _Frame(x=(min(xs) / 1.15, max(xs) * 1.15), y=_range(ys, log=False), log_x=True)
    parts = [frame.axes(x_label + ", log scale", y_label)]
    for index, (name, points) in enumerate(series.items()):
        parts.append(Markup('<polyline class="line s{}" points="{}"/>').format(index, frame.path(points)))
        for x, y in points:
            across, down = frame.place(x, y)
            parts.append(
                Markup(
                    '<circle class="dot s{}" cx="{}" cy="{}" r="{}"><title>{}: {} at {}</title></circle>'
                ).format(
                    index,
                    _short(across),
                    _short(down),
                    3 if len(points) > 1 else 5,
                    name,
                    number(y),
                    number(x),
                )
            )
    return Markup("").join(parts)


def share_chart(histogram: Sequence[Sequence[int]]) -> Markup:
    """Draw which share of tokens each code takes, most used first, with the even share as a dashed line.

    Args:
        histogram: Counts of every code, one list per codebook; several are averaged rank by rank.
    """
    shares = _ranked_shares(histogram)
    if not shares:
        return Markup("")
    size, used = len(shares), sum(share > 0 for share in shares)
    even = 1 / size
    # Where most codes are never used, they would squeeze those that are into a corner.
    shown = size if used > size / 3 else min(size, max(used + used // 10, 16))
    frame = _Frame(x=(0, shown), y=(0.0, max(shares[0], 1.3 * even) * 1.05))
    # A few hundred columns at most, each as high as the mean of the codes in it.
    columns = min(shown, 220)
    edges = sorted({round(i * shown / columns) for i in range(columns + 1)})
    parts = [frame.axes(_code_axis(used, shown, size), "share of tokens", percent=True)]
    _, floor = frame.place(0, 0)
    for left, right in itertools.pairwise(edges):
        share = sum(shares[left:right]) / (right - left)
        if share <= 0:
            continue
        x0, y0 = frame.place(left, share)
        x1, _ = frame.place(right, share)
        gap = min(1.0, (x1 - x0) * 0.15)
        parts.append(
            Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"/>').format(
                _short(x0), _short(y0), _short(max(x1 - x0 - gap, 0.6)), _short(max(floor - y0, 0.5))
            )
        )
    x0, y = frame.place(0, even)
    x1, _ = frame.place(shown, even)
    parts.append(
        Markup('<line class="even" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>').format(*map(_short, (x0, x1, y)))
    )
    parts.append(
        Markup('<text class="note" x="{}" y="{}" text-anchor="end">even share, {}</text>').format(
            _short(x1), _short(y - 5), _percent(even)
        )
    )
    return _svg(
        parts, f"share of tokens by code: {used} of {size} ranks used, the largest {_percent(shares[0])}"
    )


def _drawn(value: float) -> float:
    return value if abs(value) >= _SMALLEST else 0.0


def _code_axis(used: int, shown: int, size: int) -> str:
    never = f"; {size - used:,} of {size:,} are never used" if shown < size else ""
    return "code, most used first" + never


def number(value: float) -> str:
    """Write a number shortly: 0.00012 -> 1.2e-4, 1500 -> 1500, 120000 -> 120k."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 1e9 or (0 < size < 1e-3):
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    for limit, letter in ((1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e6 if letter == 'M' else 1e3):.4g}{letter}"
    return f"{value:.4g}"


class _Frame:
    """The plot area and its two scales, each of which may be logarithmic."""

    def __init__(
        self, *, x: tuple[float, float], y: tuple[float, float], log: bool = False, log_x: bool = False
    ) -> None:
        self.x, self.y, self.log, self.log_x = _widened(x), _widened(y), log, log_x

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = _LEFT + _share(x, self.x, log=self.log_x) * (WIDTH - _LEFT - _RIGHT)
        down = HEIGHT - _BOTTOM - _share(y, self.y, log=self.log) * (HEIGHT - _TOP - _BOTTOM)
        return across, down

    def path(self, points: Points) -> str:
        return " ".join(",".join(map(_short, self.place(x, y))) for x, y in points)

    def axes(self, x_label: str, y_label: str, *, percent: bool = False) -> Markup:
        parts = []
        for value in _ticks(self.y, log=self.log):
            _, y = self.place(self.x[0], value)
            parts.append(
                Markup(
                    '<line class="grid" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>'
                    '<text class="tick" x="{3}" y="{4}" text-anchor="end">{5}</text>'
                ).format(
                    _LEFT,
                    WIDTH - _RIGHT,
                    _short(y),
                    _LEFT - 7,
                    _short(y + 4),
                    _percent(value) if percent else number(value),
                )
            )
        for value in _ticks(self.x, log=self.log_x):
            if value % 1 and not self.log_x:  # steps and codes are counted
                continue
            x, _ = self.place(value, self.y[0])
            parts.append(
                Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                    _short(x), HEIGHT - _BOTTOM + 17, number(value)
                )
            )
        floor = HEIGHT - _BOTTOM
        middle = _TOP + (floor - _TOP) / 2
        parts.append(
            Markup(
                '<line class="base" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>'
                '<text class="label" x="{3}" y="{4}" text-anchor="middle">{5}</text>'
                '<text class="label" transform="translate(13 {6}) rotate(-90)" text-anchor="middle">'
                "{7}</text>"
            ).format(
                _LEFT,
                WIDTH - _RIGHT,
                floor,
                _LEFT + (WIDTH - _LEFT - _RIGHT) / 2,
                HEIGHT - 6,
                x_label,
                middle,
                y_label,
            )
        )
        return Markup("").join(parts)


def _svg(parts: Sequence[Markup], spoken: str) -> Markup:
    head = f'<svg class="chart" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(spoken)}">'
    return Markup(head) + Markup("").join(parts) + Markup("</svg>")


def _ranked_shares(histogram: Sequence[Sequence[int]]) -> list[float]:
    ranked = [
        [count / sum(counts) for count in sorted(counts, reverse=True)]
        for counts in histogram
        if sum(counts) > 0
    ]
    return [sum(column) / len(ranked) for column in zip(*ranked, strict=True)]


def _spans_decades(values: list[float]) -> bool:
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 100], ordered[-1 - len(ordered) // 100]
    return ordered[0] > 0 and high / low >= _LOG_FROM


def _range(values: list[float], *, log: bool) -> tuple[float, float]:
    """The values' range; a curve of many points keeps its shape when single outliers leave the frame."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    if len(values) >= 100:
        cut_low, cut_high = ordered[len(values) // 100], ordered[-1 - len(values) // 100]
        margin = 0.5 * (cut_high - cut_low)
        low, high = max(low, cut_low - margin), min(high, cut_high + margin)
    if log:
        return low / 1.1, high * 1.1
    margin = 0.05 * (high - low)
    return (0.0 if low >= 0 and low < 0.4 * high else low - margin), high + margin


def _widened(limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    if high > low:
        return limits
    pad = abs(low) * 0.1 or 1.0
    return low - pad, high + pad


def _share(value: float, limits: tuple[float, float], *, log: bool = False) -> float:
    low, high = limits
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _ticks(limits: tuple[float, float], *, log: bool = False, wanted: int = 5) -> list[float]:
    low, high = limits
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for steps in ((1,), (1, 3), (1, 2, 5)):
            ticks = [step * 10.0**power for power in decades for step in steps]
            ticks = [tick for tick in ticks if low <= tick <= high]
            if len(ticks) >= 3:
                return ticks[:: math.ceil(len(ticks) / 6)]
        return ticks
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _smoothed(points: Points, *, log: bool) -> Points:
    """A moving average (of logarithms on a log scale) that looks both ways, so that it does not lag."""
    values = [math.log(y) if log else y for _, y in points]
    keep = 1 - 1 / max(2.0, len(points) / 60)
    ahead, behind = _average(values, keep), _average(values[::-1], keep)[::-1]
    means = [(a[0] + b[0]) / (a[1] + b[1]) for a, b in zip(ahead, behind, strict=True)]
    return [(x, math.exp(mean) if log else mean) for (x, _), mean in zip(points, means, strict=True)]


def _average(values: list[float], keep: float) -> list[tuple[float, float]]:
    """Exponentially weighted sums of what came before, each with the sum of its weights."""
    total = weight = 0.0
    sums = []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        sums.append((total, weight))
    return sums


def _thinned(points: Points) -> Points:
    """At most a few hundred points that keep every stretch's lowest and highest value."""
    if len(points) <= _MAX_POINTS:
        return points
    size = math.ceil(len(points) / (_MAX_POINTS // 2))
    kept = [points[0]]
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        pair = min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])
        kept.extend(sorted(set(pair)))
    return [*kept, points[-1]]


def _percent(value: float) -> str:
    return f"{100 * value:.3g}%"


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
