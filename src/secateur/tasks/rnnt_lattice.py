"""The transducer's lattice: the summed probability of every path through it, with its gradient in closed form."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def log_likelihoods(blank: Tensor, label: Tensor, frames: Tensor, lengths: Tensor) -> Tensor:
    """Log-probability of each row's labels, summed over every path: (B,), in float64.

    A path begins in the first frame with nothing written. A blank goes to the next frame, a label stays in the frame
    and goes to the next label; a blank in the last frame, after the last label, ends it. Where no path has a
    probability the result is minus infinity and its gradient zero. What lies beyond a row's frames or labels plays no
    part, whatever it holds.

    Args:
        blank: (B, T, U + 1), log-probability of a blank in a frame after so many labels.
        label: (B, T, U), log-probability of the next label there.
        frames: (B,), valid frames of each row, 1 to T.
        lengths: (B,), labels of each row, 0 to U.

    Source: Graves 2012, arXiv 1211.3711, Eq. 16 to 18 (forward and backward variables) and 20 (gradient). Like the
    paper, but all variables with as many frames and labels together, an anti-diagonal, are computed at once. No graph
    over the steps is kept: the gradient is the probability that a path passes, which is known as soon as the sum is.
    Variables lie as the lattice does, in float64: two of B (T + 1) (U + 1) numbers are the most that there is beside
    what comes in and goes out.
    """
    result: Tensor = _Lattice.apply(blank, label, frames, lengths)  # type: ignore[no-untyped-call]
    return result


class _Lattice(torch.autograd.Function):
    """Node t (U + 1) + u is t frames and u labels behind: a blank leads U + 1 nodes on, a label one."""

    @staticmethod
    def forward(ctx: Any, blank: Tensor, label: Tensor, frames: Tensor, lengths: Tensor) -> Tensor:
        rows, longest, width = blank.shape
        time, label_positions = (torch.arange(size, device=blank.device) for size in (longest, width))
        valid_frames = (time < frames[:, None])[:, :, None]  # (B, T, 1)
        valid_blanks, valid_labels = (
            (label_positions < count[:, None])[:, None] for count in (lengths + 1, lengths)
        )  # (B, 1, U + 1)
        blanks = torch.where(valid_frames & valid_blanks, blank, -math.inf).flatten(1)  # (B, T (U + 1))
        labels = torch.where(valid_frames & valid_labels, F.pad(label, (0, 1)), -math.inf).flatten(1)
        row_indices, end_nodes = torch.arange(rows, device=blank.device), frames * width + lengths
        alpha = _log_zeros(blanks, width)
        alpha[:, 0] = 0.0
        for diagonal in _diagonals(longest, width):
            for scores, step in ((blanks, width), (labels, 1)):
                next_alpha = alpha[:, _shift(diagonal, step)]
                torch.logaddexp(next_alpha, alpha[:, diagonal] + scores[:, diagonal], out=next_alpha)
        total = alpha[row_indices, end_nodes]
        if not any(ctx.needs_input_grad):
            return total
        beta = _log_zeros(blanks, width)
        beta[row_indices, end_nodes] = 0.0
        for diagonal in reversed(_diagonals(longest, width)):
            for scores, step in ((blanks, width), (labels, 1)):
                previous_beta = beta[:, diagonal]
                torch.logaddexp(previous_beta, beta[:, _shift(diagonal, step)] + scores[:, diagonal], out=previous_beta)
        finite_total = torch.where(total == -math.inf, math.inf, total)[:, None]  # no path: it passes nowhere
        blank_gradients, label_gradients = (
            _transition_posteriors(alpha, scores, beta, step, finite_total)
            for scores, step in ((blanks, width), (labels, 1))
        )
        ctx.save_for_backward(blank_gradients.view_as(blank), label_gradients.view_as(blank)[:, :, :-1])
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        blank_gradients, label_gradients = ctx.saved_tensors
        row_gradients = gradient[:, None, None].to(blank_gradients.dtype)
        return blank_gradients * row_gradients, label_gradients * row_gradients, None, None


def _log_zeros(scores: Tensor, width: int) -> Tensor:
    """Variables of all nodes, (B, (T + 1) (U + 1)), minus infinity.

    Sums of thousands of log-probabilities lose in float32 the digits that a path's share needs.
    """
    rows, size = scores.shape
    return scores.new_full((rows, size + width), -math.inf, dtype=torch.float64)


def _diagonals(longest: int, width: int) -> list[slice]:
    """Nodes of each anti-diagonal that a blank or a label can leave."""
    stride = width - 1  # one frame more and one label less
    diagonals = []
    for diagonal_index in range(longest + stride):
        first, last = (
            diagonal_index + time * stride
            for time in (max(0, diagonal_index - stride), min(longest - 1, diagonal_index))
        )
        diagonals.append(slice(first, last + 1, max(1, stride)))
    return diagonals


def _shift(nodes: slice, step: int) -> slice:
    return slice(nodes.start + step, nodes.stop + step, nodes.step)


def _transition_posteriors(alpha: Tensor, scores: Tensor, beta: Tensor, step: int, total: Tensor) -> Tensor:
    """Probability that a path leaves each node in this way, given the sum of all of them: (B, T (U + 1))."""
    size = scores.shape[1]
    return alpha[:, :size].add(scores).add_(beta[:, step : step + size]).sub_(total).exp_().to(scores.dtype)
