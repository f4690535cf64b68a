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
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.cost import Cost
from secateur.errors import TargetError
from secateur.structure import Selection, Structure, close, dense_again
from secateur.structure.axis import kind_of
from secateur.surgery.bundles import Bundles

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
class Rounding:
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
    """What choosing came to.

    Attributes:
        selection: The closed selection.
        verdict: Cost of the gates' own verdict under each limit, before any repair.
        counted: Cost of the selection under each limit.
        binding: Name of the limit with the least room left.
        moved: Units whose side the repair changed.
        gated: Units that had a gate.
        notes: What closing had to add, in words.
        rounding: What rounding cost; None where nothing was to be rounded.
    """

    selection: Selection
    verdict: dict[str, float]
    counted: dict[str, float]
    binding: str
    moved: int
    gated: int
    notes: tuple[str, ...]
    rounding: Rounding | None = None


def choose(
    structure: Structure,
    scores: Tensor,
    scales: Tensor,
    limits: Sequence[Limit],
    *,
    round_to: Mapping[str, int] | None = None,
    slack: float = SLACK,
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
    apart = _apart(structure, scores, limits)
    if apart:
        encoder, head = (
            choose(structure, torch.where(mine, scores, math.inf), scales, own, round_to=round_to, slack=slack)
            for mine, own in apart
        )
        return _together(structure, encoder, head, limits)
    bundles = Bundles.of(structure, scores, round_to or {})
    check_reachable(bundles, limits)
    _check_left(scores, limits, slack)
    gated, verdict = scores < math.inf, scores > 0
    opened = bundles.verdict
    while any(limit.cost.at(bundles.units(opened)) > limit.most for limit in limits):
        before = opened
        for limit in limits:  # and again where closing for one makes another cost more, as it can with latency
            opened = _close_until(opened, bundles, limit)
        assert not torch.equal(opened, before), "closing every gate meets every limit"
    opened = _fill(opened, bundles, limits, slack)
    kept = _without_idle_moves(structure, bundles.units(opened), verdict)
    closed = close(structure, _selection(structure, kept, scales, gated), best=_best(structure, scores))
    counted = {limit.name: limit.cost.count(closed.selection) for limit in limits}
    choice = Choice(
        selection=closed.selection,
        verdict={limit.name: limit.cost.at(verdict) for limit in limits},
        counted=counted,
        binding=_binding(limits, counted),
        moved=int((kept != verdict).sum()),
        gated=int(gated.sum()),
        notes=closed.notes,
    )
    if round_to:
        without = choose(structure, scores, scales, limits, slack=slack)
        choice = replace(choice, rounding=_rounding(round_to, choice, without, limits))
    return choice


def _binding(limits: Sequence[Limit], counted: Mapping[str, float]) -> str:
    """The name of the limit with the least room left."""
    return min(limits, key=lambda limit: (limit.most - counted[limit.name]) / limit.cost.dense).name


def _apart(structure: Structure, scores: Tensor, limits: Sequence[Limit]) -> tuple[tuple[Tensor, Sequence[Limit]], ...]:
    """The units of the encoder and of the head, (units,) each, with the limits on them.

    Empty where one of them has no gates or no limits, or a limit counts both.
    """
    parts = [torch.full((axis.size,), structure.in_head(axis.path)) for axis in structure.axes.values()]
    in_head, gated = torch.cat(parts), scores < math.inf
    counts = [counted_by(limit.cost, structure.size) for limit in limits] if structure.head else []
    sides = [
        (mine, [limit for limit, units in zip(limits, counts, strict=True) if bool((units & mine).any())])
        for mine in ((~in_head, in_head) if counts else ())
    ]
    once = sum(len(own) for _, own in sides) == len(limits)
    return tuple(sides) if once and all(own and bool(gated[mine].any()) for mine, own in sides) else ()


def _together(structure: Structure, encoder: Choice, head: Choice, limits: Sequence[Limit]) -> Choice:
    """What was chosen of an encoder and of its head."""

    def own(name: str) -> Selection:
        return (head if structure.in_head(structure.axes[name].path) else encoder).selection

    scaled = [name for name in structure.axes if name in own(name).scales]
    selection = replace(
        encoder.selection,
        axes={name: own(name).axes[name] for name in structure.axes},
        scales={name: own(name).scales[name] for name in scaled},
    )
    counted = encoder.counted | head.counted
    rounding = encoder.rounding
    if rounding is not None and head.rounding is not None:
        opened, closed = (
            {kind: first.get(kind, 0) + second.get(kind, 0) for kind in first | second}
            for first, second in (
                (rounding.opened, head.rounding.opened),
                (rounding.closed, head.rounding.closed),
            )
        )
        given_up = rounding.given_up | head.rounding.given_up
        rounding = replace(rounding, given_up=given_up, opened=opened, closed=closed)
    return Choice(
        selection=selection,
        verdict=encoder.verdict | head.verdict,
        counted=counted,
        binding=_binding(limits, counted),
        moved=encoder.moved + head.moved,
        gated=encoder.gated + head.gated,
        notes=tuple(dict.fromkeys((*encoder.notes, *head.notes))),
        rounding=rounding,
    )


def _rounding(multiples: Mapping[str, int], choice: Choice, without: Choice, limits: Sequence[Limit]) -> Rounding:
    """What a choice of multiples cost, beside the choice without them."""
    opened, closed = (Counter(dict.fromkeys(multiples, 0)) for _ in range(2))
    for name, units in choice.selection.axes.items():
        rounded, plain = set(units), set(without.selection.axes[name])
        opened[kind_of(name)] += len(rounded - plain)
        closed[kind_of(name)] += len(plain - rounded)
    touched = [kind for kind in opened if kind in multiples or opened[kind] or closed[kind]]
    return Rounding(
        multiples=dict(multiples),
        given_up={
            limit.name: (without.counted[limit.name] - choice.counted[limit.name]) / limit.cost.dense
            for limit in limits
        },
        opened={kind: opened[kind] for kind in touched},
        closed={kind: closed[kind] for kind in touched},
    )


def smallest(limit: Limit, gated: Tensor) -> float:
    """The smallest share of the dense cost that closing gated units can reach."""
    return limit.cost.at(~gated) / limit.cost.dense


def check_reachable(bundles: Bundles, limits: Sequence[Limit]) -> None:
    """Raise a TargetError when closing all that can be closed would not meet a limit."""
    rounded = len(bundles.scores) < len(bundles.of_unit)
    remedy = "raise the target, round to smaller multiples" if rounded else "raise the target"
    for limit in limits:
        least = smallest(limit, bundles.units(bundles.movable | bundles.gone))
        if least > limit.share + 1e-12:
            asked, reached = (
                f" ({share * limit.cost.dense:.4g} {limit.cost.unit})" if limit.cost.unit else ""
                for share in (limit.share, least)
            )
            raise TargetError(
                f"The constraint {limit.name} asks to keep {limit.share:.4g}{asked} of {limit.cost.brief}, but with "
                f"these gates the smallest reachable share is {least:.4g}{reached}: {remedy} or gate more kinds of "
                "axes."
            )


def _check_left(scores: Tensor, limits: Sequence[Limit], slack: float) -> None:
    """Raise a TargetError when units are gone that a selection as large as the limits allow would need."""
    left = scores > -math.inf
    most = {limit.name: limit.cost.at(left) for limit in limits}
    if not bool(left.all()) and all(most[limit.name] < limit.most - slack * limit.cost.dense for limit in limits):
        nearest = min(limits, key=lambda limit: limit.share - most[limit.name] / limit.cost.dense)
        raise TargetError(
            f"The constraint {nearest.name} allows {nearest.share:.4g} of {nearest.cost.brief}, but the units that are "
            f"left come to {most[nearest.name] / nearest.cost.dense:.4g}, the others having been frozen shut while "
            "learning: lower the target, or learn again without 'learn.freeze'."
        )


def _close_until(opened: Tensor, bundles: Bundles, limit: Limit) -> Tensor:
    """Close the least decided open bundles that this cost counts, one after the other, until the limit is met."""
    if limit.cost.at(bundles.units(opened)) <= limit.most:
        return opened
    counts = bundles.with_any(counted_by(limit.cost, len(bundles.of_unit)))
    order = bundles.order(opened & bundles.movable & counts, descending=False)
    low, high = 0, len(order)  # closing `high` of them is enough, `low` is not
    while high - low > 1:
        middle = (low + high) // 2
        if limit.cost.at(bundles.units(_with(opened, order[:middle], False))) <= limit.most:
            high = middle
        else:
            low = middle
    return _with(opened, order[:high], False)


def _fill(opened: Tensor, bundles: Bundles, limits: Sequence[Limit], slack: float) -> Tensor:
    """Open the least decided closed bundles while every limit holds and none is within the slack."""

    def fits(candidate: Tensor) -> bool:
        units = bundles.units(candidate)
        return all(limit.cost.at(units) <= limit.most for limit in limits)

    def has_room(candidate: Tensor) -> bool:
        units = bundles.units(candidate)
        return all(limit.cost.at(units) < limit.most - slack * limit.cost.dense for limit in limits)

    order = bundles.order(~opened & bundles.movable, descending=True)
    while len(order) and has_room(opened):
        low, high = 0, 1  # after opening `low` of them there is room left, after `high` there is not
        while high <= len(order) and has_room(_with(opened, order[:high], True)):
            low, high = high, 2 * high
        high = min(high, len(order) + 1)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if has_room(_with(opened, order[:middle], True)) else (low, middle)
        opened = _with(opened, order[:low], True)
        if low == len(order):
            break
        last = _with(opened, order[low : low + 1], True)
        opened = last if fits(last) else opened
        # What does not fit is passed over: a block, or a bundle with those that open after it.
        order = order[low + 1 :][bundles.ladder[order[low + 1 :]] != bundles.ladder[order[low]]]
    return opened


def _without_idle_moves(structure: Structure, kept: Tensor, verdict: Tensor) -> Tensor:
    """Give units inside a closed one their own verdict back: they are gone whichever side they are on."""
    out, offsets, inside = kept.clone(), structure.offsets, set()
    for name, axis in structure.axes.items():
        parents = [(structure.axes[parent].units, offsets[parent], unit) for parent, unit in axis.parents]
        if any(unit not in units or not kept[start + units.index(unit)] for units, start, unit in parents):
            mine = slice(offsets[name], offsets[name] + axis.size)
            out[mine] = verdict[mine]
            inside.add(name)
    for name, axis in structure.axes.items():
        if axis.with_any and all(other in inside for other in axis.with_any):
            mine = slice(offsets[name], offsets[name] + axis.size)
            out[mine] = verdict[mine]
    return out


def counted_by(cost: Cost, units: int) -> Tensor:
    """Units whose closing lowers this cost: (units,) of booleans."""
    probability = torch.full((units,), 0.5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(cost.expected(probability), probability)
    return gradient > 0


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


def _best(structure: Structure, scores: Tensor) -> dict[str, int]:
    """The unit of highest score of each axis that keeps at least one: others may be gone."""
    axes = [axis for axis in structure.axes.values() if axis.least and axis.size]
    starts = [structure.offsets[axis.name] for axis in axes]
    return {
        axis.name: axis.units[int(scores[start : start + axis.size].argmax())]
        for axis, start in zip(axes, starts, strict=True)
    }


def best_share(
    structure: Structure,
    scores: Tensor,
    kinds: Sequence[str],
    limits: Sequence[Limit],
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
    axes = [axis for axis in structure.of_kinds(tuple(kinds)) if axis.size > 1]
    ranks = torch.full((structure.size,), -1.0)  # share of the axis that stands before a unit
    for axis in axes:
        start = structure.offsets[axis.name]
        order = torch.argsort(scores[start : start + axis.size], descending=True, stable=True)
        ranks[start + order] = torch.arange(axis.size) / axis.size
    ordered = torch.where(ranks >= 0, -ranks, float("inf"))
    slack = SLACK / 10 if any(limit.share < 1 for limit in limits) else 0.0  # nothing is asked to go
    choice = choose(structure, ordered, torch.ones(structure.size), limits, round_to=round_to, slack=slack)
    again = {each.axis: structure.axes[each.axis].units for each in dense_again(structure, choice.selection.axes)}
    # A map that goes back to one matrix costs the same with all its ranks.
    return replace(choice, selection=replace(choice.selection, axes={**choice.selection.axes, **again}))
