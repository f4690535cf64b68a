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

from secateur.compress.config import Freeze
from secateur.compress.imitate import Imitator
from secateur.compress.student import Student, selection_of
from secateur.cost import Cost, Terms
from secateur.cost.expected import indicator
from secateur.gates import GateSet
from secateur.structure import close
from secateur.surgery.choose import Limit

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """One time that the student became smaller."""

    step: int
    """steps finished before"""
    parameters: int
    """of its encoder since"""


class Progressive:
    """Freezes gates, and shrinks the student where that is wanted and pays.

    A gate is frozen when it has been closed at `patience` checks in a row, and with it all that is dead without its
    unit. What is not frozen costs no less than any limit allows, so that a selection of it can meet the limits as
    nearly as any; those most surely closed come first. An axis that must keep a unit keeps the one most open.
    """

    def __init__(
        self,
        config: Freeze,
        gates: GateSet,
        limits: Sequence[Limit],
        student: Student,
        imitator: Imitator,
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
        self.config, self.gates, self.limits, self.student, self.imitator = config, gates, limits, student, imitator
        self.first, self.every = round(config.start * steps), max(1, round(config.every * steps))
        self.closed = torch.zeros(len(gates.positions), dtype=torch.long)  # checks in a row, by gate
        self.work = Cost.of(Terms(gates.structure), cost="macs")
        self.dense = student.parameters
        self.shrunk: list[Shrunk] = []

    def begin(self, step: int, optimiser: torch.optim.Optimizer) -> None:
        """Check the gates, at some steps, before the masks of the 0-based step are drawn."""
        if step == 0 or step % self.every or step < self.first:
            return
        self._freeze()
        if self.config.shrink and self._pays():
            self._shrink(self.kept, optimiser)
            self.shrunk.append(Shrunk(step=step, parameters=self.student.parameters))
            logger.info("step %d: the student has %d of %d parameters left", step, self.student.parameters, self.dense)

    @property
    def kept(self) -> Tensor:
        """Which units are not frozen: (units,) of booleans."""
        kept = torch.ones(self.gates.structure.size, dtype=torch.bool)
        kept[self.gates.positions] = ~self.gates.frozen
        return kept

    def _freeze(self) -> None:
        gates, structure = self.gates, self.gates.structure
        probability = gates.open_probability().detach().cpu()[gates.positions]
        self.closed = torch.where(probability < self.config.below, self.closed + 1, 0)
        ready = (self.closed >= self.config.patience) & ~gates.frozen
        order = torch.argsort(probability, stable=True)
        order = self._but_last(gates.positions[order[ready[order]]])

        def without(count: int) -> Tensor:
            kept = self.kept
            kept[order[:count]] = False
            return kept

        def too_many(count: int) -> bool:
            return any(limit.cost.at(without(count)) < limit.most for limit in self.limits)

        counts = range(1, len(order) + 1)
        count = len(order) if not too_many(len(order)) else bisect.bisect_left(counts, True, key=too_many)
        closed = close(structure, selection_of(structure, without(count))).selection
        gates.frozen = indicator(structure, closed.axes)[gates.positions] == 0

    def _but_last(self, order: Tensor) -> Tensor:
        """Positions of units, surest closed first, without those that would be the last of an axis that keeps some."""
        kept, structure = self.kept, self.gates.structure
        for axis in structure.axes.values():
            places = torch.arange(axis.size) + structure.offsets[axis.name]
            mine = torch.isin(order, places)
            if axis.least and int(kept[places].sum()) - int(mine.sum()) < axis.least:
                order = torch.cat([order[~mine], order[mine][: -axis.least]])
        return order

    def _pays(self) -> bool:
        """Whether the student has enough in it that can go."""
        there = self.student.spread(torch.ones(len(self.student.units))).bool()
        now = self.work.at(there)
        return now - self.work.at(there & self.student.stays(self.kept)) >= self.config.worth * now

    def _shrink(self, kept: Tensor, optimiser: torch.optim.Optimizer) -> None:
        with_head = self.imitator.student is self.student.model
        self.student.shrink(kept, optimiser)
        self.imitator.take(self.student.model if with_head else self.student.base)

    def figures(self) -> dict[str, float]:
        """What the log tells: the share of gates that is frozen, and of its parameters that the student has."""
        return {
            "frozen": float(self.gates.frozen.float().mean()),
            "student": self.student.parameters / self.dense,
        }

    def summary(self) -> dict[str, Any]:
        """What the record tells, plain JSON."""
        return {
            "gates": len(self.gates.frozen),
            "frozen": int(self.gates.frozen.sum()),
            "dense": self.dense,
            "shrunk": [asdict(shrunk) for shrunk in self.shrunk],
        }

    def state(self) -> dict[str, Tensor]:
        """What is frozen, what is about to be, and the student's shape."""
        return {
            "progressive.frozen": self.gates.frozen,
            "progressive.closed": self.closed,
            "progressive.units": self.student.units,
            "progressive.shrunk": torch.tensor([[s.step, s.parameters] for s in self.shrunk], dtype=torch.long),
        }

    def load(self, state: Mapping[str, Tensor], optimiser: torch.optim.Optimizer) -> None:
        """Restore them; the student gets its shape, whose weights are restored next."""
        self.gates.frozen, self.closed = state["progressive.frozen"], state["progressive.closed"]
        self.shrunk = [Shrunk(step=step, parameters=count) for step, count in state["progressive.shrunk"].tolist()]
        if len(state["progressive.units"]) < len(self.student.units):
            there = torch.zeros(self.gates.structure.size, dtype=torch.bool)
            there[state["progressive.units"]] = True
            self._shrink(there, optimiser)
