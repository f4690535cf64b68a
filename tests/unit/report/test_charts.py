"""The drawing helpers: scales, ticks, curves and figures in words."""

from __future__ import annotations

import itertools
import math
import re

import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st

from secateur.report.charts import (
    ChartCurve,
    difference_chart,
    format_ticks,
    gate_histogram,
    line_chart,
    thin_points,
)
from secateur.report.formatting import (
    format_count,
    format_duration,
    format_exact,
    format_milliseconds,
    format_number,
    format_percent,
    format_si,
)
from secateur.report.svg import AxisScale, element, inner_ticks, linear_ticks, log_ticks, text

finite = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False)


def plain(words: str) -> str:
    return words.replace("\u202f", " ").replace("\u2212", "-")


@given(low=finite, span=st.floats(min_value=1e-3, max_value=1e6))
def test_ticks_reach_around_the_range_in_few_equal_steps(low: float, span: float) -> None:
    marks = linear_ticks(low, low + span)
    steps = [b - a for a, b in itertools.pairwise(marks)]
    assert 2 <= len(marks) <= 7
    assert marks[0] <= low + 1e-6 * span
    assert marks[-1] >= low + span - 1e-6 * span
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-4)


def test_ticks_of_known_ranges() -> None:
    assert linear_ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1]
    assert linear_ticks(0, 30) == [0, 10, 20, 30]
    assert linear_ticks(5, 5) == [4.5, 4.75, 5, 5.25, 5.5]
    assert inner_ticks(1, 20000) == [5000, 10000, 15000, 20000]
    assert inner_ticks(0, 12) == [0, 5, 10]
    assert inner_ticks(1, 3) == [1, 2, 3]
    assert log_ticks(1e-7, 1e-4) == pytest.approx([1e-7, 1e-6, 1e-5, 1e-4])
    assert log_ticks(1.5, 60) == pytest.approx([2, 5, 10, 20, 50])


def test_ticks_of_one_axis_are_written_alike() -> None:
    assert format_ticks([0, 0.25, 0.5]) == ["0.00", "0.25", "0.50"]
    assert format_ticks([0, 1000, 2000]) == ["0", "1,000", "2,000"]
    assert [plain(word) for word in format_ticks([0, 5e-5, 1e-4])] == ["0", "5e-5", "1e-4"]
    assert [plain(word) for word in format_ticks([-10, 0, 10])] == ["-10", "0", "10"]


@given(value=st.floats(min_value=0.01, max_value=100), log=st.booleans())
def test_a_scale_is_linear_in_the_value_or_in_its_logarithm(value: float, log: bool) -> None:
    scale = AxisScale(low=0.01, high=100, start=200, end=0, is_log=log)
    part = math.log10(value / 0.01) / 4 if log else (value - 0.01) / 99.99
    assert scale(value) == pytest.approx(200 * (1 - part), abs=1e-9)


def test_a_scale_holds_what_is_outside_at_its_ends() -> None:
    scale = AxisScale(low=0, high=1, start=10, end=20)
    assert (scale(-5), scale(7)) == (10, 20)


def test_a_curve_goes_through_its_points() -> None:
    chart = line_chart(
        [ChartCurve(name="a", points=((0, 0.0), (50, 0.5), (100, 1.0)))], name="x", title="t", is_percent=True
    )
    path = BeautifulSoup(chart.svg, "html.parser").select_one("path.curve")["d"]  # type: ignore[index]
    places = [tuple(map(float, pair.split())) for pair in re.split("[ML]", str(path))[1:]]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.11)
    assert y2 < y0  # up is more


@given(st.lists(st.floats(min_value=-10, max_value=10), min_size=1, max_size=3000))
def test_thinning_keeps_ends_and_extremes(values: list[float]) -> None:
    points = [(float(step), value) for step, value in enumerate(values)]
    kept_units = thin_points(points, 100)
    assert len(kept_units) <= 110
    assert set(kept_units) <= set(points)
    assert list(kept_units) == sorted(kept_units, key=lambda point: point[0])
    assert (kept_units[0], kept_units[-1]) == (points[0], points[-1])
    assert (min(p[1] for p in kept_units), max(p[1] for p in kept_units)) == (min(values), max(values))


def test_a_histogram_marks_the_undecided_and_lets_one_gate_show_beside_thousands() -> None:
    counts = [10000, *[0] * 9, 1, *[0] * 8, 400]
    bars = BeautifulSoup(gate_histogram(counts, name="h", title="t").svg, "html.parser").select("rect")
    assert [bar["class"] for bar in bars] == [["kept"], *[["undecided"]] * 18, ["kept"]]
    heights = [float(bar["height"]) for bar in bars]
    assert heights[0] == pytest.approx(5 * heights[-1], rel=0.01)  # the square root of 25
    assert heights[10] >= 2
    assert heights[1] == 0


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [1e-9], [math.inf, 1e-7], [math.nan, 0.0, 3.0]])
def test_differences_of_any_size_are_drawn(values: list[float]) -> None:
    chart = difference_chart(values, name="d", title="t")
    assert len(BeautifulSoup(chart.svg, "html.parser").select("circle")) == len(values)
    assert "nan" not in re.sub(r"<desc.*?</desc>", "", str(chart.svg))


def test_text_and_attributes_are_escaped() -> None:
    assert str(text(1, 2.5, "<b>&")) == '<text x="1" y="2.5">&lt;b&gt;&amp;</text>'
    assert str(element("g", data_x='"><script>')) == '<g data-x="&#34;&gt;&lt;script&gt;"></g>'


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (format_si(94_381_936), "94.4 M"),
        (format_si(6_911_374_336, "MAC"), "6.91 GMAC"),
        (format_si(999_960), "1.00 M"),
        (format_si(900), "900"),
        (format_exact(94_381_936), "94,381,936"),
        (format_exact(None), "–"),
        (format_percent(0.2801), "28.0 %"),
        (format_percent(0.0001), "< 0.1 %"),
        (format_percent(0.0), "0.0 %"),
        (format_number(0.96949), "0.969"),
        (format_number(1234.6), "1,235"),
        (format_number(3.14e-7, 2), "3.1e-7"),
        (format_number(math.nan), "not a number"),
        (format_number(-0.5, 1), "-0.5"),
        (format_milliseconds(861.4), "861 ms"),
        (format_milliseconds(1240), "1.24 s"),
        (format_duration(42), "42 s"),
        (format_duration(312), "5 min 12 s"),
        (format_duration(40213), "11 h 10 min"),
        (format_count(1, "file"), "1 file"),
        (format_count(2000, "file"), "2,000 files"),
    ],
)
def test_figures_are_written_for_people(words: str, expected: str) -> None:
    assert plain(words) == expected
