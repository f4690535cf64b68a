"""Progressive shrinking: closed gates are frozen, and the units of frozen gates are removed from the student.

Freezing depends on the gates and the step number only. So a run that shrinks computes the same as a run that freezes
without shrinking.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from secateur.compress.config import FreezeConfig
from secateur.compress.distiller import DistillationModel
from secateur.compress.student import Student, selection_of
from secateur.cost import Cost, Terms
from secateur.cost.expected import indicator
from secateur.gates import GateSet
from secateur.records.run import FreezingRecord, ShrinkEvent
from secateur.structure import normalize
from secateur.surgery.limits import CostLimit

logger = logging.getLogger(__name__)


class ProgressiveShrinking:
    """Freezes gates, and shrinks the student if the config says so and enough units are frozen.

    A gate is frozen after `patience` checks in a row at which it was closed, together with all units that depend on the
    unit of the gate. The gates with the lowest open probability are frozen first, and only as many that the rest still
    costs at least as much as each limit allows: a selection of the rest can then use the limits in full. An axis with a
    minimum number of units keeps the units with the highest open probability.
    """

    def __init__(
        self,
        config: FreezeConfig,
        gates: GateSet,
        cost_limits: Sequence[CostLimit],
        student: Student,
        distiller: DistillationModel,
        *,
        steps: int,
    ) -> None:
        """
        Args:
            config: Conditions of freezing and shrinking.
            gates: Gates of the student.
            cost_limits: Limits on the costs of a selection.
            student: The student with masks.
            distiller: The module that trains the student.
            steps: Number of steps of the phase.
        """
        self.config = config
        self.gates = gates
        self.cost_limits = cost_limits
        self.student = student
        self.distiller = distiller
        # From shares to step numbers: 1000 steps with `every` 0.03 are checked at the steps 30, 60, 90, …
        self.first_check = round(config.start * steps)
        self.check_interval = max(1, round(config.every * steps))
        self.closed_checks = torch.zeros(len(gates.positions), dtype=torch.long)  # checks in a row, by gate
        # MACs decide whether shrinking is worth the work, whichever costs are constrained.
        self.macs = Cost.from_terms(Terms(gates.structure), cost="macs")
        self.dense_parameters = student.parameter_count
        self.shrink_events: list[ShrinkEvent] = []

    def begin(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Check the gates at some steps, before the masks of the 0-based step are drawn."""
        if step == 0 or step % self.check_interval or step < self.first_check:
            return
        self._freeze()
        if self.config.shrink and self._is_worth_shrinking():
            self._shrink(self.kept_units, optimizer)
            self.shrink_events.append(ShrinkEvent(step=step, parameters=self.student.parameter_count))
            logger.info(
                "step %d: the student has %d of %d parameters left",
                step,
                self.student.parameter_count,
                self.dense_parameters,
            )

    @property
    def kept_units(self) -> Tensor:
        """The units that are not frozen: (units,) of booleans."""
        is_kept = torch.ones(self.gates.structure.size, dtype=torch.bool)
        is_kept[self.gates.positions] = ~self.gates.is_frozen
        return is_kept

    def _freeze(self) -> None:
        gates = self.gates
        structure = gates.structure
        probability = gates.open_probability().detach().cpu()[gates.positions]  # (units,) -> (gates,)
        # A check with an open gate sets its count back to zero.
        self.closed_checks = torch.where(probability < self.config.below, self.closed_checks + 1, 0)
        is_ready = (self.closed_checks >= self.config.patience) & ~gates.is_frozen
        order = torch.argsort(probability, stable=True)  # gates, the most surely closed first
        order = self._keep_min_units(gates.positions[order[is_ready[order]]])  # units, in the same order

        def keep_without(count: int) -> Tensor:
            is_kept = self.kept_units
            is_kept[order[:count]] = False
            return is_kept

        def exceeds_limit(count: int) -> bool:
            # Below a limit, no selection of the remaining units could use the limit in full.
            return any(limit.cost.exact(keep_without(count)) < limit.max_cost for limit in self.cost_limits)

        # Freeze the largest count that exceeds no limit: since counts[i] is i + 1, the index of the first count that
        # exceeds a limit is the largest count that does not.
        counts = range(1, len(order) + 1)
        count = len(order) if not exceeds_limit(len(order)) else bisect.bisect_left(counts, True, key=exceeds_limit)
        # Units that depend on closed units close with them, so the gates are read back from the normalized selection.
        normalized = normalize(structure, selection_of(structure, keep_without(count))).selection
        gates.is_frozen = indicator(structure, normalized.axes)[gates.positions] == 0

    def _keep_min_units(self, order: Tensor) -> Tensor:
        """Return an order of closing units without the units that an axis has to keep as a minimum."""
        is_kept, structure = self.kept_units, self.gates.structure
        for axis in structure.axes.values():
            axis_positions = torch.arange(axis.size) + structure.offsets[axis.name]
            in_axis = torch.isin(order, axis_positions)
            if axis.min_units and int(is_kept[axis_positions].sum()) - int(in_axis.sum()) < axis.min_units:
                # The last ones in the order, with the highest open probability, stay out of it.
                order = torch.cat([order[~in_axis], order[in_axis][: -axis.min_units]])
        return order

    def _is_worth_shrinking(self) -> bool:
        """Return whether shrinking would remove a share of at least `config.worth` of the MACs of the student."""
        # (student units,) -> (all units,)
        present_units = self.student.to_all_units(torch.ones(len(self.student.units))).bool()
        current_macs = self.macs.exact(present_units)
        remaining_macs = self.macs.exact(present_units & self.student.remaining_units(self.kept_units))
        return current_macs - remaining_macs >= self.config.worth * current_macs

    def _shrink(self, kept_units: Tensor, optimizer: torch.optim.Optimizer) -> None:
        # The distiller runs the whole model if the task has its head in the model, else the encoder.
        has_head = self.distiller.student is self.student.model
        self.student.shrink(kept_units, optimizer)
        self.distiller.set_student(self.student.view if has_head else self.student.view.encoder_view)

    def metrics(self) -> dict[str, float]:
        """Return metrics for the log: the share of frozen gates and the share of parameters left in the student."""
        return {
            "frozen": float(self.gates.is_frozen.float().mean()),
            "student": self.student.parameter_count / self.dense_parameters,
        }

    def summary(self) -> FreezingRecord:
        """Return the numbers of frozen gates and the steps at which the student shrank."""
        return FreezingRecord(
            gates=len(self.gates.is_frozen),
            frozen=int(self.gates.is_frozen.sum()),
            dense=self.dense_parameters,
            shrunk=tuple(self.shrink_events),
        )

    def state(self) -> dict[str, Tensor]:
        """Return the frozen gates, the checks in a row with a closed gate, and the units of the student."""
        return {
            "progressive.frozen": self.gates.is_frozen,
            "progressive.closed": self.closed_checks,
            "progressive.units": self.student.units,
            # (events, 2); (0,) without events
            "progressive.shrunk": torch.tensor([[s.step, s.parameters] for s in self.shrink_events], dtype=torch.long),
        }

    def load(self, state: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Restore the state and the shape of the student; the weights of the student are restored next."""
        self.gates.is_frozen = state["progressive.frozen"]
        self.closed_checks = state["progressive.closed"]
        self.shrink_events = [
            ShrinkEvent(step=step, parameters=count) for step, count in state["progressive.shrunk"].tolist()
        ]
        # The checkpoint is of a smaller student: cut the new one alike, so that the shapes of the weights match.
        if len(state["progressive.units"]) < len(self.student.units):
            present_units = torch.zeros(self.gates.structure.size, dtype=torch.bool)
            present_units[state["progressive.units"]] = True
            self._shrink(present_units, optimizer)
