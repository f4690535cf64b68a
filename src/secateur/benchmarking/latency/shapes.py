"""Shapes that a latency table is measured on: cut models with widths from a single unit to the dense width.

The widths of layers do not matter to each other, so one model with many layers, each of another shape, measures all of
them in the surroundings that they run in. Front ends are measured whole, in many shapes: how their convolutions share
memory and caches is theirs to decide, and a fit takes them apart.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur.records.block_part import ATTENTION, FEED_FORWARD
from secateur.structure import Selection, Structure
from secateur.structure import axis as names

if TYPE_CHECKING:
    from secateur.hf.model_view import ConfigView

#: Query/key and value/output dimensions of each head of one layer.
Heads = tuple[tuple[int, int], ...]

FRONT_ENDS = 40
LAYERS = 32
POSITIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Channels of a front end that only feeds the layers that are measured.
_NARROW_CHANNELS = 8
#: The narrowest width, as a share of the dense one's.
_MIN_WIDTH_SHARE = 0.02


@dataclass(frozen=True, kw_only=True)
class ModelShape:
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
        """Return the selection of the first units of each axis; time depends on the number of units only."""
        channel_axes = [axis.name for axis in structure.axes_of_kinds(("channels",))]
        axes = {name: tuple(range(count)) for name, count in zip(channel_axes, self.channels, strict=True)}
        axes |= {axis.name: tuple(range(self.groups)) for axis in structure.axes_of_kinds(("groups",))}
        attention_blocks = structure.blocks_of_part(ATTENTION)
        feed_forward_blocks = structure.blocks_of_part(FEED_FORWARD)
        for block, heads in zip(attention_blocks, self.heads, strict=True):
            if not heads:
                axes[names.block(block.path)] = ()
            axes[names.heads(block.path)] = tuple(range(len(heads)))
            for head, (query_key, value_output) in enumerate(heads):
                axes[names.query_key(block.path, head)] = tuple(range(query_key))
                axes[names.value_output(block.path, head)] = tuple(range(value_output))
        for block, units in zip(feed_forward_blocks, self.units, strict=True):
            axes[names.units(block.path)] = tuple(range(units))
            if not units:
                axes[names.block(block.path)] = ()
        return Selection(axes=axes)


def architecture_view(architecture: Mapping[str, Any]) -> ConfigView:
    """Return the config of a dense model from the fields that `dense_architecture` returns."""
    from secateur.hf.configs import stock_config
    from secateur.hf.model_view import ConfigView

    fields = dict(architecture)
    return ConfigView(stock_config(fields.pop("model_type"), fields))


def time_key(part: str, layer: int | None = None) -> str:
    """Return the key of a block's time in a measured row: ``projection``, or ``attention 3`` in layer 3."""
    return part if layer is None else f"{part} {layer}"


def shapes_to_measure(architecture: Mapping[str, Any]) -> list[ModelShape]:
    """Return all shapes that are measured for an architecture, the same shapes every time.

    Args:
        architecture: Fields of a stock config.
    """
    rng = random.Random(0)
    channels = tuple(architecture["conv_dim"])
    units = architecture["intermediate_size"]
    count = architecture["num_attention_heads"]
    width = architecture["hidden_size"] // count  # of a head
    depth = architecture["num_hidden_layers"]
    groups = architecture["num_conv_pos_embedding_groups"]
    narrow_channels = tuple(min(_NARROW_CHANNELS, size) for size in channels)
    dense_heads: Heads = ((width, width),) * count
    measured_shapes = [
        ModelShape(name="front end", channels=widths, groups=groups, heads=((),), units=(0,))
        for widths in front_end_widths(channels, FRONT_ENDS, rng)
    ]
    measured_shapes += [
        ModelShape(name="positions", channels=narrow_channels, groups=num_groups, heads=((),), units=(0,))
        for num_groups in sorted({max(1, round(groups * share)) for share in POSITIONS})
    ]
    measured_shapes.append(
        ModelShape(
            name="layers",
            channels=narrow_channels,
            groups=groups,
            heads=(dense_heads, *(_random_heads(count, width, rng) for _ in range(LAYERS - 1))),
            units=stratified_widths(units, LAYERS, rng),
        )
    )
    measured_shapes.append(
        ModelShape(name="dense", channels=channels, groups=groups, heads=(dense_heads,) * depth, units=(units,) * depth)
    )
    for min_share, max_share in ((0.4, 0.9), (0.05, 0.6)):
        measured_shapes.append(random_model_shape(architecture, min_share, max_share, rng))
    return measured_shapes


def front_end_widths(sizes: Sequence[int], count: int, rng: random.Random) -> list[tuple[int, ...]]:
    """Return widths of front ends: the dense front end, some with dense layers, and some of random widths."""
    columns = [stratified_widths(size, count - 1, rng) for size in sizes]
    rows = list(zip(*columns, strict=True))  # (layers, count - 1) -> (count - 1, layers)
    partial_rows = [
        tuple(size if rng.random() < 0.5 else width for size, width in zip(sizes, row, strict=True))
        for row in rows[: count // 6]
    ]
    return [tuple(sizes), *partial_rows, *rows[len(partial_rows) :]]


def stratified_widths(size: int, count: int, rng: random.Random) -> tuple[int, ...]:
    """Return random widths up to `size` from all parts of the range, narrow widths more densely."""
    # The exponent makes narrow widths more frequent: 0.5 ** 1.5 = 0.35.
    shares = [
        _MIN_WIDTH_SHARE + (1 - _MIN_WIDTH_SHARE) * ((index + rng.random()) / count) ** 1.5
        for index in range(count - 1)
    ]
    widths = [size, *(max(1, round(size * share)) for share in shares)]
    rng.shuffle(widths)
    return tuple(widths)


def _random_heads(count: int, width: int, rng: random.Random) -> Heads:
    """Return random heads of a layer, of equal or of different dimensions."""
    number = rng.randint(1, count)
    if rng.random() < 0.5:
        return ((rng.randint(0, width), rng.randint(1, width)),) * number
    low, high = sorted((rng.randint(1, width), rng.randint(1, width)))
    return tuple((rng.randint(low, high), rng.randint(low, high)) for _ in range(number))


def random_model_shape(
    architecture: Mapping[str, Any], min_share: float, max_share: float, rng: random.Random
) -> ModelShape:
    """Return a whole model with an independent random share of the dense width for every width.

    Args:
        architecture: Fields of a stock config.
        min_share: Smallest share.
        max_share: Largest share.
        rng: Source of the random shares.
    """
    count = architecture["num_attention_heads"]
    width = architecture["hidden_size"] // count

    def random_width(size: int) -> int:
        return max(1, round(size * rng.uniform(min_share, max_share)))

    layers = range(architecture["num_hidden_layers"])
    return ModelShape(
        name="whole",
        channels=tuple(random_width(size) for size in architecture["conv_dim"]),
        groups=random_width(architecture["num_conv_pos_embedding_groups"]),
        heads=tuple(
            tuple((random_width(width), random_width(width)) for _ in range(random_width(count))) for _ in layers
        ),
        units=tuple(random_width(architecture["intermediate_size"]) for _ in layers),
    )
