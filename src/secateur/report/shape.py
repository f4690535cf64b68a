"""Pictures of what is left: heads as a grid; units, channels, positional groups, ranks, transducers' widths as bars."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from secateur.report.charts import WIDTH, Chart
from secateur.report.record import Axis
from secateur.report.svg import cross, line, picture, rectangle, text
from secateur.report.words import plural, share

_LEFT, _ROW = 66.0, 24.0
_UNITS = "Feed-forward units"
#: Pictures of a transducer's head, by the kind of its axes: the title, and the noun for one unit.
_HEAD = {"predictor": ("Predictor units", "unit"), "joiner": ("Joiner dimensions", "dimension")}
#: The path of a layer of the encoder.
_LAYER = re.compile(r"(encoder\.)?layers\.\d+\b")


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
class Other:
    """A block of a layer beside its attention: what its units are called, their axis, and whether it is gone."""

    name: str
    axis: Axis | None
    gone: bool


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What is left of one Transformer layer; an axis that the record does not have is None."""

    index: int
    gone: bool
    heads: Axis | None
    each: tuple[Head, ...]
    placed: bool  # whether it is known which heads are kept, or only how many
    attention_gone: bool
    others: tuple[Other, ...]

    @property
    def query_key(self) -> tuple[int, int] | None:
        """Query/key dimensions of all heads: kept, before."""
        return _sum([head.query_key for head in self.each])

    @property
    def value_output(self) -> tuple[int, int] | None:
        """Value/output dimensions of all heads: kept, before."""
        return _sum([head.value_output for head in self.each])


def _without(head: Head) -> Head:
    """A head that is gone, with none of its dimensions."""
    wide, deep = ((0, pair[1]) if pair else None for pair in (head.query_key, head.value_output))
    return replace(head, alive=False, query_key=wide, value_output=deep)


def _sum(pairs: Sequence[tuple[int, int] | None]) -> tuple[int, int] | None:
    known = [pair for pair in pairs if pair is not None]
    return (sum(kept for kept, _ in known), sum(before for _, before in known)) if known else None


def layers_of(axes: Sequence[Axis]) -> list[Layer]:
    """The encoder's layers that axes speak of, in order."""
    by_path: dict[str, dict[str, Axis]] = {}
    for axis in axes:
        if match := _LAYER.match(axis.name):
            by_path.setdefault(match[0], {})[axis.name] = axis
    return sorted((_layer(path, found) for path, found in by_path.items()), key=lambda layer: layer.index)


def _layer(path: str, axes: Mapping[str, Axis]) -> Layer:
    heads = next((axis for axis in axes.values() if axis.kind == "heads"), None)
    attention = heads.name.rpartition("/")[0] if heads else f"{path}.attention"
    gone = _gone(axes.get(f"{path}/layer"))
    each = []
    for index in range(heads.original if heads else 0):
        # Dimensions are each head's own, or of all heads alike.
        wide = axes.get(f"{attention}/head{index}.qk", axes.get(f"{attention}/qk"))
        deep = axes.get(f"{attention}/head{index}.vo", axes.get(f"{attention}/vo"))
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
        shared = f"{attention}/vo" in axes
        left = [head if shared else Head(index=head.index, alive=True) for head in each]
        each = [head if head.index < kept else _without(head) for head in left]
    return Layer(
        index=int(path.rpartition(".")[2]),
        gone=gone,
        heads=heads,
        each=tuple(each),
        placed=placed,
        attention_gone=gone or _gone(axes.get(f"{attention}/block")) or (heads is not None and not kept),
        others=tuple(_others(axes, gone)),
    )


def _others(axes: Mapping[str, Axis], gone: bool) -> Iterator[Other]:
    """The blocks of a layer that has those axes, less its attention."""
    for axis in axes.values():
        if axis.kind in ("units", "channels"):
            block = axis.name.rpartition("/")[0]
            word = block.rpartition(".")[2]
            name = _UNITS if word == "feed_forward" else f"{word} {axis.kind}"
            yield Other(name=name, axis=axis, gone=gone or _gone(axes.get(f"{block}/block")) or _gone(axis))


def convolutions(axes: Sequence[Axis]) -> list[Axis]:
    """The channels of convolutions in front of the layers, in order."""
    outside = (axis for axis in axes if axis.kind == "channels" and not _LAYER.match(axis.name))
    return sorted(outside, key=lambda axis: axis.layer or 0)


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
    for name in dict.fromkeys(other.name for layer in layers for other in layer.others):
        rows = [(f"layer {layer.index}", o.axis, o.gone) for layer in layers for o in layer.others if o.name == name]
        unit = name.rpartition(" ")[2].removesuffix("s")
        word = "units" if name == _UNITS else name.replace(" ", "-")
        found.append(bars_picture(rows, name=word, title=name, unit=unit, stacked=bool(found)))
    conv = convolutions(axes)
    if conv:
        rows = [(f"conv {axis.layer}", axis, False) for axis in conv]
        found.append(bars_picture(rows, name="channels", title="Convolution channels", unit="channel"))
    rows = [("positional", axis, False) for axis in axes if axis.kind == "groups"]
    if rows:
        found.append(bars_picture(rows, name="groups", title="Positional convolution groups", unit="group"))
    found += [picture for kind in _HEAD if (picture := head_picture(axes, kind)) is not None]
    return found + rank_pictures([axis for axis in axes if axis.kind == "rank"])


def head_picture(axes: Sequence[Axis], kind: str) -> Chart | None:
    """The widths that are left of a transducer's predictor or joiner; None where they were not to be pruned."""
    own = [axis for axis in axes if axis.kind == kind]
    if not any(axis.gated or axis.kept < axis.original for axis in own):
        return None
    title, unit = _HEAD[kind]
    rows = [(_row_of_head(axis), axis, False) for axis in own]
    return bars_picture(rows, name=kind, title=title, unit=unit)


def _row_of_head(axis: Axis) -> str:
    """What a row is called: the number of a layer, or the last word of the path."""
    found = re.search(r"layer(\d+)\.", axis.name)
    return f"layer {found[1]}" if found else axis.name.rpartition("/")[0].rpartition(".")[2]


def rank_pictures(axes: Sequence[Axis]) -> list[Chart]:
    """One picture for the factorised maps of each name: the ranks that are left of it in each layer."""
    by_name: dict[str, list[Axis]] = {}
    for axis in axes:
        by_name.setdefault(axis.name.rpartition("/")[0].rpartition(".")[2], []).append(axis)
    return [
        bars_picture(
            [(name if axis.layer is None else f"layer {axis.layer}", axis, axis.kept == 0) for axis in found],
            name=f"ranks-{name}",
            title=f"Ranks of {name}",
            unit="rank",
        )
        for name, found in by_name.items()
    ]
