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
    paper, but all variables with as many frames and labels together, an anti-diagonal, are computed at once, and the
    backward ones beside the forward ones, through a lattice that is turned round. No graph over the steps is kept: the
    gradient is the probability that a path passes, which is known as soon as the sum is.
    """
    result: Tensor = _Lattice.apply(blank, label, frames, lengths)  # type: ignore[no-untyped-call]
    return result


class _Lattice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, blank: Tensor, label: Tensor, frames: Tensor, lengths: Tensor) -> Tensor:
        rows, longest, width = blank.shape
        time, place = (torch.arange(size, device=blank.device) for size in (longest, width))
        spoken = (time < frames[:, None])[:, :, None]  # (B, T, 1)
        written = (place <= lengths[:, None])[:, None]  # (B, 1, U + 1)
        more = (place[:-1] < lengths[:, None])[:, None]  # (B, 1, U)
        blanks, labels = _diagonals(blank, spoken & written), _diagonals(label, spoken & more, width)
        row, end = torch.arange(rows, device=blank.device), frames + lengths
        start = blanks.new_full((len(blanks) + 1, rows, width), -math.inf)
        start[0, :, 0] = 0.0
        if not any(ctx.needs_input_grad):
            return _sweep(start, blanks, labels)[end, row, lengths]
        finish = torch.full_like(start, -math.inf)
        finish[end, row, lengths] = 0.0
        both = ((start, finish), (blanks, blanks), (labels, labels))
        swept = _sweep(*(torch.cat((ahead, back.flip(0, 2)), 1) for ahead, back in both))
        alpha, beta = swept[:, :rows], swept[:, rows:].flip(0, 2)
        total = alpha[end, row, lengths]
        known = torch.where(total == -math.inf, math.inf, total)[:, None]  # no path: it passes nowhere
        by_blank = (alpha[:-1] + blanks + beta[1:] - known).exp()  # (T + U, B, U + 1)
        by_label = (alpha[:-1, :, :-1] + labels + beta[1:, :, 1:] - known).exp()  # (T + U, B, U)
        ctx.save_for_backward(_frames(by_blank, longest, width).to(blank), _frames(by_label, longest, width).to(label))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_blank, by_label = ctx.saved_tensors
        each = gradient[:, None, None]
        return (by_blank * each).to(by_blank.dtype), (by_label * each).to(by_label.dtype), None, None


def _sweep(start: Tensor, blanks: Tensor, labels: Tensor) -> Tensor:
    """Forward variables of each anti-diagonal, written over what begins there: (T + U + 1, B, U + 1)."""
    for here, following, blank, label in zip(start[:-1], start[1:], blanks, labels, strict=True):
        torch.logaddexp(following, here + blank, out=following)
        onward = following[:, 1:]
        torch.logaddexp(onward, here[:, :-1] + label, out=onward)
    return start


def _diagonals(scores: Tensor, valid: Tensor, width: int | None = None) -> Tensor:
    """(B, T, W) -> (T + U, B, W) in float64, by frames and labels together; minus infinity where there is nothing.

    Sums of thousands of log-probabilities lose in float32 the digits that a path's share needs.
    """
    _, longest, columns = scores.shape
    reach = longest + (width or columns)  # T + U + 1
    square = torch.where(valid, scores.double(), -math.inf).transpose(1, 2)  # (B, W, T)
    flat = F.pad(square, (0, reach - longest), value=-math.inf).flatten(1)  # (B, W * reach)
    # Rows that are one shorter than they were begin one later each: u in frame t moves to place t + u.
    sheared: Tensor = flat[:, : columns * (reach - 1)].unflatten(1, (columns, reach - 1))
    return sheared.permute(2, 0, 1).contiguous()


def _frames(diagonals: Tensor, longest: int, width: int) -> Tensor:
    """(T + U, B, W) -> (B, T, W), the way back."""
    reach, _, columns = diagonals.shape
    flat = F.pad(diagonals.permute(1, 2, 0).flatten(1), (0, columns))
    upright: Tensor = flat.unflatten(1, (columns, reach + 1))[:, :, :longest]
    return upright.transpose(1, 2)
