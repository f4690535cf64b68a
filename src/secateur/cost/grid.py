"""Expected sizes of grids: dimensions that every unit of another axis has for itself, as heads of one width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.structure import Structure


class Grids:
    """Expected numbers of places, (living units across) x (living units inside), that axes above both share."""

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
