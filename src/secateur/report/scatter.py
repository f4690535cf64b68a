"""Scatter chart of a score against a cost, with error bars and the dense model as the reference."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from secateur.report.charts import axis_frame, format_ticks
from secateur.report.svg import AxisScale, element, line, linear_ticks, svg_image, text

#: Size of the chart in units of the view box.
WIDTH, HEIGHT = 340.0, 250.0
#: Approximate width of a letter and height of a line of a label, in units of the view box.
_LETTER_WIDTH, _LINE_HEIGHT = 6.4, 13.0
#: Maximum length of a label; a longer label appears only in the tooltip and the description.
_MAX_LABEL_LENGTH = 14
#: Positions of a label relative to the point, the preferred position first: (dx, dy) with dx in label widths and dy
#: in lines, negative above the point.
_LABEL_OFFSETS = (
    (0.5, -1),
    (-0.5, -1),
    (0, -1),
    (0.5, 1),
    (-0.5, 1),
    (0, 1),
    (0.5, 0),
    (-0.5, 0),
    (0.5, 1.6),
    (0, 1.6),
)

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True, kw_only=True)
class ScatterMark:
    """Point with error bars.

    Attributes:
        label: Label beside the point, where there is room.
        tooltip: Full description.
        x: Cost in percent of the dense model.
        y: Score.
        x_std: Half the width of the horizontal error bar; 0 draws no bar.
        y_std: Half the height of the vertical error bar; 0 draws no bar.
    """

    label: str
    tooltip: str
    x: float
    y: float
    x_std: float = 0.0
    y_std: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ScatterSeries:
    """Series of points that are joined by a line."""

    name: str
    marks: tuple[ScatterMark, ...]
    color: int = 0
    style: str = "solid"


def scatter_chart(
    series_list: Sequence[ScatterSeries],
    *,
    dense: Sequence[ScatterMark],
    name: str,
    title: str,
    x_label: str,
    unit: str = "",
) -> Markup:
    """Draw series of points over an x-axis from 0 to 100 or more.

    Args:
        series_list: Series, with at least one point in total.
        dense: Points of the dense models; a single point also gets a horizontal reference line.
        name: Prefix of the element ids, unique on the page.
        title: Title of the chart.
        x_label: Label of the x-axis.
        unit: Suffix of the tick labels of the y-axis.
    """
    marks = [mark for series in series_list for mark in series.marks]
    all_marks = [*marks, *dense]
    low, high = min(m.y - m.y_std for m in all_marks), max(m.y + m.y_std for m in all_marks)
    # The y-axis starts at 0 unless all values are close together.
    ticks = linear_ticks(0.0 if 0 <= low < 0.5 * high else low, high)
    x_scale = AxisScale(low=0, high=max(100.0, *(m.x + m.x_std for m in all_marks)), start=54, end=WIDTH - 14)
    bottom_margin = 0.14 * (ticks[-1] - ticks[0])  # room under the lowest points for their labels
    y_scale = AxisScale(low=ticks[0] - bottom_margin, high=ticks[-1], start=HEIGHT - 36, end=22)
    tick_labels = [tick_label + unit for tick_label in format_ticks(ticks)]
    parts = axis_frame(x_scale, y_scale, list(zip(ticks, tick_labels, strict=True)), x_label, HEIGHT)
    # Boxes that labels must avoid: points, error bars, lines, and the labels placed so far.
    occupied_boxes = [*_mark_boxes(all_marks, x_scale, y_scale)]
    if len(dense) == 1:
        y_position = y_scale(dense[0].y)
        parts.append(line(x_scale.start, y_position, x_scale.end, y_position, class_="reference"))
        occupied_boxes.append((x_scale.start, y_position - 1, x_scale.end, y_position + 1))
    for series in series_list:
        positions = [(x_scale(mark.x), y_scale(mark.y)) for mark in sorted(series.marks, key=lambda mark: mark.x)]
        occupied_boxes.extend(_path_boxes(positions))
        parts.append(_draw_path(series, positions))
        parts.extend(_draw_mark(mark, x_scale, y_scale, f"s{series.color % 6}") for mark in series.marks)
    parts.extend(_draw_mark(mark, x_scale, y_scale, "hollow") for mark in dense)
    for mark in sorted(all_marks, key=lambda mark: -mark.y):  # from the top, so that upper points get the labels above
        parts.extend(_place_label(mark, x_scale, y_scale, occupied_boxes))
    return svg_image(
        *parts,
        width=WIDTH,
        height=HEIGHT,
        name=name,
        title=title,
        description=". ".join(mark.tooltip for mark in (*dense, *marks)) + ".",
    )


def _draw_path(series: ScatterSeries, positions: Sequence[tuple[float, float]]) -> Markup:
    path_data = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in positions)
    return (
        element("path", d=path_data, class_=f"curve s{series.color % 6} {series.style}")
        if len(positions) > 1
        else Markup("")
    )


def _draw_mark(mark: ScatterMark, x_scale: AxisScale, y_scale: AxisScale, class_: str) -> Markup:
    """Draw a point with error bars and tooltip."""
    x, y = x_scale(mark.x), y_scale(mark.y)
    parts = [element("title", mark.tooltip)]
    if mark.y_std:
        parts.append(line(x, y_scale(mark.y - mark.y_std), x, y_scale(mark.y + mark.y_std), class_=f"spread {class_}"))
    if mark.x_std:
        parts.append(line(x_scale(mark.x - mark.x_std), y, x_scale(mark.x + mark.x_std), y, class_=f"spread {class_}"))
    parts.append(element("circle", cx=x, cy=y, r=4, class_=f"dot {class_}"))
    return element("g", *parts)


def _mark_boxes(marks: Sequence[ScatterMark], x_scale: AxisScale, y_scale: AxisScale) -> Iterator[Box]:
    """Yield the boxes that points and error bars cover."""
    for mark in marks:
        x, y = x_scale(mark.x), y_scale(mark.y)
        yield x - 4, y - 4, x + 4, y + 4
        yield x - 1, y_scale(mark.y + mark.y_std), x + 1, y_scale(mark.y - mark.y_std)
        yield x_scale(mark.x - mark.x_std), y - 1, x_scale(mark.x + mark.x_std), y + 1


def _path_boxes(positions: Sequence[tuple[float, float]]) -> Iterator[Box]:
    """Yield the boxes that a polyline covers, in pieces of about 4 units."""
    for (x1, y1), (x2, y2) in pairwise(positions):
        # A diagonal line as a chain of small boxes, since its bounding box would cover free area.
        pieces = max(1, math.ceil(math.hypot(x2 - x1, y2 - y1) / 4))
        for piece in range(1, pieces):
            x, y = x1 + (x2 - x1) * piece / pieces, y1 + (y2 - y1) * piece / pieces
            yield x - 1, y - 1, x + 1, y + 1


def _place_label(mark: ScatterMark, x_scale: AxisScale, y_scale: AxisScale, occupied_boxes: list[Box]) -> list[Markup]:
    """Draw the label of a point at the first free position of `_LABEL_OFFSETS`; without a free position, no label."""
    if len(mark.label) > _MAX_LABEL_LENGTH:
        return []
    x, y, label_width = x_scale(mark.x), y_scale(mark.y), _LETTER_WIDTH * len(mark.label)
    for dx, dy in _LABEL_OFFSETS:
        # A label at the side has a gap of 8 units; above or below, a gap of 6, and 5 to the side.
        x_middle = x + 2 * dx * (label_width / 2 + (8 if dy == 0 else 5))
        bottom = y + dy * (6 + _LINE_HEIGHT / 2) + _LINE_HEIGHT / 2
        box = (x_middle - label_width / 2, bottom - _LINE_HEIGHT, x_middle + label_width / 2, bottom)
        is_in_frame = box[0] >= x_scale.start and box[2] <= x_scale.end + 12 and box[1] >= 0 and box[3] <= y_scale.start
        if is_in_frame and not any(_overlaps(box, occupied_box) for occupied_box in occupied_boxes):
            occupied_boxes.append(box)
            return [text(x_middle, bottom - 3, mark.label, anchor="middle")]
    return []


def _overlaps(first_box: Box, second_box: Box) -> bool:
    return (
        first_box[0] < second_box[2]
        and second_box[0] < first_box[2]
        and first_box[1] < second_box[3]
        and second_box[1] < first_box[3]
    )
