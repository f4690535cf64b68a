"""Expected sizes that are no products of expected counts: grids, and matrices with equal axes on two sides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.structure import Structure


class Grids:
    """Expected number of places, (living units across) x (living units inside), under shared parents.

    Such are dimensions that every unit of another axis has for itself, as heads of one width.
    """

    def __init__(self, structure: Structure, pairs: Sequence[tuple[str, str]]) -> None:
        """
        Args:
            structure: Of the axes.
            pairs: The axis across and the axis inside of each grid, which have the same parents.
        """
        axes, self.offsets = structure.axes, structure.offsets
        self.pairs = [(self._units(structure, outer), self._units(structure, inner)) for outer, inner in pairs]
        self.parents = [
            [self.offsets[name] + axes[name].units.index(unit) for name, unit in axes[inner].parents]
            for _, inner in pairs
        ]
        # A unit across that needs the units inside has them wherever the grid is not empty.
        self.requirements = [
            [self._units(structure, name) for name in sorted(set(axes[outer].requires) - {inner})]
            for outer, inner in pairs
        ]

    @staticmethod
    def _units(structure: Structure, name: str) -> slice:
        return slice(structure.offsets[name], structure.offsets[name] + structure.axes[name].size)

    def __call__(self, open_probability: Tensor) -> Tensor:
        """Expected places: (units,) in float64 -> (grids,)."""
        sizes = []
        for (outer, inner), parents, requirement_slices in zip(
            self.pairs, self.parents, self.requirements, strict=True
        ):
            size = open_probability[outer].sum() * open_probability[inner].sum() * open_probability[parents].prod()
            for units in requirement_slices:
                size = size * (1.0 - (1.0 - open_probability[units]).prod())
            sizes.append(size)
        return torch.stack(sizes) if sizes else open_probability.new_zeros(0)


class Squares:
    """Expected squares of the number of living units of axes, as in a matrix from a layer to the same layer."""

    def __init__(self, structure: Structure, axes: Sequence[str]) -> None:
        """
        Args:
            structure: Of the axes.
            axes: Their names; their units have no conditions but their own gates.
        """
        square_axes = [structure.axes[name] for name in axes]
        assert not any(axis.parents or axis.requires or axis.requires_any for axis in square_axes)
        self.units = [slice(start := structure.offsets[axis.name], start + axis.size) for axis in square_axes]
        self.has_min_unit = [float(axis.min_units > 0 and axis.size > 0) for axis in square_axes]

    def __call__(self, open_probability: Tensor) -> Tensor:
        """Expected squares, mean^2 + variance: (units,) in float64 -> (axes,)."""
        sizes = []
        for units, has_min_unit in zip(self.units, self.has_min_unit, strict=True):
            p_open = open_probability[units]
            # Where all are closed one stays.
            sizes.append(p_open.sum().square() + (p_open * (1.0 - p_open)).sum() + has_min_unit * (1.0 - p_open).prod())
        return torch.stack(sizes) if sizes else open_probability.new_zeros(0)
