"""Self-pinching gates (Xu et al. 2025, arXiv 2505.22608): a learned threshold closes the units of small weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from secateur.bounds import PositiveFinite
from secateur.gates.gate_set import GateSet
from secateur.structure import Structure


@dataclass(frozen=True, kw_only=True)
class SelfPinching:
    """Settings of the self-pinching gates on a kind of axis.

    A unit is open where r > t^2 and closed elsewhere. r is the squared 2-norm of the weights of the unit, divided by
    its mean over the units of the same layer and kind in the dense model; t is a learned threshold, one for each layer
    and kind. The soft mask sigmoid((r - t^2) / (2 tau)) stands in for the hard one in the gradient, which reaches t and
    the weights, and is the open probability.

    Differs from the paper: there a gate is on a single weight w, with w^2 in the place of r and one threshold for each
    weight matrix; here units are removed, so that the model becomes smaller as a dense one.
    """

    kind: Literal["self_pinching"] = "self_pinching"
    temperature: PositiveFinite = 0.05
    """tau, in units of the mean squared norm of the dense model"""
    threshold: PositiveFinite = 0.1
    """t at the start; at 0 the gradient would be zero, since d(t^2)/dt = 2 t"""

    @staticmethod
    def make_gates(structure: Structure, configs: Mapping[str, SelfPinching], *, seed: int) -> SelfPinchingGates:
        """Return the gates of a structure, given settings by kind of axis; without draws, the seed is unused."""
        return SelfPinchingGates(structure, configs)


class SelfPinchingGates(GateSet):
    """Self-pinching gates, with a threshold for all axes of a kind in a layer, such as the query/key of all heads.

    Unlike hard concrete gates they draw nothing: the masks of all steps follow from the thresholds and the weights.
    """

    def __init__(self, structure: Structure, configs: Mapping[str, SelfPinching]) -> None:
        """
        Args:
            structure: The structure of the model.
            configs: Settings by kind of axis; kinds that are absent are not gated.

        Raises:
            ConfigError: A kind is unknown or cannot be gated, or no axis of the model is of these kinds.
        """
        super().__init__(structure, configs.keys())
        # Axes of one kind in one module share a threshold. Example: two attention modules with two heads each and the
        # kind `qk` have four axes, the groups 0 0 1 1, and two thresholds.
        groups = list(dict.fromkeys((axis.path, axis.kind) for axis in self.axes))
        sizes = torch.tensor([axis.size for axis in self.axes])
        group_of_axis = torch.tensor([groups.index((axis.path, axis.kind)) for axis in self.axes])
        self.group_of_gate = torch.repeat_interleave(group_of_axis, sizes)
        temperatures = torch.tensor([configs[axis.kind].temperature for axis in self.axes], dtype=torch.float64)
        self.temperatures = torch.repeat_interleave(temperatures, sizes)
        self.thresholds = nn.Parameter(torch.tensor([configs[kind].threshold for _, kind in groups]))
        self._squared_norms: Callable[[], Tensor] | None = None
        self._mean_norms = torch.ones(len(groups), dtype=torch.float64)

    def bind_weights(self, squared_norms: Callable[[], Tensor]) -> None:
        """Use the weights of a student.

        Norms are relative to their mean at the time of the call, over the units that share a threshold.
        """
        self._squared_norms = squared_norms
        norms = squared_norms().detach().cpu()[self.positions]  # (units,) -> (gates,)
        # (gates,) -> (thresholds,)
        sums = torch.zeros(len(self.thresholds), dtype=torch.float64).index_add(0, self.group_of_gate, norms)
        counts = torch.bincount(self.group_of_gate, minlength=len(self.thresholds))
        self._mean_norms = (sums / counts).clamp(min=torch.finfo(torch.float32).tiny)  # weights may all be zero

    def sample_gates(self, step: int) -> Tensor:
        """Return the hard masks with the gradient of the soft masks (straight through): (gates,)."""
        logits = self.gate_logits()
        soft = torch.sigmoid(logits)
        return (logits > 0).to(soft) + (soft - soft.detach())  # the bracket is exactly zero

    def gate_logits(self) -> Tensor:
        """Return (r - t^2) / (2 tau): (gates,), with a graph to the thresholds and the weights."""
        assert self._squared_norms is not None, "bind_weights comes first"
        device = self.thresholds.device
        groups = self.group_of_gate.to(device)
        norms = self._squared_norms().to(device)[self.positions.to(device)]  # (units,) -> (gates,)
        relative_norms = norms / self._mean_norms.to(device)[groups]
        logits = (relative_norms - self.thresholds.double()[groups].square()) / (2 * self.temperatures.to(device))
        return logits.to(self.thresholds.dtype)

    def gate_scales(self) -> Tensor:
        """Return 1 for all gates, since an open gate does not scale the unit: (gates,)."""
        return torch.ones(len(self.positions), device=self.thresholds.device)

    def state(self) -> dict[str, Tensor]:
        """Return the thresholds."""
        return {"gates.thresholds": self.thresholds.detach()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore the thresholds."""
        with torch.no_grad():
            self.thresholds.copy_(state["gates.thresholds"])
