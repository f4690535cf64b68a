"""Units that change sides together, so that kept sizes are multiples that the hardware likes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.structure import Structure
from secateur.structure.axis import HEAD_KINDS

#: Kinds of axes whose kept number is the width of a product: those that can be rounded.
ROUNDABLE_KINDS = ("channels", "qk", "vo", "units", "rank", *HEAD_KINDS)

#: What `auto` stands for on the device that a model is meant for; kinds that are absent are not rounded.
AUTO_MULTIPLES: dict[str, dict[str, int]] = {
    # Measured by benchmarks/widths.py: its rule, applied to its last result, gives this.
    "cpu": {"channels": 32},
    # The vendor's rule, not measured here: tensor cores want every dimension of a product in fp16 or bf16 to be a
    # multiple of 8 (NVIDIA, "Matrix Multiplication Background User's Guide", section "Tensor Core Requirements").
    "cuda": dict.fromkeys(ROUNDABLE_KINDS, 8),
}


@dataclass(frozen=True, kw_only=True)
class UnitGroups:
    """The units of a structure in groups that are kept or removed as one.

    On an axis that is rounded to a multiple m, the m units of highest score are the first bundle, the next m the
    second, and what is left over the last. Where bundles open in this order and close in the reverse one, the kept size
    is a multiple of m or the whole axis. Every other unit is a bundle by itself. Units that are gone (a score of minus
    infinity) are in no bundle that can open, nor are those left over beside them, which do not make the axis whole.

    Attributes:
        of_unit: The bundle of each unit: (units,).
        scores: The median of its units' scores: (bundles,). To keep it where that is above zero moves the fewest units.
        place: Its place among the bundles of its axis, zero where that is not rounded: (bundles,).
        ladder: A number that the bundles of one rounded axis share, and no others: (bundles,).
        movable: Whether it may open and close: (bundles,). Not without gates, nor the first where an axis keeps some
            units, nor what is gone.
    """

    group_of_unit: Tensor
    scores: Tensor
    position: Tensor
    group_axis: Tensor
    is_movable: Tensor

    @classmethod
    def from_scores(cls, structure: Structure, scores: Tensor, round_to: Mapping[str, int]) -> UnitGroups:
        """The bundles of a model.

        Args:
            structure: The model's structure.
            scores: Log-odds of keeping each unit, infinite where there is no gate, minus infinity where it is gone:
                (units,).
            round_to: The multiple of each kind that is rounded.
        """
        of_unit = torch.empty(structure.size, dtype=torch.long)
        medians, positions, group_axes, movable = [], [], [], []
        count = 0
        for name, axis in structure.axes.items():
            start, multiple = structure.offsets[name], round_to.get(axis.kind, 1)
            axis_scores = scores[start : start + axis.size]
            if multiple == 1:
                of_unit[start : start + axis.size] = count + torch.arange(axis.size)
                medians.append(axis_scores)
                positions.append(torch.zeros(axis.size, dtype=torch.long))
                group_axes.append(count + torch.arange(axis.size))
                movable.append(torch.isfinite(axis_scores))
            else:
                ranked, order = torch.sort(axis_scores, descending=True, stable=True)
                groups = _split_into_groups(ranked, multiple, min_units=axis.min_units)
                position = torch.arange(len(groups))
                of_unit[start + order] = count + torch.repeat_interleave(
                    torch.tensor([len(p) for p in groups], dtype=torch.long)
                )
                medians.append(torch.stack([_median(part) for part in groups]) if groups else axis_scores)
                positions.append(position)
                group_axes.append(torch.full_like(position, count))
                is_gated = torch.tensor([bool(torch.isfinite(part).all()) for part in groups], dtype=torch.bool)
                movable.append(is_gated & (position * multiple >= axis.min_units))
            count += len(medians[-1])
        return cls(
            group_of_unit=of_unit,
            scores=torch.cat(medians),
            position=torch.cat(positions),
            group_axis=torch.cat(group_axes),
            is_movable=torch.cat(movable),
        )

    @property
    def hard_decision(self) -> Tensor:
        """Which bundles stay by their units' own verdicts: (bundles,)."""
        return (self.scores > 0) | ~(self.is_movable | self.is_removed)

    @property
    def is_removed(self) -> Tensor:
        """Which bundles cannot stay: (bundles,)."""
        return self.scores == -math.inf

    def to_units(self, flags: Tensor) -> Tensor:
        """What is said of bundles, said of their units: (bundles,) -> (units,)."""
        return flags[self.group_of_unit]

    def has_flagged_unit(self, flags: Tensor) -> Tensor:
        """The bundles that have a unit with a flag: (units,) -> (bundles,)."""
        return torch.bincount(self.group_of_unit[flags], minlength=len(self.scores)) > 0

    def ranking(self, is_candidate: Tensor, *, descending: bool) -> Tensor:
        """Indices of some bundles by score; of equal ones in the order of their axis, then by index.

        Args:
            among: Which: (bundles,).
            descending: The highest first, as bundles open; else the lowest, as they close.
        """
        indices = torch.nonzero(is_candidate).flatten()
        indices = indices[torch.argsort(self.position[indices], descending=not descending, stable=True)]
        return indices[torch.argsort(self.scores[indices], descending=descending, stable=True)]


def _split_into_groups(ranked: Tensor, multiple: int, *, min_units: int) -> list[Tensor]:
    """The scores of an axis, the highest first, in bundles; what cannot stay is the last of them."""
    alive_count = int((ranked > -math.inf).sum())
    if alive_count < len(ranked) and (alive_count >= multiple or not min_units):
        alive_count -= alive_count % multiple
    groups = list(ranked[:alive_count].split(multiple)) if alive_count else []
    return groups + ([torch.full_like(ranked[alive_count:], -math.inf)] if alive_count < len(ranked) else [])


def _median(ranked: Tensor) -> Tensor:
    """The median of sorted values, the mean of the middle two where they are of an even number."""
    return (ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2]) / 2
