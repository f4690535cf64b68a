"""Transducer lattice: the summed probability of all paths, with the gradient in closed form."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def log_likelihoods(blank: Tensor, label: Tensor, frames: Tensor, lengths: Tensor) -> Tensor:
    """Return the log-probability of each row's labels, summed over all paths: (B,), in float64.

    A path starts in the first frame before the first label. A blank moves to the next frame, a label stays in its frame
    and moves to the next label, and a blank in the last frame after the last label ends the path. For a row without a
    path of non-zero probability the result is minus infinity and its gradient is zero. Values beyond a row's frames or
    labels are ignored, even NaN.

    Args:
        blank: (B, T, U + 1), log-probability of the blank in frame t after u labels.
        label: (B, T, U), log-probability of label u in frame t after u labels.
        frames: (B,), number of valid frames of each row, 1 to T.
        lengths: (B,), number of labels of each row, 0 to U.

    Source: Graves 2012, arXiv 1211.3711, Eq. 16 to 18 (forward and backward variables) and 20 (gradient). Differs from
    the paper in the order only: all variables with the same t + u, an anti-diagonal, are computed at once. Autograd
    records no graph over the steps, because the gradient of a transition is the posterior probability that a path takes
    that transition, which the forward and backward variables give. These two, B (T + 1) (U + 1) numbers in float64
    each, are the largest tensors besides inputs and gradients.
    """
    result: Tensor = _Lattice.apply(blank, label, frames, lengths)  # type: ignore[no-untyped-call]
    return result


class _Lattice(torch.autograd.Function):
    """Sum over the paths of a lattice with nodes that are numbered row by row.

    Node t (U + 1) + u stands for t blanks and u labels so far: a blank leads U + 1 nodes ahead, a label one node ahead.
    With three frames and two labels, where width = U + 1 = 3::

        t = 0    0  1  2        a label: 0 -> 1
        t = 1    3  4  5        a blank: 0 -> 3
        t = 2    6  7  8
        t = 3    9 10 11        node 11 = frames * width + lengths ends the paths

    The anti-diagonals, which are computed in this order, are the nodes 0; 1, 3; 2, 4, 6; 5, 7; 8, and each is a slice
    with the stride U. Nodes 9 to 11 have no outgoing transition.
    """

    @staticmethod
    def forward(ctx: Any, blank: Tensor, label: Tensor, frames: Tensor, lengths: Tensor) -> Tensor:
        rows, longest, width = blank.shape
        time = torch.arange(longest, device=blank.device)
        label_positions = torch.arange(width, device=blank.device)
        valid_frames = (time < frames[:, None])[:, :, None]  # (B, T, 1)
        valid_blanks, valid_labels = (
            (label_positions < count[:, None])[:, None] for count in (lengths + 1, lengths)
        )  # (B, 1, U + 1)
        # Transitions beyond a row's frames or labels have probability zero, also where the input is NaN.
        blanks = torch.where(valid_frames & valid_blanks, blank, -math.inf).flatten(1)  # (B, T (U + 1))
        labels = torch.where(valid_frames & valid_labels, F.pad(label, (0, 1)), -math.inf).flatten(1)
        row_indices = torch.arange(rows, device=blank.device)
        end_nodes = frames * width + lengths  # (B,), node after the last blank
        alpha = _log_zeros(blanks, width)
        # Forward: alpha is the log-probability of all paths from node 0 to a node.
        alpha[:, 0] = 0.0
        for diagonal in _diagonals(longest, width):
            for scores, step in ((blanks, width), (labels, 1)):
                # A view; `out` below writes into alpha itself.
                next_alpha = alpha[:, _shift(diagonal, step)]
                torch.logaddexp(next_alpha, alpha[:, diagonal] + scores[:, diagonal], out=next_alpha)
        total = alpha[row_indices, end_nodes]  # (B, nodes) -> (B,)
        if not any(ctx.needs_input_grad):
            return total
        beta = _log_zeros(blanks, width)
        # Backward: beta is the log-probability of all paths from a node to the row's end.
        beta[row_indices, end_nodes] = 0.0
        for diagonal in reversed(_diagonals(longest, width)):
            for scores, step in ((blanks, width), (labels, 1)):
                previous_beta = beta[:, diagonal]
                torch.logaddexp(previous_beta, beta[:, _shift(diagonal, step)] + scores[:, diagonal], out=previous_beta)
        finite_total = torch.where(total == -math.inf, math.inf, total)[:, None]  # no path: exp(... - inf) = 0
        blank_gradients = _transition_posteriors(alpha, blanks, beta, width, finite_total)
        label_gradients = _transition_posteriors(alpha, labels, beta, 1, finite_total)
        # (B, T (U + 1)) -> (B, T, U + 1); the last label column is padding.
        ctx.save_for_backward(blank_gradients.view_as(blank), label_gradients.view_as(blank)[:, :, :-1])
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        blank_gradients, label_gradients = ctx.saved_tensors
        row_gradients = gradient[:, None, None].to(blank_gradients.dtype)  # (B,) -> (B, 1, 1)
        return blank_gradients * row_gradients, label_gradients * row_gradients, None, None


def _log_zeros(scores: Tensor, width: int) -> Tensor:
    """Return variables of all nodes, (B, (T + 1) (U + 1)), set to minus infinity.

    They are float64: a sum of thousands of log-probabilities has too few digits in float32 for the posteriors.
    """
    rows, size = scores.shape
    return scores.new_full((rows, size + width), -math.inf, dtype=torch.float64)


def _diagonals(longest: int, width: int) -> list[slice]:
    """Return the nodes with outgoing transitions of each anti-diagonal, in the order of t + u.

    Node t (U + 1) + u of the diagonal d = t + u is d + t U. With three frames and two labels, d = 2 has t from 0 to 2
    and the nodes 2, 4, 6: slice(2, 7, 2). d = 3 starts at t = 1, since u <= 2, and has the nodes 5 and 7.
    """
    stride = width - 1  # one frame more and one label less: (U + 1) - 1
    diagonals = []
    # t + u runs from 0 to (T - 1) + U.
    for diagonal in range(longest + stride):
        first_time = max(0, diagonal - stride)
        last_time = min(longest - 1, diagonal)
        diagonals.append(slice(diagonal + first_time * stride, diagonal + last_time * stride + 1, max(1, stride)))
    return diagonals


def _shift(nodes: slice, step: int) -> slice:
    """Return the nodes that a transition of so many nodes ahead leads to."""
    return slice(nodes.start + step, nodes.stop + step, nodes.step)


def _transition_posteriors(alpha: Tensor, scores: Tensor, beta: Tensor, step: int, total: Tensor) -> Tensor:
    """Return the posterior of the transition from each node that leads `step` nodes ahead, (B, T (U + 1))."""
    # log P(transition) = alpha(start) + score + beta(end) - log P(all paths)
    size = scores.shape[1]
    return alpha[:, :size].add(scores).add_(beta[:, step : step + size]).sub_(total).exp_().to(scores.dtype)
