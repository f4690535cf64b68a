"""Charts: line charts, histograms of gates, and differences on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from secateur.report.formatting import MINUS, format_count, format_number
from secateur.report.svg import (
    AxisScale,
    element,
    inner_ticks,
    line,
    linear_ticks,
    log_ticks,
    rectangle,
    svg_image,
    text,
)

#: Width of a chart in units of its SVG view box; a unit is about a CSS pixel.
WIDTH = 440.0
#: Maximum number of points of a curve; a longer curve keeps the minimum and maximum of each stretch.
MAX_POINTS = 400


@dataclass(frozen=True, kw_only=True)
class ChartCurve:
    """Curve of a chart.

    Attributes:
        name: Name in the legend.
        points: Values (x, y), sorted by x.
        color: Index of the color in the style sheet.
        style: ``solid``, ``dashed`` for a target, or ``dots`` for few points that are marked.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    color: int = 0
    style: str = "solid"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """SVG image of a chart, with the heading, legend and note that the page shows as text."""

    title: str
    svg: Markup
    legend: tuple[ChartCurve, ...] = ()
    note: str = ""


def thin_points(points: Sequence[tuple[float, float]], max_points: int = MAX_POINTS) -> tuple[tuple[float, float], ...]:
    """Return about `max_points` of the points, including the minimum and maximum of each stretch."""
    if len(points) <= max_points:
        return tuple(points)
    # Each stretch keeps 2 points: 10,000 points and 400 at most give 200 stretches of 50.
    stretch = math.ceil(2 * len(points) / max_points)
    thinned: list[tuple[float, float]] = [points[0]]
    for start in range(0, len(points), stretch):
        segment = points[start : start + stretch]
        extremes = {min(segment, key=lambda p: p[1]), max(segment, key=lambda p: p[1])}
        thinned.extend(sorted(extremes))
    thinned.append(points[-1])
    # The first and last point may also be the extremes of their stretches: without duplicates.
    return tuple(dict.fromkeys(thinned))


def line_chart(
    curves: Sequence[ChartCurve],
    *,
    name: str,
    title: str,
    x_label: str = "step",
    is_percent: bool = False,
    note: str = "",
) -> Chart:
    """Draw a line chart.

    The y-axis is logarithmic if all values are above 0 and the maximum is more than 30 times the minimum.

    Args:
        curves: Curves, at least one of them with points.
        name: Prefix of the element ids, unique on the page.
        title: Title of the chart.
        x_label: Label of the x-axis.
        is_percent: Whether the values are shares, which are shown in percent on a linear axis.
        note: Sentence under the heading.
    """
    # Unit of the view box: about a CSS pixel.
    height = 220.0
    values = [y for curve in curves for _, y in curve.points]
    steps = [x for curve in curves for x, _ in curve.points]
    low, high = min(values), max(values)
    is_log = not is_percent and low > 0 and high / low > 30
    if is_log:
        # A margin of 15 % on both sides, so that no point lies on the frame.
        low, high = low / 1.15, high * 1.15
        ticks = log_ticks(low, high)
    else:
        # Values far above zero, such as a cosine of 0.95 to 0.99, use the full height instead.
        starts_at_zero = is_percent or (low >= 0 and low < 0.5 * high)
        ticks = linear_ticks(0.0 if starts_at_zero else low, high)
        low, high = ticks[0], ticks[-1]
    # Margins: 54 units at the left for tick labels, 36 at the bottom for ticks and the label of x. SVG's y points down.
    x_scale = AxisScale(low=min(steps), high=max(steps), start=54, end=WIDTH - 12)
    y_scale = AxisScale(low=low, high=high, start=height - 36, end=10, is_log=is_log)
    tick_labels = [_format_percent_tick(tick) for tick in ticks] if is_percent else format_ticks(ticks)
    end_values = "; ".join(
        f"{c.name} ends at {_format_percent_tick(c.points[-1][1]) if is_percent else format_number(c.points[-1][1])}"
        for c in curves
    )
    svg = svg_image(
        *axis_frame(x_scale, y_scale, list(zip(ticks, tick_labels, strict=True)), x_label, height),
        *(_draw_curve(curve, x_scale, y_scale) for curve in curves),
        width=WIDTH,
        height=height,
        name=name,
        title=title,
        description=f"{end_values}{', logarithmic scale' if is_log else ''}.",
    )
    scale = "Logarithmic scale." if is_log else ""
    return Chart(title=title, svg=svg, legend=tuple(curves), note=" ".join(filter(None, (note, scale))))


def format_ticks(ticks: Sequence[float]) -> list[str]:
    """Format the ticks of an axis with the same number of decimals, the fewest that represent every tick."""
    largest = max(abs(tick) for tick in ticks)
    if 0 < largest < 1e-3 or largest >= 1e6:
        return [_format_tick(tick) for tick in ticks]
    # 0.5, 1 and 1.5 need 1 decimal: "0.5", "1.0", "1.5".
    digits = next(n for n in range(16) if all(abs(round(m, n) - m) < 1e-9 * largest + 1e-12 for m in ticks))
    return [f"{tick:,.{digits}f}".replace("-", MINUS) for tick in ticks]


def _format_tick(tick: float) -> str:
    if tick == 0:
        return "0"
    # "2.50e-06" -> "2.5e-6"
    mantissa, exponent = f"{tick:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}".replace("-", MINUS)


def _format_percent_tick(value: float) -> str:
    # A decimal only where the percentage is not an integer: 50 %, but 12.5 %.
    digits = 0 if abs(value * 100 - round(value * 100)) < 1e-6 else 1
    return f"{100 * value:.{digits}f}\u202f%".replace("-", MINUS)


def axis_frame(
    x_scale: AxisScale, y_scale: AxisScale, ticks: Sequence[tuple[float, str]], x_label: str, height: float
) -> list[Markup]:
    """Draw the grid lines, the tick labels and the label of the x-axis."""
    # `start` of the y-axis is at the bottom of the chart.
    bottom, parts = y_scale.start, []
    for value, tick_label in ticks:
        position = y_scale(value)
        parts.append(line(x_scale.start, position, x_scale.end, position, class_="grid"))
        parts.append(text(x_scale.start - 7, position + 4, tick_label, anchor="end"))
    parts.append(line(x_scale.start, bottom, x_scale.end, bottom, class_="axis"))
    for value in inner_ticks(x_scale.low, x_scale.high) or [x_scale.low]:
        position = x_scale(value)
        # A long number at the right end, such as 20,000, would reach beyond the image if centered.
        anchor = "end" if position > x_scale.end - 14 and value >= 1000 else "middle"
        parts.append(line(position, bottom, position, bottom + 4, class_="axis"))
        parts.append(text(position, bottom + 17, f"{value:,.0f}", anchor=anchor))
    parts.append(text((x_scale.start + x_scale.end) / 2, height - 3, x_label, anchor="middle", class_="quiet"))
    return parts


def _draw_curve(curve: ChartCurve, x_scale: AxisScale, y_scale: AxisScale) -> Markup:
    points = [(x_scale(x), y_scale(y)) for x, y in thin_points(curve.points)]
    class_ = f"curve s{curve.color % 6} {curve.style}"
    # SVG path of a polyline: "M54.0 184.0L60.5 170.2L67.0 158.9".
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    parts = [element("path", d=path, class_=class_)] if len(points) > 1 else []
    if curve.style == "dots" or len(points) == 1:
        for (x, y), (step, value) in zip(points, thin_points(curve.points), strict=True):
            tooltip = element("title", f"{curve.name}, {step:,.0f}: {format_number(value, 4)}")
            parts.append(element("circle", tooltip, cx=x, cy=y, r=2.6, class_=f"dot s{curve.color % 6}"))
    return element("g", *parts)


def gate_histogram(counts: Sequence[int], *, name: str, title: str) -> Chart:
    """Draw a histogram of open probabilities.

    The height of a bar is proportional to the square root of the count, so that small bins are visible beside the
    large bins at 0 and 1.

    Args:
        counts: Number of gates in each bin; the bins have equal width over [0, 1].
        name: Prefix of the element ids, unique on the page.
        title: Kind of unit that the gates belong to.
    """
    height, chart_width = 150.0, 300.0
    x_start, x_end = 2.0, chart_width - 2
    # (number of bins,) counts -> x positions from `x_start` to `x_end`
    bin_width = (x_end - x_start) / max(len(counts), 1)
    max_count = max([*counts, 1])
    y_scale = AxisScale(low=0, high=math.sqrt(max_count), start=height - 26, end=24)
    parts, undecided = [], 0
    for index, count in enumerate(counts):
        low, high = index / len(counts), (index + 1) / len(counts)
        # Same bounds as in the record: open probability between 0.05 and 0.95.
        is_undecided = low >= 0.05 - 1e-9 and high <= 0.95 + 1e-9
        undecided += count if is_undecided else 0
        # At least 2 units, so that a bin with a single gate stays visible.
        bar_height = max(y_scale.start - y_scale(math.sqrt(count)), 2.0) if count else 0.0
        tooltip = f"{low:.2f} to {high:.2f}: {format_count(count, 'gate')}"
        class_ = "undecided" if is_undecided else "kept"
        x_position = x_start + index * bin_width
        parts.append(
            rectangle(
                x_position + 1,
                y_scale.start - bar_height,
                bin_width - 2,
                bar_height,
                class_=class_,
                tooltip=tooltip,
                radius=1,
            )
        )
        # Only the closed and the open bin have their count as text; tooltips give the rest.
        is_end_bin = index in (0, len(counts) - 1)
        if is_end_bin and count:
            anchor = "start" if index == 0 else "end"
            edge = x_start + 1 if index == 0 else x_end - 1
            parts.append(text(edge, y_scale.start - bar_height - 6, f"{count:,}", anchor=anchor, class_="strong"))
    parts.append(line(x_start, y_scale.start, x_end, y_scale.start, class_="axis"))
    for x_position, label, anchor in ((x_start, "0 closed", "start"), (x_end, "open 1", "end")):
        parts.append(text(x_position, height - 8, label, anchor=anchor))
    x_middle = (x_start + x_end) / 2
    parts.append(text(x_middle, height - 8, "open probability", anchor="middle", class_="quiet"))
    total_text = format_count(sum(counts), "gate")
    description = f"{total_text}, of them {counts[0]:,} closed, {counts[-1]:,} open and {undecided:,} undecided."
    svg = svg_image(*parts, width=chart_width, height=height, name=name, title=title, description=description)
    return Chart(title=title, svg=svg)


def difference_chart(values: Sequence[float], *, name: str, title: str) -> Chart:
    """Draw the largest difference of each hidden state on a logarithmic scale; NaN and infinity are at the top."""
    # An exact 0 has no logarithm; it is drawn at the lower end of the axis.
    finite = [value for value in values if math.isfinite(value) and value > 0]
    low, high = (min(finite), max(finite)) if finite else (1e-8, 1e-6)
    # Whole decades: 3e-7 to 2e-6 becomes 1e-7 to 1e-5.
    low, high = 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high) + 1e-9)
    height = 170.0
    y_scale = AxisScale(low=low, high=max(high, low * 10), start=height - 36, end=14, is_log=True)
    x_scale = AxisScale(low=0, high=max(len(values) - 1, 1), start=70, end=WIDTH - 20)
    ticks = [(tick, _format_tick(tick)) for tick in log_ticks(y_scale.low, y_scale.high)]
    parts = axis_frame(x_scale, y_scale, ticks, "hidden state (the last is the output)", height)
    for index, value in enumerate(values):
        x, y = x_scale(index), y_scale(value) if math.isfinite(value) else y_scale.end
        parts.append(line(x, y_scale.start, x, y, class_="stem"))
        tooltip = element("title", f"{index}: {format_number(value, 2)}")
        # A NaN or infinite difference has the color of a failure.
        color = "s0" if math.isfinite(value) else "s3"
        parts.append(element("circle", tooltip, cx=x, cy=y, r=3.6, class_=f"dot {color}"))
    # `max` with NaN depends on the order, so NaN is searched first.
    largest = next((value for value in values if math.isnan(value)), max(values))
    description = f"The largest of {len(values)} is {format_number(largest, 2)}."
    svg = svg_image(*parts, width=WIDTH, height=height, name=name, title=title, description=description)
    return Chart(title=title, svg=svg, note="Relative to the activations' root mean square. Logarithmic scale.")


def cosine_chart(
    stages: Sequence[tuple[str, Sequence[float]]], *, name: str, title: str, note: str = ""
) -> Chart | None:
    """Draw the cosine to the teacher by hidden state, a curve per stage; `None` if no value is finite."""
    curves = [
        ChartCurve(name=stage, points=_finite_points(values), color=index, style="dots")
        for index, (stage, values) in enumerate(stages)
        if _finite_points(values)
    ]
    return line_chart(curves, name=name, title=title, x_label="hidden state", note=note) if curves else None


def _finite_points(values: Sequence[float]) -> tuple[tuple[float, float], ...]:
    return tuple((float(index), value) for index, value in enumerate(values) if math.isfinite(value))
