"""Scores of units without learning: the norm of their weights, or their index."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur.hf.model_view import ModelView
from secateur.masking.parameter_view import ParameterView
from secateur.nn.positional_conv import direction_norm
from secateur.structure import Structure


@torch.no_grad()
def magnitude_scores(view: ModelView, structure: Structure) -> Tensor:
    """The 2-norm of all weight-matrix elements that go with each unit: (units,).

    Heads and blocks have the norm of what they contain, summed over their dimensions. A rank has the norm of the matrix
    that it adds, right after factorising its singular value; on other axes a factorised map counts as the one matrix.
    """
    return squared_norms(ParameterView(view, structure).parameters(), structure).sqrt().float()


def squared_norms(parameters: Mapping[str, Tensor], structure: Structure) -> Tensor:
    """Return the squares of `magnitude_scores`: (units,) in float64 on the CPU, with a graph to the parameters.

    Args:
        parameters: The parameters of a model by their names in its structure.
        structure: The structure of the model.
    """
    squares = torch.zeros(structure.size, dtype=torch.float64)

    def matrix(name: str) -> Tensor:
        return parameters[name].double().cpu()

    for linear in structure.factorizations:
        start, size = structure.offsets[linear.axis], structure.axes[linear.axis].size
        squares[start : start + size] = matrix(linear.outer).square().sum(0) * matrix(linear.inner).square().sum(1)
    plain_weights = [weight for weight in structure.weights if weight.name not in structure.factorization_of]
    for weight in (*plain_weights, *(each.dense for each in structure.factorizations)):
        for bind in weight.bindings if weight.is_matrix else ():
            factorized_linear = structure.factorization_of.get(weight.name)
            value = (
                matrix(factorized_linear.outer) @ matrix(factorized_linear.inner)
                if factorized_linear
                else matrix(weight.name)
            )
            if weight.magnitude:
                gain = matrix(weight.magnitude)
                value = value * gain / direction_norm(value, gain)
            position_squares = value.square().sum([dim for dim in range(value.dim()) if dim != bind.dim])
            if bind.per_unit_of:
                start, size = structure.offsets[bind.per_unit_of], structure.axes[bind.per_unit_of].size
                position_squares = position_squares.view(size, -1)
                squares[start : start + size] += position_squares.sum(1)
                position_squares = position_squares.sum(0)
            offset = 0
            for name in bind.axes:
                axis = structure.axes[name]
                unit_squares = (
                    position_squares[offset : offset + axis.size * bind.width].view(axis.size, bind.width).sum(1)
                )
                start = structure.offsets[name]
                squares[start : start + axis.size] += unit_squares
                for parent, unit in axis.parents:
                    if unit in structure.axes[parent].units:
                        squares[structure.offsets[parent] + structure.axes[parent].units.index(unit)] += (
                            unit_squares.sum()
                        )
                offset += axis.size * bind.width
    return squares


def order_scores(structure: Structure) -> Tensor:
    """Return scores that fall with the index of a unit: (units,)."""
    return torch.cat([-torch.arange(axis.size, dtype=torch.float32) for axis in structure.axes.values()])
