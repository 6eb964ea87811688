"""The picture of a rate-distortion measurement: one SVG file that stands for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from zoo.report.charts import HEIGHT, WIDTH, curves
from zoo.report.names import with_unit
from zoo.report.run_folder import is_number

_FIGURES = ("psnr_db", "ssim", "lpips")
_HEAD = 30.0
_LEFT, _LETTER, _GAP = 24.0, 6.6, 16.0  # of the names above the charts; a letter at its widest, on average
_STYLE = """
svg { --page: #ffffff; --soft: #5d6066; --grid: #ececea; --s0: #2458c5; --s1: #b5482a; --s2: #14723f; }
@media (prefers-color-scheme: dark) {
  svg { --page: #141517; --soft: #a0a3a8; --grid: #292b2f; --s0: #7fa6f5; --s1: #ee8f78; --s2: #6cc793; }
}
.page { fill: var(--page); }
text { font-family: sans-serif; font-size: 11.5px; fill: var(--soft); }
.grid { stroke: var(--grid); }
.base { stroke: var(--soft); opacity: 0.6; }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
.s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); } .s2 { stroke: var(--s2); }
circle.s0, text.s0 { fill: var(--s0); } circle.s1, text.s1 { fill: var(--s1); }
circle.s2, text.s2 { fill: var(--s2); }
text.s0, text.s1, text.s2 { stroke: none; }
"""


def rate_distortion_svg(result: Mapping[str, Any]) -> str:
    """Draw PSNR, SSIM and LPIPS over bits per pixel, those of them that were measured, one under the other.

    Args:
        result: As `zoo.metrics.rate_distortion` gives it.
    """
    names = list(result["curves"])
    panels: list[Markup] = []
    for figure in _FIGURES:
        series = {
            name: [(p["bits_per_pixel"], p[figure]) for p in points if is_number(p.get(figure))]
            for name, points in result["curves"].items()
        }
        panel = curves(series, x_label="bits per pixel", y_label=with_unit(figure))
        if panel:
            panels.append(panel)
    return picture(panels, names, spoken="rate-distortion curves of " + ", ".join(names))


def picture(panels: Sequence[Markup], names: Sequence[str], *, spoken: str) -> str:
    """Return charts of `zoo.report.charts.curves`, one under the other, as one SVG file.

    Args:
        panels: The charts, all of the same series.
        names: Of the series, at most three; written above the charts in their colours.
        spoken: What the picture is, for those who hear it.
    """
    keys, left = [], _LEFT
    for index, name in enumerate(names):
        place = Markup('<text class="s{}" x="{}" y="20">{}</text>')
        keys.append(place.format(index, f"{left:g}", name))
        left += len(name) * _LETTER + _GAP
    moved = [
        Markup('<g transform="translate(0 {})">{}</g>').format(f"{_HEAD + n * HEIGHT:g}", panel)
        for n, panel in enumerate(panels)
    ]
    height = _HEAD + len(panels) * HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {height:g}" role="img" '
        f'aria-label="{escape(spoken)}"><style>{_STYLE}</style>'
        '<rect class="page" width="100%" height="100%"/>'
        f"{Markup('').join([*keys, *moved])}</svg>\n"
    )
