"""Expected sizes of what no product of expected counts is: grids, and matrices with one axis along both sides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.structure import Structure


class Grids:
    """Expected numbers of places, (living units across) x (living units inside), that axes above both share.

    Such are dimensions that every unit of another axis has for itself, as heads of one width.
    """

    def __init__(self, structure: Structure, pairs: Sequence[tuple[str, str]]) -> None:
        """
        Args:
            structure: Of the axes.
            pairs: The axis across and the axis inside of each grid, which have the same parents.
        """
        axes, self.offsets = structure.axes, structure.offsets
        self.pairs = [(self._units(structure, across), self._units(structure, inside)) for across, inside in pairs]
        self.parents = [
            [self.offsets[name] + axes[name].units.index(unit) for name, unit in axes[inside].parents]
            for _, inside in pairs
        ]
        # A unit across that needs the units inside has them wherever the grid is not empty.
        self.needs = [
            [self._units(structure, name) for name in sorted(set(axes[across].needs) - {inside})]
            for across, inside in pairs
        ]

    @staticmethod
    def _units(structure: Structure, name: str) -> slice:
        return slice(structure.offsets[name], structure.offsets[name] + structure.axes[name].size)

    def __call__(self, open_probability: Tensor) -> Tensor:
        """Expected places: (units,) in float64 -> (grids,)."""
        sizes = []
        for (across, inside), parents, needs in zip(self.pairs, self.parents, self.needs, strict=True):
            size = open_probability[across].sum() * open_probability[inside].sum() * open_probability[parents].prod()
            for needed in needs:
                size = size * (1.0 - (1.0 - open_probability[needed]).prod())
            sizes.append(size)
        return torch.stack(sizes) if sizes else open_probability.new_zeros(0)


class Squares:
    """Expected squares of numbers of living units, as of the places in a matrix from a layer to itself."""

    def __init__(self, structure: Structure, axes: Sequence[str]) -> None:
        """
        Args:
            structure: Of the axes.
            axes: Their names; their units have no conditions but their own gates.
        """
        own = [structure.axes[name] for name in axes]
        assert not any(axis.parents or axis.needs or axis.with_any for axis in own)
        self.units = [slice(start := structure.offsets[axis.name], start + axis.size) for axis in own]
        self.least = [float(axis.least > 0 and axis.size > 0) for axis in own]

    def __call__(self, open_probability: Tensor) -> Tensor:
        """Expected squares, mean^2 + variance: (units,) in float64 -> (axes,)."""
        sizes = []
        for units, least in zip(self.units, self.least, strict=True):
            own = open_probability[units]
            # Where all are closed one stays.
            sizes.append(own.sum().square() + (own * (1.0 - own)).sum() + least * (1.0 - own).prod())
        return torch.stack(sizes) if sizes else open_probability.new_zeros(0)
