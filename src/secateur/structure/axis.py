"""An axis: one dimension of the network made of interchangeable units."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

KINDS = ("channels", "groups", "heads", "qk", "vo", "units", "rank", "predictor", "joiner", "block", "layer")

#: Those of a transducer's head.
HEAD_KINDS = ("predictor", "joiner")

#: An axis name and the original index of one of its units.
Unit = tuple[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """An axis and the conditions under which its units are alive.

    Attributes:
        name: Public name, ``<module path>/<kind>``; the path is relative to the base model, or leads to a head.
        units: Original indices of the units that this model has, in the order in which they are stored.
        original: How many units the first, dense model had.
        parents: Every unit that must be alive for any unit of this axis to be alive (all ancestors, flat).
        needs: For each unit, the axis that must keep at least one unit for it to be alive; empty for none.
        least: How many units always stay.
        with_any: Axes of which one must keep a unit for any unit of this axis to be alive; empty for no such condition.
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
        """The kind of unit: the last word of the name (``head3.qk`` is of kind ``qk``)."""
        return kind_of(self.name)

    @property
    def path(self) -> str:
        """The path of the module that it is an axis of."""
        return self.name.rpartition("/")[0]

    @property
    def size(self) -> int:
        """How many units this model has."""
        return len(self.units)


def kind_of(name: str) -> str:
    """The kind named at the end of an axis name."""
    return re.split(r"[/.]", name)[-1]


def channels(path: str) -> str:
    """The channels of a convolution, or of a Conformer's convolution module."""
    return f"{path}/channels"


def groups(path: str) -> str:
    """The groups of a positional convolution."""
    return f"{path}/groups"


def heads(path: str) -> str:
    """The heads of an attention block."""
    return f"{path}/heads"


def query_key(path: str, head: int) -> str:
    """The query/key dimensions of one head of an attention block."""
    return f"{path}/head{head}.qk"


def value_output(path: str, head: int) -> str:
    """The value/output dimensions of one head of an attention block."""
    return f"{path}/head{head}.vo"


def shared_query_key(path: str) -> str:
    """The query/key dimensions that all heads of an attention block share."""
    return f"{path}/qk"


def shared_value_output(path: str) -> str:
    """The value/output dimensions that all heads of an attention block share."""
    return f"{path}/vo"


def units(path: str) -> str:
    """The intermediate units of a feed-forward block."""
    return f"{path}/units"


def block(path: str) -> str:
    """A whole block, output bias included."""
    return f"{path}/block"


def ranks(path: str) -> str:
    """The ranks of a factorised linear map."""
    return f"{path}/rank"


def predictor_embedding(path: str) -> str:
    """The dimensions of the tokens' embedding in a transducer's predictor."""
    return f"{path}/predictor"


def predictor_layer(path: str, layer: int) -> str:
    """The hidden units of one layer of the LSTM of a transducer's predictor."""
    return f"{path}/layer{layer}.predictor"


def joiner(path: str) -> str:
    """The dimensions in which a transducer's joiner adds up encoder and predictor."""
    return f"{path}/joiner"


def layer(path: str) -> str:
    """A whole layer; only trailing layers can go."""
    return f"{path}/layer"


def to_ranges(indices: Sequence[int]) -> str:
    """Indices as compact text: ``[0, 1, 2, 5]`` becomes ``"0-2,5"``; none becomes ``""``."""
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
    """The indices that `to_ranges` wrote."""
    return tuple(_expand_ranges(text.split(","))) if text else ()


def _expand_ranges(ranges: Iterable[str]) -> Iterable[int]:
    for part in ranges:
        first_index, _, last_index = part.partition("-")
        yield from range(int(first_index), int(last_index or first_index) + 1)
