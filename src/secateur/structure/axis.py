"""An axis: one dimension of the network made of interchangeable units."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

KINDS = ("channels", "groups", "heads", "qk", "vo", "units", "block", "layer")

#: An axis name and the original index of one of its units.
Unit = tuple[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """An axis and the conditions under which its units are alive.

    Attributes:
        name: Public name, ``<module path relative to the base model>/<kind>``.
        units: Original indices of the units that this model has, in the order in which they are stored.
        original: How many units the first, dense model had.
        parents: Every unit that must be alive for any unit of this axis to be alive (all ancestors, flat).
        needs: For each unit, the axis that must keep at least one unit for it to be alive; empty for none.
        least: How many units always stay.
    """

    name: str
    units: tuple[int, ...]
    original: int
    parents: tuple[Unit, ...] = ()
    needs: tuple[str, ...] = ()
    least: int = 0

    @property
    def kind(self) -> str:
        """The kind of unit: the last word of the name (``head3.qk`` is of kind ``qk``)."""
        return kind_of(self.name)

    @property
    def size(self) -> int:
        """How many units this model has."""
        return len(self.units)


def kind_of(name: str) -> str:
    """The kind named at the end of an axis name."""
    return re.split(r"[/.]", name)[-1]


def channels(layer: int) -> str:
    """The output channels of front-end layer `layer`."""
    return f"feature_extractor.conv_layers.{layer}/channels"


def positional_groups() -> str:
    """The groups of the positional convolution."""
    return "encoder.pos_conv_embed.conv/groups"


def heads(layer: int) -> str:
    """The attention heads of Transformer layer `layer`."""
    return f"encoder.layers.{layer}.attention/heads"


def query_key(layer: int, head: int) -> str:
    """The query/key dimensions of one head."""
    return f"encoder.layers.{layer}.attention/head{head}.qk"


def value_output(layer: int, head: int) -> str:
    """The value/output dimensions of one head."""
    return f"encoder.layers.{layer}.attention/head{head}.vo"


def attention_block(layer: int) -> str:
    """The whole attention block of a layer, output bias included."""
    return f"encoder.layers.{layer}.attention/block"


def feed_forward_units(layer: int) -> str:
    """The intermediate units of a feed-forward block."""
    return f"encoder.layers.{layer}.feed_forward/units"


def feed_forward_block(layer: int) -> str:
    """The whole feed-forward block of a layer, output bias included."""
    return f"encoder.layers.{layer}.feed_forward/block"


def whole_layer(layer: int) -> str:
    """A whole Transformer layer; only trailing layers can go."""
    return f"encoder.layers.{layer}/layer"


def to_ranges(indices: Sequence[int]) -> str:
    """Indices as compact text: ``[0, 1, 2, 5]`` becomes ``"0-2,5"``; none becomes ``""``."""
    parts: list[str] = []
    start = previous = None
    for index in sorted(indices):
        if previous is not None and index == previous + 1:
            previous = index
            continue
        if start is not None:
            parts.append(f"{start}" if start == previous else f"{start}-{previous}")
        start = previous = index
    if start is not None:
        parts.append(f"{start}" if start == previous else f"{start}-{previous}")
    return ",".join(parts)


def from_ranges(text: str) -> tuple[int, ...]:
    """The indices that `to_ranges` wrote."""
    return tuple(_expand(text.split(","))) if text else ()


def _expand(parts: Iterable[str]) -> Iterable[int]:
    for part in parts:
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)
