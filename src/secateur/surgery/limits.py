"""Limits on costs, and moves of units between kept and removed that meet the limits.

Moves are made in groups of units (`UnitGroups`), those whose score is nearest to zero first.

Example: groups a, b, c, d with scores 3, 0.5, 0.2, -1 cost 40, 30, 20, 10 of a dense cost of 100, and the limit allows
a share of 0.6. Scores above 0 keep a, b and c, which cost 90. Closing goes in the order c (70 left), b (40 left), and
stops there. With a slack of 0.005 the limit has room from 60 - 0.5 = 59.5 down, so the groups still closed are tried in
the order b (70: does not fit, passed over), c (60: fits). At 60 the limit has no room left: a and c are kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.cost import Cost
from secateur.errors import TargetError
from secateur.surgery.unit_groups import UnitGroups


@dataclass(frozen=True, kw_only=True)
class CostLimit:
    """Upper limit on a cost that is counted exactly.

    Attributes:
        name: Name of the constraint.
        cost: The limited cost.
        share: Largest allowed share of the dense cost.
    """

    name: str
    cost: Cost
    share: float

    @property
    def max_cost(self) -> float:
        """Largest allowed cost."""
        return self.share * self.cost.dense

    def holds(self, kept_units: Tensor) -> bool:
        """Return whether the cost of kept units is within the limit: (units,) of booleans."""
        return self.cost.exact(kept_units) <= self.max_cost

    def has_room(self, kept_units: Tensor, slack: float) -> bool:
        """Return whether kept units, (units,), leave more than the share `slack` of the dense cost unused."""
        return self.cost.exact(kept_units) < self.max_cost - slack * self.cost.dense


def min_reachable_share(limit: CostLimit, is_gated: Tensor) -> float:
    """Return the smallest share of the dense cost that closing gated units can reach."""
    return limit.cost.exact(~is_gated) / limit.cost.dense


def check_limits_reachable(unit_groups: UnitGroups, limits: Sequence[CostLimit]) -> None:
    """Raise a TargetError if closing all units that may close does not meet a limit."""
    is_rounded = len(unit_groups.scores) < len(unit_groups.group_of_unit)  # fewer groups than units
    remedy = "raise the target, round to smaller multiples" if is_rounded else "raise the target"
    closable_units = unit_groups.to_units(unit_groups.is_movable | unit_groups.is_removed)
    for limit in limits:
        min_share = min_reachable_share(limit, closable_units)
        if min_share > limit.share + 1e-12:  # shares of equal costs may differ by rounding
            cost = limit.cost
            requested = f"{limit.share:.4g}"
            reachable = f"{min_share:.4g}"
            if cost.unit:
                requested += f" ({limit.share * cost.dense:.4g} {cost.unit})"
                reachable += f" ({min_share * cost.dense:.4g} {cost.unit})"
            raise TargetError(
                f"The constraint {limit.name} asks to keep {requested} of {cost.short_label}, but with these gates the "
                f"smallest reachable share is {reachable}: {remedy} or gate more kinds of axes."
            )


def check_available_units(scores: Tensor, limits: Sequence[CostLimit], slack: float) -> None:
    """Raise a TargetError if units were removed for good that a selection as large as the limits needs.

    Args:
        scores: Scores of units, minus infinity for units that cannot be kept: (units,).
        limits: At least one.
        slack: Share of the dense cost that may stay unused.
    """
    is_available = scores > -math.inf
    if bool(is_available.all()) or not all(limit.has_room(is_available, slack) for limit in limits):
        return
    max_shares = {limit.name: limit.cost.exact(is_available) / limit.cost.dense for limit in limits}
    nearest = min(limits, key=lambda limit: limit.share - max_shares[limit.name])
    raise TargetError(
        f"The constraint {nearest.name} allows {nearest.share:.4g} of {nearest.cost.short_label}, but the units that "
        f"are left come to {max_shares[nearest.name]:.4g}, the others having been frozen shut while learning: lower "
        "the target, or learn again without 'learn.freeze'."
    )


def close_to_limit(open_groups: Tensor, unit_groups: UnitGroups, limit: CostLimit) -> Tensor:
    """Close open groups that a cost counts, lowest score first, until the limit is met: (groups,) -> (groups,)."""
    if limit.holds(unit_groups.to_units(open_groups)):
        return open_groups
    # Units that the cost does not count stay: closing them would not lower the cost.
    is_counted = unit_groups.has_flagged_unit(units_counted_by(limit.cost, len(unit_groups.group_of_unit)))
    closing_order = unit_groups.ranking(open_groups & unit_groups.is_movable & is_counted, descending=False)
    low, high = 0, len(closing_order)  # closing `high` of them is enough, `low` is not
    while high - low > 1:
        middle = (low + high) // 2
        if limit.holds(unit_groups.to_units(_with_flags(open_groups, closing_order[:middle], False))):
            high = middle
        else:
            low = middle
    return _with_flags(open_groups, closing_order[:high], False)


def open_to_limits(open_groups: Tensor, unit_groups: UnitGroups, limits: Sequence[CostLimit], slack: float) -> Tensor:
    """Open closed groups, highest score first, while every limit has room: (groups,) -> (groups,)."""

    def have_room(candidate: Tensor) -> bool:
        units = unit_groups.to_units(candidate)
        return all(limit.has_room(units, slack) for limit in limits)

    opening_order = unit_groups.ranking(~open_groups & unit_groups.is_movable, descending=True)
    while len(opening_order) and have_room(open_groups):
        # After opening `low` of them there is room left, after `high` there is not: double, then bisect.
        low, high = 0, 1
        while high <= len(opening_order) and have_room(_with_flags(open_groups, opening_order[:high], True)):
            low, high = high, 2 * high
        high = min(high, len(opening_order) + 1)
        while high - low > 1:
            middle = (low + high) // 2
            if have_room(_with_flags(open_groups, opening_order[:middle], True)):
                low = middle
            else:
                high = middle
        open_groups = _with_flags(open_groups, opening_order[:low], True)
        if low == len(opening_order):
            break
        candidate_groups = _with_flags(open_groups, opening_order[low : low + 1], True)
        if all(limit.holds(unit_groups.to_units(candidate_groups)) for limit in limits):
            open_groups = candidate_groups
        # A group that does not fit is passed over, with the groups of its axis that may open only behind it.
        later_groups = opening_order[low + 1 :]
        is_other_axis = unit_groups.group_axis[later_groups] != unit_groups.group_axis[opening_order[low]]
        opening_order = later_groups[is_other_axis]
    return open_groups


def units_counted_by(cost: Cost, units: int) -> Tensor:
    """Return whether closing a unit lowers a cost, for each unit: (units,) of booleans."""
    # At 0.5 no product of probabilities is 0, so every unit with an influence on the cost has a gradient above 0.
    probability = torch.full((units,), 0.5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(cost.expected(probability), probability)
    return gradient > 0


def _with_flags(flags: Tensor, indices: Tensor, value: bool) -> Tensor:
    changed = flags.clone()
    changed[indices] = value
    return changed
