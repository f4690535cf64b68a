"""Break-even point of factorized linear maps, where a dense matrix becomes cheaper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from secateur.structure.rows import Factorization
from secateur.structure.structure import Structure


def factorizations_to_merge(structure: Structure, kept_units: Mapping[str, Sequence[int]]) -> tuple[Factorization, ...]:
    """Return the factorized maps that are no cheaper than a dense matrix: r ranks with r (i + o) >= i o.

    Here i is the number of inputs and o the number of outputs. Example: a map of 768 inputs and 768 outputs is cheaper
    as two matrices with up to 383 ranks, since 384 * 1536 = 768 * 768.

    Args:
        structure: The model's structure.
        kept_units: Kept units of every axis, of a normalized selection.
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
    # Sizes of the dense matrix (out, in) after the cut.
    outputs, inputs = sizes
    return len(kept_units[factorization.axis]) * (inputs + outputs) >= inputs * outputs
