"""Hard concrete gates (Louizos, Welling and Kingma 2018, arXiv 1712.01312), and a straight-through estimator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Gt, Lt
from torch import Tensor, nn

from secateur.bounds import NonNegativeFinite, PositiveFinite, ProperShare
from secateur.gates.gate_set import GateSet
from secateur.gates.keyed_random import normal, uniform, unit_keys
from secateur.structure import Structure

#: Distance of uniform numbers from 0 and 1, so that their logits stay finite in float32.
EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class HardConcrete:
    """Settings of the hard concrete gates on a kind of axis.

    A sample is z = min(1, max(0, s (zeta - gamma) + gamma)) with s = sigmoid((log u - log(1 - u) + log alpha) / beta)
    and u uniform; P(z != 0) = sigmoid(log alpha - beta log(-gamma / zeta)).
    """

    kind: Literal["hard_concrete"] = "hard_concrete"
    temperature: PositiveFinite = 2 / 3
    """beta"""
    stretch: tuple[Annotated[float, Gt(-math.inf), Lt(0)], Annotated[float, Gt(1), Lt(math.inf)]] = (-0.1, 1.1)
    """(gamma, zeta)"""
    drop_rate: ProperShare = 0.01
    """delta: log alpha starts at log((1 - delta) / delta)"""
    spread: NonNegativeFinite = 0.01
    """standard deviation of log alpha at the start"""
    straight_through: bool = False
    """Wang et al. 2023 (arXiv 2306.01385), Eq. 4: the gradient passes the clamp everywhere, clipped to [-1, 1]"""
    parametrisation: Literal["standard", "wang2023"] = "standard"
    """``wang2023`` is their Eq. 2 as printed: beta divides the noise but not log alpha, so that
    P(z != 0) = sigmoid(beta (log alpha - log(-gamma / zeta)))"""

    @property
    def initial_log_alpha(self) -> float:
        """The mean of log alpha at the start."""
        return math.log((1 - self.drop_rate) / self.drop_rate)

    @staticmethod
    def make_gates(structure: Structure, configs: Mapping[str, HardConcrete], *, seed: int) -> HardConcreteGates:
        """Return the gates of a structure, given settings by kind of axis."""
        return HardConcreteGates(structure, configs, seed=seed)


class HardConcreteGates(GateSet):
    """Hard concrete gates, with log alpha as the learned parameter of a gate.

    The draw of a step is a function of (seed, step, axis, original unit) and log alpha alone. So all ranks and all
    micro-batches draw the same, and so does a model from which other units have been removed.
    """

    def __init__(self, structure: Structure, configs: Mapping[str, HardConcrete], *, seed: int) -> None:
        """
        Args:
            structure: The structure of the model.
            configs: Settings by kind of axis; kinds that are absent are not gated.
            seed: Seed of the draws and of the initial log alpha.

        Raises:
            ConfigError: A kind is unknown or cannot be gated, or no axis of the model is of these kinds.
        """
        super().__init__(structure, configs.keys())
        self.seed = seed
        settings = [(configs[axis.kind], axis.size) for axis in self.axes]
        self.gate_parameters = GateParameters.from_settings(settings)
        self.keys = unit_keys(self.axes)
        # A value for each gate: means 4.6 and 3.0 of axes with 2 units and 1 unit give (4.6, 4.6, 3.0).
        mean = np.repeat([gate.initial_log_alpha for gate, _ in settings], [size for _, size in settings])
        spread = np.repeat([gate.spread for gate, _ in settings], [size for _, size in settings])
        initial = mean + spread * normal(self.keys, seed)
        self.log_alpha = nn.Parameter(torch.tensor(initial, dtype=torch.float32))

    def sample_gates(self, step: int) -> Tensor:
        """Return a draw of every gate: (gates,), with a graph to log alpha."""
        uniform_numbers = torch.from_numpy(uniform(self.keys, self.seed, step)).to(self.log_alpha)
        return sample(self.log_alpha, uniform_numbers, self._parameters_on_device())

    def gate_logits(self) -> Tensor:
        """Return the log-odds of P(z != 0): (gates,), with a graph to log alpha."""
        return open_logit(self.log_alpha, self._parameters_on_device())

    def gate_scales(self) -> Tensor:
        """Return the deterministic mask of each gate, not below the mask at the decision boundary: (gates,)."""
        parameters = self._parameters_on_device()
        bound = torch.log(-parameters.low / parameters.high)
        # log alpha where P(z != 0) = 1/2
        boundary = torch.where(parameters.as_printed, bound, parameters.temperature * bound)
        return deterministic_mask(torch.maximum(self.log_alpha, boundary), parameters)

    def state(self) -> dict[str, Tensor]:
        """Return log alpha as ``gates``."""
        return {"gates": self.log_alpha.detach()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore log alpha."""
        with torch.no_grad():
            self.log_alpha.copy_(state["gates"])

    def _parameters_on_device(self) -> GateParameters:
        if self.gate_parameters.low.device != self.log_alpha.device:
            self.gate_parameters = self.gate_parameters.to(self.log_alpha.device)
        return self.gate_parameters


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
        """Return the settings of all gates, given pairs of settings and the number of gates with such settings."""

        def repeat_per_gate(values: list[Any], dtype: torch.dtype) -> Tensor:
            # Example: the values (0.4, 0.7) for (2, 1) gates give (0.4, 0.4, 0.7).
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
        """Return a copy on a device."""
        return GateParameters(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def sample(log_alpha: Tensor, uniform: Tensor, parameters: GateParameters) -> Tensor:
    """Return a draw of every gate.

    Args:
        log_alpha: (gates,).
        uniform: (gates,), in (0, 1).
        parameters: Settings of each gate.

    Returns:
        z in [0, 1], (gates,).
    """
    clamped_uniform = uniform.clamp(EPSILON, 1 - EPSILON)
    # Logistic noise, the logit of a uniform number.
    noise = torch.log(clamped_uniform) - torch.log1p(-clamped_uniform)
    # In the printed form, beta divides the noise alone.
    scaled = torch.where(parameters.as_printed, log_alpha, log_alpha / parameters.temperature)
    stretched_input = torch.sigmoid(noise / parameters.temperature + scaled)
    # From (0, 1) to (gamma, zeta), and clamped to [0, 1].
    clamped: Tensor = _StraightThroughClamp.apply(
        stretched_input * (parameters.high - parameters.low) + parameters.low, parameters.straight_through
    )  # type: ignore[no-untyped-call]
    return clamped


def open_logit(log_alpha: Tensor, parameters: GateParameters) -> Tensor:
    """Return the log-odds of P(z != 0) under `sample`: (gates,) -> (gates,)."""
    # z > 0 where the stretched sigmoid is above zero, which is where s > -gamma / (zeta - gamma).
    bound = torch.log(-parameters.low / parameters.high)
    standard = log_alpha - parameters.temperature * bound
    return torch.where(parameters.as_printed, parameters.temperature * (log_alpha - bound), standard)


def deterministic_mask(log_alpha: Tensor, parameters: GateParameters) -> Tensor:
    """Return the mask without noise, min(1, max(0, sigmoid(log alpha) (zeta - gamma) + gamma)): (gates,)."""
    return (torch.sigmoid(log_alpha) * (parameters.high - parameters.low) + parameters.low).clamp(0, 1)


class _StraightThroughClamp(torch.autograd.Function):
    """Clamp to [0, 1], with the gradient of the clamp or a straight-through gradient clipped to [-1, 1]."""

    @staticmethod
    def forward(ctx: Any, stretched: Tensor, straight_through: Tensor) -> Tensor:
        # The second tensor is True where the clamp itself passes the gradient.
        ctx.save_for_backward(straight_through, (stretched > 0) & (stretched < 1))
        return stretched.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        straight_through, is_unclamped = ctx.saved_tensors
        return torch.where(straight_through, gradient.clamp(-1, 1), gradient * is_unclamped), None
