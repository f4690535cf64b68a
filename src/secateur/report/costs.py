"""Section on costs: by part of the model and by block, before and after the cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from secateur.records.block_part import FRONT_END, PARTS, POSITIONAL_CONV, PROJECTION, REST
from secateur.records.cost_record import BlockCosts, CostRecord
from secateur.report.charts import WIDTH, Chart
from secateur.report.formatting import format_milliseconds, format_percent, format_si
from secateur.report.svg import element, rectangle, svg_image, text

#: Names on the page of the `PARTS` of an encoder, in the same order.
PART_TITLES = (
    "convolutions",
    "projection",
    "positional convolution",
    "attention",
    "feed-forward",
    "norms and the rest",
    "convolution modules",
)
#: Attribute of `CostRecord`, title and unit of each cost.
COSTS = (
    ("parameters", "Parameters", ""),
    ("macs", "Multiply-accumulates", "MAC"),
    ("latency", "Predicted time", "ms"),
)


@dataclass(frozen=True, kw_only=True)
class BarSegment:
    """Part of a stacked bar."""

    part: str
    color: int
    value: float
    text: str


@dataclass(frozen=True, kw_only=True)
class StackedBar:
    """Stacked bar, as numbers and as an SVG image."""

    label: str
    total: str
    segments: tuple[BarSegment, ...]
    svg: Markup


@dataclass(frozen=True, kw_only=True)
class CostStack:
    """Parameters, MACs or predicted time before and after the cut, by part and by block."""

    title: str
    bars: tuple[StackedBar, ...]
    parts: tuple[tuple[str, int, str, str, str], ...]  # part, color, before, after, share kept
    blocks: Chart


def part_index(costs: CostRecord) -> int:
    """Return the index in `PARTS` of the part that a block belongs to."""
    return PARTS.index(costs.part if costs.part in PARTS else REST)


def build_stacks(blocks: BlockCosts) -> list[CostStack]:
    """Build the stacks of all costs; a cost that is zero for the dense model is left out."""
    cost_stacks = []
    for cost, title, unit in COSTS:
        before_sums, after_sums = (_sum_by_part(block_costs, cost) for block_costs in (blocks.before, blocks.after))
        dense_total: float = sum(before_sums)
        if not dense_total:
            continue
        rows = tuple(
            (name, index, _format_cost(b, unit), _format_cost(a, unit), format_percent(a / b) if b else "–")
            for index, (name, b, a) in enumerate(zip(PART_TITLES, before_sums, after_sums, strict=True))
            if b or a
        )
        bars = tuple(
            _bar(label, values, dense_total, unit, f"{cost}-{label}", title)
            for label, values in (("before", before_sums), ("after", after_sums))
        )
        cost_stacks.append(
            CostStack(title=title, bars=bars, parts=rows, blocks=_block_chart(blocks, cost, title, unit))
        )
    return cost_stacks


def _format_cost(value: float, unit: str) -> str:
    return format_milliseconds(value) if unit == "ms" else format_si(value, unit)


def _sum_by_part(block_costs: Mapping[str, CostRecord], cost: str) -> list[float]:
    # (blocks,) -> (parts,)
    sums = [0.0] * len(PARTS)
    for values in block_costs.values():
        sums[part_index(values)] += getattr(values, cost) or 0
    return sums


def _bar(label: str, values: list[float], full_width_value: float, unit: str, name: str, title: str) -> StackedBar:
    # A model without cost would divide by zero.
    total = sum(values) or 1
    segments = [
        BarSegment(
            part=PART_TITLES[index],
            color=index,
            value=value,
            text=f"{PART_TITLES[index]}: {_format_cost(value, unit)} ({format_percent(value / total)} of this model)",
        )
        for index, value in enumerate(values)
        if value
    ]
    return stacked_bar(
        label,
        segments,
        full_width_value=full_width_value,
        total=_format_cost(sum(values), unit),
        name=name,
        title=title,
    )


def stacked_bar(
    label: str, segments: Sequence[BarSegment], *, full_width_value: float, total: str, name: str, title: str
) -> StackedBar:
    """Draw a stacked bar that is as wide as the column of the page.

    Positions and widths are percentages, so that the bar scales while the text keeps the font size.

    Args:
        label: Name of the model or stage.
        segments: Parts from left to right.
        full_width_value: Value that fills the width.
        total: Formatted sum of the parts.
        name: Prefix of the element ids, unique on the page.
        title: Title of the image; the label is appended.
    """
    rectangles, x_percent = [], 0.0
    for segment in segments:
        # Position and width as a share of the column: `x="12.500%"`.
        width_percent = 100 * segment.value / full_width_value
        rectangles.append(
            element(
                "rect",
                element("title", f"{label}, {segment.text}"),
                x=f"{x_percent:.3f}%",
                y=0,
                width=f"{width_percent:.3f}%",
                height=30,
                class_=f"part p{segment.color}",
            )
        )
        x_percent += width_percent
    svg = element(
        "svg",
        element("title", f"{title} {label}", id=f"{name}-title"),
        element("desc", "; ".join(segment.text for segment in segments), id=f"{name}-desc"),
        *rectangles,
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        class_="stack",
        height="30",
        width="100%",
    )
    return StackedBar(label=label, total=total, segments=tuple(segments), svg=svg)


def _block_chart(blocks: BlockCosts, cost: str, title: str, unit: str) -> Chart:
    """Draw two bars for each row of blocks, before the cut above and after the cut below; a layer is a row."""
    # Row name -> costs (before, after), each (parts,).
    rows: dict[str, tuple[list[float], list[float]]] = {}
    for is_after, model in enumerate((blocks.before, blocks.after)):
        for values in model.values():
            row = rows.setdefault(_row_name(values), ([0.0] * len(PARTS), [0.0] * len(PARTS)))
            row[is_after][part_index(values)] += getattr(values, cost) or 0
    rows = {name: rows[name] for name in sorted(rows, key=_row_order) if sum(rows[name][0]) or sum(rows[name][1])}
    largest = max(
        (max(sum(before_values), sum(after_values)) for before_values, after_values in rows.values()), default=1
    )
    # 92 units at the left for row names, 92 at the right for cost and kept share; 26 units per row.
    x_start, x_end, row_height = 92.0, WIDTH - 92.0, 26.0
    elements: list[Markup] = []
    for index, (name, row) in enumerate(rows.items()):
        # Bar before the cut at y + 2, bar after the cut 10 units below.
        y = 4 + index * row_height
        elements.append(text(x_start - 8, y + 15, name, anchor="end"))
        for is_after, part_values in enumerate(row):
            x_position = x_start
            for part, value in enumerate(part_values):
                bar_width = (x_end - x_start) * value / largest
                tooltip = (
                    f"{name}, {PART_TITLES[part]} {'after' if is_after else 'before'}: {_format_cost(value, unit)}"
                )
                if value:
                    elements.append(
                        rectangle(
                            x_position,
                            y + 2 + is_after * 10,
                            bar_width,
                            9 if is_after else 8,
                            class_=f"part p{part}{'' if is_after else ' before'}",
                            tooltip=tooltip,
                        )
                    )
                x_position += bar_width
        before_total, after_total = sum(row[0]), sum(row[1])
        kept_text = format_percent(after_total / before_total, 0) if before_total else "–"
        elements.append(text(WIDTH - 42, y + 15, format_si(after_total), anchor="end"))
        elements.append(text(WIDTH, y + 15, kept_text, anchor="end", class_="quiet"))
    svg = svg_image(
        *elements,
        width=WIDTH,
        height=6 + len(rows) * row_height,
        name=f"{cost}-blocks",
        title=f"{title} by block",
        description=f"{len(rows)} blocks, before and after; the largest has {_format_cost(largest, unit)}.",
    )
    note = "Pale bar: before. Full bar: after; at the right, its cost and the kept share."
    return Chart(title=f"{title} by block", svg=svg, note=note)


#: Rows of the chart by block, from the input of the model to its output.
_ROWS = ("conv", "projection", "positional", "layer", "the rest")


def _row_order(row: str) -> tuple[int, int]:
    """Return the sort key of a row: ``layer 10`` is `(3, 10)`."""
    # "layer 10" -> ("layer", 10), which sorts behind "layer 9"; "projection" -> ("projection", 0)
    row_name, _, number = row.rpartition(" ") if row[-1].isdigit() else (row, "", "0")
    return _ROWS.index(row_name), int(number)


def _row_name(costs: CostRecord) -> str:
    """Return the row of a block: ``layer 3`` for ``encoder.layers.3.attention``."""
    if costs.layer is not None:
        return f"{'conv' if costs.part == FRONT_END else 'layer'} {costs.layer}"
    if costs.part == POSITIONAL_CONV:
        return "positional"
    return "projection" if costs.part == PROJECTION else "the rest"
