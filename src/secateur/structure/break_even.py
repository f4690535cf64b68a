"""Break-even: which factorised maps a selection leaves no cheaper than the dense ones that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from secateur.structure.structure import Factorised, Structure


def dense_again(structure: Structure, kept: Mapping[str, Sequence[int]]) -> tuple[Factorised, ...]:
    """The factorised maps that go back to one matrix: r ranks of i inputs and o outputs, with r (i + o) >= i o.

    Args:
        structure: The model's structure.
        kept: Kept units of every axis, of a closed selection.
    """
    return tuple(each for each in structure.factorised if kept[each.axis] and _is_no_cheaper(each, kept))


def _is_no_cheaper(linear: Factorised, kept: Mapping[str, Sequence[int]]) -> bool:
    sizes = list(linear.dense.shape)
    for bind in linear.dense.binds:
        each = len(kept[bind.across]) if bind.across else 1
        sizes[bind.dim] = bind.width * each * sum(len(kept[name]) for name in bind.axes)
    outputs, inputs = sizes
    return len(kept[linear.axis]) * (inputs + outputs) >= inputs * outputs
