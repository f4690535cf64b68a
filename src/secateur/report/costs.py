"""Where the cost is: by part of the model, and block by block, before and after."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from secateur.report.charts import WIDTH, Chart
from secateur.report.record import Blocks, Cost
from secateur.report.svg import element, picture, rectangle, text
from secateur.report.words import amount, milliseconds, share

#: Parts in the order of the data: name, and what its blocks' names begin or end with.
PARTS = (
    ("convolutions", re.compile(r"(feature_extractor|subsampling)\b")),
    ("projection", re.compile(r"feature_projection\b")),
    ("positional convolution", re.compile(r"encoder\.pos_conv")),
    ("attention", re.compile(r"(encoder\.)?layers\.\d+\.(attention|self_attn)$")),
    ("feed-forward", re.compile(r"(encoder\.)?layers\.\d+\.(feed_forward[12]?|ffn[12])$")),
    ("norms and the rest", re.compile(r"(?!(encoder\.)?layers\.\d+\.conv(_module)?$)")),
    ("convolution modules", re.compile(r"")),
)
COSTS = (
    ("parameters", "Parameters", ""),
    ("macs", "Multiply-accumulates", "MAC"),
    ("latency", "Predicted time", "ms"),
)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One part of a bar."""

    part: str
    colour: int
    value: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One stacked bar, and the picture of it."""

    label: str
    total: str
    segments: tuple[Segment, ...]
    svg: Markup


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A cost before and after, by part, with each block's own figures."""

    title: str
    bars: tuple[Bar, ...]
    parts: tuple[tuple[str, int, str, str, str], ...]  # part, colour, before, after, share kept
    blocks: Chart


def part_of(block: str) -> int:
    """The index in `PARTS` of the part that a block belongs to."""
    return next(index for index, (_, pattern) in enumerate(PARTS) if pattern.match(block))


def stacks(blocks: Blocks) -> list[Stack]:
    """Each cost, before and after; one that is zero everywhere is left out."""
    found = []
    for cost, title, unit in COSTS:
        before, after = (_by_part(side, cost) for side in (blocks.before, blocks.after))
        whole: float = sum(before)
        if not whole:
            continue
        rows = tuple(
            (name, index, _amount(b, unit), _amount(a, unit), share(a / b) if b else "–")
            for index, ((name, _), b, a) in enumerate(zip(PARTS, before, after, strict=True))
            if b or a
        )
        bars = tuple(
            _bar(label, values, whole, unit, f"{cost}-{label}", title)
            for label, values in (("before", before), ("after", after))
        )
        found.append(Stack(title=title, bars=bars, parts=rows, blocks=_by_block(blocks, cost, title, unit)))
    return found


def _amount(value: float, unit: str) -> str:
    return milliseconds(value) if unit == "ms" else amount(value, unit)


def _by_part(side: Mapping[str, Cost], cost: str) -> list[float]:
    sums = [0.0] * len(PARTS)
    for block, values in side.items():
        sums[part_of(block)] += getattr(values, cost)
    return sums


def _bar(label: str, values: list[float], whole: float, unit: str, name: str, title: str) -> Bar:
    total = sum(values) or 1
    segments = [
        Segment(
            part=PARTS[index][0],
            colour=index,
            value=value,
            text=f"{PARTS[index][0]}: {_amount(value, unit)} ({share(value / total)} of this model)",
        )
        for index, value in enumerate(values)
        if value
    ]
    return stacked(label, segments, whole=whole, total=_amount(sum(values), unit), name=name, title=title)


def stacked(label: str, segments: Sequence[Segment], *, whole: float, total: str, name: str, title: str) -> Bar:
    """A bar whose places are percentages, so that it fills any width while its words keep their size.

    Args:
        label: Whose bar it is.
        segments: Its parts, in order.
        whole: The value that would fill the width.
        total: The sum of its parts, in words.
        name: A word that is unique on the page.
        title: What is drawn.
    """
    parts, place = [], 0.0
    for segment in segments:
        wide = 100 * segment.value / whole
        parts.append(
            element(
                "rect",
                element("title", f"{label}, {segment.text}"),
                x=f"{place:.3f}%",
                y=0,
                width=f"{wide:.3f}%",
                height=30,
                class_=f"part p{segment.colour}",
            )
        )
        place += wide
    svg = element(
        "svg",
        element("title", f"{title} {label}", id=f"{name}-title"),
        element("desc", "; ".join(segment.text for segment in segments), id=f"{name}-desc"),
        *parts,
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        class_="stack",
        height="30",
        width="100%",
    )
    return Bar(label=label, total=total, segments=tuple(segments), svg=svg)


def _by_block(blocks: Blocks, cost: str, title: str, unit: str) -> Chart:
    """A pair of thin bars for each block, layers in one row: before above, after below."""
    rows: dict[str, tuple[list[float], list[float]]] = {}
    for side, model in enumerate((blocks.before, blocks.after)):
        for block, values in model.items():
            row = rows.setdefault(_row(block), ([0.0] * len(PARTS), [0.0] * len(PARTS)))
            row[side][part_of(block)] += getattr(values, cost)
    rows = {name: rows[name] for name in sorted(rows, key=_place) if sum(rows[name][0]) or sum(rows[name][1])}
    largest = max((max(sum(before), sum(after)) for before, after in rows.values()), default=1)
    left, right, tall = 92.0, WIDTH - 92.0, 26.0
    parts: list[Markup] = []
    for index, (name, row) in enumerate(rows.items()):
        y = 4 + index * tall
        parts.append(text(left - 8, y + 15, name, anchor="end"))
        for side, values_of in enumerate(row):
            place = left
            for part, value in enumerate(values_of):
                wide = (right - left) * value / largest
                tip = f"{name}, {PARTS[part][0]} {'after' if side else 'before'}: {_amount(value, unit)}"
                if value:
                    parts.append(
                        rectangle(
                            place,
                            y + 2 + side * 10,
                            wide,
                            9 if side else 8,
                            class_=f"part p{part}{'' if side else ' was'}",
                            tip=tip,
                        )
                    )
                place += wide
        before, after = sum(row[0]), sum(row[1])
        kept = share(after / before, 0) if before else "–"
        parts.append(text(WIDTH - 42, y + 15, amount(after), anchor="end"))
        parts.append(text(WIDTH, y + 15, kept, anchor="end", class_="quiet"))
    svg = picture(
        *parts,
        width=WIDTH,
        height=6 + len(rows) * tall,
        name=f"{cost}-blocks",
        title=f"{title} by block",
        description=f"{len(rows)} blocks, before and after; the largest has {_amount(largest, unit)}.",
    )
    return Chart(title=f"{title} by block", svg=svg, note="Thin bar before, full bar after; what is left.")


_ROWS = ("conv", "projection", "positional", "layer", "the rest")


def _place(row: str) -> tuple[int, int]:
    """Rows in the order of the data, numbered ones by number."""
    word, _, number = row.rpartition(" ") if row[-1].isdigit() else (row, "", "0")
    return _ROWS.index(word), int(number)


def _row(block: str) -> str:
    """The row a block is drawn in."""
    if match := re.match(r"feature_extractor\.conv_layers\.(\d+)", block):
        return f"conv {match[1]}"
    if match := re.match(r"(?:encoder\.)?layers\.(\d+)", block):
        return f"layer {match[1]}"
    if block.startswith("encoder.pos_conv"):
        return "positional"
    if block.startswith("feature_projection"):
        return "projection"
    return "the rest"
