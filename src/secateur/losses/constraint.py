"""Constraints on cost, by the augmented Lagrangian that FLOP, CoFi, HJ-Pruning and DPHuBERT share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from secateur.errors import ConfigError

#: What a constraint is not without.
TARGET_REQUIRED = (
    "A constraint needs one of 'target' (share kept), 'sparsity' (share removed) and, for latency, 'target_ms' or "
    "'target_rtf'"
)


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """One constraint: a cost, the scope it is counted over, and how much of it may stay.

    Give at most one of `target` (the share that is kept), `sparsity` (the share that is removed) and, of latency,
    `target_ms` or `target_rtf`; without any it takes the recipe's own `target`.
    """

    cost: Literal["parameters", "macs", "latency"] = "parameters"
    scope: str = "whole"
    """``whole``, ``gated``, ``encoder``, ``frontend``, ``transducer`` (predictor and joiner) or a module path"""
    target: float | None = None
    sparsity: float | None = None
    target_ms: float | None = None
    """predicted milliseconds, under the conditions of the recipe's `latency`"""
    target_rtf: float | None = None
    """the same as seconds of computing for each second of audio (the real-time factor)"""
    seconds: float | None = None
    """audio length for MACs; None: 1 s. That of latency is the recipe's `latency.seconds`"""
    ramp: tuple[tuple[float, float], ...] = ((0.0, 0.0), (0.25, 1.0))
    """points (share of the learn phase, share of the sparsity asked for), linear in between"""

    def __post_init__(self) -> None:
        time_targets = {name: getattr(self, name) for name in ("target_ms", "target_rtf")}
        if len(self.target_fields) > 1:
            raise ConfigError(f"{TARGET_REQUIRED}; got {' and '.join(self.target_fields)}.")
        for name, value in time_targets.items():
            if value is not None and self.cost != "latency":
                raise ConfigError(f"{name}: got {value:g} for the cost {self.cost!r}, allowed for 'latency' alone.")
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name}: got {value:g}, allowed is above 0.")
        if self.target_share is not None and not 0 < self.target_share <= 1:
            raise ConfigError(
                f"A constraint must keep more than 0 and at most 1 of the cost, got {self.target_share:g}."
            )
        if self.seconds is not None and self.cost == "latency":
            raise ConfigError("seconds: is the audio length for MACs; set that of latency as 'latency.seconds'.")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ConfigError(f"seconds: got {self.seconds}, allowed is above 0.")
        ramp_positions, shares = (
            [ramp_position for ramp_position, _ in self.ramp],
            [number for point in self.ramp for number in point],
        )
        if (
            not ramp_positions
            or ramp_positions != sorted(ramp_positions)
            or not all(0 <= share <= 1 for share in shares)
        ):
            raise ConfigError(
                f"ramp: got {[list(point) for point in self.ramp]}, allowed are points of two shares from 0 to 1, in "
                "ascending order of the first, such as [[0, 0], [0.25, 1]]."
            )

    @property
    def target_fields(self) -> tuple[str, ...]:
        """Names of the targets that it has."""
        names = ("target", "sparsity", "target_ms", "target_rtf")
        return tuple(name for name in names if getattr(self, name) is not None)

    @property
    def target_share(self) -> float | None:
        """The share of the cost that may stay; None where the target is a time."""
        if self.sparsity is not None:
            return 1.0 - self.sparsity
        return self.target

    def resolve_share(self, *, dense: float, audio: float) -> float:
        """The share of the cost that may stay.

        Args:
            dense: Cost of the dense model, of latency in milliseconds.
            audio: Seconds of audio that a latency is for.

        Raises:
            ConfigError: The time asked for is not below that of the dense model.
        """
        if self.target_share is not None:
            return self.target_share
        milliseconds = self.target_ms if self.target_rtf is None else 1e3 * self.target_rtf * audio
        assert milliseconds is not None
        if milliseconds > dense:
            raise ConfigError(
                f"The constraint {self.name} allows {milliseconds:.4g} ms, but the dense model is predicted to take "
                f"{dense:.4g} ms: there is nothing to prune; lower the target."
            )
        return milliseconds / dense

    @property
    def target_label(self) -> str:
        """What it asks for, in a word."""
        if self.target_ms is not None:
            return f"{self.target_ms:g}ms"
        return f"rtf{self.target_rtf:g}" if self.target_rtf is not None else f"{self.target_share:g}"

    @property
    def audio_seconds(self) -> float:
        """Seconds of audio for MACs."""
        return 1.0 if self.seconds is None else self.seconds

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
