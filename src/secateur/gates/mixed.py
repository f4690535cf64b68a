"""Gates of several kinds in a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from secateur.gates.gate_set import GateSet
from secateur.structure import Structure


class MixedGates(GateSet):
    """A set of gates that joins several sets on disjoint kinds of axes."""

    parts: Sequence[GateSet]

    def __init__(self, structure: Structure, parts: Sequence[GateSet]) -> None:
        """
        Args:
            structure: The structure of the model.
            parts: Sets of gates on it, no axis in two of them.
        """
        kinds = [axis.kind for part in parts for axis in part.axes]
        super().__init__(structure, tuple(dict.fromkeys(kinds)))
        self.parts = nn.ModuleList(parts)  # type: ignore[assignment]
        # Example: parts at the positions (2, 3, 5) and (4,) have the joint positions (2, 3, 4, 5), and the gates of
        # both, one part behind the other, are gates 0, 1, 3 and 2 of the joint set.
        self._gate_of_part_gate = torch.searchsorted(self.positions, torch.cat([part.positions for part in parts]))

    def bind_weights(self, squared_norms: Callable[[], Tensor]) -> None:
        """Give all parts access to the weights of the student."""
        for part in self.parts:
            part.bind_weights(squared_norms)

    def sample_gates(self, step: int) -> Tensor:
        """Return the masks of a step: (gates,)."""
        return self._join([part.sample_gates(step) for part in self.parts])

    def gate_logits(self) -> Tensor:
        """Return the log-odds of a gate being open: (gates,)."""
        return self._join([part.gate_logits() for part in self.parts])

    def gate_scales(self) -> Tensor:
        """Return the mask of each gate if the unit is kept: (gates,)."""
        return self._join([part.gate_scales() for part in self.parts])

    def state(self) -> dict[str, Tensor]:
        """Return the learned parameters of all parts; no two kinds of gate share a name."""
        return {name: value for part in self.parts for name, value in part.state().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore the learned parameters of all parts."""
        for part in self.parts:
            part.load(state)

    def _join(self, values: Sequence[Tensor]) -> Tensor:
        """Return the values of the parts in the order of the joint set: (gates of each part,) -> (gates,)."""
        joined = torch.cat(list(values))
        return torch.empty_like(joined).index_copy(0, self._gate_of_part_gate.to(joined.device), joined)
