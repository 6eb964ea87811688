"""Charts keep inside their frame and show what they are given."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.report.charts import line_chart, number, share_chart

ANY = st.floats(allow_nan=True, allow_infinity=True, width=32)


def inside(svg: str) -> ElementTree.Element:
    root = ElementTree.fromstring(svg)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for element in root:
        pairs = re.findall(r"(-?[\d.]+),(-?[\d.]+)", element.attrib.get("points", ""))
        for x, y in pairs:
            assert 0 <= float(x) <= width
            assert 0 <= float(y) <= height
        for name in ("x", "x1", "x2", "cx"):
            assert 0 <= float(element.attrib.get(name, 0)) <= width
        for name in ("y", "y1", "y2", "cy"):
            assert 0 <= float(element.attrib.get(name, 0)) <= height
    return root


@settings(max_examples=60, deadline=None)
@given(values=st.lists(ANY, max_size=150), dots=st.booleans(), log=st.booleans())
def test_any_numbers_give_a_chart_inside_its_frame(values: list[float], dots: bool, log: bool) -> None:
    svg = line_chart(list(enumerate(values, 1)), x_label="step", y_label="<loss> & co", dots=dots, log=log)
    finite = [value for value in values if abs(value) <= 1e100]
    if not finite:
        assert svg == ""
        return
    root = inside(svg)
    assert ("not finite" in svg) == (len(finite) < len(values))
    assert any(element.text and element.text.startswith("<loss> & co") for element in root)


def test_many_points_stay_few_and_keep_their_extremes() -> None:
    points = [(float(step), 1.0) for step in range(100_000)]
    points[54_321] = (54_321.0, 1.2)
    svg = line_chart(points, x_label="step", y_label="loss")
    raw = next(element for element in inside(svg) if element.attrib.get("class") == "raw")
    drawn = [float(pair.split(",")[1]) for pair in raw.attrib["points"].split()]
    assert len(drawn) <= 450
    assert min(drawn) < max(drawn)


def test_a_loss_over_decades_gets_a_log_scale() -> None:
    points = [(float(step), 10 * math.exp(-step / 10)) for step in range(1, 101)]
    assert "loss, log scale" in line_chart(points, x_label="step", y_label="loss", log=True)
    assert "log scale" not in line_chart(points, x_label="step", y_label="loss")
    assert "log scale" not in line_chart([*points, (101, 0.0)], x_label="step", y_label="loss", log=True)
    assert "log scale" not in line_chart(points[:20], x_label="step", y_label="loss", log=True)


@settings(max_examples=40, deadline=None)
@given(
    counts=st.integers(1, 700).flatmap(
        lambda size: st.lists(
            st.lists(st.integers(0, 10**9), min_size=size, max_size=size), min_size=1, max_size=3
        )
    )
)
def test_shares_of_any_codebook(counts: list[list[int]]) -> None:
    svg = share_chart(counts)
    if not any(map(sum, counts)):
        assert svg == ""
        return
    bars = [element for element in inside(svg) if element.attrib.get("class") == "bar"]
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert 1 <= len(bars) <= 220
    assert heights == sorted(heights, reverse=True)


def test_numbers_are_short() -> None:
    values = [0, 0.5, 1500, 12345, 2_500_000, 3e-4, -0.25, 1e12]
    assert [*map(number, values)] == ["0", "0.5", "1500", "12.35k", "2.5M", "3e-4", "-0.25", "1e12"]
