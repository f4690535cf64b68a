"""Hard concrete gates (Louizos, Welling and Kingma 2018, arXiv 1712.01312), and a straight-through estimator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from secateur.errors import ConfigError

EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class HardConcrete:
    """Settings of the hard concrete gates on one kind of axis.

    A sample is z = min(1, max(0, s (zeta - gamma) + gamma)) with s = sigmoid((log u - log(1 - u) + log alpha) / beta)
    and u uniform; P(z != 0) = sigmoid(log alpha - beta log(-gamma / zeta)).
    """

    kind: Literal["hard_concrete"] = "hard_concrete"
    temperature: float = 2 / 3
    """beta"""
    stretch: tuple[float, float] = (-0.1, 1.1)
    """(gamma, zeta)"""
    drop_rate: float = 0.01
    """delta: log alpha starts at log((1 - delta) / delta)"""
    spread: float = 0.01
    """standard deviation of log alpha at the start"""
    straight_through: bool = False
    """Wang et al. 2023 (arXiv 2306.01385), Eq. 4: the gradient passes the clamp everywhere, clipped to [-1, 1]"""
    parametrisation: Literal["standard", "wang2023"] = "standard"
    """``wang2023`` is their Eq. 2 as printed: beta divides the noise but not log alpha, so that
    P(z != 0) = sigmoid(beta (log alpha - log(-gamma / zeta)))"""

    def __post_init__(self) -> None:
        low, high = self.stretch
        if not (-math.inf < low < 0 and 1 < high < math.inf):
            raise ConfigError(f"stretch: got {self.stretch}, allowed is (below 0, above 1), such as (-0.1, 1.1).")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature: got {self.temperature}, allowed is above 0, such as 0.67.")
        if not 0 < self.drop_rate < 1:
            raise ConfigError(f"drop_rate: got {self.drop_rate}, allowed is between 0 and 1, such as 0.01.")
        if not 0 <= self.spread < math.inf:
            raise ConfigError(f"spread: got {self.spread}, allowed is 0 or more, such as 0.01.")

    @property
    def initial_log_alpha(self) -> float:
        """log alpha at the start."""
        return math.log((1 - self.drop_rate) / self.drop_rate)


@dataclass(frozen=True)
class GateParameters:
    """The settings of every gate of a set, as vectors of the gates' length."""

    temperature: Tensor
    low: Tensor
    high: Tensor
    straight_through: Tensor
    as_printed: Tensor

    @classmethod
    def from_settings(cls, settings: list[tuple[HardConcrete, int]]) -> GateParameters:
        """Settings, each for a number of gates, one behind the other."""

        def repeat_per_gate(values: list[Any], dtype: torch.dtype) -> Tensor:
            counts = torch.tensor([count for _, count in settings], dtype=torch.long)
            return torch.repeat_interleave(torch.tensor(values, dtype=dtype), counts)

        return cls(
            temperature=repeat_per_gate([gate.temperature for gate, _ in settings], torch.float32),
            low=repeat_per_gate([gate.stretch[0] for gate, _ in settings], torch.float32),
            high=repeat_per_gate([gate.stretch[1] for gate, _ in settings], torch.float32),
            straight_through=repeat_per_gate([gate.straight_through for gate, _ in settings], torch.bool),
            as_printed=repeat_per_gate([gate.parametrisation == "wang2023" for gate, _ in settings], torch.bool),
        )

    def to(self, device: torch.device) -> GateParameters:
        """The same on a device."""
        return GateParameters(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def sample(log_alpha: Tensor, uniform: Tensor, parameters: GateParameters) -> Tensor:
    """One draw of each gate.

    Args:
        log_alpha: (gates,).
        uniform: (gates,), in (0, 1).
        shape: Settings of each gate.

    Returns:
        z in [0, 1], (gates,).
    """
    clamped_uniform = uniform.clamp(EPSILON, 1 - EPSILON)
    noise = torch.log(clamped_uniform) - torch.log1p(-clamped_uniform)
    scaled = torch.where(parameters.as_printed, log_alpha, log_alpha / parameters.temperature)
    stretched_input = torch.sigmoid(noise / parameters.temperature + scaled)
    clamped: Tensor = _StraightThroughClamp.apply(
        stretched_input * (parameters.high - parameters.low) + parameters.low, parameters.straight_through
    )  # type: ignore[no-untyped-call]
    return clamped


def open_logit(log_alpha: Tensor, parameters: GateParameters) -> Tensor:
    """Log-odds of P(z != 0), which belong to the sampler above: (gates,) -> (gates,)."""
    bound = torch.log(-parameters.low / parameters.high)
    standard = log_alpha - parameters.temperature * bound
    return torch.where(parameters.as_printed, parameters.temperature * (log_alpha - bound), standard)


def deterministic_mask(log_alpha: Tensor, parameters: GateParameters) -> Tensor:
    """The mask used when nothing is drawn: min(1, max(0, sigmoid(log alpha) (zeta - gamma) + gamma)); (gates,)."""
    return (torch.sigmoid(log_alpha) * (parameters.high - parameters.low) + parameters.low).clamp(0, 1)


class _StraightThroughClamp(torch.autograd.Function):
    """Clamp to [0, 1]; where asked, the gradient passes everywhere, clipped to [-1, 1]."""

    @staticmethod
    def forward(ctx: Any, stretched: Tensor, straight_through: Tensor) -> Tensor:
        ctx.save_for_backward(straight_through, (stretched > 0) & (stretched < 1))
        return stretched.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        straight_through, is_unclamped = ctx.saved_tensors
        return torch.where(straight_through, gradient.clamp(-1, 1), gradient * is_unclamped), None
