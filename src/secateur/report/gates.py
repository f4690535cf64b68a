"""Gate health: what was undecided, what the repair moved, each constraint's cost, and what rounding cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from secateur.report.charts import Chart, histogram
from secateur.report.record import Constraint, Freezing, Gates, Rounding
from secateur.report.svg import Scale, element
from secateur.report.words import amount, exact, milliseconds, plural, share

#: Kinds of units in words.
KINDS = {
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
    """The gates of one kind, in words."""

    name: str
    gates: str
    open: str
    undecided: str
    undecided_share: str


@dataclass(frozen=True, kw_only=True)
class ConstraintRow:
    """One constraint, in words, with its picture."""

    name: str
    what: str
    target: str
    limit: str
    expected: str
    verdict: str
    counted: str
    of_dense: str
    of_limit: str
    met: bool | None
    binding: bool
    picture: Markup | None


@dataclass(frozen=True, kw_only=True)
class Health:
    """Everything the section on gates shows."""

    figures: tuple[tuple[str, str], ...]  # figure, what it is
    kinds: tuple[KindRow, ...]
    histograms: tuple[Chart, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RoundingView:
    """What rounding cost, in words."""

    rows: tuple[tuple[str, str, str, str], ...]  # kind, multiple, units kept for it, units removed for it
    sentences: tuple[str, ...]  # one for each constraint


def rounding_view(rounding: Rounding) -> RoundingView:
    """What rounding cost, beside the choice without it."""
    kinds = dict.fromkeys([*rounding.multiples, *rounding.opened, *rounding.closed])
    return RoundingView(
        rows=tuple(
            (
                KINDS.get(kind, kind),
                f"{rounding.multiples[kind]:,}" if kind in rounding.multiples else "–",
                f"{rounding.opened.get(kind, 0):,}",
                f"{rounding.closed.get(kind, 0):,}",
            )
            for kind in kinds
        ),
        sentences=tuple(
            f"{name}: rounding keeps {share(abs(part), 2)} of the dense cost {'less' if part >= 0 else 'more'}."
            for name, part in rounding.given_up.items()
        ),
    )


def health(gates: Gates) -> Health:
    """The gates when the selection was chosen."""
    total = sum(kind.gates for kind in gates.kinds.values())
    undecided = sum(kind.undecided for kind in gates.kinds.values())
    undecided_share = (
        gates.undecided_share if gates.undecided_share is not None else undecided / total if total else None
    )
    figures = []
    if total:
        figures.append((f"{total:,}", "gates"))
    if undecided_share is not None:
        figures.append((share(undecided_share), "undecided (open probability between 0.05 and 0.95)"))
    if gates.moved is not None:
        of_all = f" ({share(gates.moved_share, 2)})" if gates.moved_share is not None else ""
        figures.append((f"{gates.moved:,}", f"{'unit' if gates.moved == 1 else 'units'} moved by the repair{of_all}"))
    if gates.freezing is not None:
        figures.append((f"{gates.freezing.frozen:,}", _freezing(gates.freezing)))
    rows = tuple(
        KindRow(
            name=KINDS.get(name, name),
            gates=f"{kind.gates:,}",
            open=f"{kind.open:,} ({share(kind.open / kind.gates)})" if kind.gates else "0",
            undecided=f"{kind.undecided:,}",
            undecided_share=share(kind.undecided / kind.gates) if kind.gates else "–",
        )
        for name, kind in gates.kinds.items()
    )
    histograms = tuple(
        histogram(counts, name=f"histogram-{index}", title=_title(KINDS.get(name, name)))
        for index, (name, counts) in enumerate(gates.histogram.items())
        if sum(counts)
    )
    return Health(figures=tuple(figures), kinds=rows, histograms=histograms, notes=gates.notes)


def _freezing(freezing: Freezing) -> str:
    """What the figure of frozen gates stands for, and what became of the student."""
    words = f"{'gate' if freezing.frozen == 1 else 'gates'} frozen while learning"
    if not freezing.shrunk:
        return words
    last = freezing.shrunk[-1]
    left = share(last.parameters / freezing.dense) if freezing.dense else exact(last.parameters)
    times = plural(len(freezing.shrunk), "time")
    return f"{words}; the student was shrunk {times}, after step {last.step:,} to {left} of its parameters"


def constraint_rows(constraints: Sequence[Constraint]) -> list[ConstraintRow]:
    """Each constraint with its costs and whether the count keeps to its limit."""
    return [_constraint(constraint, index) for index, constraint in enumerate(constraints)]


def is_met(constraint: Constraint) -> bool | None:
    """Whether the counted cost is not above the limit; None where either is not in the record."""
    if constraint.limit is None or constraint.counted is None:
        return None
    return constraint.counted <= constraint.limit * (1 + 1e-12)  # the limit is a product of rounded numbers


def _constraint(constraint: Constraint, index: int) -> ConstraintRow:
    limit, counted, dense = constraint.limit, constraint.counted, constraint.dense
    what = constraint.label or " of ".join(filter(None, (constraint.cost, constraint.scope)))
    return ConstraintRow(
        name=constraint.name,
        what=what if what != constraint.name else "",
        target=share(constraint.target),
        limit=_cost(limit, constraint),
        expected=_cost(constraint.expected, constraint),
        verdict=_cost(constraint.verdict, constraint),
        counted=_cost(counted, constraint),
        of_dense=share(counted / dense, 2) if counted is not None and dense else "–",
        of_limit=share(counted / limit, 2) if counted is not None and limit else "–",
        met=is_met(constraint),
        binding=constraint.binding,
        picture=_gauge(constraint, index),
    )


def _gauge(constraint: Constraint, index: int) -> Markup | None:
    """A bar of the counted cost with marks for the limit, the expected cost and the gates' own verdict.

    The bar begins at zero; the marks lie so close in a healthy run that one is above and one below, and their
    figures follow as text.
    """
    limit, counted = constraint.limit, constraint.counted
    if limit is None or counted is None or not (_is_cost(limit) and _is_cost(counted)):
        return None
    named = [
        (label, value, class_)
        for label, value, class_ in (
            ("expected by the gates", constraint.expected, "expected"),
            ("the gates' own verdict", constraint.verdict, "verdict"),
        )
        if value is not None and _is_cost(value)
    ]
    high = max([limit, counted, *(value for _, value, _ in named)]) * 1.08
    across = Scale(low=0, high=high, start=0, end=100)
    parts = [
        element("rect", x=0, y=8, width="100%", height=14, class_="gone"),
        element(
            "rect",
            element("title", f"counted: {_cost(counted, constraint)}"),
            x=0,
            y=8,
            width=f"{across(counted):.3f}%",
            height=14,
            class_="kept" if is_met(constraint) else "over",
        ),
    ]
    for label, value, class_ in named:
        place = f"{across(value):.3f}%"
        shape = element(
            "circle",
            element("title", f"{label}: {_cost(value, constraint)}"),
            cx=place,
            cy=9 if class_ == "expected" else 21,
            r=4,
            class_=class_,
        )
        parts.append(shape)
    place = f"{across(limit):.3f}%"
    tip = element("title", f"limit: {_cost(limit, constraint)}")
    parts.append(element("line", tip, x1=place, x2=place, y1=2, y2=28, class_="limit"))
    said, allowed = (_cost(value, constraint) if constraint.unit else amount(value) for value in (counted, limit))
    described = f"Counted {said}, allowed {allowed}."
    return element(
        "svg",
        element("title", f"Cost against its limit: {constraint.name}", id=f"gauge-{index}-title"),
        element("desc", described, id=f"gauge-{index}-desc"),
        *parts,
        role="img",
        aria_labelledby=f"gauge-{index}-title gauge-{index}-desc",
        class_="stack gauge",
        height="30",
        width="100%",
    )


def _cost(value: float | None, constraint: Constraint) -> str:
    return milliseconds(value) if constraint.unit == "ms" else exact(value)


def _is_cost(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _title(words: str) -> str:
    return words[:1].upper() + words[1:]
