"""Expected sizes that are no products of expected counts: grids, and matrices with equal axes on two sides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.structure import Structure


class Grids:
    """Expected number of places, (living units across) x (living units inside), under shared parents.

    A grid is the dimensions that every unit of another axis has, such as heads of equal width. Example: 2 expected
    heads with 3 expected dimensions each are 6 places, times the probability that the block around them is present.
    """

    def __init__(self, structure: Structure, pairs: Sequence[tuple[str, str]]) -> None:
        """
        Args:
            structure: Structure of the axes.
            pairs: The axis across and the axis inside of each grid, which have the same parents.
        """
        axes, self.offsets = structure.axes, structure.offsets
        self.pairs = [(self._units(structure, outer), self._units(structure, inner)) for outer, inner in pairs]
        self.parents = [
            [self.offsets[name] + axes[name].units.index(unit) for name, unit in axes[inner].parents]
            for _, inner in pairs
        ]
        # A requirement of units across on the units inside is met wherever the grid is not empty.
        self.requirements = [
            [self._units(structure, name) for name in sorted(set(axes[outer].requires) - {inner})]
            for outer, inner in pairs
        ]

    @staticmethod
    def _units(structure: Structure, name: str) -> slice:
        return slice(structure.offsets[name], structure.offsets[name] + structure.axes[name].size)

    def __call__(self, open_probability: Tensor) -> Tensor:
        """Compute the expected places: (units,) in float64 -> (grids,)."""
        sizes = []
        for (outer, inner), parents, requirement_slices in zip(
            self.pairs, self.parents, self.requirements, strict=True
        ):
            # E[units across] * E[units inside] * P(all parents open): gates are independent, so expectations multiply.
            size = open_probability[outer].sum() * open_probability[inner].sum() * open_probability[parents].prod()
            for units in requirement_slices:
                size = size * (1.0 - (1.0 - open_probability[units]).prod())  # P(any of the units is open)
            sizes.append(size)
        return torch.stack(sizes) if sizes else open_probability.new_zeros(0)


class Squares:
    """Expected squares of the number of living units of axes, as in a matrix from a layer to the same layer."""

    def __init__(self, structure: Structure, axes: Sequence[str]) -> None:
        """
        Args:
            structure: Structure of the axes.
            axes: Their names; their units have no conditions but their own gates.
        """
        square_axes = [structure.axes[name] for name in axes]
        assert not any(axis.parents or axis.requires or axis.requires_any for axis in square_axes)
        self.units = [slice(start := structure.offsets[axis.name], start + axis.size) for axis in square_axes]
        self.has_min_unit = [float(axis.min_units > 0 and axis.size > 0) for axis in square_axes]

    def __call__(self, open_probability: Tensor) -> Tensor:
        """Compute E[n^2] = E[n]^2 + Var[n]: (units,) in float64 -> (axes,)."""
        sizes = []
        for units, has_min_unit in zip(self.units, self.has_min_unit, strict=True):
            # Independent gates: E[n] is the sum of p, and Var[n] the sum of p (1 - p).
            p_open = open_probability[units]
            # One unit stays if all gates are closed: plus 1^2 * P(n = 0).
            sizes.append(p_open.sum().square() + (p_open * (1.0 - p_open)).sum() + has_min_unit * (1.0 - p_open).prod())
        return torch.stack(sizes) if sizes else open_probability.new_zeros(0)
