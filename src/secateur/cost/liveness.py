"""Probabilities that units are alive and that axes have living units, from open probabilities of gates.

A unit is alive if its own gate and the gates of its ancestors (`Axis.parents`) are open, and every axis that it needs
(`Axis.requires`) has a unit whose gate is open. Gates are independent, so probabilities multiply.

Example: attention with two heads of two value dimensions each, and a feed-forward block of two units. A head needs one
of its dimensions. The units of all axes form one flat vector; index 8 behind them is a gate that is always open, and
axis 4 an axis that always has an open unit. Rows of the index tables are padded with these two.

    index  axis                 units  open probabilities
    0      attention/heads      0 1    0.5  0.5
    1      attention/head0.vo   2 3    1    0.5
    2      attention/head1.vo   4 5    0.5  0.5
    3      feed_forward/units   6 7    0.5  0.25

    gate_chain     [[0, 8], [1, 8], [2, 0], [3, 0], [4, 1], [5, 1], [6, 8], [7, 8]]    own gate, gate of the head
    required_axes  [[1], [2], [4], [4], [4], [4], [4], [4]]                            a head needs its dimensions

    head 0 is alive with probability       0.5 * (1 - (1 - 1) * (1 - 0.5)) = 0.5
    head 1 is alive with probability       0.5 * (1 - (1 - 0.5) * (1 - 0.5)) = 0.375
    expected number of living heads        0.5 + 0.375 = 0.875
    expected dimensions of head 0, head 1  0.5 * (1 + 0.5) = 0.75, 0.5 * (0.5 + 0.5) = 0.5
    expected feed-forward units            0.5 + 0.25 = 0.75

`tests/unit/cost/test_expected.py` computes the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.structure import Axis, Structure, Unit


@dataclass(frozen=True, kw_only=True)
class AxisProbabilities:
    """Probabilities that an axis has an open unit, and an open unit that meets the requirements.

    Attributes:
        any_open: A unit of the axis has an open gate: (axes + 1,), the last entry is 1.
        any_alive: An open unit of the axis has the axes that it needs, ancestors left aside: (axes,).
    """

    any_open: Tensor
    any_alive: Tensor


@dataclass(frozen=True, kw_only=True)
class ExpectedUnits:
    """Expected liveness of a structure.

    Attributes:
        p_alive: Probability that a unit is alive: (units + 1,), the last entry is 1.
        counts: Expected number of living units of an axis: (axes + 1,), the last entry is 1.
        p_present: Probability that an axis has a living unit: (axes,).
    """

    p_alive: Tensor
    counts: Tensor
    p_present: Tensor


class Liveness:
    """Index tables for the liveness of a structure's units, see the example of the module.

    The units of all axes form one flat vector, in the order of ``structure.axes``.
    """

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.axes = list(structure.axes.values())
        self.axis_index = {axis.name: index for index, axis in enumerate(self.axes)}
        #: Indices behind the last unit and the last axis, for padding.
        self.always_open = structure.size
        self.always_open_axis = len(self.axes)
        self._unit_index = {
            (axis.name, unit): structure.offsets[axis.name] + position
            for axis in self.axes
            for position, unit in enumerate(axis.units)
        }
        gate_chains: list[list[int]] = []
        requirement_rows: list[list[int]] = []
        own_requirements: list[int] = []
        shared_rows: list[list[int]] = []
        parent_rows: list[list[int]] = []
        for axis in self.axes:
            shared_axes = [self.axis_index[name] for name in shared_requirements(structure, axis)]
            if axis.requires and not shared_axes:
                unit_requirements = [self.axis_index[name] for name in axis.requires]
            else:
                unit_requirements = [self.always_open_axis] * axis.size
            parent_gates = [self._unit_index.get(parent, self.always_open) for parent in axis.parents]
            inherited_axes = self.inherited_requirements(axis)
            for unit, requirement in zip(axis.units, unit_requirements, strict=True):
                gate_chains.append([self._unit_index[axis.name, unit], *parent_gates])
                requirement_rows.append([requirement, *shared_axes, *inherited_axes])
            own_requirements += unit_requirements
            shared_rows.append(shared_axes)
            parent_rows.append(parent_gates)
        self.gate_chain = pad_rows(gate_chains, self.always_open)  # (units, longest chain)
        self.required_axes = pad_rows(requirement_rows, self.always_open_axis)  # (units, most requirements)
        self.own_requirement = torch.tensor(own_requirements, dtype=torch.long)  # (units,)
        self.shared_requirements = pad_rows(shared_rows, self.always_open_axis)  # (axes, most requirements)
        self.parent_gates = pad_rows(parent_rows, self.always_open)  # (axes, most parents)
        # In the example: [0, 0, 1, 1, 2, 2, 3, 3].
        self.axis_of_unit = torch.repeat_interleave(torch.tensor([axis.size for axis in self.axes]))
        self.has_min_unit = torch.tensor(
            [float(axis.min_units > 0 and axis.size > 0) for axis in self.axes], dtype=torch.float64
        )
        self._axes_by_size = self._group_axes_by_size()

    def __call__(self, open_probability: Tensor, axis_probabilities: AxisProbabilities | None = None) -> ExpectedUnits:
        """Compute the liveness of units and axes.

        Args:
            open_probability: (units,), float64.
            axis_probabilities: Result of `axis_probabilities` for the same units; None computes it.
        """
        p_axis = axis_probabilities or self.axis_probabilities(open_probability)
        p_open = append_one(open_probability)
        p_alive = p_open[self.gate_chain].prod(-1) * p_axis.any_open[self.required_axes].prod(-1)  # (units,)
        # Sum over the units of each axis: (units,) -> (axes,)
        counts = torch.zeros_like(p_axis.any_alive).index_add(0, self.axis_of_unit, p_alive)
        # A conv axis keeps a unit even when all its gates are closed: E[max(1, n)] = E[n] + P(n = 0).
        counts = counts + self.has_min_unit * (1.0 - p_axis.any_open[:-1])
        p_present = p_open[self.parent_gates].prod(-1) * p_axis.any_alive
        return ExpectedUnits(p_alive=append_one(p_alive), counts=append_one(counts), p_present=p_present)

    def axis_probabilities(self, open_probability: Tensor) -> AxisProbabilities:
        """Compute the probabilities that axes have open and living units, ancestors left aside.

        Args:
            open_probability: (units,), float64.
        """
        any_open = append_one(1.0 - self._p_all_closed(open_probability))
        any_alive = 1.0 - self._p_all_closed(open_probability * any_open[self.own_requirement])
        return AxisProbabilities(any_open=any_open, any_alive=any_alive * any_open[self.shared_requirements].prod(-1))

    def inherited_requirements(self, axis: Axis) -> list[int]:
        """Return the indices of the axes that the parents of an axis require."""
        requirements = []
        for name, unit in axis.parents:
            parent = self.structure.axes[name]
            if parent.requires and unit in parent.units:
                requirements.append(parent.requires[parent.units.index(unit)])
        # A unit of the axis that its parent needs meets that need itself.
        return [self.axis_index[name] for name in requirements if name != axis.name]

    def unit_indices(self, units: Iterable[Unit]) -> list[int]:
        """Return the flat indices of the given units that the structure still has."""
        return [self._unit_index[unit] for unit in units if unit in self._unit_index]

    def _group_axes_by_size(self) -> list[tuple[Tensor, Tensor]]:
        """Return axis indices, (axes,), and unit indices, (axes, size), of the axes of each size above 0."""
        axes_of_size: dict[int, list[int]] = {}
        for index, axis in enumerate(self.axes):
            axes_of_size.setdefault(axis.size, []).append(index)
        groups = []
        for size, indices in axes_of_size.items():
            if size:
                starts = torch.tensor([self.structure.offsets[self.axes[index].name] for index in indices])
                # Starts 2 and 4 of size 2: units [[2, 3], [4, 5]].
                groups.append((torch.tensor(indices), starts[:, None] + torch.arange(size)))
        return groups

    def _p_all_closed(self, probability: Tensor) -> Tensor:
        """Compute P(no unit of the axis is open) of every axis from the units' probabilities: (units,) -> (axes,)."""
        p_closed = probability.new_ones(len(self.axes))
        for indices, units in self._axes_by_size:
            # (axes of this size, size) -> (axes of this size,)
            p_closed = p_closed.index_copy(0, indices, (1.0 - probability[units]).prod(-1))
        return p_closed


class Presence:
    """Probability that any unit of a group of axes is alive, for several groups; 1 for a group without axes.

    Exact where the axes of a group share no gates except ancestors that all of them have.

    Example, continuing that of this module: the output bias of the attention block is there if any head is alive, so
    its group is ``("attention/heads",)``, and the probability 1 - (1 - 0.5) * (1 - 0.375) = 0.6875.
    """

    def __init__(self, liveness: Liveness, groups: Sequence[Sequence[str]]) -> None:
        """
        Args:
            liveness: Tables of the structure.
            groups: Names of the axes of each group.
        """
        self.liveness = liveness
        axes = liveness.structure.axes
        most_axes = max((len(group) for group in groups), default=1)
        self.shape = (len(groups), most_axes)
        shared_rows: list[list[int]] = []
        own_rows: list[list[int]] = []  # group by group, `most_axes` rows each
        requirement_rows: list[list[int]] = []
        axis_rows: list[list[int]] = []
        # Behind the axes stand one that is absent, for padding, and one that is present, for groups without axes.
        absent_axis = liveness.always_open_axis
        present_axis = absent_axis + 1
        for group in groups:
            parents = [set(axes[name].parents) for name in group]
            shared_parents = set.intersection(*parents) if parents else set()
            padding: list[list[int]] = [[]] * (most_axes - len(group))
            shared_rows.append(liveness.unit_indices(shared_parents))
            own_rows += [liveness.unit_indices(axis_parents - shared_parents) for axis_parents in parents] + padding
            requirement_rows += [liveness.inherited_requirements(axes[name]) for name in group] + padding
            axis_rows.append([liveness.axis_index[name] for name in group] or [present_axis])
        self.shared_gates = pad_rows(shared_rows, liveness.always_open)
        self.own_gates = pad_rows(own_rows, liveness.always_open)
        self.required_axes = pad_rows(requirement_rows, liveness.always_open_axis)
        self.axes = pad_rows(axis_rows, absent_axis)

    def __call__(self, open_probability: Tensor, axis_probabilities: AxisProbabilities | None = None) -> Tensor:
        """Compute the probability of each group: (units,) -> (groups,).

        Args:
            open_probability: (units,), float64.
            axis_probabilities: Result of `Liveness.axis_probabilities` for the same units; None computes it.
        """
        p_axis = axis_probabilities or self.liveness.axis_probabilities(open_probability)
        p_open = append_one(open_probability)
        any_alive = p_axis.any_alive + self.liveness.has_min_unit * (1.0 - p_axis.any_alive)
        p_parents = p_open[self.own_gates].prod(-1) * p_axis.any_open[self.required_axes].prod(-1)
        p_parents = p_parents.view(self.shape)  # (groups * axes,) -> (groups, axes)
        absent_and_present = any_alive.new_tensor([0.0, 1.0])
        p_present = p_parents * torch.cat([any_alive, absent_and_present])[self.axes]
        return p_open[self.shared_gates].prod(-1) * (1.0 - (1.0 - p_present).prod(-1))


def shared_requirements(structure: Structure, axis: Axis) -> list[str]:
    """Return the names of the axes that all units of an axis require, directly or through a required axis."""
    names = [axis.name]
    while len(set(axis.requires)) == 1 and axis.requires[0] not in names:
        names.append(axis.requires[0])
        axis = structure.axes[axis.requires[0]]
    return names[1:]


def append_one(values: Tensor) -> Tensor:
    """Append the entry that padded indices refer to: (n,) -> (n + 1,)."""
    return torch.cat([values, values.new_ones(1)])


def pad_rows(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    """Stack rows of unequal length into a matrix of at least a column.

    Example: rows [[0], [2, 5]] with filler 9 become [[0, 9], [2, 5]].
    """
    width = max((len(row) for row in rows), default=0) or 1
    padded_rows = [[*row, *[filler] * (width - len(row))] for row in rows]
    return torch.tensor(padded_rows, dtype=torch.long).reshape(-1, width)
