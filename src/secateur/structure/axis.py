"""Axes: dimensions of a network that consist of interchangeable units, and the names of axes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

KINDS = ("channels", "groups", "heads", "qk", "vo", "units", "rank", "predictor", "joiner", "block", "layer")

#: Kinds of axes of a transducer's head.
HEAD_KINDS = ("predictor", "joiner")

#: Name of an axis, and the original index of a unit.
Unit = tuple[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """Axis and the conditions under which units are alive.

    Example: with head 1 removed in an earlier cut, the axis ``encoder.layers.0.attention/heads`` of a model with 4
    heads has ``units=(0, 2, 3)`` and ``original=4``. Its parents are the layer and the attention block, and each unit
    requires the axis ``encoder.layers.0.attention/head0.vo`` (or ``head2.vo``, ``head3.vo``).

    Attributes:
        name: Public name, ``<module path>/<kind>``; the path is relative to the base model, or to the whole model for
            the axes of a transducer's head.
        units: Original indices of the units that this model has, in storage order.
        original: Number of units of the dense model.
        parents: Units that must be alive for any unit of this axis to be alive (all ancestors, flat).
        requires: For each unit, the axis that must keep at least one unit for the unit to be alive; empty for none.
        min_units: Number of units that always stay.
        requires_any: Axes of which at least one must keep a unit for any unit of this axis to be alive; empty for no
            such condition.
    """

    name: str
    units: tuple[int, ...]
    original: int
    parents: tuple[Unit, ...] = ()
    requires: tuple[str, ...] = ()
    min_units: int = 0
    requires_any: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Kind of unit, the last word of the name: ``qk`` of ``…/head3.qk``."""
        return kind_of(self.name)

    @property
    def path(self) -> str:
        """Path of the module that has the axis."""
        return self.name.rpartition("/")[0]

    @property
    def size(self) -> int:
        """Number of units of this model."""
        return len(self.units)


def kind_of(name: str) -> str:
    """Return the kind at the end of an axis name."""
    return re.split(r"[/.]", name)[-1]


def channels(path: str) -> str:
    """Return the axis of channels of a convolution, or of a Conformer's convolution module."""
    return f"{path}/channels"


def groups(path: str) -> str:
    """Return the axis of groups of a positional convolution."""
    return f"{path}/groups"


def heads(path: str) -> str:
    """Return the axis of heads of an attention block."""
    return f"{path}/heads"


def query_key(path: str, head: int) -> str:
    """Return the axis of query/key dimensions of a single head."""
    return f"{path}/head{head}.qk"


def value_output(path: str, head: int) -> str:
    """Return the axis of value/output dimensions of a single head."""
    return f"{path}/head{head}.vo"


def shared_query_key(path: str) -> str:
    """Return the axis of query/key dimensions that the heads of an attention block share."""
    return f"{path}/qk"


def shared_value_output(path: str) -> str:
    """Return the axis of value/output dimensions that the heads of an attention block share."""
    return f"{path}/vo"


def units(path: str) -> str:
    """Return the axis of intermediate units of a feed-forward block."""
    return f"{path}/units"


def block(path: str) -> str:
    """Return the axis of a whole block, output bias included."""
    return f"{path}/block"


def ranks(path: str) -> str:
    """Return the axis of ranks of a factorized linear map."""
    return f"{path}/rank"


def predictor_embedding(path: str) -> str:
    """Return the axis of embedding dimensions of a transducer's predictor."""
    return f"{path}/predictor"


def predictor_layer(path: str, layer: int) -> str:
    """Return the axis of hidden units of an LSTM layer of a transducer's predictor."""
    return f"{path}/layer{layer}.predictor"


def joiner(path: str) -> str:
    """Return the axis of a transducer's joiner: the dimensions of the sum of encoder and predictor."""
    return f"{path}/joiner"


def layer(path: str) -> str:
    """Return the axis of a whole layer; only trailing layers can be removed."""
    return f"{path}/layer"


def to_ranges(indices: Sequence[int]) -> str:
    """Return indices as compact text: ``[0, 1, 2, 5]`` becomes ``"0-2,5"``, and ``[]`` becomes ``""``."""
    ranges: list[str] = []
    start = previous = None
    for index in sorted(indices):
        if previous is not None and index == previous + 1:
            previous = index
            continue
        if start is not None:
            ranges.append(f"{start}" if start == previous else f"{start}-{previous}")
        start = previous = index
    if start is not None:
        ranges.append(f"{start}" if start == previous else f"{start}-{previous}")
    return ",".join(ranges)


def from_ranges(text: str) -> tuple[int, ...]:
    """Return the indices of a text that `to_ranges` made."""
    return tuple(_expand_ranges(text.split(","))) if text else ()


def _expand_ranges(ranges: Iterable[str]) -> Iterable[int]:
    for part in ranges:
        first_index, _, last_index = part.partition("-")
        yield from range(int(first_index), int(last_index or first_index) + 1)
