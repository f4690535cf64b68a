"""A factorised linear map: its product, and that few ranks are the nearest matrix of so many."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from secateur.nn.low_rank import FactorizedLinear, factorize_matrix


@pytest.mark.parametrize(("outputs", "inputs"), [(7, 5), (5, 7), (6, 6)])
def test_all_ranks_are_the_matrix_and_few_are_the_nearest_one(outputs: int, inputs: int) -> None:
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outer, inner = factorize_matrix(weight)
    torch.testing.assert_close(outer @ inner, weight, rtol=0, atol=1e-12)
    values = np.linalg.svd(weight.numpy(), compute_uv=False)
    for ranks in range(1, min(outputs, inputs)):
        error = float((outer[:, :ranks] @ inner[:ranks] - weight).square().sum())
        assert error == pytest.approx(float((values[ranks:] ** 2).sum()), rel=1e-10)  # Eckart and Young


@pytest.mark.parametrize("bias", [True, False])
def test_it_computes_what_the_product_of_its_matrices_computes(bias: bool) -> None:
    torch.manual_seed(0)
    module, values = FactorizedLinear(5, 7, 3, bias=bias), torch.randn(2, 4, 5)
    expected = torch.nn.functional.linear(values, module.outer.weight @ module.inner.weight, module.bias)
    torch.testing.assert_close(module(values), expected)
    assert (module.in_features, module.out_features, module.bias is not None) == (5, 7, bias)
