"""Section on gates and constraints: undecided gates, repair, costs under each constraint, and rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from secateur.records.choice import RoundingCost
from secateur.records.run import ConstraintRecord, FreezingRecord, GatesRecord
from secateur.report.charts import Chart, gate_histogram
from secateur.report.formatting import (
    format_count,
    format_exact,
    format_milliseconds,
    format_percent,
    format_si,
)
from secateur.report.svg import AxisScale, element

#: Kinds of units in words.
UNIT_KIND_LABELS = {
    "channels": "convolution channels",
    "groups": "positional convolution groups",
    "heads": "heads",
    "qk": "query/key dimensions",
    "vo": "value/output dimensions",
    "units": "feed-forward units",
    "rank": "ranks",
    "predictor": "predictor units",
    "joiner": "joiner dimensions",
    "block": "blocks",
    "layer": "layers",
}


@dataclass(frozen=True, kw_only=True)
class KindRow:
    """Formatted counts of the gates of a kind."""

    name: str
    gates: str
    open: str
    undecided: str
    undecided_share: str


@dataclass(frozen=True, kw_only=True)
class ConstraintRow:
    """Formatted costs under a constraint, and the gauge."""

    name: str
    description: str
    target: str
    limit: str
    expected: str
    hard_decision: str
    counted: str
    of_dense: str
    of_limit: str
    is_met: bool | None
    is_binding: bool
    gauge: Markup | None


@dataclass(frozen=True, kw_only=True)
class GateHealth:
    """State of the gates: key numbers, counts by kind, histograms and notes."""

    key_numbers: tuple[tuple[str, str], ...]  # number, caption
    kinds: tuple[KindRow, ...]
    histograms: tuple[Chart, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RoundingView:
    """Formatted costs of rounding."""

    rows: tuple[tuple[str, str, str, str], ...]  # kind, multiple, units kept for it, units removed for it
    sentences: tuple[str, ...]  # one for each constraint


def build_rounding_view(rounding: RoundingCost) -> RoundingView:
    """Return the units and costs that rounding changed, compared with the choice without rounding."""
    kinds = dict.fromkeys([*rounding.multiples, *rounding.opened, *rounding.closed])
    return RoundingView(
        rows=tuple(
            (
                UNIT_KIND_LABELS.get(kind, kind),
                f"{rounding.multiples[kind]:,}" if kind in rounding.multiples else "–",
                f"{rounding.opened.get(kind, 0):,}",
                f"{rounding.closed.get(kind, 0):,}",
            )
            for kind in kinds
        ),
        sentences=tuple(_describe_given_up(name, share) for name, share in rounding.given_up.items()),
    )


def _describe_given_up(name: str, share: float) -> str:
    """Return the share of the dense cost that rounding keeps less or more under a constraint, in a sentence."""
    change = "less" if share >= 0 else "more"
    return f"{name}: rounding keeps {format_percent(abs(share), 2)} of the dense cost {change}."


def build_gate_health(gates: GatesRecord) -> GateHealth:
    """Build the state of the gates at the time when the selection was made."""
    # A record may lack the share, which follows from the counts by kind.
    total = sum(kind.gates for kind in gates.kinds.values())
    undecided = sum(kind.undecided for kind in gates.kinds.values())
    undecided_share = (
        gates.undecided_share if gates.undecided_share is not None else undecided / total if total else None
    )
    key_numbers = []
    if total:
        key_numbers.append((f"{total:,}", "gates"))
    if undecided_share is not None:
        key_numbers.append((format_percent(undecided_share), "undecided (open probability between 0.05 and 0.95)"))
    if gates.moved is not None:
        share_text = f" ({format_percent(gates.moved_share, 2)})" if gates.moved_share is not None else ""
        key_numbers.append(
            (f"{gates.moved:,}", f"{'unit' if gates.moved == 1 else 'units'} moved by the repair{share_text}")
        )
    if gates.freezing is not None:
        key_numbers.append((f"{gates.freezing.frozen:,}", _describe_freezing(gates.freezing)))
    rows = tuple(
        KindRow(
            name=UNIT_KIND_LABELS.get(name, name),
            gates=f"{kind.gates:,}",
            open=f"{kind.open:,} ({format_percent(kind.open / kind.gates)})" if kind.gates else "0",
            undecided=f"{kind.undecided:,}",
            undecided_share=format_percent(kind.undecided / kind.gates) if kind.gates else "–",
        )
        for name, kind in gates.kinds.items()
    )
    histograms = tuple(
        gate_histogram(counts, name=f"histogram-{index}", title=_capitalize(UNIT_KIND_LABELS.get(name, name)))
        for index, (name, counts) in enumerate(gates.histogram.items())
        if sum(counts)
    )
    return GateHealth(key_numbers=tuple(key_numbers), kinds=rows, histograms=histograms, notes=gates.notes)


def _describe_freezing(freezing: FreezingRecord) -> str:
    """Return the caption of the number of frozen gates, with the size of the student after the last shrink."""
    words = f"{'gate' if freezing.frozen == 1 else 'gates'} frozen while learning"
    if not freezing.shrunk:
        return words
    last_shrink = freezing.shrunk[-1]
    kept_text = (
        format_percent(last_shrink.parameters / freezing.dense)
        if freezing.dense
        else format_exact(last_shrink.parameters)
    )
    shrink_count = format_count(len(freezing.shrunk), "time")
    return (
        f"{words}; the student was shrunk {shrink_count}, after step {last_shrink.step:,} to {kept_text} of its "
        "parameters"
    )


def build_constraint_rows(constraints: Sequence[ConstraintRecord]) -> list[ConstraintRow]:
    """Build the row of each constraint."""
    return [_constraint_row(constraint, index) for index, constraint in enumerate(constraints)]


def is_met(constraint: ConstraintRecord) -> bool | None:
    """Return whether the counted cost is at most the limit; `None` if the record lacks a value."""
    if constraint.limit is None or constraint.counted is None:
        return None
    # Relative tolerance, since the limit is target times dense cost in floating point.
    return constraint.counted <= constraint.limit * (1 + 1e-12)  # the limit is a product of rounded numbers


def _constraint_row(constraint: ConstraintRecord, index: int) -> ConstraintRow:
    limit, counted, dense = constraint.limit, constraint.counted, constraint.dense
    description = constraint.label or " of ".join(filter(None, (constraint.cost, constraint.scope)))
    return ConstraintRow(
        name=constraint.name,
        description=description if description != constraint.name else "",
        target=format_percent(constraint.target),
        limit=_format_cost(limit, constraint),
        expected=_format_cost(constraint.expected, constraint),
        hard_decision=_format_cost(constraint.verdict, constraint),
        counted=_format_cost(counted, constraint),
        of_dense=format_percent(counted / dense, 2) if counted is not None and dense else "–",
        of_limit=format_percent(counted / limit, 2) if counted is not None and limit else "–",
        is_met=is_met(constraint),
        is_binding=constraint.binding,
        gauge=_draw_gauge(constraint, index),
    )


def _draw_gauge(constraint: ConstraintRecord, index: int) -> Markup | None:
    """Draw the counted cost as a bar with marks for the limit, the expected cost and the cost of the hard decisions.

    The bar starts at zero. In a normal run the expected cost and the cost of the hard decisions are close together,
    so the first mark is in the upper half of the bar and the second in the lower half; the page lists the numbers
    below.
    """
    limit, counted = constraint.limit, constraint.counted
    if limit is None or counted is None or not (_is_cost(limit) and _is_cost(counted)):
        return None
    markers = [
        (label, value, class_)
        for label, value, class_ in (
            ("expected by the gates", constraint.expected, "expected"),
            ("the gates' hard decisions", constraint.verdict, "hard-decision"),
        )
        if value is not None and _is_cost(value)
    ]
    # 8 % of room at the right, so that the mark of the largest cost is inside the image.
    max_cost = max([limit, counted, *(value for _, value, _ in markers)]) * 1.08
    # Coordinates in percent of the width of the page.
    x_scale = AxisScale(low=0, high=max_cost, start=0, end=100)
    parts = [
        element("rect", x=0, y=8, width="100%", height=14, class_="pruned"),
        element(
            "rect",
            element("title", f"counted: {_format_cost(counted, constraint)}"),
            x=0,
            y=8,
            width=f"{x_scale(counted):.3f}%",
            height=14,
            class_="kept" if is_met(constraint) else "over",
        ),
    ]
    for label, value, class_ in markers:
        x_position = f"{x_scale(value):.3f}%"
        marker = element(
            "circle",
            element("title", f"{label}: {_format_cost(value, constraint)}"),
            cx=x_position,
            # Bar: y from 8 to 22. Expected cost at the upper edge, hard decisions at the lower.
            cy=9 if class_ == "expected" else 21,
            r=4,
            class_=class_,
        )
        parts.append(marker)
    # The limit is a vertical line over the full height of the image.
    x_position = f"{x_scale(limit):.3f}%"
    tooltip = element("title", f"limit: {_format_cost(limit, constraint)}")
    parts.append(element("line", tooltip, x1=x_position, x2=x_position, y1=2, y2=28, class_="limit"))
    counted_text, limit_text = (
        _format_cost(value, constraint) if constraint.unit else format_si(value) for value in (counted, limit)
    )
    description = f"Counted {counted_text}, limit {limit_text}."
    return element(
        "svg",
        element("title", f"Cost against its limit: {constraint.name}", id=f"gauge-{index}-title"),
        element("desc", description, id=f"gauge-{index}-desc"),
        *parts,
        role="img",
        aria_labelledby=f"gauge-{index}-title gauge-{index}-desc",
        class_="stack gauge",
        height="30",
        width="100%",
    )


def _format_cost(value: float | None, constraint: ConstraintRecord) -> str:
    return format_milliseconds(value) if constraint.unit == "ms" else format_exact(value)


def _is_cost(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _capitalize(phrase: str) -> str:
    return phrase[:1].upper() + phrase[1:]
