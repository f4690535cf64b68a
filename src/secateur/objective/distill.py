"""Distances between hidden states of student and teacher, summed over valid frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

_TINY = 1e-6  # mean square of a teacher's frame; guards silence


@dataclass(frozen=True, kw_only=True)
class L1Cosine:
    """Mean absolute difference plus one minus the cosine similarity (DPHuBERT, arXiv 2305.17651, section 2.2).

    Differs from the released code by the constant one, so that a perfect student has loss zero.
    """

    kind: Literal["l1_cosine"] = "l1_cosine"
    l1: float = 1.0
    cosine: float = 1.0

    def per_frame(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(..., T, D) and (..., T, D) -> (..., T)."""
        distance = (student - teacher).abs().mean(-1)
        return self.l1 * distance + self.cosine * (1.0 - F.cosine_similarity(student, teacher, dim=-1))


@dataclass(frozen=True, kw_only=True)
class SquaredError:
    """Mean squared difference (CoFi, arXiv 2204.00408; Wang et al. 2023, arXiv 2306.01385, Eq. 5)."""

    kind: Literal["mse"] = "mse"
    relative: bool = False
    """divide by the teacher's mean square in the frame. Hidden states between pre-norm layers are not normalised: they
    grow from layer to layer, and with them the loss that the multipliers have to outweigh"""

    def per_frame(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(..., T, D) and (..., T, D) -> (..., T)."""
        error = (student - teacher).square().mean(-1)
        return error / (teacher.square().mean(-1) + _TINY) if self.relative else error


Distance = L1Cosine | SquaredError


def sum_over(frames: Tensor, valid: Tensor | None) -> Tensor:
    """Sum over the frames that are not padding.

    Args:
        frames: (B, T).
        valid: (B, T) of booleans, or None when every frame is valid.
    """
    return frames.sum() if valid is None else torch.where(valid, frames, 0.0).sum()
