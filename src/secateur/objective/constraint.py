"""Constraints on cost, by the augmented Lagrangian that FLOP, CoFi, HJ-Pruning and DPHuBERT share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from secateur.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """One constraint: a cost, the scope it is counted over, and how much of it may stay.

    Give `target` (the share that is kept) or `sparsity` (the share that is removed), not both.
    """

    cost: Literal["parameters", "macs"] = "parameters"
    scope: str = "whole"
    """``whole``, ``gated``, ``encoder``, ``frontend`` or a module path"""
    target: float | None = None
    sparsity: float | None = None
    seconds: float = 1.0
    """audio length for MACs"""
    ramp: tuple[tuple[float, float], ...] = ((0.0, 0.0), (0.25, 1.0))
    """points (share of the learn phase, share of the sparsity asked for), linear in between"""

    def __post_init__(self) -> None:
        if (self.target is None) == (self.sparsity is None):
            raise ConfigError("A constraint needs either 'target' (share kept) or 'sparsity' (share removed).")
        if not 0 < self.kept <= 1:
            raise ConfigError(f"A constraint must keep more than 0 and at most 1 of the cost, got {self.kept:g}.")
        if not 0 < self.seconds < math.inf:
            raise ConfigError(f"seconds: got {self.seconds}, allowed is above 0.")
        places, shares = [place for place, _ in self.ramp], [number for point in self.ramp for number in point]
        if not places or places != sorted(places) or not all(0 <= share <= 1 for share in shares):
            raise ConfigError(
                f"ramp: got {[list(point) for point in self.ramp]}, allowed are points of two shares from 0 to 1, in "
                "ascending order of the first, such as [[0, 0], [0.25, 1]]."
            )

    @property
    def kept(self) -> float:
        """The share of the cost that may stay."""
        return self.target if self.target is not None else 1.0 - (self.sparsity or 0.0)

    @property
    def name(self) -> str:
        """Its name in logs and records."""
        return f"{self.cost}-{self.scope}"


class Multipliers(nn.Module):
    """The pair of Lagrange multipliers of every constraint, learned by ascent."""

    def __init__(self, constraints: int) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.zeros(constraints, dtype=torch.float64))
        self.quadratic = nn.Parameter(torch.zeros(constraints, dtype=torch.float64))


def penalty(sparsity: Tensor, goal: Tensor, linear: Tensor, quadratic: Tensor) -> Tensor:
    """Sum over constraints of lambda1 (s - t) + lambda2 (s - t)^2.

    Args:
        sparsity: Expected sparsity s of each constraint, (constraints,).
        goal: Sparsity t asked for at this step, (constraints,).
        linear: lambda1 of each, (constraints,); to be maximised over.
        quadratic: lambda2 of each, (constraints,); to be maximised over.

    Source: Wang, Wohlwend and Lei 2020 (FLOP, arXiv 1910.04732); Wang et al. 2023 (arXiv 2306.01385), Eq. 5.
    Differs from the released codes, which ascend by a negative learning rate: ours is an optimiser that maximises.
    """
    gap = sparsity - goal
    return (linear * gap + quadratic * gap.square()).sum()
