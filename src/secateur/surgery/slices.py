"""Where the parameters of a cut model lie in those of the model that it was cut from."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.structure import Structure, Weight


class WeightSlicer:
    """The part of a tensor that a cut leaves: of a parameter itself, or of anything shaped like it."""

    def __init__(self, dense: Structure, cut: Structure) -> None:
        """
        Args:
            before: Of the model that is cut.
            after: Of the cut model.
        """
        self.dense, self.cut = dense, cut

    def extract(self, name: str, value: Tensor) -> Tensor:
        """What is left of a tensor.

        Args:
            name: A parameter or buffer of the cut encoder, without the prefix of a task head.
            value: Of the shape that it had before.

        Returns:
            A tensor of its own, of the parameter's shape after the cut.
        """
        dense_weight, cut_weight = self.dense.counterpart(name), self.cut.weight_by_name[name]
        value = value.reshape(dense_weight.shape)
        for bind in cut_weight.bindings:
            value = value.index_select(bind.dim, self._positions(dense_weight, cut_weight, bind.dim).to(value.device))
        return value.clone(memory_format=torch.contiguous_format).view(cut_weight.split or cut_weight.shape)

    def _positions(self, dense_weight: Weight, cut_weight: Weight, dim: int) -> Tensor:
        """Where each position of a new parameter's dimension lies in the old one."""
        index_of_key = {key: index for index, key in enumerate(_position_keys(self.dense, dense_weight, dim))}
        return torch.tensor(
            [index_of_key[unit] for unit in _position_keys(self.cut, cut_weight, dim)], dtype=torch.long
        )


def _position_keys(structure: Structure, weight: Weight, dim: int) -> list[tuple[int, str, int, int, int]]:
    """What tells every position along a dimension: unit across, axis and which of its places, unit, place within it."""
    bind = next(bind for bind in weight.bindings if bind.dim == dim)
    return [
        (outer_unit, name, bind.axes[:index].count(name), unit, offset)
        for outer_unit in (structure.axes[bind.per_unit_of].units if bind.per_unit_of else (0,))
        for index, name in enumerate(bind.axes)
        for unit in structure.axes[name].units
        for offset in range(bind.width)
    ]
