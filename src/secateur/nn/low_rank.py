"""A linear map of few ranks: two matrices in the place of one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class FactorizedLinear(nn.Module):
    """A linear map W = outer inner, computed as two products with the ranks in between.

    Cheaper than one product where r (in + out) < in out: each rank is a column of the outer matrix and a row of the
    inner one.
    """

    def __init__(self, in_features: int, out_features: int, ranks: int, *, bias: bool) -> None:
        """
        Args:
            inputs: Features in.
            outputs: Features out.
            ranks: How many of them.
            bias: Whether something is added to the output.
        """
        super().__init__()
        self.inner = nn.Linear(in_features, ranks, bias=False)
        self.outer = nn.Linear(ranks, out_features, bias=bias)

    @property
    def in_features(self) -> int:
        """Features in."""
        return self.inner.in_features

    @property
    def out_features(self) -> int:
        """Features out."""
        return self.outer.out_features

    @property
    def bias(self) -> Tensor | None:
        """What is added to the output, (out,)."""
        return self.outer.bias

    def forward(self, values: Tensor) -> Tensor:
        """(..., in) -> (..., ranks) -> (..., out)."""
        output: Tensor = self.outer(self.inner(values))
        return output


def factorize_matrix(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix as two of all its ranks, from its singular values s: U sqrt(s) and sqrt(s) V^T, the largest first.

    The first r ranks are the nearest matrix of r ranks, in squared error (Eckart and Young 1936).

    Args:
        weight: (out, in).

    Returns:
        The outer matrix (out, ranks) and the inner one (ranks, in), in the dtype of the weight.
    """
    u, singular_values, vh = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    root = singular_values.sqrt()
    return (u * root).to(weight.dtype), (root[:, None] * vh).to(weight.dtype)


def insert_low_rank(model: nn.Module, ranks: Mapping[str, int]) -> None:
    """Put factorised maps into the places of linear ones, given how many ranks each has, by its path."""
    for path, count in ranks.items():
        linear = model.get_submodule(path)
        assert isinstance(linear, nn.Linear), path
        bias = linear.bias is not None
        model.set_submodule(path, FactorizedLinear(linear.in_features, linear.out_features, count, bias=bias))
