"""Constraints on cost, by the augmented Lagrangian that FLOP, CoFi, HJ-Pruning and DPHuBERT share."""

from __future__ import annotations

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
        self.values = nn.Parameter(torch.zeros(constraints, 2, dtype=torch.float64))


def penalty(sparsity: Tensor, goal: Tensor, multipliers: Tensor) -> Tensor:
    """Sum over constraints of lambda1 (s - t) + lambda2 (s - t)^2.

    Args:
        sparsity: Expected sparsity s of each constraint, (constraints,).
        goal: Sparsity t asked for at this step, (constraints,).
        multipliers: lambda1 and lambda2 of each, (constraints, 2); they are to be maximised over.

    Source: Wang, Wohlwend and Lei 2020 (FLOP, arXiv 1910.04732); Wang et al. 2023 (arXiv 2306.01385), Eq. 5.
    Differs from the released codes, which ascend by a negative learning rate: ours is an optimiser that maximises.
    """
    gap = sparsity - goal
    return (multipliers[:, 0] * gap + multipliers[:, 1] * gap.square()).sum()
