"""Constraints on cost, by the augmented Lagrangian of FLOP, CoFi, HJ-Pruning and DPHuBERT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from secateur.bounds import KeptShare, PositiveFinite, Share
from secateur.errors import ConfigError

#: Beginning of the message for a constraint without a target, or with several.
TARGET_REQUIRED = (
    "A constraint needs one of 'target' (share kept), 'sparsity' (share removed) and, for latency, 'target_ms' or "
    "'target_rtf'"
)


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """Upper limit on a cost of the pruned model within a scope.

    Give at most one of `target` (the kept share), `sparsity` (the removed share) and, for latency, `target_ms` or
    `target_rtf`; a constraint without a target takes the recipe's `target`.
    """

    cost: Literal["parameters", "macs", "latency"] = "parameters"
    """cost that is limited: number of parameters, multiply-accumulates or predicted latency"""
    scope: str = "whole"
    """``whole``, ``gated``, ``encoder``, ``frontend``, ``transducer`` (predictor and joiner) or a module path"""
    target: KeptShare | None = None
    """share of the dense cost that is kept"""
    sparsity: float | None = None
    """share of the dense cost that is removed"""
    target_ms: PositiveFinite | None = None
    """predicted latency in milliseconds, under the conditions of the recipe's `latency`"""
    target_rtf: PositiveFinite | None = None
    """predicted latency as real-time factor: seconds of computation for each second of audio"""
    seconds: PositiveFinite | None = None
    """audio length for MACs in seconds; null: 1 s. Latency takes the recipe's `latency.seconds`"""
    ramp: tuple[tuple[Share, Share], ...] = ((0.0, 0.0), (0.25, 1.0))
    """points (share of the learn phase, share of the target sparsity), linear in between"""

    def __post_init__(self) -> None:
        time_targets = {name: getattr(self, name) for name in ("target_ms", "target_rtf")}
        if len(self.target_fields) > 1:
            raise ConfigError(f"{TARGET_REQUIRED}; got {' and '.join(self.target_fields)}.")
        for name, value in time_targets.items():
            if value is not None and self.cost != "latency":
                raise ConfigError(f"{name}: got {value:g} for the cost {self.cost!r}, expected only for 'latency'.")
        if self.target_share is not None and not 0 < self.target_share <= 1:
            raise ConfigError(
                f"A constraint must keep a share above 0 and at most 1 of the cost, got {self.target_share:g}."
            )
        if self.seconds is not None and self.cost == "latency":
            raise ConfigError(
                "seconds: got an audio length for the cost 'latency', expected none; set 'latency.seconds' instead."
            )
        positions = [position for position, _ in self.ramp]
        if not positions or positions != sorted(positions):
            raise ConfigError(
                f"ramp: got {[list(point) for point in self.ramp]}, expected points in ascending order of the "
                "first number, such as [[0, 0], [0.25, 1]]."
            )

    @property
    def target_fields(self) -> tuple[str, ...]:
        """Names of the fields with a target."""
        names = ("target", "sparsity", "target_ms", "target_rtf")
        return tuple(name for name in names if getattr(self, name) is not None)

    @property
    def target_share(self) -> float | None:
        """Share of the cost that may be kept, unless the target is a time."""
        if self.sparsity is not None:
            return 1.0 - self.sparsity
        return self.target

    def resolve_share(self, *, dense: float, audio: float) -> float:
        """Return the share of the cost that may be kept.

        Args:
            dense: Cost of the dense model; a latency in milliseconds.
            audio: Audio length of a latency in seconds.

        Raises:
            ConfigError: The target latency is above that of the dense model.
        """
        if self.target_share is not None:
            return self.target_share
        # A real-time factor of 0.1 on 2 s of audio is 200 ms.
        milliseconds = self.target_ms if self.target_rtf is None else 1e3 * self.target_rtf * audio
        assert milliseconds is not None
        if milliseconds > dense:
            raise ConfigError(
                f"The constraint {self.name} allows {milliseconds:.4g} ms, but the dense model is predicted to take "
                f"{dense:.4g} ms: there is nothing to prune; lower the target."
            )
        return milliseconds / dense  # of a dense 40 ms, 10 ms are a share of 0.25

    @property
    def target_label(self) -> str:
        """Target as a short label, such as ``0.5``, ``12ms`` or ``rtf0.1``."""
        if self.target_ms is not None:
            return f"{self.target_ms:g}ms"
        return f"rtf{self.target_rtf:g}" if self.target_rtf is not None else f"{self.target_share:g}"

    @property
    def audio_seconds(self) -> float:
        """Audio length for MACs in seconds."""
        return 1.0 if self.seconds is None else self.seconds

    @property
    def name(self) -> str:
        """Name of the constraint in logs and records."""
        return f"{self.cost}-{self.scope}"


class Multipliers(nn.Module):
    """Pair of Lagrange multipliers of each constraint, learned by gradient ascent."""

    def __init__(self, constraints: int) -> None:
        super().__init__()
        # float64, since a multiplier adds up thousands of small steps.
        self.linear = nn.Parameter(torch.zeros(constraints, dtype=torch.float64))
        self.quadratic = nn.Parameter(torch.zeros(constraints, dtype=torch.float64))


def penalty(sparsity: Tensor, goal: Tensor, linear: Tensor, quadratic: Tensor) -> Tensor:
    """Return the sum over constraints of lambda1 (s - t) + lambda2 (s - t)^2.

    Args:
        sparsity: Expected sparsity s of each constraint, (constraints,).
        goal: Target sparsity t at this step, (constraints,).
        linear: lambda1 of each constraint, (constraints,); maximized in training.
        quadratic: lambda2 of each constraint, (constraints,); maximized in training.

    Source: Wang, Wohlwend and Lei 2020 (FLOP, arXiv 1910.04732); Wang et al. 2023 (arXiv 2306.01385), Eq. 5.
    Differs from the released code, which ascends with a negative learning rate, by an optimizer with ``maximize``.
    """
    gap = sparsity - goal  # below zero while too little is pruned
    return (linear * gap + quadratic * gap.square()).sum()
