"""A checkpointed function over chunks, against the same function of the whole sequence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from secateur.tasks.chunked_checkpoint import chunked_checkpoint

SIZES = [1, 3, 7, 10]


def case() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a sequence (2, 7, 3), a context (2, 3), and a mask and a matrix of the function, with gradients."""
    shapes = ((2, 7, 3), (2, 3), (3,), (3, 4))
    first, second, third, fourth = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    return first, second, third, fourth


@pytest.mark.parametrize("size", SIZES)
def test_results_and_gradients_are_those_of_the_whole_for_leaves_of_every_sort(size: int) -> None:
    sequence, other_value, mask, matrix = case()

    def function(chunk: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        mixed = (chunk + context[:, None]).tanh() * mask @ matrix
        return mixed.sum(-1), mixed[..., :2].exp()

    inputs = (sequence, other_value, mask, matrix)
    full_result, actual = (
        function(sequence, other_value),
        chunked_checkpoint(function, sequence, other_value, size=size),
    )
    outer = [torch.randn_like(item) for item in full_result]
    expected, result = (torch.autograd.grad(created, inputs, outer) for created in (full_result, actual))
    for left_item, right in zip((*full_result, *expected), (*actual, *result), strict=True):
        torch.testing.assert_close(left_item, right, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        for left_item, right in zip(
            actual, chunked_checkpoint(function, sequence, other_value, size=size), strict=True
        ):
            assert torch.equal(left_item, right)
            assert not right.requires_grad


def test_what_needs_no_gradient_gets_none() -> None:
    sequence, other_value, mask, matrix = case()
    mask.requires_grad_(False)
    other_value.requires_grad_(False)
    (result,) = chunked_checkpoint(
        lambda chunk, context: [(chunk * context[:, None] * mask) @ matrix], sequence, other_value, size=2
    )
    result.sum().backward()
    assert sequence.grad is not None
    assert matrix.grad is not None
    assert other_value.grad is None
    assert mask.grad is None


def test_random_numbers_are_the_same_again_and_those_after_are_not_touched() -> None:
    sequence, other_value, _, _ = case()

    def loss(logits_in: Tensor) -> Tensor:
        torch.manual_seed(5)
        (noisy,) = chunked_checkpoint(
            lambda chunk, context: [torch.dropout(chunk * context[:, None], 0.5, True)], logits_in, other_value, size=2
        )
        return noisy.square().sum()

    assert torch.autograd.gradcheck(loss, sequence)
    result = loss(sequence)
    initial_setting = torch.get_rng_state()
    result.backward()
    assert torch.equal(torch.get_rng_state(), initial_setting)


def test_pieces_are_made_again_in_the_precision_that_they_were_made_in() -> None:
    sequence, other_value, _, matrix = (item.detach().float().requires_grad_() for item in case())
    visited = []

    def function(chunk: Tensor, context: Tensor) -> list[Tensor]:
        visited.append(((chunk + context[:, None]) @ matrix).dtype)
        return [((chunk + context[:, None]) @ matrix).float()]

    with torch.autocast("cpu", torch.bfloat16):
        (result,) = chunked_checkpoint(function, sequence, other_value, size=4)
    result.sum().backward()
    assert visited == [torch.bfloat16] * 4
    with torch.autocast("cpu", torch.bfloat16):
        (expected,) = function(sequence, other_value)
    torch.testing.assert_close(result, expected)
    actual = matrix.grad
    assert actual is not None
    torch.testing.assert_close(actual, torch.autograd.grad(expected.sum(), matrix)[0], rtol=0, atol=0.1)
