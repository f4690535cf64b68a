"""Scores of units that need no learning: the size of their weights, or their place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.modules.positions import direction_norm
from secateur.structure import Structure


@torch.no_grad()
def magnitude(base: nn.Module, structure: Structure) -> Tensor:
    """The 2-norm of all weight-matrix elements that go with each unit: (units,).

    Heads and blocks have the norm of what they contain, summed over their dimensions.
    """
    squares = torch.zeros(structure.size, dtype=torch.float64)
    parameters = dict(base.named_parameters())
    for weight in structure.weights:
        for bind in weight.binds if weight.matrix else ():
            value = parameters[weight.name].double().cpu()
            if weight.magnitude:
                gain = parameters[weight.magnitude].double().cpu()
                value = value * gain / direction_norm(value, gain)
            along = value.square().sum([dim for dim in range(value.dim()) if dim != bind.dim])
            if bind.across:
                start, size = structure.offsets[bind.across], structure.axes[bind.across].size
                along = along.view(size, -1)
                squares[start : start + size] += along.sum(1)
                along = along.sum(0)
            at = 0
            for name in bind.axes:
                axis = structure.axes[name]
                own = along[at : at + axis.size * bind.width].view(axis.size, bind.width).sum(1)
                start = structure.offsets[name]
                squares[start : start + axis.size] += own
                for parent, unit in axis.parents:
                    if unit in structure.axes[parent].units:
                        squares[structure.offsets[parent] + structure.axes[parent].units.index(unit)] += own.sum()
                at += axis.size * bind.width
    return squares.sqrt().float()


def first(structure: Structure) -> Tensor:
    """Units in the order in which they stand, the first highest: (units,)."""
    return torch.cat([-torch.arange(axis.size, dtype=torch.float32) for axis in structure.axes.values()])
