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
        time, place = (torch.arange(size, device=blank.device) for size in (longest, width))
        spoken = (time < frames[:, None])[:, :, None]  # (B, T, 1)
        written, more = ((place < count[:, None])[:, None] for count in (lengths + 1, lengths))  # (B, 1, U + 1)
        blanks = torch.where(spoken & written, blank, -math.inf).flatten(1)  # (B, T (U + 1))
        labels = torch.where(spoken & more, F.pad(label, (0, 1)), -math.inf).flatten(1)
        row, end = torch.arange(rows, device=blank.device), frames * width + lengths
        alpha = _empty(blanks, width)
        alpha[:, 0] = 0.0
        for here in _diagonals(longest, width):
            for scores, step in ((blanks, width), (labels, 1)):
                following = alpha[:, _on(here, step)]
                torch.logaddexp(following, alpha[:, here] + scores[:, here], out=following)
        total = alpha[row, end]
        if not any(ctx.needs_input_grad):
            return total
        beta = _empty(blanks, width)
        beta[row, end] = 0.0
        for here in reversed(_diagonals(longest, width)):
            for scores, step in ((blanks, width), (labels, 1)):
                before = beta[:, here]
                torch.logaddexp(before, beta[:, _on(here, step)] + scores[:, here], out=before)
        known = torch.where(total == -math.inf, math.inf, total)[:, None]  # no path: it passes nowhere
        by_blank, by_label = (
            _passing(alpha, scores, beta, step, known) for scores, step in ((blanks, width), (labels, 1))
        )
        ctx.save_for_backward(by_blank.view_as(blank), by_label.view_as(blank)[:, :, :-1])
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_blank, by_label = ctx.saved_tensors
        each = gradient[:, None, None].to(by_blank.dtype)
        return by_blank * each, by_label * each, None, None


def _empty(scores: Tensor, width: int) -> Tensor:
    """Variables of all nodes, (B, (T + 1) (U + 1)), minus infinity.

    Sums of thousands of log-probabilities lose in float32 the digits that a path's share needs.
    """
    rows, size = scores.shape
    return scores.new_full((rows, size + width), -math.inf, dtype=torch.float64)


def _diagonals(longest: int, width: int) -> list[slice]:
    """Nodes of each anti-diagonal that a blank or a label can leave."""
    stride = width - 1  # one frame more and one label less
    found = []
    for both in range(longest + stride):
        first, last = (both + time * stride for time in (max(0, both - stride), min(longest - 1, both)))
        found.append(slice(first, last + 1, max(1, stride)))
    return found


def _on(nodes: slice, step: int) -> slice:
    return slice(nodes.start + step, nodes.stop + step, nodes.step)


def _passing(alpha: Tensor, scores: Tensor, beta: Tensor, step: int, total: Tensor) -> Tensor:
    """Probability that a path leaves each node in this way, given the sum of all of them: (B, T (U + 1))."""
    size = scores.shape[1]
    return alpha[:, :size].add(scores).add_(beta[:, step : step + size]).sub_(total).exp_().to(scores.dtype)
