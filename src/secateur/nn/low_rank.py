"""Linear maps of low rank: products of two matrices."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class FactorizedLinear(nn.Module):
    """Linear map W = outer inner, computed as two products with the ranks in between.

    Cheaper than one product where r (in + out) < in out: each rank is a column of the outer matrix and a row of the
    inner one.
    """

    def __init__(self, in_features: int, out_features: int, ranks: int, *, bias: bool) -> None:
        """
        Args:
            in_features: Size of the input.
            out_features: Size of the output.
            ranks: Number of ranks.
            bias: True for a bias on the output.
        """
        super().__init__()
        self.inner = nn.Linear(in_features, ranks, bias=False)
        self.outer = nn.Linear(ranks, out_features, bias=bias)

    @property
    def in_features(self) -> int:
        """Size of the input."""
        return self.inner.in_features

    @property
    def out_features(self) -> int:
        """Size of the output."""
        return self.outer.out_features

    @property
    def bias(self) -> Tensor | None:
        """Bias of the output, (out,), if the map has a bias."""
        return self.outer.bias

    def forward(self, values: Tensor) -> Tensor:
        """(..., in) -> (..., ranks) -> (..., out)."""
        output: Tensor = self.outer(self.inner(values))
        return output


def factorize_matrix(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Factorize a matrix at full rank by the singular value decomposition: U sqrt(s) and sqrt(s) V^T, largest s first.

    The first r ranks give the nearest matrix of rank r, in squared error (Eckart and Young 1936).

    Args:
        weight: (out, in).

    Returns:
        The outer matrix (out, ranks) and the inner one (ranks, in), in the dtype of the weight.
    """
    u, singular_values, vh = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    root = singular_values.sqrt()
    return (u * root).to(weight.dtype), (root[:, None] * vh).to(weight.dtype)


def insert_low_rank(model: nn.Module, ranks: Mapping[str, int]) -> None:
    """Replace linear maps by factorized maps, given the number of ranks by module path."""
    for path, count in ranks.items():
        linear = model.get_submodule(path)
        assert isinstance(linear, nn.Linear), path
        bias = linear.bias is not None
        model.set_submodule(path, FactorizedLinear(linear.in_features, linear.out_features, count, bias=bias))
