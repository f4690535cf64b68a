"""From scores to a selection that meets every constraint by count.

Each unit starts with its own verdict (a score above zero keeps it). Where the verdicts together break a constraint, or
leave more than half a percent of the dense cost unused, as few units as possible change sides, the least decided first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.cost import Cost
from secateur.errors import TargetError
from secateur.structure import Selection, Structure, close

#: How much of the dense cost the binding constraint may leave unused.
SLACK = 0.005


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A constraint by count: a cost, and the largest value it may have."""

    name: str
    cost: Cost
    share: float
    """share of the dense cost that may stay"""

    @property
    def most(self) -> float:
        """The largest allowed cost."""
        return self.share * self.cost.dense


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What choosing came to.

    Attributes:
        selection: The closed selection.
        verdict: Cost of the gates' own verdict under each limit, before any repair.
        counted: Cost of the selection under each limit.
        binding: Name of the limit with the least room left.
        moved: Units whose side the repair changed.
        gated: Units that had a gate.
        notes: What closing had to add, in words.
    """

    selection: Selection
    verdict: dict[str, float]
    counted: dict[str, float]
    binding: str
    moved: int
    gated: int
    notes: tuple[str, ...]


def choose(
    structure: Structure, scores: Tensor, scales: Tensor, limits: Sequence[Limit], *, slack: float = SLACK
) -> Choice:
    """The selection nearest to the scores' verdicts that meets every limit.

    Args:
        structure: The model's structure.
        scores: Log-odds of keeping each unit, infinite where there is no gate: (units,).
        scales: Scale of each unit if kept: (units,).
        limits: At least one.
        slack: How much of the dense cost the binding limit may leave unused.

    Raises:
        TargetError: No selection of gated units meets a limit; the smallest reachable share is told.
    """
    check_reachable(structure, torch.isfinite(scores), limits)
    gated = torch.isfinite(scores)
    verdict = (scores > 0) | ~gated
    kept = verdict.clone()
    for limit in limits:
        kept = _close_until(kept, scores, gated, limit)
    kept = _fill(kept, scores, gated, limits, slack)
    kept = _without_idle_moves(structure, kept, verdict)
    closed = close(structure, _selection(structure, kept, scales, gated))
    counted = {limit.name: limit.cost.count(closed.selection) for limit in limits}
    room = {limit.name: (limit.most - counted[limit.name]) / limit.cost.dense for limit in limits}
    return Choice(
        selection=closed.selection,
        verdict={limit.name: limit.cost.at(verdict) for limit in limits},
        counted=counted,
        binding=min(room, key=lambda name: room[name]),
        moved=int((kept != verdict).sum()),
        gated=int(gated.sum()),
        notes=closed.notes,
    )


def smallest(limit: Limit, gated: Tensor) -> float:
    """The smallest share of the dense cost that closing gated units can reach."""
    return limit.cost.at(~gated) / limit.cost.dense


def check_reachable(structure: Structure, gated: Tensor, limits: Sequence[Limit]) -> None:
    """Raise a TargetError when closing every gate would not meet a limit."""
    for limit in limits:
        least = smallest(limit, gated)
        if least > limit.share + 1e-12:
            asked, reached = (
                f" ({share * limit.cost.dense:.4g} {limit.cost.unit})" if limit.cost.unit else ""
                for share in (limit.share, least)
            )
            raise TargetError(
                f"The constraint {limit.name} asks to keep {limit.share:.4g}{asked} of {limit.cost.label}, but with "
                f"these gates the smallest reachable share is {least:.4g}{reached}: raise the target or gate more "
                "kinds of axes."
            )


def _close_until(kept: Tensor, scores: Tensor, gated: Tensor, limit: Limit) -> Tensor:
    """Close the least decided open units that this cost counts, one after the other, until the limit is met."""
    if limit.cost.at(kept) <= limit.most:
        return kept
    order = _order(scores, kept & gated & _matters(limit.cost, gated), descending=False)
    low, high = 0, len(order)  # closing `high` of them is enough, `low` is not
    while high - low > 1:
        middle = (low + high) // 2
        if limit.cost.at(_with(kept, order[:middle], False)) <= limit.most:
            high = middle
        else:
            low = middle
    return _with(kept, order[:high], False)


def _fill(kept: Tensor, scores: Tensor, gated: Tensor, limits: Sequence[Limit], slack: float) -> Tensor:
    """Open the least decided closed units while every limit holds and none is within the slack."""

    def fits(candidate: Tensor) -> bool:
        return all(limit.cost.at(candidate) <= limit.most for limit in limits)

    def full(candidate: Tensor) -> bool:
        return any(limit.cost.at(candidate) >= limit.most - slack * limit.cost.dense for limit in limits)

    order = _order(scores, ~kept & gated, descending=True)
    while len(order) and not full(kept):
        low, high = 0, len(order) + 1  # opening `low` of them fits and is not full, `high` does not fit or is full
        while high - low > 1:
            middle = (low + high) // 2
            candidate = _with(kept, order[:middle], True)
            if fits(candidate) and not full(candidate):
                low = middle
            else:
                high = middle
        kept = _with(kept, order[:low], True)
        if low == len(order):
            break
        last = _with(kept, order[low : low + 1], True)
        kept = last if fits(last) else kept  # a block that does not fit is passed over
        order = order[low + 1 :]
    return kept


def _without_idle_moves(structure: Structure, kept: Tensor, verdict: Tensor) -> Tensor:
    """Give units inside a closed one their own verdict back: they are gone whichever side they are on."""
    out, offsets = kept.clone(), structure.offsets
    for name, axis in structure.axes.items():
        parents = [(structure.axes[parent].units, offsets[parent], unit) for parent, unit in axis.parents]
        if any(unit not in units or not kept[start + units.index(unit)] for units, start, unit in parents):
            mine = slice(offsets[name], offsets[name] + axis.size)
            out[mine] = verdict[mine]
    return out


def _matters(cost: Cost, gated: Tensor) -> Tensor:
    """Units whose closing lowers this cost: (units,) of booleans."""
    probability = torch.full(gated.shape, 0.5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(cost.expected(probability), probability)
    return gated & (gradient > 0)


def _order(scores: Tensor, among: Tensor, *, descending: bool) -> Tensor:
    """Indices of some units by score, ties by index."""
    indices = torch.nonzero(among).flatten()
    return indices[torch.argsort(scores[indices], descending=descending, stable=True)]


def _with(kept: Tensor, indices: Tensor, value: bool) -> Tensor:
    out = kept.clone()
    out[indices] = value
    return out


def _selection(structure: Structure, kept: Tensor, scales: Tensor, gated: Tensor) -> Selection:
    axes, factors = {}, {}
    for name, axis in structure.axes.items():
        units = slice(structure.offsets[name], structure.offsets[name] + axis.size)
        if not bool(gated[units].any()):
            continue
        mine = sorted(
            (unit, float(scale))
            for unit, keep, scale in zip(axis.units, kept[units].tolist(), scales[units].tolist(), strict=True)
            if keep
        )
        axes[name] = tuple(unit for unit, _ in mine)
        if any(scale != 1.0 for _, scale in mine):
            factors[name] = tuple(scale for _, scale in mine)
    return Selection(axes=axes, scales=factors)


def best_share(structure: Structure, scores: Tensor, kinds: Sequence[str], limits: Sequence[Limit]) -> Choice:
    """The selection that keeps the same share of every axis of some kinds, its best units, as large as limits allow.

    What one-shot pruning by a score does: no axis is compared with another. Axes of one unit stay.

    Args:
        structure: The model's structure.
        scores: Higher is kept first: (units,).
        kinds: Kinds of axes that are pruned.
        limits: At least one.
    """
    axes = [axis for axis in structure.of_kinds(tuple(kinds)) if axis.size > 1]
    ranks = torch.full((structure.size,), -1.0)  # share of the axis that stands before a unit
    for axis in axes:
        start = structure.offsets[axis.name]
        order = torch.argsort(scores[start : start + axis.size], descending=True, stable=True)
        ranks[start + order] = torch.arange(axis.size) / axis.size
    gated = ranks >= 0
    check_reachable(structure, gated, limits)
    ordered = torch.where(gated, -ranks, float("inf"))
    return choose(structure, ordered, torch.ones(structure.size), limits, slack=SLACK / 10)
