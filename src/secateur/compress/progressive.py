"""Progressive shrinking: gates that have closed for good are frozen, and their units leave the student meanwhile.

What is frozen follows from the gates alone, at steps that depend on nothing but their number. So a run that shrinks
computes what the same run computes that only freezes.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.compress.config import FreezeConfig
from secateur.compress.distiller import DistillationModel
from secateur.compress.student import Student, selection_of
from secateur.cost import Cost, Terms
from secateur.cost.expected import indicator
from secateur.gates import GateSet
from secateur.structure import normalize
from secateur.surgery.limits import CostLimit

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ShrinkEvent:
    """One time that the student became smaller."""

    step: int
    """steps finished before"""
    parameters: int
    """of its encoder since"""


class ProgressiveShrinking:
    """Freezes gates, and shrinks the student where that is wanted and pays.

    A gate is frozen when it has been closed at `patience` checks in a row, and with it all that is dead without its
    unit. What is not frozen costs no less than any limit allows, so that a selection of it can meet the limits as
    nearly as any; those most surely closed come first. An axis that must keep a unit keeps the one most open.
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
            config: When.
            gates: Of the student.
            limits: The constraints by count.
            student: With its masks.
            imitator: Which trains it.
            steps: Of the phase.
        """
        self.config, self.gates, self.cost_limits, self.student, self.distiller = (
            config,
            gates,
            cost_limits,
            student,
            distiller,
        )
        self.first_check, self.check_interval = round(config.start * steps), max(1, round(config.every * steps))
        self.closed_checks = torch.zeros(len(gates.positions), dtype=torch.long)  # checks in a row, by gate
        self.macs = Cost.from_terms(Terms(gates.structure), cost="macs")
        self.dense_parameters = student.parameter_count
        self.shrink_events: list[ShrinkEvent] = []

    def begin(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Check the gates, at some steps, before the masks of the 0-based step are drawn."""
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
        """Which units are not frozen: (units,) of booleans."""
        is_kept = torch.ones(self.gates.structure.size, dtype=torch.bool)
        is_kept[self.gates.positions] = ~self.gates.is_frozen
        return is_kept

    def _freeze(self) -> None:
        gates, structure = self.gates, self.gates.structure
        probability = gates.open_probability().detach().cpu()[gates.positions]
        self.closed_checks = torch.where(probability < self.config.below, self.closed_checks + 1, 0)
        is_ready = (self.closed_checks >= self.config.patience) & ~gates.is_frozen
        order = torch.argsort(probability, stable=True)
        order = self._keep_min_units(gates.positions[order[is_ready[order]]])

        def keep_without(count: int) -> Tensor:
            is_kept = self.kept_units
            is_kept[order[:count]] = False
            return is_kept

        def exceeds_limit(count: int) -> bool:
            return any(limit.cost.exact(keep_without(count)) < limit.max_cost for limit in self.cost_limits)

        counts = range(1, len(order) + 1)
        count = len(order) if not exceeds_limit(len(order)) else bisect.bisect_left(counts, True, key=exceeds_limit)
        normalized = normalize(structure, selection_of(structure, keep_without(count))).selection
        gates.is_frozen = indicator(structure, normalized.axes)[gates.positions] == 0

    def _keep_min_units(self, order: Tensor) -> Tensor:
        """Positions of units, surest closed first, without those that would be the last of an axis that keeps some."""
        is_kept, structure = self.kept_units, self.gates.structure
        for axis in structure.axes.values():
            axis_positions = torch.arange(axis.size) + structure.offsets[axis.name]
            in_axis = torch.isin(order, axis_positions)
            if axis.min_units and int(is_kept[axis_positions].sum()) - int(in_axis.sum()) < axis.min_units:
                order = torch.cat([order[~in_axis], order[in_axis][: -axis.min_units]])
        return order

    def _is_worth_shrinking(self) -> bool:
        """Whether the student has enough in it that can go."""
        present_units = self.student.to_all_units(torch.ones(len(self.student.units))).bool()
        current_macs = self.macs.exact(present_units)
        return (
            current_macs - self.macs.exact(present_units & self.student.remaining_units(self.kept_units))
            >= self.config.worth * current_macs
        )

    def _shrink(self, kept_units: Tensor, optimizer: torch.optim.Optimizer) -> None:
        has_head = self.distiller.student is self.student.model
        self.student.shrink(kept_units, optimizer)
        self.distiller.set_student(self.student.view if has_head else self.student.view.encoder_view)

    def metrics(self) -> dict[str, float]:
        """What the log tells: the share of gates that is frozen, and of its parameters that the student has."""
        return {
            "frozen": float(self.gates.is_frozen.float().mean()),
            "student": self.student.parameter_count / self.dense_parameters,
        }

    def summary(self) -> dict[str, Any]:
        """What the record tells, plain JSON."""
        return {
            "gates": len(self.gates.is_frozen),
            "frozen": int(self.gates.is_frozen.sum()),
            "dense": self.dense_parameters,
            "shrunk": [asdict(event) for event in self.shrink_events],
        }

    def state(self) -> dict[str, Tensor]:
        """What is frozen, what is about to be, and the student's shape."""
        return {
            "progressive.frozen": self.gates.is_frozen,
            "progressive.closed": self.closed_checks,
            "progressive.units": self.student.units,
            "progressive.shrunk": torch.tensor([[s.step, s.parameters] for s in self.shrink_events], dtype=torch.long),
        }

    def load(self, state: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Restore them; the student gets its shape, whose weights are restored next."""
        self.gates.is_frozen, self.closed_checks = state["progressive.frozen"], state["progressive.closed"]
        self.shrink_events = [
            ShrinkEvent(step=step, parameters=count) for step, count in state["progressive.shrunk"].tolist()
        ]
        if len(state["progressive.units"]) < len(self.student.units):
            present_units = torch.zeros(self.gates.structure.size, dtype=torch.bool)
            present_units[state["progressive.units"]] = True
            self._shrink(present_units, optimizer)
