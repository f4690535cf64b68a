"""The interface between the learn phase and a kind of gate."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from secateur.errors import ConfigError, did_you_mean
from secateur.structure import Structure
from secateur.structure.axis import KINDS

#: Open probabilities between these bounds count as undecided.
UNDECIDED_BOUNDS = (0.05, 0.95)

#: Smallest scale of a kept unit: with some settings a gate right at its decision boundary has a mask of zero.
MIN_SCALE = 0.01


class GateSet(nn.Module, ABC):
    """Gates on all axes of some kinds, as a vector.

    The learn phase, the record and progressive shrinking use only the public methods of this class. A kind of gate
    derives from the class and implements the abstract methods, which know gates only; indexing by unit, freezing and
    the statistics are shared.

    Two index spaces occur. `(gates,)` counts the gated units only; `(units,)` counts all units of the structure.
    Example: of the axes `heads` (2 units), `units` (3) and `block` (1), `units` and `block` are gated::

        all units    heads:0  heads:1  units:0  units:1  units:2  block:0
        positions                      2        3        4        5

    A gate that is frozen is closed for good: its mask and its open probability are zero and get no gradient.
    """

    def __init__(self, structure: Structure, kinds: Collection[str]) -> None:
        """
        Args:
            structure: The structure of the model.
            kinds: Kinds of axes that are gated.

        Raises:
            ConfigError: A kind is unknown or cannot be gated, or no axis of the model is of these kinds.
        """
        super().__init__()
        check_kinds(kinds)
        self.structure = structure
        self.axes = [axis for axis in structure.axes_of_kinds(tuple(kinds)) if axis.size]
        if not self.axes:
            raise ConfigError(f"No axis of this model is of the gated kinds {', '.join(kinds) or '(none)'}.")
        positions: list[int] = []
        for axis in self.axes:
            start = structure.offsets[axis.name]
            # Example: an axis of 3 units at offset 2 has the positions 2, 3, 4.
            positions += range(start, start + axis.size)
        self.positions = torch.tensor(positions)
        self.is_frozen = torch.zeros(len(positions), dtype=torch.bool)

    @abstractmethod
    def sample_gates(self, step: int) -> Tensor:
        """Return the masks of a step, before freezing: (gates,), with a graph to the learned parameters."""

    @abstractmethod
    def gate_logits(self) -> Tensor:
        """Return the log-odds of a gate being open, before freezing: (gates,), with a graph."""

    @abstractmethod
    def gate_scales(self) -> Tensor:
        """Return the mask of each gate if the unit is kept, even against the decision of the gate: (gates,)."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return the learned parameters by name in a checkpoint; the names begin with ``gates``."""

    @abstractmethod
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore the learned parameters from the tensors of a checkpoint."""

    def bind_weights(self, squared_norms: Callable[[], Tensor]) -> None:
        """Give the gates access to the weights of the student; most kinds of gate ignore the weights.

        Args:
            squared_norms: Returns the squared 2-norm of the weights of each unit as they are at the time of the call:
                (units,) in float64, with a graph to the weights. Called first when the student is still dense.
        """

    @property
    def gated_axes(self) -> frozenset[str]:
        """The names of the gated axes."""
        return frozenset(axis.name for axis in self.axes)

    def draw(self, step: int) -> Tensor:
        """Return the masks of a step, 1 for units without a gate: (units,), with a graph to the learned parameters.

        The masks depend on seed, step and learned parameters only: all ranks and micro-batches see the same masks.
        """
        return self._to_units(self._fill_frozen(self.sample_gates(step), 0.0))

    def open_probability(self) -> Tensor:
        """Return P(mask != 0) of every unit, 1 for units without a gate: (units,) in float64, with a graph."""
        return self._to_units(torch.sigmoid(self._logits().double()))

    @torch.no_grad()
    def scores(self) -> Tensor:
        """Return the log-odds of every unit being open: (units,).

        A gate decides to keep a unit of log-odds above zero. Units without a gate have infinity, units with a frozen
        gate minus infinity.
        """
        unit_scores = torch.full((self.structure.size,), float("inf"))
        unit_scores[self.positions] = self._logits().cpu()  # (gates,) at their places in (units,)
        return unit_scores

    @torch.no_grad()
    def scales(self) -> Tensor:
        """Return the scale of every unit if kept: (units,), 1 for units without a gate, at least `MIN_SCALE`."""
        return self._to_units(self.gate_scales().clamp(min=MIN_SCALE)).cpu()

    @torch.no_grad()
    def deterministic_mask(self) -> Tensor:
        """Return the masks by the decision of each gate, without a draw: (units,)."""
        is_open = self._to_units((self._logits() > 0).float())  # log-odds above 0: probability above 1/2
        return is_open * self.scales().to(is_open.device)

    @torch.no_grad()
    def undecided_share(self) -> float:
        """Return the share of gates with 0.05 < P(mask != 0) < 0.95."""
        probability = torch.sigmoid(self._logits())
        is_undecided = (probability > UNDECIDED_BOUNDS[0]) & (probability < UNDECIDED_BOUNDS[1])
        return float(is_undecided.float().mean())

    @torch.no_grad()
    def open_shares(self) -> dict[str, float]:
        """Return the mean open probability by kind of axis."""
        probability = self.open_probability()
        offsets = self.structure.offsets
        by_kind: dict[str, list[Tensor]] = {}
        for axis in self.axes:
            start = offsets[axis.name]
            by_kind.setdefault(axis.kind, []).append(probability[start : start + axis.size])
        return {kind: float(torch.cat(values).mean()) for kind, values in by_kind.items()}

    def _logits(self) -> Tensor:
        """Return the log-odds of being open, minus infinity where frozen: (gates,)."""
        return self._fill_frozen(self.gate_logits(), -math.inf)

    def _fill_frozen(self, values: Tensor, fill_value: float) -> Tensor:
        """Return (gates,) values, with a fill value and no gradient where a gate is frozen."""
        return values.masked_fill(self.is_frozen.to(values.device), fill_value)

    def _to_units(self, values: Tensor) -> Tensor:
        """Return values of gates as values of all units, 1 for units without a gate: (gates,) -> (units,)."""
        unit_values = values.new_ones(self.structure.size)
        return unit_values.index_copy(0, self.positions.to(values.device), values)


def check_kinds(kinds: Collection[str]) -> None:
    """Raise a ConfigError for a kind of axis that does not exist or is chosen rather than gated."""
    allowed = [kind for kind in KINDS if kind != "layer"]
    for kind in kinds:
        if kind == "layer":
            raise ConfigError("Whole layers are chosen, not gated: gate 'block', or trim layers by a selection.")
        if kind not in allowed:
            raise ConfigError(
                f"Unknown kind of axis {kind!r}; allowed are {', '.join(allowed)}.{did_you_mean(kind, allowed)}"
            )
