"""Choice of a selection that meets every limit by count, from the scores of units.

Each unit starts on the side of its hard decision: a score above zero keeps it. Where the hard decisions together exceed
a limit, or leave more than half a percent of the dense cost unused, as few units as possible change sides, those with
scores nearest to zero first.

Encoder and head of a transducer are chosen separately if no limit counts both: each has a binding limit of its own.

With kinds rounded to multiples, units change sides in groups, each with the median of its units' scores. No limit is
exceeded then either, and the binding limit is within the half percent or has no room for a further group.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.records.choice import ChoiceRecord, RoundingCost
from secateur.structure import Selection, Structure, factorizations_to_merge, normalize
from secateur.structure.axis import kind_of
from secateur.surgery.limits import (
    CostLimit,
    check_available_units,
    check_limits_reachable,
    close_to_limit,
    open_to_limits,
    units_counted_by,
)
from secateur.surgery.unit_groups import UnitGroups

#: Share of the dense cost that the binding limit may leave unused.
DEFAULT_SLACK = 0.005


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Selection that `choose` returns, with costs.

    Attributes:
        selection: The normalized selection.
        hard_decision_costs: Cost of the hard decisions under each limit.
        counted_costs: Cost of the selection under each limit.
        binding_limit: Name of the limit with the least room left.
        moved_units: Number of units that are not on the side of their hard decision.
        gated_units: Number of units that had a gate.
        notes: Units that normalizing the selection had to add, in words.
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

    def to_record(self) -> ChoiceRecord:
        """Return the record of the choice, without the selection."""
        return ChoiceRecord(
            verdict=self.hard_decision_costs,
            counted=self.counted_costs,
            binding=self.binding_limit,
            moved=self.moved_units,
            gated=self.gated_units,
            notes=self.notes,
            rounding=self.rounding,
        )


def choose(
    structure: Structure,
    scores: Tensor,
    scales: Tensor,
    limits: Sequence[CostLimit],
    *,
    round_to: Mapping[str, int] | None = None,
    slack: float = DEFAULT_SLACK,
) -> Choice:
    """Choose the selection nearest to the hard decisions that meets every limit.

    Args:
        structure: The model's structure.
        scores: Log-odds of keeping each unit, infinity without a gate, minus infinity for units removed for good:
            (units,).
        scales: Scale of each unit if kept: (units,).
        limits: At least one.
        round_to: Multiple for each rounded kind: each of its axes keeps a multiple, or all units; or none, if the axis
            may be empty.
        slack: Share of the dense cost that the binding limit may leave unused.

    Raises:
        TargetError: No selection of gated units meets a limit, or all units that are left are far below every limit;
            the message names the smallest or the largest reachable share.
    """
    # Limits on one part only: each part is chosen with the other part kept whole (scores of infinity).
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
    check_available_units(scores, limits, slack)
    is_gated = scores < math.inf  # (units,)
    hard_decision = scores > 0  # (units,); log-odds above 0 are a probability above 1/2
    open_groups = unit_groups.hard_decision  # (groups,)
    # Repeated, since closing for one limit can make another cost rise, as latency does.
    while not all(limit.holds(unit_groups.to_units(open_groups)) for limit in limits):
        previous_open_groups = open_groups
        for limit in limits:
            open_groups = close_to_limit(open_groups, unit_groups, limit)
        assert not torch.equal(open_groups, previous_open_groups), "closing every gate meets every limit"
    # Every limit holds from here on: opening stops before one would be exceeded.
    open_groups = open_to_limits(open_groups, unit_groups, limits, slack)
    kept_units = _reset_unused_moves(structure, unit_groups.to_units(open_groups), hard_decision)
    # Normalizing may add units that the model cannot run without, so costs are counted behind it.
    normalized = normalize(
        structure, _selection(structure, kept_units, scales, is_gated), preferred_units=_best_units(structure, scores)
    )
    counted_costs = {limit.name: limit.cost.count(normalized.selection) for limit in limits}
    choice = Choice(
        selection=normalized.selection,
        hard_decision_costs={limit.name: limit.cost.exact(hard_decision) for limit in limits},
        counted_costs=counted_costs,
        binding_limit=binding_limit_name(limits, counted_costs),
        moved_units=int((kept_units != hard_decision).sum()),
        gated_units=int(is_gated.sum()),
        notes=normalized.adjustments,
    )
    if round_to:
        unrounded_choice = choose(structure, scores, scales, limits, slack=slack)
        choice = replace(choice, rounding=_rounding_cost(round_to, choice, unrounded_choice, limits))
    return choice


def binding_limit_name(limits: Sequence[CostLimit], counted_costs: Mapping[str, float]) -> str:
    """Return the name of the limit with the least room left."""
    # Room as a share of the dense cost, so that parameters can be compared with milliseconds.
    return min(limits, key=lambda limit: (limit.max_cost - counted_costs[limit.name]) / limit.cost.dense).name


def _split_by_part(
    structure: Structure, scores: Tensor, limits: Sequence[CostLimit]
) -> tuple[tuple[Tensor, Sequence[CostLimit]], ...]:
    """Return the units of the encoder and of the head, (units,) of booleans each, with the limits on each part.

    Empty if a part has no gates or no limits, or if a limit counts units of both.
    """
    if not structure.head:
        return ()
    # A flag for each unit, axis by axis, as in `scores`.
    head_flags = [torch.full((axis.size,), structure.is_in_head(axis.path)) for axis in structure.axes.values()]
    in_head = torch.cat(head_flags)  # (units,)
    counted_units = [units_counted_by(limit.cost, structure.size) for limit in limits]
    parts = []
    for in_part in (~in_head, in_head):
        part_limits = [
            limit for limit, units in zip(limits, counted_units, strict=True) if bool((units & in_part).any())
        ]
        if not part_limits or not bool((scores[in_part] < math.inf).any()):
            return ()
        parts.append((in_part, part_limits))
    # A limit that counts units of both parts stands in both lists, which makes the sum too large.
    is_partition = sum(len(part_limits) for _, part_limits in parts) == len(limits)
    return tuple(parts) if is_partition else ()


def _join_parts(structure: Structure, encoder: Choice, head: Choice, limits: Sequence[CostLimit]) -> Choice:
    """Join the choices of an encoder and of a head."""

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
        rounding = replace(
            rounding,
            given_up={**rounding.given_up, **head.rounding.given_up},
            opened=_add_counts(rounding.opened, head.rounding.opened),
            closed=_add_counts(rounding.closed, head.rounding.closed),
        )
    return Choice(
        selection=selection,
        hard_decision_costs=encoder.hard_decision_costs | head.hard_decision_costs,
        counted_costs=counted_costs,
        binding_limit=binding_limit_name(limits, counted_costs),
        moved_units=encoder.moved_units + head.moved_units,
        gated_units=encoder.gated_units + head.gated_units,
        notes=tuple(dict.fromkeys((*encoder.notes, *head.notes))),
        rounding=rounding,
    )


def _add_counts(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return {kind: first.get(kind, 0) + second.get(kind, 0) for kind in (*first, *second)}


def _rounding_cost(
    multiples: Mapping[str, int], choice: Choice, unrounded_choice: Choice, limits: Sequence[CostLimit]
) -> RoundingCost:
    """Compare a choice with rounding to a choice without."""
    opened_units = Counter(dict.fromkeys(multiples, 0))
    closed_units = Counter(dict.fromkeys(multiples, 0))
    for name, units in choice.selection.axes.items():
        rounded_units, unrounded_units = set(units), set(unrounded_choice.selection.axes[name])
        opened_units[kind_of(name)] += len(rounded_units - unrounded_units)
        closed_units[kind_of(name)] += len(unrounded_units - rounded_units)
    changed_kinds = [kind for kind in opened_units if kind in multiples or opened_units[kind] or closed_units[kind]]
    given_up = {}
    for limit in limits:
        difference = unrounded_choice.counted_costs[limit.name] - choice.counted_costs[limit.name]
        given_up[limit.name] = difference / limit.cost.dense
    return RoundingCost(
        multiples=dict(multiples),
        given_up=given_up,
        opened={kind: opened_units[kind] for kind in changed_kinds},
        closed={kind: closed_units[kind] for kind in changed_kinds},
    )


def _reset_unused_moves(structure: Structure, kept_units: Tensor, hard_decision: Tensor) -> Tensor:
    """Restore the hard decision of units inside a removed unit, which are removed on either side: (units,)."""
    restored = kept_units.clone()
    unit_names = [(name, unit) for name, axis in structure.axes.items() for unit in axis.units]
    # {("encoder.layers.3.attention/heads", 5): True}: head 5 of layer 3 is kept.
    indicators = dict(zip(unit_names, kept_units.tolist(), strict=True))
    removed_axes = set()
    for name, axis in structure.axes.items():
        if not all(indicators.get(parent, False) for parent in axis.parents):
            removed_axes.add(name)
    for name, axis in structure.axes.items():
        has_no_required_axis = axis.requires_any and removed_axes.issuperset(axis.requires_any)
        if name in removed_axes or has_no_required_axis:
            axis_slice = slice(structure.offsets[name], structure.offsets[name] + axis.size)
            restored[axis_slice] = hard_decision[axis_slice]
    return restored


def _selection(structure: Structure, kept_units: Tensor, scales: Tensor, is_gated: Tensor) -> Selection:
    """Return the kept units of axes with gates, and the scales of axes with scales other than 1."""
    axes: dict[str, tuple[int, ...]] = {}
    factors: dict[str, tuple[float, ...]] = {}
    for name, axis in structure.axes.items():
        units = slice(structure.offsets[name], structure.offsets[name] + axis.size)
        if not bool(is_gated[units].any()):
            continue
        # Pairs of original index and scale, by index: [(0, 1.0), (2, 0.5)].
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
    """Return the unit of highest score of each axis that has to keep a unit."""
    axes = [axis for axis in structure.axes.values() if axis.min_units and axis.size]
    starts = [structure.offsets[axis.name] for axis in axes]
    return {
        # argmax counts positions along the axis, `units` has the original indices.
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
    """Choose the selection that keeps the same share of every axis of some kinds, as large as the limits allow.

    Each axis keeps its units of highest score, as in one-shot pruning: no axis is compared with another. Axes of one
    unit are kept. With magnitudes of ranks as scores this is a truncated singular value decomposition.

    Example: of axes with 4 and 2 units, ranks are 0, 0.25, 0.5, 0.75 and 0, 0.5 in the order of their scores. Units of
    rank 0.75 are removed first, then those of rank 0.5, and so on until the limits are met.

    Args:
        structure: The model's structure.
        scores: Units with higher scores are kept first: (units,).
        kinds: Kinds of axes that are pruned.
        limits: At least one.
        round_to: Multiple for each rounded kind, as in `choose`.
    """
    axes = [axis for axis in structure.axes_of_kinds(tuple(kinds)) if axis.size > 1]
    ranks = torch.full((structure.size,), -1.0)  # share of the axis with higher scores
    for axis in axes:
        start = structure.offsets[axis.name]
        order = torch.argsort(scores[start : start + axis.size], descending=True, stable=True)
        # Scores 0.3, 0.9, 0.5, 0.1 have the order 1, 2, 0, 3, so the ranks are 0.5, 0, 0.25, 0.75.
        ranks[start + order] = torch.arange(axis.size) / axis.size
    # No score is above 0, so `choose` starts with these units removed and adds them by rank. Other axes have scores of
    # infinity, which means that they have no gates.
    rank_scores = torch.where(ranks >= 0, -ranks, float("inf"))
    slack = DEFAULT_SLACK / 10 if any(limit.share < 1 for limit in limits) else 0.0  # nothing has to be removed
    choice = choose(structure, rank_scores, torch.ones(structure.size), limits, round_to=round_to, slack=slack)
    restored_axes = {
        linear.axis: structure.axes[linear.axis].units
        for linear in factorizations_to_merge(structure, choice.selection.axes)
    }
    # A map that goes back to one matrix costs the same with all its ranks.
    return replace(choice, selection=replace(choice.selection, axes={**choice.selection.axes, **restored_axes}))
