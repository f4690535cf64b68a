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
WIDTHS = ("channels", "qk", "vo", "units", "rank", *HEAD_KINDS)

#: What `auto` stands for on the device that a model is meant for; kinds that are absent are not rounded.
AUTO: dict[str, dict[str, int]] = {
    # Measured by benchmarks/widths.py: its rule, applied to its last result, gives this.
    "cpu": {"channels": 32},
    # The vendor's rule, not measured here: tensor cores want every dimension of a product in fp16 or bf16 to be a
    # multiple of 8 (NVIDIA, "Matrix Multiplication Background User's Guide", section "Tensor Core Requirements").
    "cuda": dict.fromkeys(WIDTHS, 8),
}


@dataclass(frozen=True, kw_only=True)
class Bundles:
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

    of_unit: Tensor
    scores: Tensor
    place: Tensor
    ladder: Tensor
    movable: Tensor

    @classmethod
    def of(cls, structure: Structure, scores: Tensor, round_to: Mapping[str, int]) -> Bundles:
        """The bundles of a model.

        Args:
            structure: The model's structure.
            scores: Log-odds of keeping each unit, infinite where there is no gate, minus infinity where it is gone:
                (units,).
            round_to: The multiple of each kind that is rounded.
        """
        of_unit = torch.empty(structure.size, dtype=torch.long)
        medians, places, ladders, movable = [], [], [], []
        count = 0
        for name, axis in structure.axes.items():
            start, multiple = structure.offsets[name], round_to.get(axis.kind, 1)
            own = scores[start : start + axis.size]
            if multiple == 1:
                of_unit[start : start + axis.size] = count + torch.arange(axis.size)
                medians.append(own)
                places.append(torch.zeros(axis.size, dtype=torch.long))
                ladders.append(count + torch.arange(axis.size))
                movable.append(torch.isfinite(own))
            else:
                ranked, order = torch.sort(own, descending=True, stable=True)
                parts = _parts(ranked, multiple, least=axis.least)
                place = torch.arange(len(parts))
                of_unit[start + order] = count + torch.repeat_interleave(
                    torch.tensor([len(p) for p in parts], dtype=torch.long)
                )
                medians.append(torch.stack([_median(part) for part in parts]) if parts else own)
                places.append(place)
                ladders.append(torch.full_like(place, count))
                gated = torch.tensor([bool(torch.isfinite(part).all()) for part in parts], dtype=torch.bool)
                movable.append(gated & (place * multiple >= axis.least))
            count += len(medians[-1])
        return cls(
            of_unit=of_unit,
            scores=torch.cat(medians),
            place=torch.cat(places),
            ladder=torch.cat(ladders),
            movable=torch.cat(movable),
        )

    @property
    def verdict(self) -> Tensor:
        """Which bundles stay by their units' own verdicts: (bundles,)."""
        return (self.scores > 0) | ~(self.movable | self.gone)

    @property
    def gone(self) -> Tensor:
        """Which bundles cannot stay: (bundles,)."""
        return self.scores == -math.inf

    def units(self, flags: Tensor) -> Tensor:
        """What is said of bundles, said of their units: (bundles,) -> (units,)."""
        return flags[self.of_unit]

    def with_any(self, flags: Tensor) -> Tensor:
        """The bundles that have a unit with a flag: (units,) -> (bundles,)."""
        return torch.bincount(self.of_unit[flags], minlength=len(self.scores)) > 0

    def order(self, among: Tensor, *, descending: bool) -> Tensor:
        """Indices of some bundles by score; of equal ones in the order of their axis, then by index.

        Args:
            among: Which: (bundles,).
            descending: The highest first, as bundles open; else the lowest, as they close.
        """
        indices = torch.nonzero(among).flatten()
        indices = indices[torch.argsort(self.place[indices], descending=not descending, stable=True)]
        return indices[torch.argsort(self.scores[indices], descending=descending, stable=True)]


def _parts(ranked: Tensor, multiple: int, *, least: int) -> list[Tensor]:
    """The scores of an axis, the highest first, in bundles; what cannot stay is the last of them."""
    left = int((ranked > -math.inf).sum())
    if left < len(ranked) and (left >= multiple or not least):
        left -= left % multiple
    parts = list(ranked[:left].split(multiple)) if left else []
    return parts + ([torch.full_like(ranked[left:], -math.inf)] if left < len(ranked) else [])


def _median(ranked: Tensor) -> Tensor:
    """The median of sorted values, the mean of the middle two where they are of an even number."""
    return (ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2]) / 2
