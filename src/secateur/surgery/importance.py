"""Scores of units without learning: the norm of the weights, or the index."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur.hf.model_view import ModelView
from secateur.masking.parameter_view import ParameterView
from secateur.nn.positional_conv import direction_norm
from secateur.structure import Structure, Weight


@torch.no_grad()
def magnitude_scores(view: ModelView, structure: Structure) -> Tensor:
    """Return the 2-norm of all weight-matrix elements of each unit: (units,).

    A head or block has the norm of all elements inside, summed over its dimensions. A rank has the norm of the matrix
    that it adds, which right after factorizing is its singular value; on other axes a factorized map counts as the
    product of its two matrices.

    Example: a weight [[3, 4], [0, 5]] whose rows are the two dimensions of one head, and whose columns lie on no axis,
    gives the dimensions the scores 5 and 5, and the head the score sqrt(50).
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
        # |column row|^2 = |column|^2 |row|^2: (out, ranks), (ranks, in) -> (ranks,)
        squares[start : start + size] = matrix(linear.outer).square().sum(0) * matrix(linear.inner).square().sum(1)
    for weight in structure.weights:
        if weight.is_matrix and weight.name not in structure.factorization_of:
            value = matrix(weight.name)
            if weight.magnitude:  # weight norm: the stored value is a direction only
                gain = matrix(weight.magnitude)
                value = value * gain / direction_norm(value, gain)
            _add_squared_norms(squares, structure, weight, value)
    for linear in structure.factorizations:
        _add_squared_norms(squares, structure, linear.dense, matrix(linear.outer) @ matrix(linear.inner))
    return squares


def _add_squared_norms(squares: Tensor, structure: Structure, weight: Weight, value: Tensor) -> None:
    """Add the squared norms of a matrix to the units along each dimension and to the ancestors of the units.

    Args:
        squares: Squared norms so far, changed in place: (units,).
        structure: The structure of the model.
        weight: Description of the matrix.
        value: The matrix.
    """
    starts = structure.offsets
    for binding in weight.bindings:
        other_dims = [dim for dim in range(value.dim()) if dim != binding.dim]
        position_squares = value.square().sum(other_dims)  # (positions along the dimension,)
        if binding.per_unit_of:
            start = starts[binding.per_unit_of]
            size = structure.axes[binding.per_unit_of].size
            position_squares = position_squares.view(size, -1)  # (outer units, positions of each)
            squares[start : start + size] += position_squares.sum(1)
            position_squares = position_squares.sum(0)  # an inner unit has places in every outer unit
        offset = 0
        for name in binding.axes:
            axis = structure.axes[name]
            length = axis.size * binding.width
            # Each unit covers `width` neighboring positions: (size * width,) -> (size,)
            unit_squares = position_squares[offset : offset + length].view(axis.size, binding.width).sum(1)
            squares[starts[name] : starts[name] + axis.size] += unit_squares
            for parent, unit in axis.parents:
                parent_units = structure.axes[parent].units
                if unit in parent_units:
                    squares[starts[parent] + parent_units.index(unit)] += unit_squares.sum()
            offset += length


def order_scores(structure: Structure) -> Tensor:
    """Return scores that fall with the index of a unit: (units,)."""
    return torch.cat([-torch.arange(axis.size, dtype=torch.float32) for axis in structure.axes.values()])
