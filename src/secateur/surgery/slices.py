"""Where the parameters of a cut model lie in those of the model that it was cut from."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.structure import Structure, Weight


class Slices:
    """The part of a tensor that a cut leaves: of a parameter itself, or of anything shaped like it."""

    def __init__(self, before: Structure, after: Structure) -> None:
        """
        Args:
            before: Of the model that is cut.
            after: Of the cut model.
        """
        self.before, self.after = before, after

    def of(self, name: str, value: Tensor) -> Tensor:
        """What is left of a tensor.

        Args:
            name: A parameter or buffer of the cut encoder, without the prefix of a task head.
            value: Of the shape that it had before.

        Returns:
            A tensor of its own, of the parameter's shape after the cut.
        """
        before, after = self.before.counterpart(name), self.after.weight_by_name[name]
        value = value.reshape(before.shape)
        for bind in after.binds:
            value = value.index_select(bind.dim, self._positions(before, after, bind.dim).to(value.device))
        return value.clone(memory_format=torch.contiguous_format).view(after.split or after.shape)

    def _positions(self, before: Weight, after: Weight, dim: int) -> Tensor:
        """Where each position of a new parameter's dimension lies in the old one."""
        where = {unit: at for at, unit in enumerate(_along(self.before, before, dim))}
        return torch.tensor([where[unit] for unit in _along(self.after, after, dim)], dtype=torch.long)


def _along(structure: Structure, weight: Weight, dim: int) -> list[tuple[int, str, int, int, int]]:
    """What tells every position along a dimension: unit across, axis and which of its places, unit, place within it."""
    bind = next(bind for bind in weight.binds if bind.dim == dim)
    return [
        (other, name, bind.axes[:at].count(name), unit, place)
        for other in (structure.axes[bind.across].units if bind.across else (0,))
        for at, name in enumerate(bind.axes)
        for unit in structure.axes[name].units
        for place in range(bind.width)
    ]
