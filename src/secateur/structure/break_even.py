"""Break-even: which factorised maps a selection leaves no cheaper than the dense ones that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from secateur.structure.structure import Factorization, Structure


def factorizations_to_merge(structure: Structure, kept_units: Mapping[str, Sequence[int]]) -> tuple[Factorization, ...]:
    """The factorised maps that go back to one matrix: r ranks of i inputs and o outputs, with r (i + o) >= i o.

    Args:
        structure: The model's structure.
        kept: Kept units of every axis, of a closed selection.
    """
    return tuple(
        factorization
        for factorization in structure.factorizations
        if kept_units[factorization.axis] and _is_no_cheaper(factorization, kept_units)
    )


def _is_no_cheaper(factorization: Factorization, kept_units: Mapping[str, Sequence[int]]) -> bool:
    sizes = list(factorization.dense.shape)
    for binding in factorization.dense.bindings:
        repeats = len(kept_units[binding.per_unit_of]) if binding.per_unit_of else 1
        sizes[binding.dim] = binding.width * repeats * sum(len(kept_units[name]) for name in binding.axes)
    outputs, inputs = sizes
    return len(kept_units[factorization.axis]) * (inputs + outputs) >= inputs * outputs
