"""What is measured for a table of latencies: cut models whose widths fill the space between one unit and all.

The widths of layers do not matter to each other, so one model with many layers, each of another shape, measures all of
them in the surroundings that they run in. Front ends are measured whole, in many shapes: how their convolutions share
memory and caches is theirs to decide, and a fit takes them apart.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.structure import Selection, Structure
from secateur.structure import wav2vec2 as names

#: Query/key and value/output dimensions of each head of one layer.
Heads = tuple[tuple[int, int], ...]

FRONT_ENDS = 40
LAYERS = 32
POSITIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Channels of a front end that only feeds the layers that are measured.
_THIN = 8
#: The narrowest width, as a share of the dense one's.
_NARROWEST = 0.02


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A cut model.

    Attributes:
        name: Of what it is measured for: ``front end``, ``positions``, ``layers``, ``dense`` or ``whole``.
        channels: Kept in each convolution.
        groups: Kept of the positional convolution.
        heads: Of each layer; a layer without any has no attention block.
        units: Feed-forward units of each layer; 0 is a layer without that block.
    """

    name: str
    channels: tuple[int, ...]
    groups: int
    heads: tuple[Heads, ...]
    units: tuple[int, ...]

    def selection(self, structure: Structure) -> Selection:
        """As a selection, of the first units: which ones are kept makes no difference to time."""
        axes: dict[str, tuple[int, ...]] = {names.channels(i): tuple(range(n)) for i, n in enumerate(self.channels)}
        if names.positional_groups() in structure.axes:
            axes[names.positional_groups()] = tuple(range(self.groups))
        for layer, heads in enumerate(self.heads):
            if not heads:
                axes[names.attention_block(layer)] = ()
            axes[names.heads(layer)] = tuple(range(len(heads)))
            for head, (query_key, value_output) in enumerate(heads):
                axes[names.query_key(layer, head)] = tuple(range(query_key))
                axes[names.value_output(layer, head)] = tuple(range(value_output))
        for layer, units in enumerate(self.units):
            axes[names.feed_forward_units(layer)] = tuple(range(units))
            if not units:
                axes[names.feed_forward_block(layer)] = ()
        return Selection(axes=axes)


def shapes(architecture: Mapping[str, Any]) -> list[Shape]:
    """All shapes that are measured for an architecture, the same ones every time.

    Args:
        architecture: Fields of a stock config.
    """
    draw = random.Random(0)
    channels = tuple(architecture["conv_dim"])
    units = architecture["intermediate_size"]
    count = architecture["num_attention_heads"]
    width = architecture["hidden_size"] // count
    depth = architecture["num_hidden_layers"]
    groups = architecture["num_conv_pos_embedding_groups"]
    thin = tuple(min(_THIN, size) for size in channels)
    whole: Heads = ((width, width),) * count
    out = [
        Shape(name="front end", channels=each, groups=groups, heads=((),), units=(0,))
        for each in front_ends(channels, FRONT_ENDS, draw)
    ]
    out += [
        Shape(name="positions", channels=thin, groups=each, heads=((),), units=(0,))
        for each in sorted({max(1, round(groups * share)) for share in POSITIONS})
    ]
    out.append(
        Shape(
            name="layers",
            channels=thin,
            groups=groups,
            heads=(whole, *(_heads(count, width, draw) for _ in range(LAYERS - 1))),
            units=spread(units, LAYERS, draw),
        )
    )
    out.append(Shape(name="dense", channels=channels, groups=groups, heads=(whole,) * depth, units=(units,) * depth))
    for least, most in ((0.4, 0.9), (0.05, 0.6)):
        out.append(random_whole(architecture, least, most, draw))
    return out


def front_ends(sizes: Sequence[int], count: int, draw: random.Random) -> list[tuple[int, ...]]:
    """Widths of convolutions: the whole front end, ones with some whole layers, and ones that fill the ranges."""
    columns = [spread(size, count - 1, draw) for size in sizes]
    rows = list(zip(*columns, strict=True))
    partly = [
        tuple(size if draw.random() < 0.5 else width for size, width in zip(sizes, row, strict=True))
        for row in rows[: count // 6]
    ]
    return [tuple(sizes), *partly, *rows[len(partly) :]]


def spread(size: int, count: int, draw: random.Random) -> tuple[int, ...]:
    """So many widths up to `size`, one from each part of the range, in random order; narrow ones more often."""
    shares = [_NARROWEST + (1 - _NARROWEST) * ((index + draw.random()) / count) ** 1.5 for index in range(count - 1)]
    widths = [size, *(max(1, round(size * share)) for share in shares)]
    draw.shuffle(widths)
    return tuple(widths)


def _heads(count: int, width: int, draw: random.Random) -> Heads:
    """Heads of one layer: all alike, or each of its own dimensions."""
    number = draw.randint(1, count)
    if draw.random() < 0.5:
        return ((draw.randint(0, width), draw.randint(1, width)),) * number
    low, high = sorted((draw.randint(1, width), draw.randint(1, width)))
    return tuple((draw.randint(low, high), draw.randint(low, high)) for _ in range(number))


def random_whole(architecture: Mapping[str, Any], least: float, most: float, draw: random.Random) -> Shape:
    """A whole model in which every width is a random share of the dense one's, every head's of its own.

    Args:
        architecture: Fields of a stock config.
        least: Smallest share.
        most: Largest share.
        draw: Decides.
    """
    count = architecture["num_attention_heads"]
    width = architecture["hidden_size"] // count

    def some(size: int) -> int:
        return max(1, round(size * draw.uniform(least, most)))

    layers = range(architecture["num_hidden_layers"])
    return Shape(
        name="whole",
        channels=tuple(some(size) for size in architecture["conv_dim"]),
        groups=some(architecture["num_conv_pos_embedding_groups"]),
        heads=tuple(tuple((some(width), some(width)) for _ in range(some(count))) for _ in layers),
        units=tuple(some(architecture["intermediate_size"]) for _ in layers),
    )
