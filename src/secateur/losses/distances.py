"""Distances between hidden states or logits of student and teacher, summed over valid frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.bounds import PositiveFinite

_TINY = 1e-6  # added to the mean square of a teacher frame, which may be zero


@dataclass(frozen=True, kw_only=True)
class L1Cosine:
    """Mean absolute difference plus 1 minus the cosine similarity (DPHuBERT, arXiv 2305.17651, section 2.2).

    Differs from the released code by the constant one, so that the loss of a perfect student is zero.
    """

    kind: Literal["l1_cosine"] = "l1_cosine"
    l1: float = 1.0
    """weight of the mean absolute difference"""
    cosine: float = 1.0
    """weight of one minus the cosine similarity"""

    def per_frame(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the distance of each frame: (..., T, D) and (..., T, D) -> (..., T)."""
        distance = (student - teacher).abs().mean(-1)  # (..., T, D) -> (..., T)
        return self.l1 * distance + self.cosine * (1.0 - F.cosine_similarity(student, teacher, dim=-1))


@dataclass(frozen=True, kw_only=True)
class SquaredError:
    """Mean squared difference (CoFi, arXiv 2204.00408; Wang et al. 2023, arXiv 2306.01385, Eq. 5)."""

    kind: Literal["mse"] = "mse"
    relative: bool = False
    """divide by the teacher's mean square in the frame. Hidden states between pre-norm layers are not normalized: their
    norm grows from layer to layer, and with that norm the loss that the multipliers have to outweigh"""

    def per_frame(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the error of each frame: (..., T, D) and (..., T, D) -> (..., T)."""
        error = (student - teacher).square().mean(-1)
        return error / (teacher.square().mean(-1) + _TINY) if self.relative else error


Distance = L1Cosine | SquaredError


@dataclass(frozen=True, kw_only=True)
class LogitDistance:
    """Temperature squared times KL(teacher ‖ student) of logits (Hinton et al., arXiv 1503.02531).

    The square keeps the scale of the gradient at high temperatures. At the default of 1 the gradient of a logit is the
    difference of the two posteriors, on the scale of cross-entropy or CTC in a frame, so that one weight suits both
    losses. A higher temperature emphasizes the order of unlikely outputs, which helps with many classes, but less with
    CTC, whose frames are almost sure of a blank or one letter.
    """

    temperature: PositiveFinite = 1.0
    """number that logits are divided by before the softmax"""

    def per_row(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the distance of each frame or utterance in float32 or better: (..., V) and (..., V) -> (...)."""
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        # (..., V) each
        student_log_probs = (student.to(dtype) / self.temperature).log_softmax(-1)
        teacher_log_probs = (teacher.to(dtype) / self.temperature).log_softmax(-1)
        # KL(teacher ‖ student): kl_div takes the approximating distribution first.
        divergence = F.kl_div(student_log_probs, teacher_log_probs, reduction="none", log_target=True).sum(-1)
        return self.temperature**2 * divergence


def sum_over(frames: Tensor, valid: Tensor | None) -> Tensor:
    """Return the sum over the frames that are not padding.

    Args:
        frames: Values of frames, (B, T).
        valid: Boolean mask, (B, T); None where every frame is valid.
    """
    # `where` rather than a product: padding may hold NaN, and 0 · NaN is NaN.
    return frames.sum() if valid is None else torch.where(valid, frames, 0.0).sum()
