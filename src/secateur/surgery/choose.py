"""From scores to a selection that meets every constraint by count.

Each unit starts with its own verdict (a score above zero keeps it). Where the verdicts together break a constraint, or
leave more than half a percent of the dense cost unused, as few units as possible change sides, the least decided first.

Encoder and head of a transducer are chosen apart where no limit counts both: each has a binding limit of its own.

With kinds rounded to multiples the same is done to bundles of units, each with the median of its units' scores. Then
too no limit is exceeded, and the binding one is within the half percent or has no room for any further bundle.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from secateur.cost import Cost
from secateur.errors import TargetError
from secateur.structure import Selection, Structure, factorizations_to_merge, normalize
from secateur.structure.axis import kind_of
from secateur.surgery.unit_groups import UnitGroups

#: How much of the dense cost the binding constraint may leave unused.
DEFAULT_SLACK = 0.005


@dataclass(frozen=True, kw_only=True)
class CostLimit:
    """A constraint by count: a cost, and the largest value it may have."""

    name: str
    cost: Cost
    share: float
    """share of the dense cost that may stay"""

    @property
    def max_cost(self) -> float:
        """The largest allowed cost."""
        return self.share * self.cost.dense


@dataclass(frozen=True, kw_only=True)
class RoundingCost:
    """What rounding cost: the choice beside that of the same scores without it.

    Attributes:
        multiples: The multiple of each kind; 1 is no rounding.
        given_up: By how much less of the dense cost is kept under each limit; below zero where more is.
        opened: Units by kind that are kept only because of it.
        closed: Units by kind that are removed only because of it.
    """

    multiples: dict[str, int]
    given_up: dict[str, float]
    opened: dict[str, int]
    closed: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The selection that `choose` arrives at, and its costs.

    Attributes:
        selection: The closed selection.
        hard_decision_costs: Cost of the gates' hard decisions under each limit, before any repair.
        counted_costs: Cost of the selection under each limit.
        binding_limit: Name of the limit with the least room left.
        moved_units: Units whose side the repair changed.
        gated_units: Units that had a gate.
        notes: Units that closing had to add, in words.
        rounding: Cost of rounding; None where nothing was rounded.
    """

    selection: Selection
    hard_decision_costs: dict[str, float]
    counted_costs: dict[str, float]
    binding_limit: str
    moved_units: int
    gated_units: int
    notes: tuple[str, ...]
    rounding: RoundingCost | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record of the choice, the selection left out."""
        return {
            "verdict": self.hard_decision_costs,
            "counted": self.counted_costs,
            "binding": self.binding_limit,
            "moved": self.moved_units,
            "gated": self.gated_units,
            "notes": self.notes,
            "rounding": None if self.rounding is None else asdict(self.rounding),
        }


def choose(
    structure: Structure,
    scores: Tensor,
    scales: Tensor,
    limits: Sequence[CostLimit],
    *,
    round_to: Mapping[str, int] | None = None,
    slack: float = DEFAULT_SLACK,
) -> Choice:
    """The selection nearest to the scores' verdicts that meets every limit.

    Args:
        structure: The model's structure.
        scores: Log-odds of keeping each unit, infinite where there is no gate, minus infinity where it is gone:
            (units,).
        scales: Scale of each unit if kept: (units,).
        limits: At least one.
        round_to: The multiple of each kind that is rounded: a multiple of it stays of each axis, or all; none where
            the axis may be empty.
        slack: How much of the dense cost the binding limit may leave unused.

    Raises:
        TargetError: No selection of gated units meets a limit, or what is not gone is far below every limit; the
            smallest or the largest reachable share is told.
    """
    scope_parts = _split_by_part(structure, scores, limits)
    if scope_parts:
        encoder, head = (
            choose(
                structure, torch.where(in_scope, scores, math.inf), scales, scope_limits, round_to=round_to, slack=slack
            )
            for in_scope, scope_limits in scope_parts
        )
        return _join_parts(structure, encoder, head, limits)
    unit_groups = UnitGroups.from_scores(structure, scores, round_to or {})
    check_limits_reachable(unit_groups, limits)
    _check_available_units(scores, limits, slack)
    is_gated, hard_decision = scores < math.inf, scores > 0
    open_groups = unit_groups.hard_decision
    while any(limit.cost.exact(unit_groups.to_units(open_groups)) > limit.max_cost for limit in limits):
        previous_open_groups = open_groups
        for limit in limits:  # and again where closing for one makes another cost more, as it can with latency
            open_groups = _close_to_limit(open_groups, unit_groups, limit)
        assert not torch.equal(open_groups, previous_open_groups), "closing every gate meets every limit"
    open_groups = _open_to_limits(open_groups, unit_groups, limits, slack)
    kept_units = _reset_unused_moves(structure, unit_groups.to_units(open_groups), hard_decision)
    normalized = normalize(
        structure, _selection(structure, kept_units, scales, is_gated), preferred_units=_best_units(structure, scores)
    )
    counted_costs = {limit.name: limit.cost.count(normalized.selection) for limit in limits}
    choice = Choice(
        selection=normalized.selection,
        hard_decision_costs={limit.name: limit.cost.exact(hard_decision) for limit in limits},
        counted_costs=counted_costs,
        binding_limit=_binding_limit(limits, counted_costs),
        moved_units=int((kept_units != hard_decision).sum()),
        gated_units=int(is_gated.sum()),
        notes=normalized.adjustments,
    )
    if round_to:
        unrounded_choice = choose(structure, scores, scales, limits, slack=slack)
        choice = replace(choice, rounding=_rounding_cost(round_to, choice, unrounded_choice, limits))
    return choice


def _binding_limit(limits: Sequence[CostLimit], counted_costs: Mapping[str, float]) -> str:
    """The name of the limit with the least room left."""
    return min(limits, key=lambda limit: (limit.max_cost - counted_costs[limit.name]) / limit.cost.dense).name


def _split_by_part(
    structure: Structure, scores: Tensor, limits: Sequence[CostLimit]
) -> tuple[tuple[Tensor, Sequence[CostLimit]], ...]:
    """The units of the encoder and of the head, (units,) each, with the limits on them.

    Empty where one of them has no gates or no limits, or a limit counts both.
    """
    head_flags = [torch.full((axis.size,), structure.is_in_head(axis.path)) for axis in structure.axes.values()]
    in_head, is_gated = torch.cat(head_flags), scores < math.inf
    counted_units = [units_counted_by(limit.cost, structure.size) for limit in limits] if structure.head else []
    part_limits = [
        (in_part, [limit for limit, units in zip(limits, counted_units, strict=True) if bool((units & in_part).any())])
        for in_part in ((~in_head, in_head) if counted_units else ())
    ]
    is_partition = sum(len(limits_of_part) for _, limits_of_part in part_limits) == len(limits)
    return (
        tuple(part_limits)
        if is_partition and all(own and bool(is_gated[mine].any()) for mine, own in part_limits)
        else ()
    )


def _join_parts(structure: Structure, encoder: Choice, head: Choice, limits: Sequence[CostLimit]) -> Choice:
    """What was chosen of an encoder and of its head."""

    def part_selection(name: str) -> Selection:
        return (head if structure.is_in_head(structure.axes[name].path) else encoder).selection

    scaled_axes = [name for name in structure.axes if name in part_selection(name).scales]
    selection = replace(
        encoder.selection,
        axes={name: part_selection(name).axes[name] for name in structure.axes},
        scales={name: part_selection(name).scales[name] for name in scaled_axes},
    )
    counted_costs = encoder.counted_costs | head.counted_costs
    rounding = encoder.rounding
    if rounding is not None and head.rounding is not None:
        opened_units, closed_units = (
            {kind: encoder_counts.get(kind, 0) + head_counts.get(kind, 0) for kind in encoder_counts | head_counts}
            for encoder_counts, head_counts in (
                (rounding.opened, head.rounding.opened),
                (rounding.closed, head.rounding.closed),
            )
        )
        given_up = rounding.given_up | head.rounding.given_up
        rounding = replace(rounding, given_up=given_up, opened=opened_units, closed=closed_units)
    return Choice(
        selection=selection,
        hard_decision_costs=encoder.hard_decision_costs | head.hard_decision_costs,
        counted_costs=counted_costs,
        binding_limit=_binding_limit(limits, counted_costs),
        moved_units=encoder.moved_units + head.moved_units,
        gated_units=encoder.gated_units + head.gated_units,
        notes=tuple(dict.fromkeys((*encoder.notes, *head.notes))),
        rounding=rounding,
    )


def _rounding_cost(
    multiples: Mapping[str, int], choice: Choice, unrounded_choice: Choice, limits: Sequence[CostLimit]
) -> RoundingCost:
    """What a choice of multiples cost, beside the choice without them."""
    opened_units, closed_units = (Counter(dict.fromkeys(multiples, 0)) for _ in range(2))
    for name, units in choice.selection.axes.items():
        rounded_units, unrounded_units = set(units), set(unrounded_choice.selection.axes[name])
        opened_units[kind_of(name)] += len(rounded_units - unrounded_units)
        closed_units[kind_of(name)] += len(unrounded_units - rounded_units)
    changed_kinds = [kind for kind in opened_units if kind in multiples or opened_units[kind] or closed_units[kind]]
    return RoundingCost(
        multiples=dict(multiples),
        given_up={
            limit.name: (unrounded_choice.counted_costs[limit.name] - choice.counted_costs[limit.name])
            / limit.cost.dense
            for limit in limits
        },
        opened={kind: opened_units[kind] for kind in changed_kinds},
        closed={kind: closed_units[kind] for kind in changed_kinds},
    )


def min_reachable_share(limit: CostLimit, is_gated: Tensor) -> float:
    """The smallest share of the dense cost that closing gated units can reach."""
    return limit.cost.exact(~is_gated) / limit.cost.dense


def check_limits_reachable(unit_groups: UnitGroups, limits: Sequence[CostLimit]) -> None:
    """Raise a TargetError when closing all that can be closed would not meet a limit."""
    is_rounded = len(unit_groups.scores) < len(unit_groups.group_of_unit)
    remedy = "raise the target, round to smaller multiples" if is_rounded else "raise the target"
    for limit in limits:
        min_share = min_reachable_share(limit, unit_groups.to_units(unit_groups.is_movable | unit_groups.is_removed))
        if min_share > limit.share + 1e-12:
            requested_cost, reachable_cost = (
                f" ({share * limit.cost.dense:.4g} {limit.cost.unit})" if limit.cost.unit else ""
                for share in (limit.share, min_share)
            )
            raise TargetError(
                f"The constraint {limit.name} asks to keep {limit.share:.4g}{requested_cost} of {limit.cost.short_label}, but with "
                f"these gates the smallest reachable share is {min_share:.4g}{reachable_cost}: {remedy} or gate more kinds of "
                "axes."
            )


def _check_available_units(scores: Tensor, limits: Sequence[CostLimit], slack: float) -> None:
    """Raise a TargetError when units are gone that a selection as large as the limits allow would need."""
    is_available = scores > -math.inf
    max_costs = {limit.name: limit.cost.exact(is_available) for limit in limits}
    if not bool(is_available.all()) and all(
        max_costs[limit.name] < limit.max_cost - slack * limit.cost.dense for limit in limits
    ):
        nearest_limit = min(limits, key=lambda limit: limit.share - max_costs[limit.name] / limit.cost.dense)
        raise TargetError(
            f"The constraint {nearest_limit.name} allows {nearest_limit.share:.4g} of {nearest_limit.cost.short_label}, but the units that are "
            f"left come to {max_costs[nearest_limit.name] / nearest_limit.cost.dense:.4g}, the others having been frozen shut while "
            "learning: lower the target, or learn again without 'learn.freeze'."
        )


def _close_to_limit(open_groups: Tensor, unit_groups: UnitGroups, limit: CostLimit) -> Tensor:
    """Close the least decided open bundles that this cost counts, one after the other, until the limit is met."""
    if limit.cost.exact(unit_groups.to_units(open_groups)) <= limit.max_cost:
        return open_groups
    is_counted = unit_groups.has_flagged_unit(units_counted_by(limit.cost, len(unit_groups.group_of_unit)))
    closing_order = unit_groups.ranking(open_groups & unit_groups.is_movable & is_counted, descending=False)
    low, high = 0, len(closing_order)  # closing `high` of them is enough, `low` is not
    while high - low > 1:
        middle = (low + high) // 2
        if (
            limit.cost.exact(unit_groups.to_units(_with_flags(open_groups, closing_order[:middle], False)))
            <= limit.max_cost
        ):
            high = middle
        else:
            low = middle
    return _with_flags(open_groups, closing_order[:high], False)


def _open_to_limits(open_groups: Tensor, unit_groups: UnitGroups, limits: Sequence[CostLimit], slack: float) -> Tensor:
    """Open the least decided closed bundles while every limit holds and none is within the slack."""

    def fits(candidate: Tensor) -> bool:
        units = unit_groups.to_units(candidate)
        return all(limit.cost.exact(units) <= limit.max_cost for limit in limits)

    def has_room(candidate: Tensor) -> bool:
        units = unit_groups.to_units(candidate)
        return all(limit.cost.exact(units) < limit.max_cost - slack * limit.cost.dense for limit in limits)

    opening_order = unit_groups.ranking(~open_groups & unit_groups.is_movable, descending=True)
    while len(opening_order) and has_room(open_groups):
        low, high = 0, 1  # after opening `low` of them there is room left, after `high` there is not
        while high <= len(opening_order) and has_room(_with_flags(open_groups, opening_order[:high], True)):
            low, high = high, 2 * high
        high = min(high, len(opening_order) + 1)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (
                (middle, high) if has_room(_with_flags(open_groups, opening_order[:middle], True)) else (low, middle)
            )
        open_groups = _with_flags(open_groups, opening_order[:low], True)
        if low == len(opening_order):
            break
        candidate_groups = _with_flags(open_groups, opening_order[low : low + 1], True)
        open_groups = candidate_groups if fits(candidate_groups) else open_groups
        # What does not fit is passed over: a block, or a bundle with those that open after it.
        opening_order = opening_order[low + 1 :][
            unit_groups.group_axis[opening_order[low + 1 :]] != unit_groups.group_axis[opening_order[low]]
        ]
    return open_groups


def _reset_unused_moves(structure: Structure, kept_units: Tensor, hard_decision: Tensor) -> Tensor:
    """Give units inside a closed one their own verdict back: they are gone whichever side they are on."""
    restored, offsets, removed_axes = kept_units.clone(), structure.offsets, set()
    for name, axis in structure.axes.items():
        parents = [(structure.axes[parent].units, offsets[parent], unit) for parent, unit in axis.parents]
        if any(unit not in units or not kept_units[start + units.index(unit)] for units, start, unit in parents):
            axis_slice = slice(offsets[name], offsets[name] + axis.size)
            restored[axis_slice] = hard_decision[axis_slice]
            removed_axes.add(name)
    for name, axis in structure.axes.items():
        if axis.requires_any and all(child in removed_axes for child in axis.requires_any):
            axis_slice = slice(offsets[name], offsets[name] + axis.size)
            restored[axis_slice] = hard_decision[axis_slice]
    return restored


def units_counted_by(cost: Cost, units: int) -> Tensor:
    """Units whose closing lowers this cost: (units,) of booleans."""
    probability = torch.full((units,), 0.5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(cost.expected(probability), probability)
    return gradient > 0


def _with_flags(flags: Tensor, indices: Tensor, value: bool) -> Tensor:
    changed = flags.clone()
    changed[indices] = value
    return changed


def _selection(structure: Structure, kept_units: Tensor, scales: Tensor, is_gated: Tensor) -> Selection:
    axes, factors = {}, {}
    for name, axis in structure.axes.items():
        units = slice(structure.offsets[name], structure.offsets[name] + axis.size)
        if not bool(is_gated[units].any()):
            continue
        scaled_units = sorted(
            (unit, float(scale))
            for unit, is_kept, scale in zip(axis.units, kept_units[units].tolist(), scales[units].tolist(), strict=True)
            if is_kept
        )
        axes[name] = tuple(unit for unit, _ in scaled_units)
        if any(scale != 1.0 for _, scale in scaled_units):
            factors[name] = tuple(scale for _, scale in scaled_units)
    return Selection(axes=axes, scales=factors)


def _best_units(structure: Structure, scores: Tensor) -> dict[str, int]:
    """The unit of highest score of each axis that keeps at least one: others may be gone."""
    axes = [axis for axis in structure.axes.values() if axis.min_units and axis.size]
    starts = [structure.offsets[axis.name] for axis in axes]
    return {
        axis.name: axis.units[int(scores[start : start + axis.size].argmax())]
        for axis, start in zip(axes, starts, strict=True)
    }


def choose_uniform_share(
    structure: Structure,
    scores: Tensor,
    kinds: Sequence[str],
    limits: Sequence[CostLimit],
    *,
    round_to: Mapping[str, int] | None = None,
) -> Choice:
    """The selection that keeps the same share of every axis of some kinds, its best units, as large as limits allow.

    What one-shot pruning by a score does: no axis is compared with another. Axes of one unit stay. Ranks by magnitude
    are a truncated singular value decomposition.

    Args:
        structure: The model's structure.
        scores: Higher is kept first: (units,).
        kinds: Kinds of axes that are pruned.
        limits: At least one.
        round_to: The multiple of each kind that is rounded, as in `choose`.
    """
    axes = [axis for axis in structure.axes_of_kinds(tuple(kinds)) if axis.size > 1]
    ranks = torch.full((structure.size,), -1.0)  # share of the axis that stands before a unit
    for axis in axes:
        start = structure.offsets[axis.name]
        order = torch.argsort(scores[start : start + axis.size], descending=True, stable=True)
        ranks[start + order] = torch.arange(axis.size) / axis.size
    rank_scores = torch.where(ranks >= 0, -ranks, float("inf"))
    slack = DEFAULT_SLACK / 10 if any(limit.share < 1 for limit in limits) else 0.0  # nothing is asked to go
    choice = choose(structure, rank_scores, torch.ones(structure.size), limits, round_to=round_to, slack=slack)
    restored_axes = {
        linear.axis: structure.axes[linear.axis].units
        for linear in factorizations_to_merge(structure, choice.selection.axes)
    }
    # A map that goes back to one matrix costs the same with all its ranks.
    return replace(choice, selection=replace(choice.selection, axes={**choice.selection.axes, **restored_axes}))
