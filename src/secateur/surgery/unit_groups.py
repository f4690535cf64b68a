"""Groups of units that are kept or removed together, so that kept sizes are multiples that suit the hardware.

Example: an axis of 7 units, rounded to multiples of 3, that has to keep a unit.

    unit           0    1    2    3    4    5    6
    score          2   -1    4    0    1    3   -2
    by score       2, 5, 0 (4, 3, 2)   4, 3, 1 (1, 0, -1)   6 (-2)
    group          0                   1                    2
    median         3                   0                    -2
    group_of_unit  [0, 1, 0, 1, 1, 0, 2]

Group 0 always stays. Groups 1 and 2 are closed by their medians, so units 0, 2 and 5 are kept. If units 4 and 6 were
removed for good (scores of minus infinity), 5 units would be left: units 2, 5 and 0 in a group of 3, and units 3, 1,
4 and 6 in a group that cannot open.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.structure import Structure
from secateur.structure.axis import HEAD_KINDS

#: Kinds of axes that can be rounded, since their number of kept units is the width of a matrix product.
ROUNDABLE_KINDS = ("channels", "qk", "vo", "units", "rank", *HEAD_KINDS)

#: Multiples for `auto` by the device that a model is meant for; absent kinds are not rounded.
AUTO_MULTIPLES: dict[str, dict[str, int]] = {
    # Measured by benchmarks/widths.py: its rule, applied to its last result, gives this.
    "cpu": {"channels": 32},
    # The vendor's rule, not measured here: tensor cores want every dimension of a product in fp16 or bf16 to be a
    # multiple of 8 (NVIDIA, "Matrix Multiplication Background User's Guide", section "Tensor Core Requirements").
    "cuda": dict.fromkeys(ROUNDABLE_KINDS, 8),
}


@dataclass(frozen=True, kw_only=True)
class UnitGroups:
    """Units of a structure in groups that are kept or removed as a whole.

    On an axis that is rounded to a multiple m, the m units of highest score are the first group, the next m the second,
    and the remaining units the last. Groups open in this order and close in reverse, so the kept size is a multiple of
    m or the whole axis. Every unit of another axis is a group of its own. Units removed for good (a score of minus
    infinity) are in no group that can open, nor are the remaining units beside them, which do not complete the axis.

    Attributes:
        group_of_unit: Group of each unit: (units,).
        scores: Median of the units' scores of each group: (groups,). Keeping groups with a median above zero moves the
            fewest units.
        position: Position of each group among the groups of its axis; 0 on axes that are not rounded: (groups,).
        group_axis: A number that only groups of the same rounded axis share: (groups,).
        is_movable: Whether a group may open and close: (groups,). Not without gates, nor the first group of an axis
            that has to keep units, nor with units removed for good.
    """

    group_of_unit: Tensor
    scores: Tensor
    position: Tensor
    group_axis: Tensor
    is_movable: Tensor

    @classmethod
    def from_scores(cls, structure: Structure, scores: Tensor, round_to: Mapping[str, int]) -> UnitGroups:
        """Group the units of a model.

        Args:
            structure: The model's structure.
            scores: Log-odds of keeping each unit, infinity without a gate, minus infinity for units removed for good:
                (units,).
            round_to: Multiple for each rounded kind.
        """
        group_of_unit = torch.empty(structure.size, dtype=torch.long)
        medians: list[Tensor] = []
        positions: list[Tensor] = []
        group_axes: list[Tensor] = []
        movable: list[Tensor] = []
        num_groups = 0
        for name, axis in structure.axes.items():
            start = structure.offsets[name]
            multiple = round_to.get(axis.kind, 1)
            axis_scores = scores[start : start + axis.size]
            if multiple == 1:
                group_of_unit[start : start + axis.size] = num_groups + torch.arange(axis.size)
                medians.append(axis_scores)
                positions.append(torch.zeros(axis.size, dtype=torch.long))
                group_axes.append(num_groups + torch.arange(axis.size))  # a different number for each unit
                movable.append(torch.isfinite(axis_scores))  # not without a gate, nor if removed for good
            else:
                ranked, order = torch.sort(axis_scores, descending=True, stable=True)
                groups = _split_into_groups(ranked, multiple, min_units=axis.min_units)
                position = torch.arange(len(groups))
                group_sizes = torch.tensor([len(group) for group in groups], dtype=torch.long)
                # Sizes [3, 3, 1]: the ranked units are in the groups [0, 0, 0, 1, 1, 1, 2].
                group_of_unit[start + order] = num_groups + torch.repeat_interleave(group_sizes)
                medians.append(torch.stack([_median(group) for group in groups]) if groups else axis_scores)
                positions.append(position)
                group_axes.append(torch.full_like(position, num_groups))
                is_gated = torch.tensor([bool(torch.isfinite(group).all()) for group in groups], dtype=torch.bool)
                # min_units 1, multiples of 3: group 0 stays (0 < 1), group 1 may close (3 >= 1).
                movable.append(is_gated & (position * multiple >= axis.min_units))
            num_groups += len(medians[-1])
        return cls(
            group_of_unit=group_of_unit,
            scores=torch.cat(medians),
            position=torch.cat(positions),
            group_axis=torch.cat(group_axes),
            is_movable=torch.cat(movable),
        )

    @property
    def hard_decision(self) -> Tensor:
        """Groups that stay open by score or because the group may not close: (groups,) of booleans."""
        return (self.scores > 0) | ~(self.is_movable | self.is_removed)

    @property
    def is_removed(self) -> Tensor:
        """Groups that hold units removed for good: (groups,) of booleans."""
        return self.scores == -math.inf

    def to_units(self, flags: Tensor) -> Tensor:
        """Return for each unit the flag of the unit's group: (groups,) -> (units,)."""
        return flags[self.group_of_unit]

    def has_flagged_unit(self, flags: Tensor) -> Tensor:
        """Return whether any unit of a group has a flag: (units,) -> (groups,)."""
        return torch.bincount(self.group_of_unit[flags], minlength=len(self.scores)) > 0

    def ranking(self, is_candidate: Tensor, *, descending: bool) -> Tensor:
        """Return the indices of candidate groups by score, and groups of equal score in axis order.

        Args:
            is_candidate: (groups,) of booleans.
            descending: Highest score first, the order in which groups open; else lowest first, as groups close.
        """
        indices = torch.nonzero(is_candidate).flatten()
        # Stable sorts, the main key last: groups of equal score are by position for opening, in reverse for closing.
        indices = indices[torch.argsort(self.position[indices], descending=not descending, stable=True)]
        return indices[torch.argsort(self.scores[indices], descending=descending, stable=True)]


def _split_into_groups(ranked: Tensor, multiple: int, *, min_units: int) -> list[Tensor]:
    """Split the scores of an axis, highest first, into groups; units that cannot stay are the last group."""
    available_count = int((ranked > -math.inf).sum())
    if available_count < len(ranked) and (available_count >= multiple or not min_units):
        available_count -= available_count % multiple  # a remainder is of no use if the axis cannot be complete
    groups = list(ranked[:available_count].split(multiple)) if available_count else []
    if available_count < len(ranked):
        groups.append(torch.full_like(ranked[available_count:], -math.inf))
    return groups


def _median(ranked: Tensor) -> Tensor:
    """Return the median of sorted values, the mean of the middle two values for an even number."""
    # 5 values: index 2 twice; 4 values: indices 1 and 2
    return (ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2]) / 2
