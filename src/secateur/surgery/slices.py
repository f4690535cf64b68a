"""Positions of a cut model's parameters within the parameters of the dense model.

Example: `v_proj.weight` of a dense model has 4 rows, 2 value dimensions of head 0 and 2 of head 1. A selection keeps
dimension 1 of head 0 and dimensions 0 and 1 of head 1, so the cut weight has 3 rows. A row is known by its axis, its
unit (an original index, which a cut model keeps) and its offset within the unit:

    dense row  (head0.vo, 0)  (head0.vo, 1)  (head1.vo, 0)  (head1.vo, 1)
               0              1              2              3
    cut row                   0              1              2

The cut weight takes rows [1, 2, 3] of the dense weight. An axis that lies twice along a dimension, as in front of a
GLU, also has the number of its place in the key.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from secateur.structure import Structure, Weight


class PositionKey(NamedTuple):
    """Identity of a position along a dimension, equal in the dense and the cut model."""

    outer_unit: int
    """unit of the axis that has the dimension once per unit; 0 without such an axis"""
    axis: str
    place: int
    """0 for the first place of the axis along the dimension, 1 for the second"""
    unit: int
    offset: int
    """position within a unit that covers several"""


class WeightSlicer:
    """Slicer of parameters, and of tensors shaped like parameters, to the shapes of a cut model."""

    def __init__(self, dense: Structure, cut: Structure) -> None:
        """
        Args:
            dense: Structure of the model that is cut.
            cut: Structure of the cut model.
        """
        self.dense = dense
        self.cut = cut

    def extract(self, name: str, value: Tensor) -> Tensor:
        """Return a copy of the part of a dense tensor that the cut model keeps.

        Args:
            name: A parameter or buffer of the cut encoder, without the prefix of a task head.
            value: Tensor of the dense shape.

        Returns:
            A contiguous tensor of the parameter's shape in the cut model.
        """
        dense_weight = self.dense.counterpart(name)
        cut_weight = self.cut.weight_by_name[name]
        value = value.reshape(dense_weight.shape)
        for binding in cut_weight.bindings:
            positions = self._positions(dense_weight, cut_weight, binding.dim)
            # In the example: positions [1, 2, 3] along dimension 0, (4, width) -> (3, width).
            value = value.index_select(binding.dim, positions.to(value.device))
        return value.clone(memory_format=torch.contiguous_format).view(cut_weight.split or cut_weight.shape)

    def _positions(self, dense_weight: Weight, cut_weight: Weight, dim: int) -> Tensor:
        """Return the dense position of each cut position along a dimension: (cut size,)."""
        dense_position = {key: index for index, key in enumerate(_position_keys(self.dense, dense_weight, dim))}
        positions = [dense_position[key] for key in _position_keys(self.cut, cut_weight, dim)]
        return torch.tensor(positions, dtype=torch.long)


def _position_keys(structure: Structure, weight: Weight, dim: int) -> Iterator[PositionKey]:
    """Yield the key of every position along a dimension, in storage order."""
    binding = next(binding for binding in weight.bindings if binding.dim == dim)
    outer_units = structure.axes[binding.per_unit_of].units if binding.per_unit_of else (0,)
    for outer_unit in outer_units:
        for index, name in enumerate(binding.axes):
            place = binding.axes[:index].count(name)  # axes (a, a) in front of a GLU: places 0 and 1
            for unit in structure.axes[name].units:
                for offset in range(binding.width):
                    yield PositionKey(outer_unit, name, place, unit, offset)
