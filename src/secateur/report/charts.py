"""Charts: curves over steps, histograms, and differences on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from secateur.report.svg import (
    Scale,
    element,
    inner_ticks,
    line,
    linear_ticks,
    log_ticks,
    picture,
    rectangle,
    text,
)
from secateur.report.words import MINUS, figure, plural

WIDTH = 440.0
#: Points drawn per curve; more are thinned to the lowest and highest of each stretch.
DENSITY = 400


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart.

    Attributes:
        name: What it is called in the legend.
        points: Places (x, y), in the order of x.
        colour: Index of its colour.
        style: ``solid``, ``dashed`` (a target) or ``dots`` (few points, each marked).
    """

    name: str
    points: tuple[tuple[float, float], ...]
    colour: int = 0
    style: str = "solid"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture with its heading and legend, which are text of the page."""

    title: str
    svg: Markup
    legend: tuple[Curve, ...] = ()
    note: str = ""


def thin(points: Sequence[tuple[float, float]], most: int = DENSITY) -> tuple[tuple[float, float], ...]:
    """At most about `most` of the points, with every stretch's lowest and highest among them."""
    if len(points) <= most:
        return tuple(points)
    stretch = math.ceil(2 * len(points) / most)
    kept: list[tuple[float, float]] = [points[0]]
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        kept.extend(sorted(ends))
    kept.append(points[-1])
    return tuple(dict.fromkeys(kept))


def curves(
    found: Sequence[Curve],
    *,
    name: str,
    title: str,
    x_label: str = "step",
    percent: bool = False,
    note: str = "",
) -> Chart:
    """A line chart; logarithmic where all values are above 0 and the largest is over thirty times the smallest.

    Args:
        found: The curves, at least one of them with points.
        name: A word that is unique on the page.
        title: What is drawn.
        x_label: What lies along x.
        percent: Whether values are shares.
        note: A sentence under the heading.
    """
    height = 220.0
    values = [y for curve in found for _, y in curve.points]
    steps = [x for curve in found for x, _ in curve.points]
    low, high = min(values), max(values)
    log = not percent and low > 0 and high / low > 30
    if log:
        low, high = low / 1.15, high * 1.15
        marks = log_ticks(low, high)
    else:
        from_zero = percent or (low >= 0 and low < 0.5 * high)
        marks = linear_ticks(0.0 if from_zero else low, high)
        low, high = marks[0], marks[-1]
    across = Scale(low=min(steps), high=max(steps), start=54, end=WIDTH - 12)
    up = Scale(low=low, high=high, start=height - 36, end=10, log=log)
    words = [_percent(mark) for mark in marks] if percent else tick_words(marks)
    ends = "; ".join(
        f"{c.name} ends at {_percent(c.points[-1][1]) if percent else figure(c.points[-1][1])}" for c in found
    )
    svg = picture(
        *frame(across, up, list(zip(marks, words, strict=True)), x_label, height),
        *(_curve(curve, across, up) for curve in found),
        width=WIDTH,
        height=height,
        name=name,
        title=title,
        description=f"{ends}{', logarithmic scale' if log else ''}.",
    )
    scale = "Logarithmic scale." if log else ""
    return Chart(title=title, svg=svg, legend=tuple(found), note=" ".join(filter(None, (note, scale))))


def tick_words(marks: Sequence[float]) -> list[str]:
    """Ticks of one axis, all written in the same way and no longer than they need to be."""
    largest = max(abs(mark) for mark in marks)
    if 0 < largest < 1e-3 or largest >= 1e6:
        return [_shortest(mark) for mark in marks]
    digits = next(n for n in range(16) if all(abs(round(m, n) - m) < 1e-9 * largest + 1e-12 for m in marks))
    return [f"{mark:,.{digits}f}".replace("-", MINUS) for mark in marks]


def _shortest(mark: float) -> str:
    if mark == 0:
        return "0"
    mantissa, exponent = f"{mark:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}".replace("-", MINUS)


def _percent(value: float) -> str:
    digits = 0 if abs(value * 100 - round(value * 100)) < 1e-6 else 1
    return f"{100 * value:.{digits}f}\u202f%".replace("-", MINUS)


def frame(x: Scale, y: Scale, marks: Sequence[tuple[float, str]], x_label: str, height: float) -> list[Markup]:
    """Grid lines, tick labels and the name of x."""
    bottom, parts = y.start, []
    for value, words in marks:
        place = y(value)
        parts.append(line(x.start, place, x.end, place, class_="grid"))
        parts.append(text(x.start - 7, place + 4, words, anchor="end"))
    parts.append(line(x.start, bottom, x.end, bottom, class_="axis"))
    for value in inner_ticks(x.low, x.high) or [x.low]:
        place = x(value)
        anchor = "end" if place > x.end - 14 and value >= 1000 else "middle"
        parts.append(line(place, bottom, place, bottom + 4, class_="axis"))
        parts.append(text(place, bottom + 17, f"{value:,.0f}", anchor=anchor))
    parts.append(text((x.start + x.end) / 2, height - 3, x_label, anchor="middle", class_="quiet"))
    return parts


def _curve(curve: Curve, across: Scale, up: Scale) -> Markup:
    points = [(across(x), up(y)) for x, y in thin(curve.points)]
    class_ = f"curve s{curve.colour % 6} {curve.style}"
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    parts = [element("path", d=path, class_=class_)] if len(points) > 1 else []
    if curve.style == "dots" or len(points) == 1:
        for (x, y), (step, value) in zip(points, thin(curve.points), strict=True):
            tip = element("title", f"{curve.name}, {step:,.0f}: {figure(value, 4)}")
            parts.append(element("circle", tip, cx=x, cy=y, r=2.6, class_=f"dot s{curve.colour % 6}"))
    return element("g", *parts)


def histogram(counts: Sequence[int], *, name: str, title: str) -> Chart:
    """How many gates have which open probability; heights grow with the square root, so that few show beside many.

    Args:
        counts: Gates per bin, bins of equal width over [0, 1].
        name: A word that is unique on the page.
        title: What is counted.
    """
    height, wide = 150.0, 300.0
    left, right = 2.0, wide - 2
    width = (right - left) / max(len(counts), 1)
    top = max([*counts, 1])
    up = Scale(low=0, high=math.sqrt(top), start=height - 26, end=24)
    parts, undecided = [], 0
    for index, count in enumerate(counts):
        low, high = index / len(counts), (index + 1) / len(counts)
        open_question = low >= 0.05 - 1e-9 and high <= 0.95 + 1e-9
        undecided += count if open_question else 0
        tall = max(up.start - up(math.sqrt(count)), 2.0) if count else 0.0
        tip = f"{low:.2f} to {high:.2f}: {plural(count, 'gate')}"
        class_ = "undecided" if open_question else "kept"
        place = left + index * width
        parts.append(rectangle(place + 1, up.start - tall, width - 2, tall, class_=class_, tip=tip, radius=1))
        ends = index in (0, len(counts) - 1)
        if ends and count:
            anchor = "start" if index == 0 else "end"
            edge = left + 1 if index == 0 else right - 1
            parts.append(text(edge, up.start - tall - 6, f"{count:,}", anchor=anchor, class_="strong"))
    parts.append(line(left, up.start, right, up.start, class_="axis"))
    for place, words, anchor in ((left, "0 closed", "start"), (right, "open 1", "end")):
        parts.append(text(place, height - 8, words, anchor=anchor))
    middle = (left + right) / 2
    parts.append(text(middle, height - 8, "open probability", anchor="middle", class_="quiet"))
    described = (
        f"{plural(sum(counts), 'gate')}, of them {counts[0]:,} closed, {counts[-1]:,} open and {undecided:,} between."
    )
    svg = picture(*parts, width=wide, height=height, name=name, title=title, description=described)
    return Chart(title=title, svg=svg)


def differences(values: Sequence[float], *, name: str, title: str) -> Chart:
    """The largest difference of each hidden state, as dots on a logarithmic scale."""
    finite = [value for value in values if math.isfinite(value) and value > 0]
    low, high = (min(finite), max(finite)) if finite else (1e-8, 1e-6)
    low, high = 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high) + 1e-9)
    height = 170.0
    up = Scale(low=low, high=max(high, low * 10), start=height - 36, end=14, log=True)
    across = Scale(low=0, high=max(len(values) - 1, 1), start=70, end=WIDTH - 20)
    marks = [(mark, _shortest(mark)) for mark in log_ticks(up.low, up.high)]
    parts = frame(across, up, marks, "hidden state (the last is the output)", height)
    for index, value in enumerate(values):
        x, y = across(index), up(value) if math.isfinite(value) else up.end
        parts.append(line(x, up.start, x, y, class_="stem"))
        tip = element("title", f"{index}: {figure(value, 2)}")
        colour = "s0" if math.isfinite(value) else "s3"
        parts.append(element("circle", tip, cx=x, cy=y, r=3.6, class_=f"dot {colour}"))
    worst = next((value for value in values if math.isnan(value)), max(values))
    described = f"The largest of {len(values)} is {figure(worst, 2)}."
    svg = picture(*parts, width=WIDTH, height=height, name=name, title=title, description=described)
    return Chart(title=title, svg=svg, note="Relative to the activations' root mean square. Logarithmic scale.")


def cosines(stages: Sequence[tuple[str, Sequence[float]]], *, name: str, title: str, note: str = "") -> Chart | None:
    """Cosine to the teacher per hidden state, one curve a stage; None where no value is finite."""
    found = [
        Curve(name=stage, points=_finite(values), colour=index, style="dots")
        for index, (stage, values) in enumerate(stages)
        if _finite(values)
    ]
    return curves(found, name=name, title=title, x_label="hidden state", note=note) if found else None


def _finite(values: Sequence[float]) -> tuple[tuple[float, float], ...]:
    return tuple((float(place), value) for place, value in enumerate(values) if math.isfinite(value))
