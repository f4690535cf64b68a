"""Pictures of what is left: heads as a grid, feed-forward units, conv channels and positional groups as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from secateur.report.charts import WIDTH, Chart
from secateur.report.record import Axis
from secateur.report.svg import cross, line, picture, rectangle, text
from secateur.report.words import plural, share

_LEFT, _ROW = 66.0, 24.0


@dataclass(frozen=True, kw_only=True)
class Head:
    """One head: its query/key and value/output dimensions before and after, where they were counted."""

    index: int
    alive: bool
    query_key: tuple[int, int] | None = None  # kept, before
    value_output: tuple[int, int] | None = None

    @property
    def partial(self) -> bool:
        """Whether it is kept and yet lost some of its dimensions."""
        pairs = (self.query_key, self.value_output)
        return self.alive and any(pair is not None and pair[0] < pair[1] for pair in pairs)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What is left of one Transformer layer; an axis that the record does not have is None."""

    index: int
    gone: bool
    heads: Axis | None
    each: tuple[Head, ...]
    placed: bool  # whether it is known which heads are kept, or only how many
    attention_gone: bool
    units: Axis | None
    feed_forward_gone: bool

    @property
    def query_key(self) -> tuple[int, int] | None:
        """Query/key dimensions of all heads: kept, before."""
        return _sum([head.query_key for head in self.each])

    @property
    def value_output(self) -> tuple[int, int] | None:
        """Value/output dimensions of all heads: kept, before."""
        return _sum([head.value_output for head in self.each])


def _sum(pairs: Sequence[tuple[int, int] | None]) -> tuple[int, int] | None:
    known = [pair for pair in pairs if pair is not None]
    return (sum(kept for kept, _ in known), sum(before for _, before in known)) if known else None


def layers_of(axes: Sequence[Axis]) -> list[Layer]:
    """The Transformer layers that axes speak of, in order."""
    by_name = {axis.name: axis for axis in axes}
    numbers = {axis.layer for axis in axes if axis.kind != "channels" and axis.layer is not None}
    return [_layer(number, by_name) for number in sorted(numbers)]


def _layer(number: int, axes: Mapping[str, Axis]) -> Layer:
    path = f"encoder.layers.{number}"
    heads, units = axes.get(f"{path}.attention/heads"), axes.get(f"{path}.feed_forward/units")
    gone = _gone(axes.get(f"{path}/layer"))
    each = []
    for index in range(heads.original if heads else 0):
        wide = axes.get(f"{path}.attention/head{index}.qk")
        deep = axes.get(f"{path}.attention/head{index}.vo")
        each.append(
            Head(
                index=index,
                alive=deep is not None and deep.kept > 0,
                query_key=(wide.kept, wide.before) if wide else None,
                value_output=(deep.kept, deep.before) if deep else None,
            )
        )
    kept = heads.kept if heads else 0
    placed = any(head.value_output for head in each) and sum(head.alive for head in each) == kept
    if not placed:
        each = [Head(index=head.index, alive=head.index < kept) for head in each]
    return Layer(
        index=number,
        gone=gone,
        heads=heads,
        each=tuple(each),
        placed=placed,
        attention_gone=gone or _gone(axes.get(f"{path}.attention/block")) or (heads is not None and not kept),
        units=units,
        feed_forward_gone=gone
        or _gone(axes.get(f"{path}.feed_forward/block"))
        or (units is not None and units.kept == 0),
    )


def _gone(axis: Axis | None) -> bool:
    return axis is not None and axis.kept == 0


def heads_picture(layers: Sequence[Layer]) -> Chart:
    """Layers down, heads across; in a kept head the upper bar is its query/key width, the lower its value/output's."""
    across = max((len(layer.each) for layer in layers), default=1)
    right = WIDTH - 66
    width = (right - _LEFT) / max(across, 1)
    parts: list[Markup] = []
    stride = max(1, round(across / 12))
    for column in range(0, across, stride) if any(layer.placed for layer in layers) else ():
        parts.append(text(_LEFT + (column + 0.5) * width, 14, str(column), anchor="middle"))
    for row, layer in enumerate(layers):
        y = 22 + row * _ROW
        parts.append(_row_name(y, f"layer {layer.index}"))
        if layer.attention_gone:
            what = "layer" if layer.gone else "attention"
            parts.append(
                cross(_LEFT + 1, y + 2, right - _LEFT - 2, _ROW - 4, tip=f"layer {layer.index}: {what} removed")
            )
            parts.append(text(WIDTH - 58, y + 16, "removed", class_="quiet"))
            continue
        for head in layer.each:
            parts.extend(_head(head, layer, _LEFT + head.index * width, y, width))
        if layer.heads is not None:
            parts.append(text(WIDTH - 58, y + 16, f"{layer.heads.kept} / {layer.heads.original}"))
    kept = sum(layer.heads.kept for layer in layers if layer.heads and not layer.attention_gone)
    total = sum(layer.heads.original for layer in layers if layer.heads)
    gone = sum(layer.attention_gone for layer in layers)
    notes = [f"{kept:,} of {plural(total, 'head')} left"]
    if gone:
        notes.append(f"{plural(gone, 'attention block')} removed")
    note = "; ".join(notes) + "."
    if any(not layer.placed and layer.heads and not layer.attention_gone for layer in layers):
        note += " The record says how many, not which."
    svg = picture(
        *parts,
        width=WIDTH,
        height=26 + len(layers) * _ROW,
        name="heads",
        title="Attention heads left in each layer",
        description=note,
    )
    return Chart(title="Attention heads", svg=svg, note=note)


def _head(head: Head, layer: Layer, x: float, y: float, width: float) -> list[Markup]:
    inner, tall = width - 2, _ROW - 4
    name = f"layer {layer.index}, head {head.index}"
    if not head.alive:
        return [rectangle(x + 1, y + 2, inner, tall, class_="gone", tip=f"{name}: removed", radius=2)]
    wide, deep = head.query_key, head.value_output
    if wide is None or deep is None:
        tip = f"{name}: kept" if layer.placed else f"layer {layer.index}: a kept head"
        return [rectangle(x + 1, y + 2, inner, tall, class_="kept", tip=tip, radius=2)]
    tip = f"{name}: query/key {wide[0]} of {wide[1]}, value/output {deep[0]} of {deep[1]}"
    if not head.partial:
        return [rectangle(x + 1, y + 2, inner, tall, class_="kept", tip=tip, radius=2)]
    half = tall / 2
    return [
        rectangle(x + 1, y + 2, inner, tall, class_="pale", tip=tip, radius=2),
        rectangle(x + 1, y + 2, inner * wide[0] / max(wide[1], 1), half - 0.5, class_="kept", tip=tip),
        rectangle(
            x + 1,
            y + 2.5 + half,
            inner * deep[0] / max(deep[1], 1),
            half - 0.5,
            class_="kept second",
            tip=tip,
        ),
    ]


def bars_picture(
    rows: Sequence[tuple[str, Axis | None, bool]], *, name: str, title: str, unit: str, stacked: bool = False
) -> Chart:
    """A bar per row: the outline is what the first model had, the filled part what is left.

    Args:
        rows: The row's name, its axis, and whether the block around it is gone.
        name: A word that is unique on the page.
        title: What is drawn.
        unit: The noun for one unit.
        stacked: Whether there is a line above the first row to leave room for, as in the picture beside it.
    """
    top = 22.0 if stacked else 4.0
    right = WIDTH - 92
    largest = max((axis.original for _, axis, _ in rows if axis), default=1)
    parts: list[Markup] = []
    for row, (label, axis, gone) in enumerate(rows):
        y = top + row * _ROW
        parts.append(_row_name(y, label))
        if gone or axis is None:
            parts.append(cross(_LEFT + 1, y + 2, right - _LEFT - 2, _ROW - 4, tip=f"{label}: the block is removed"))
            parts.append(text(WIDTH - 84, y + 16, "removed", class_="quiet"))
            continue
        full, before, kept = (
            (right - _LEFT) * value / max(largest, 1) for value in (axis.original, axis.before, axis.kept)
        )
        tip = f"{label}: {axis.kept:,} of {plural(axis.original, unit)} ({share(axis.kept / max(axis.original, 1))})"
        parts.append(rectangle(_LEFT + 1, y + 2, full - 2, _ROW - 4, class_="gone", tip=tip, radius=2))
        parts.append(rectangle(_LEFT + 1, y + 2, kept - 2, _ROW - 4, class_="kept", tip=tip, radius=2))
        if axis.before != axis.original:
            parts.append(line(_LEFT + before, y + 1, _LEFT + before, y + _ROW - 1, class_="mark"))
        parts.append(text(WIDTH - 84, y + 16, f"{axis.kept:,} / {axis.original:,}"))
    kept_all = sum(axis.kept for _, axis, gone in rows if axis and not gone)
    total = sum(axis.original for _, axis, _ in rows if axis)
    note = f"{kept_all:,} of {plural(total, unit)} left ({share(kept_all / max(total, 1))})."
    gone_rows = sum(gone for _, _, gone in rows)
    if gone_rows:
        note = f"{note[:-1]}; {plural(gone_rows, 'block')} removed."
    svg = picture(
        *parts,
        width=WIDTH,
        height=top + 4 + len(rows) * _ROW,
        name=name,
        title=f"{title} left{' in each layer' if len(rows) > 1 else ''}",
        description=note,
    )
    return Chart(title=title, svg=svg, note=note)


def _row_name(y: float, label: str) -> Markup:
    return text(_LEFT - 8, y + 16, label, anchor="end")


def pictures(axes: Sequence[Axis]) -> list[Chart]:
    """One picture for each kind of unit that the record has."""
    layers, found = layers_of(axes), []
    if any(layer.heads for layer in layers):
        found.append(heads_picture(layers))
    if any(layer.units for layer in layers):
        rows = [(f"layer {layer.index}", layer.units, layer.feed_forward_gone) for layer in layers]
        found.append(bars_picture(rows, name="units", title="Feed-forward units", unit="unit", stacked=bool(found)))
    conv = sorted((axis for axis in axes if axis.kind == "channels"), key=lambda axis: axis.layer or 0)
    if conv:
        rows = [(f"conv {axis.layer}", axis, False) for axis in conv]
        found.append(bars_picture(rows, name="channels", title="Convolution channels", unit="channel"))
    rows = [("positional", axis, False) for axis in axes if axis.kind == "groups"]
    if rows:
        found.append(bars_picture(rows, name="groups", title="Positional convolution groups", unit="group"))
    return found
