"""Charts of the kept units: heads as a grid; all further kinds of units as bars."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from secateur.records.block_part import ATTENTION, FRONT_END
from secateur.records.run import AxisRecord
from secateur.report.charts import WIDTH, Chart
from secateur.report.formatting import format_count, format_percent
from secateur.report.svg import crossed_box, line, rectangle, svg_image, text

#: Width of the row labels and height of a row, in units of the view box.
_LABEL_WIDTH, _ROW_HEIGHT = 66.0, 24.0
_FEED_FORWARD_TITLE = "Feed-forward units"
#: Title and noun for a unit of each chart of a transducer's head, by kind of axis.
_TRANSDUCER_HEAD_TITLES = {"predictor": ("Predictor units", "unit"), "joiner": ("Joiner dimensions", "dimension")}


@dataclass(frozen=True, kw_only=True)
class HeadView:
    """Attention head with the query/key and value/output dimensions before and after the run, if recorded."""

    index: int
    is_alive: bool
    query_key: tuple[int, int] | None = None  # kept, before
    value_output: tuple[int, int] | None = None

    @property
    def is_partial(self) -> bool:
        """True if the head is kept but has lost dimensions."""
        dimension_pairs = (self.query_key, self.value_output)
        return self.is_alive and any(pair is not None and pair[0] < pair[1] for pair in dimension_pairs)


@dataclass(frozen=True, kw_only=True)
class LayerBlock:
    """Block of a layer apart from the attention: feed-forward or convolution module."""

    name: str
    axis: AxisRecord | None
    is_removed: bool


@dataclass(frozen=True, kw_only=True)
class LayerView:
    """Kept units of a Transformer layer; `None` stands for an axis that the record does not have."""

    index: int
    is_removed: bool
    heads_axis: AxisRecord | None
    heads: tuple[HeadView, ...]
    has_head_positions: bool  # False if the record has the number of kept heads only
    is_attention_removed: bool
    other_blocks: tuple[LayerBlock, ...]

    @property
    def query_key(self) -> tuple[int, int] | None:
        """Sum of the query/key dimensions over all heads: kept, before."""
        return _sum_pairs([head.query_key for head in self.heads])

    @property
    def value_output(self) -> tuple[int, int] | None:
        """Sum of the value/output dimensions over all heads: kept, before."""
        return _sum_pairs([head.value_output for head in self.heads])


def _removed_head(head: HeadView) -> HeadView:
    """Return a copy of a head that is marked as removed and has no dimensions."""
    query_key, value_output = ((0, pair[1]) if pair else None for pair in (head.query_key, head.value_output))
    return replace(head, is_alive=False, query_key=query_key, value_output=value_output)


def _sum_pairs(pairs: Sequence[tuple[int, int] | None]) -> tuple[int, int] | None:
    counted_pairs = [pair for pair in pairs if pair is not None]
    return (
        (sum(kept_units for kept_units, _ in counted_pairs), sum(dense_units for _, dense_units in counted_pairs))
        if counted_pairs
        else None
    )


def build_layers(axes: Sequence[AxisRecord]) -> list[LayerView]:
    """Build the encoder layers from the recorded axes, sorted by index."""
    by_layer: dict[int, dict[str, AxisRecord]] = {}
    for axis in axes:
        if axis.layer is not None and axis.part != FRONT_END:
            by_layer.setdefault(axis.layer, {})[axis.name] = axis
    return [_layer_view(index, by_layer[index]) for index in sorted(by_layer)]


def _layer_view(index: int, axes: Mapping[str, AxisRecord]) -> LayerView:
    heads_axis = next((axis for axis in axes.values() if axis.kind == "heads"), None)
    attention = heads_axis.name.rpartition("/")[0] if heads_axis else ""
    is_removed = any(_is_removed(axis) for axis in axes.values() if axis.kind == "layer")
    is_attention_removed = any(
        _is_removed(axis) for axis in axes.values() if axis.kind == "block" and axis.part == ATTENTION
    )
    heads = []
    for head_index in range(heads_axis.original if heads_axis else 0):
        # An axis per head (``…attention/head3.qk``), or an axis that all heads share (``…attention/qk``).
        query_key_axis = axes.get(f"{attention}/head{head_index}.qk", axes.get(f"{attention}/qk"))
        value_output_axis = axes.get(f"{attention}/head{head_index}.vo", axes.get(f"{attention}/vo"))
        heads.append(
            HeadView(
                index=head_index,
                is_alive=value_output_axis is not None and value_output_axis.kept > 0,
                query_key=(query_key_axis.kept, query_key_axis.before) if query_key_axis else None,
                value_output=(value_output_axis.kept, value_output_axis.before) if value_output_axis else None,
            )
        )
    kept_heads = heads_axis.kept if heads_axis else 0
    # Positions are known if the heads with value/output dimensions are as many as the kept heads.
    has_head_positions = any(head.value_output for head in heads) and sum(head.is_alive for head in heads) == kept_heads
    if not has_head_positions:
        # Positions unknown: draw the kept heads first, then the removed heads.
        has_shared_dimensions = f"{attention}/vo" in axes
        layer_heads = [head if has_shared_dimensions else HeadView(index=head.index, is_alive=True) for head in heads]
        heads = [head if head.index < kept_heads else _removed_head(head) for head in layer_heads]
    return LayerView(
        index=index,
        is_removed=is_removed,
        heads_axis=heads_axis,
        heads=tuple(heads),
        has_head_positions=has_head_positions,
        is_attention_removed=is_removed or is_attention_removed or (heads_axis is not None and not kept_heads),
        other_blocks=tuple(_other_blocks(axes, is_removed)),
    )


def _other_blocks(axes: Mapping[str, AxisRecord], is_layer_removed: bool) -> Iterator[LayerBlock]:
    """Yield the blocks of a layer except the attention."""
    for axis in axes.values():
        if axis.kind in ("units", "channels"):
            # "encoder.layers.3.feed_forward/units" -> block "encoder.layers.3.feed_forward", name "feed_forward"
            block = axis.name.rpartition("/")[0]
            block_name = block.rpartition(".")[2]
            name = _FEED_FORWARD_TITLE if block_name == "feed_forward" else f"{block_name} {axis.kind}"
            yield LayerBlock(
                name=name,
                axis=axis,
                is_removed=is_layer_removed or _is_removed(axes.get(f"{block}/block")) or _is_removed(axis),
            )


def conv_channel_axes(axes: Sequence[AxisRecord]) -> list[AxisRecord]:
    """Return the channel axes of the convolutions in front of the layers, sorted by layer."""
    conv_axes = (axis for axis in axes if axis.kind == "channels" and axis.part == FRONT_END)
    return sorted(conv_axes, key=lambda axis: axis.layer or 0)


def _is_removed(axis: AxisRecord | None) -> bool:
    return axis is not None and axis.kept == 0


def heads_chart(layers: Sequence[LayerView]) -> Chart:
    """Draw the heads as a grid, a row per layer; a partial head has a query/key bar above a value/output bar."""
    max_heads = max((len(layer.heads) for layer in layers), default=1)
    x_end = WIDTH - 66
    # Width of a head: the grid spans from the labels to the counts at the right.
    width = (x_end - _LABEL_WIDTH) / max(max_heads, 1)
    parts: list[Markup] = []
    # At most about 12 numbers above the columns.
    stride = max(1, round(max_heads / 12))
    for column in range(0, max_heads, stride) if any(layer.has_head_positions for layer in layers) else ():
        parts.append(text(_LABEL_WIDTH + (column + 0.5) * width, 14, str(column), anchor="middle"))
    for row, layer in enumerate(layers):
        y = 22 + row * _ROW_HEIGHT
        parts.append(_row_label(y, f"layer {layer.index}"))
        if layer.is_attention_removed:
            removed_part = "layer" if layer.is_removed else "attention"
            parts += _removed_row(y, x_end, WIDTH - 58, tooltip=f"layer {layer.index}: {removed_part} removed")
            continue
        for head in layer.heads:
            parts.extend(_draw_head(head, layer, _LABEL_WIDTH + head.index * width, y, width))
        if layer.heads_axis is not None:
            parts.append(text(WIDTH - 58, y + 16, f"{layer.heads_axis.kept} / {layer.heads_axis.original}"))
    kept_heads = sum(layer.heads_axis.kept for layer in layers if layer.heads_axis and not layer.is_attention_removed)
    total = sum(layer.heads_axis.original for layer in layers if layer.heads_axis)
    removed_attentions = sum(layer.is_attention_removed for layer in layers)
    notes = [f"{kept_heads:,} of {format_count(total, 'head')} left"]
    if removed_attentions:
        notes.append(f"{format_count(removed_attentions, 'attention block')} removed")
    note = "; ".join(notes) + "."
    if any(not layer.has_head_positions and layer.heads_axis and not layer.is_attention_removed for layer in layers):
        note += " The record has the number of kept heads, not their positions."
    svg = svg_image(
        *parts,
        width=WIDTH,
        height=26 + len(layers) * _ROW_HEIGHT,
        name="heads",
        title="Attention heads left in each layer",
        description=note,
    )
    return Chart(title="Attention heads", svg=svg, note=note)


def _draw_head(head: HeadView, layer: LayerView, x: float, y: float, width: float) -> list[Markup]:
    bar_width, bar_height = width - 2, _ROW_HEIGHT - 4
    name = f"layer {layer.index}, head {head.index}"
    if not head.is_alive:
        return [rectangle(x + 1, y + 2, bar_width, bar_height, class_="pruned", tooltip=f"{name}: removed", radius=2)]
    query_key, value_output = head.query_key, head.value_output
    if query_key is None or value_output is None:
        tooltip = f"{name}: kept" if layer.has_head_positions else f"layer {layer.index}: a kept head"
        return [rectangle(x + 1, y + 2, bar_width, bar_height, class_="kept", tooltip=tooltip, radius=2)]
    tooltip = f"{name}: query/key {query_key[0]} of {query_key[1]}, value/output {value_output[0]} of {value_output[1]}"
    if not head.is_partial:
        return [rectangle(x + 1, y + 2, bar_width, bar_height, class_="kept", tooltip=tooltip, radius=2)]
    # Partial head: query/key share in the upper half, value/output share in the lower half.
    half_height = bar_height / 2
    return [
        rectangle(x + 1, y + 2, bar_width, bar_height, class_="pale", tooltip=tooltip, radius=2),
        rectangle(
            x + 1,
            y + 2,
            bar_width * query_key[0] / max(query_key[1], 1),
            half_height - 0.5,
            class_="kept",
            tooltip=tooltip,
        ),
        rectangle(
            x + 1,
            y + 2.5 + half_height,
            bar_width * value_output[0] / max(value_output[1], 1),
            half_height - 0.5,
            class_="kept second",
            tooltip=tooltip,
        ),
    ]


def _removed_row(y: float, x_end: float, x_text: float, *, tooltip: str) -> list[Markup]:
    """Return a crossed box in place of a removed block, and the word behind the box."""
    box = crossed_box(_LABEL_WIDTH + 1, y + 2, x_end - _LABEL_WIDTH - 2, _ROW_HEIGHT - 4, tooltip=tooltip)
    return [box, text(x_text, y + 16, "removed", class_="quiet")]


def _bar(axis: AxisRecord, y: float, *, full_width: float, largest: int, label: str, unit: str) -> list[Markup]:
    """Return the bar of an axis: the outline of the stock model, the kept part, and the count behind the bar."""
    # Units -> widths: the axis with the most units fills the row.
    original_width, before_width, kept_width = (
        full_width * value / max(largest, 1) for value in (axis.original, axis.before, axis.kept)
    )
    kept_text = format_percent(axis.kept / max(axis.original, 1))
    tooltip = f"{label}: {axis.kept:,} of {format_count(axis.original, unit)} ({kept_text})"
    parts = [
        rectangle(_LABEL_WIDTH + 1, y + 2, width - 2, _ROW_HEIGHT - 4, class_=class_, tooltip=tooltip, radius=2)
        for width, class_ in ((original_width, "pruned"), (kept_width, "kept"))
    ]
    # A vertical mark at the units that the run started with.
    if axis.before != axis.original:
        x = _LABEL_WIDTH + before_width
        parts.append(line(x, y + 1, x, y + _ROW_HEIGHT - 1, class_="mark"))
    parts.append(text(WIDTH - 84, y + 16, f"{axis.kept:,} / {axis.original:,}"))
    return parts


def bars_chart(
    rows: Sequence[tuple[str, AxisRecord | None, bool]],
    *,
    name: str,
    title: str,
    unit: str,
    has_header_line: bool = False,
) -> Chart:
    """Draw a bar per row: the full width is the units of the stock model, the filled part the kept units.

    Args:
        rows: Label of the row, axis, and whether the block of the axis is removed.
        name: Prefix of the element ids, unique on the page.
        title: Title of the chart.
        unit: Singular noun for a unit.
        has_header_line: Whether to leave room above the first row, so that rows align with the grid of heads beside.
    """
    top = 22.0 if has_header_line else 4.0
    x_end = WIDTH - 92
    largest = max((axis.original for _, axis, _ in rows if axis), default=1)
    parts: list[Markup] = []
    for row, (label, axis, is_removed) in enumerate(rows):
        y = top + row * _ROW_HEIGHT
        parts.append(_row_label(y, label))
        if is_removed or axis is None:
            parts += _removed_row(y, x_end, WIDTH - 84, tooltip=f"{label}: the block is removed")
            continue
        parts += _bar(axis, y, full_width=x_end - _LABEL_WIDTH, largest=largest, label=label, unit=unit)
    kept_units = sum(axis.kept for _, axis, is_removed in rows if axis and not is_removed)
    total = sum(axis.original for _, axis, _ in rows if axis)
    note = f"{kept_units:,} of {format_count(total, unit)} left ({format_percent(kept_units / max(total, 1))})."
    removed_blocks = sum(is_removed for _, _, is_removed in rows)
    if removed_blocks:
        note = f"{note[:-1]}; {format_count(removed_blocks, 'block')} removed."
    svg = svg_image(
        *parts,
        width=WIDTH,
        height=top + 4 + len(rows) * _ROW_HEIGHT,
        name=name,
        title=f"{title} left{' in each layer' if len(rows) > 1 else ''}",
        description=note,
    )
    return Chart(title=title, svg=svg, note=note)


def _row_label(y: float, label: str) -> Markup:
    return text(_LABEL_WIDTH - 8, y + 16, label, anchor="end")


def shape_charts(axes: Sequence[AxisRecord]) -> list[Chart]:
    """Draw a chart for each kind of unit in the record."""
    layers, charts = build_layers(axes), []
    if any(layer.heads_axis for layer in layers):
        charts.append(heads_chart(layers))
    for name in dict.fromkeys(block.name for layer in layers for block in layer.other_blocks):
        rows = [
            (f"layer {layer.index}", block.axis, block.is_removed)
            for layer in layers
            for block in layer.other_blocks
            if block.name == name
        ]
        # "Feed-forward units" -> "unit"; "conv channels" -> "channel"
        unit = name.rpartition(" ")[2].removesuffix("s")
        slug = "units" if name == _FEED_FORWARD_TITLE else name.replace(" ", "-")
        charts.append(bars_chart(rows, name=slug, title=name, unit=unit, has_header_line=bool(charts)))
    conv_axes = conv_channel_axes(axes)
    if conv_axes:
        rows = [(f"conv {axis.layer}", axis, False) for axis in conv_axes]
        charts.append(bars_chart(rows, name="channels", title="Convolution channels", unit="channel"))
    rows = [("positional", axis, False) for axis in axes if axis.kind == "groups"]
    if rows:
        charts.append(bars_chart(rows, name="groups", title="Positional convolution groups", unit="group"))
    charts += [chart for kind in _TRANSDUCER_HEAD_TITLES if (chart := transducer_head_chart(axes, kind)) is not None]
    return charts + rank_charts([axis for axis in axes if axis.kind == "rank"])


def transducer_head_chart(axes: Sequence[AxisRecord], kind: str) -> Chart | None:
    """Draw the kept widths of a transducer's predictor or joiner; `None` if the run did not prune the widths."""
    kind_axes = [axis for axis in axes if axis.kind == kind]
    if not any(axis.gated or axis.kept < axis.original for axis in kind_axes):
        return None
    title, unit = _TRANSDUCER_HEAD_TITLES[kind]
    rows = [(_head_row_name(axis), axis, False) for axis in kind_axes]
    return bars_chart(rows, name=kind, title=title, unit=unit)


def _head_row_name(axis: AxisRecord) -> str:
    """Return the label of a row: ``layer 1`` for a path with ``layer1.``, otherwise the last name of the path."""
    match = re.search(r"layer(\d+)\.", axis.name)
    return f"layer {match[1]}" if match else axis.name.rpartition("/")[0].rpartition(".")[2]


def rank_charts(axes: Sequence[AxisRecord]) -> list[Chart]:
    """Draw a chart of the kept ranks for each name of a factorized linear map, a row per layer."""
    by_name: dict[str, list[AxisRecord]] = {}
    for axis in axes:
        by_name.setdefault(axis.name.rpartition("/")[0].rpartition(".")[2], []).append(axis)
    return [
        bars_chart(
            [(name if axis.layer is None else f"layer {axis.layer}", axis, axis.kept == 0) for axis in name_axes],
            name=f"ranks-{name}",
            title=f"Ranks of {name}",
            unit="rank",
        )
        for name, name_axes in by_name.items()
    ]
