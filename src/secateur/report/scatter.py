"""Points with their spread: a score against a cost, the dense model as the reference."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from secateur.report.charts import frame, tick_words
from secateur.report.svg import Scale, element, line, linear_ticks, picture, text

WIDTH, HEIGHT = 340.0, 250.0
#: Width of a letter and height of a line of a label, in the picture's units.
_LETTER, _LINE = 6.4, 13.0
#: Labels longer than this are left to the tips and the description.
_LONGEST = 14
#: Where a label may stand, from the best: in halves of its own width, and in lines.
_SIDES = ((0.5, -1), (-0.5, -1), (0, -1), (0.5, 1), (-0.5, 1), (0, 1), (0.5, 0), (-0.5, 0), (0.5, 1.6), (0, 1.6))

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One point.

    Attributes:
        label: What stands beside it, where there is room.
        tip: All of it in words.
        x: Its place.
        y: Its height.
        x_spread: Half the width of its bar; 0 draws none.
        y_spread: Half the height of its bar; 0 draws none.
    """

    label: str
    tip: str
    x: float
    y: float
    x_spread: float = 0.0
    y_spread: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points that belong together, joined by a line."""

    name: str
    marks: tuple[Mark, ...]
    colour: int = 0
    style: str = "solid"


def scatter(
    found: Sequence[Series],
    *,
    dense: Sequence[Mark],
    name: str,
    title: str,
    x_label: str,
    unit: str = "",
) -> Markup:
    """Series of points over an axis from 0 to 100 or more.

    Args:
        found: The series, with at least one point between them.
        dense: The dense models; of a single one, a line shows the height.
        name: A word that is unique on the page.
        title: What is drawn.
        x_label: What lies along x.
        unit: Of the heights.
    """
    marks = [mark for series in found for mark in series.marks]
    everything = [*marks, *dense]
    low, high = min(m.y - m.y_spread for m in everything), max(m.y + m.y_spread for m in everything)
    ticks = linear_ticks(0.0 if 0 <= low < 0.5 * high else low, high)
    across = Scale(low=0, high=max(100.0, *(m.x + m.x_spread for m in everything)), start=54, end=WIDTH - 14)
    below = 0.14 * (ticks[-1] - ticks[0])  # room under the lowest points for their labels
    up = Scale(low=ticks[0] - below, high=ticks[-1], start=HEIGHT - 36, end=22)
    words = [word + unit for word in tick_words(ticks)]
    parts = frame(across, up, list(zip(ticks, words, strict=True)), x_label, HEIGHT)
    taken = [*_dots(everything, across, up)]
    if len(dense) == 1:
        level = up(dense[0].y)
        parts.append(line(across.start, level, across.end, level, class_="reference"))
        taken.append((across.start, level - 1, across.end, level + 1))
    for series in found:
        places = [(across(mark.x), up(mark.y)) for mark in sorted(series.marks, key=lambda mark: mark.x)]
        taken.extend(_along(places))
        parts.append(_path(series, places))
        parts.extend(_dot(mark, across, up, f"s{series.colour % 6}") for mark in series.marks)
    parts.extend(_dot(mark, across, up, "hollow") for mark in dense)
    for mark in sorted(everything, key=lambda mark: -mark.y):  # from above, so that the upper ones stand above
        parts.extend(_label(mark, across, up, taken))
    return picture(
        *parts,
        width=WIDTH,
        height=HEIGHT,
        name=name,
        title=title,
        description=". ".join(mark.tip for mark in (*dense, *marks)) + ".",
    )


def _path(series: Series, places: Sequence[tuple[float, float]]) -> Markup:
    d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    return element("path", d=d, class_=f"curve s{series.colour % 6} {series.style}") if len(places) > 1 else Markup("")


def _dot(mark: Mark, across: Scale, up: Scale, class_: str) -> Markup:
    """A point, its bars, and its words."""
    x, y = across(mark.x), up(mark.y)
    parts = [element("title", mark.tip)]
    if mark.y_spread:
        parts.append(line(x, up(mark.y - mark.y_spread), x, up(mark.y + mark.y_spread), class_=f"spread {class_}"))
    if mark.x_spread:
        parts.append(
            line(across(mark.x - mark.x_spread), y, across(mark.x + mark.x_spread), y, class_=f"spread {class_}")
        )
    parts.append(element("circle", cx=x, cy=y, r=4, class_=f"dot {class_}"))
    return element("g", *parts)


def _dots(marks: Sequence[Mark], across: Scale, up: Scale) -> Iterator[Box]:
    """The room that points and their bars take."""
    for mark in marks:
        x, y = across(mark.x), up(mark.y)
        yield x - 4, y - 4, x + 4, y + 4
        yield x - 1, up(mark.y + mark.y_spread), x + 1, up(mark.y - mark.y_spread)
        yield across(mark.x - mark.x_spread), y - 1, across(mark.x + mark.x_spread), y + 1


def _along(places: Sequence[tuple[float, float]]) -> Iterator[Box]:
    """The room that a line takes, in short pieces."""
    for (x1, y1), (x2, y2) in pairwise(places):
        pieces = max(1, math.ceil(math.hypot(x2 - x1, y2 - y1) / 4))
        for piece in range(1, pieces):
            x, y = x1 + (x2 - x1) * piece / pieces, y1 + (y2 - y1) * piece / pieces
            yield x - 1, y - 1, x + 1, y + 1


def _label(mark: Mark, across: Scale, up: Scale, taken: list[Box]) -> list[Markup]:
    """The words beside a point, at the first side with room for them; none where there is no such side."""
    if len(mark.label) > _LONGEST:
        return []
    x, y, wide = across(mark.x), up(mark.y), _LETTER * len(mark.label)
    for dx, dy in _SIDES:
        middle = x + 2 * dx * (wide / 2 + (8 if dy == 0 else 5))
        bottom = y + dy * (6 + _LINE / 2) + _LINE / 2
        box = (middle - wide / 2, bottom - _LINE, middle + wide / 2, bottom)
        inside = box[0] >= across.start and box[2] <= across.end + 12 and box[1] >= 0 and box[3] <= up.start
        if inside and not any(_meet(box, other) for other in taken):
            taken.append(box)
            return [text(middle, bottom - 3, mark.label, anchor="middle")]
    return []


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
