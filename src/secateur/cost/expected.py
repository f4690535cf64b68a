"""Expected and exact costs, from the declaration alone.

Every parameter and every multiply-accumulate count is a *term*: a constant times the number of living units along each
axis it lies on, times the probability that it is there at all. Gates are independent, so expectations are products and
sums; at open probabilities of 0 and 1 they are the counts of the closed selection, exactly (all sums are of whole
numbers in float64).

A factorised map has three terms, its two matrices and the dense one that they stand for, of which a count takes the
cheaper side. The expectation that gates learn from takes its two matrices whatever they cost, since only so each rank
has a price; it begins above the dense cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from secateur.cost.grid import Grids, Squares
from secateur.errors import ConfigError
from secateur.modules.transducer import is_of_head
from secateur.structure import Axis, Bind, Selection, Structure, Unit, Use, Weight

#: The costs that are counted, from the declaration alone.
COSTS = ("parameters", "macs")

#: How factorised maps count: as two matrices; as what is cheaper, and what is left of them after a cut; as one matrix.
Form = Literal["two", "cheaper", "one"]


class Liveness:
    """How alive each unit of a structure is, given the open probability of each unit's own gate.

    Units of all axes stand one behind the other in one flat vector, in the order of ``structure.axes``.
    """

    def __init__(self, structure: Structure) -> None:
        offsets, nobody = structure.offsets, structure.size  # index `nobody` is always open
        self.axes = list(structure.axes.values())
        self.number = {axis.name: index for index, axis in enumerate(self.axes)}
        position = {
            axis.name: {unit: offsets[axis.name] + at for at, unit in enumerate(axis.units)} for axis in self.axes
        }
        always, atoms, needed, single, common = len(self.axes), [], [], [], []
        for axis in self.axes:
            by_all = [self.number[name] for name in needed_by_all(structure, axis)]
            own_needs = [self.number[name] for name in axis.needs if not by_all] or [always] * axis.size
            shared = [position[name].get(unit, nobody) for name, unit in axis.parents]
            inherited = self.implied(structure, axis)
            for at in range(axis.size):
                atoms.append([offsets[axis.name] + at, *shared])
                needed.append([own_needs[at], *by_all, *inherited])
            single += own_needs
            common.append(by_all)
        self.atoms = _pad(atoms, nobody)
        self.needed = _pad(needed, always)
        self.single, self.common = torch.tensor(single, dtype=torch.long), _pad(common, always)
        self.of_axis = torch.repeat_interleave(torch.tensor([axis.size for axis in self.axes]))
        self.least = torch.tensor([float(axis.least > 0 and axis.size > 0) for axis in self.axes], dtype=torch.float64)
        by_size: dict[int, list[int]] = {}
        for index, axis in enumerate(self.axes):
            by_size.setdefault(axis.size, []).append(index)
        self.by_size = [
            (
                torch.tensor(indices),
                torch.tensor([[offsets[self.axes[i].name] + at for at in range(size)] for i in indices]),
            )
            for size, indices in by_size.items()
            if size
        ]
        self.parents = _pad(
            [[position[name].get(unit, nobody) for name, unit in axis.parents] for axis in self.axes], nobody
        )

    def __call__(
        self, open_probability: Tensor, axes: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Liveness of units, expected counts of axes, and the probability that an axis has any living unit.

        Args:
            open_probability: (units,), float64.
            axes: What `some` returns for it, where that is known.

        Returns:
            (units + 1,) with a final one, (axes + 1,) with a final one, (axes,).
        """
        one = open_probability.new_ones(1)
        own = torch.cat([open_probability, one])
        some, needy = axes or self.some(open_probability)
        alive = own[self.atoms].prod(-1) * some[self.needed].prod(-1)  # (units,)
        counts = torch.zeros_like(needy).index_add(0, self.of_axis, alive)
        # A conv axis keeps a unit even when all its gates are closed: E[max(1, n)] = E[n] + P(n = 0).
        counts = counts + self.least * (1.0 - some[:-1])
        there = own[self.parents].prod(-1) * needy
        return torch.cat([alive, one]), torch.cat([counts, one]), there

    def some(self, open_probability: Tensor) -> tuple[Tensor, Tensor]:
        """The probability that an axis has a unit whose own gate is open, and that it has one with what it needs.

        Args:
            open_probability: (units,), float64.

        Returns:
            (axes + 1,) with a final one, (axes,).
        """
        some = torch.cat([1.0 - self._all_closed(open_probability), open_probability.new_ones(1)])
        needy = 1.0 - self._all_closed(open_probability * some[self.single])
        return some, needy * some[self.common].prod(-1)

    def implied(self, structure: Structure, axis: Axis) -> list[int]:
        """Numbers of the axes that units of this one need because their parents do."""
        needed = [
            structure.axes[name].needs[structure.axes[name].units.index(unit)]
            for name, unit in axis.parents
            if structure.axes[name].needs and unit in structure.axes[name].units
        ]
        # A unit of the axis that its parent needs meets that need itself.
        return [self.number[name] for name in needed if name != axis.name]

    def _all_closed(self, probability: Tensor) -> Tensor:
        """P(no unit of the axis is open) for every axis, from its own units' probabilities: (units,) -> (axes,)."""
        closed = probability.new_ones(len(self.axes))
        for indices, units in self.by_size:
            closed = closed.index_copy(0, indices, (1.0 - probability[units]).prod(-1))
        return closed


def needed_by_all(structure: Structure, axis: Axis) -> list[str]:
    """Other axes that all units of an axis need a unit of, as such or because what they need needs it, by name."""
    found = [axis.name]
    while len(set(axis.needs)) == 1 and axis.needs[0] not in found:
        found.append(axis.needs[0])
        axis = structure.axes[axis.needs[0]]
    return found[1:]


class Presence:
    """The probability that any unit of some axes is alive, for several such groups of axes; one for a group of none.

    Exact where the axes of a group share no gates but those that all of them share.
    """

    def __init__(self, structure: Structure, alive: Liveness, groups: Sequence[Sequence[str]]) -> None:
        offsets, nobody, always = structure.offsets, structure.size, len(alive.axes)

        def positions(parents: Iterable[Unit]) -> list[int]:
            there = [(name, structure.axes[name].units, unit) for name, unit in parents]
            return [offsets[name] + units.index(unit) for name, units, unit in there if unit in units]

        self.alive, self.shape = alive, (len(groups), max((len(group) for group in groups), default=1))
        parents = [[set(structure.axes[name].parents) for name in group] for group in groups]
        common = [set.intersection(*each) if each else set() for each in parents]
        own, implied = [], []
        for group, shared in zip(groups, common, strict=True):
            axes = [structure.axes[name] for name in group]
            rest = self.shape[1] - len(axes)
            own += [positions(set(axis.parents) - shared) for axis in axes] + [[]] * rest
            implied += [alive.implied(structure, axis) for axis in axes] + [[]] * rest
        self.common = _pad([positions(shared) for shared in common], nobody)
        self.own, self.implied = _pad(own, nobody), _pad(implied, always)
        self.axes = _pad([[alive.number[name] for name in group] or [always + 1] for group in groups], always)

    def __call__(self, open_probability: Tensor, axes: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(units,) -> (groups,); `axes` is what `Liveness.some` returns for the units, where it is known."""
        one = open_probability.new_ones(1)
        own = torch.cat([open_probability, one])
        some, needy = axes or self.alive.some(open_probability)
        needy = needy + self.alive.least * (1.0 - needy)
        parents = (own[self.own].prod(-1) * some[self.implied].prod(-1)).view(self.shape)
        there = parents * torch.cat([needy, 0 * one, one])[self.axes]  # (groups, axes), zero where there are no more
        return own[self.common].prod(-1) * (1.0 - (1.0 - there).prod(-1))


@dataclass(frozen=True)
class Term:
    """One parameter or attention product: what it lies on, and the use or weight it stands for."""

    weight: Weight | None
    use: Use | None


class Terms:
    """All terms of a structure; a `Cost` weighs them."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.alive = Liveness(structure)
        self.terms = [Term(weight=weight, use=None) for weight in structure.weights]
        self.terms += [Term(weight=None, use=use) for use in structure.uses if use.axes]
        self.terms += [Term(weight=each.dense, use=None) for each in structure.factorised]
        self.of_weight = {term.weight.name: index for index, term in enumerate(self.terms) if term.weight}
        named = [(self.of_weight[name] for name in (f.inner, f.outer, f.dense.name)) for f in structure.factorised]
        self.two_and_one = torch.tensor([list(row) for row in named], dtype=torch.long).reshape(-1, 3)
        number, nobody = self.alive.number, structure.size
        groups: dict[tuple[int, ...], int] = {}
        grids: dict[int, tuple[str, str]] = {}
        squares: dict[int, str] = {}

        def group(axes: Sequence[str], across: str) -> int:
            if not across:
                return groups.setdefault(tuple(number[name] for name in axes), len(groups))
            (inside,) = axes
            index = groups.setdefault((-1 - number[across], -1 - number[inside]), len(groups))
            grids[index] = across, inside
            return index

        along, within, any_of, constant = [], [], [], []
        for term in self.terms:
            binds = term.weight.binds if term.weight else [term.use] if term.use else []
            both = _both_sides(binds)
            if both:
                index = groups.setdefault((-1 - number[both],), len(groups))
                squares[index] = both
            along.append([index] if both else [group(bind.axes, bind.across) for bind in binds])
            unit = term.weight.within if term.weight else None
            within.append(nobody if unit is None else self._position(*unit))
            any_of.append(term.weight.any_of if term.weight else ())
            bound = {bind.dim for bind in term.weight.binds} if term.weight else set()
            shape = term.weight.shape if term.weight else ()
            widths = [bind.width * (len(bind.axes) if both else 1) for bind in term.weight.binds] if term.weight else []
            constant.append(float(math.prod([*widths, *(size for dim, size in enumerate(shape) if dim not in bound)])))
        self.along = _pad(along, len(groups))
        self.within = torch.tensor(within)
        self.constant = torch.tensor(constant, dtype=torch.float64)
        conditional = [index for index, axes in enumerate(any_of) if axes]
        self.conditional = torch.tensor(conditional, dtype=torch.long)
        self.there = Presence(structure, self.alive, [any_of[index] for index in conditional])
        plain = {axes: index for axes, index in groups.items() if index not in grids and index not in squares}
        self.group_of = torch.tensor([index for axes, index in plain.items() for _ in axes], dtype=torch.long)
        self.axis_of = torch.tensor([axis for axes in plain for axis in axes], dtype=torch.long)
        self.grids, self.grid_of = Grids(structure, list(grids.values())), torch.tensor(list(grids), dtype=torch.long)
        self.squares = Squares(structure, list(squares.values()))
        self.square_of = torch.tensor(list(squares), dtype=torch.long)
        self.groups = len(groups)

    def _position(self, axis: str, unit: int) -> int:
        return self.structure.offsets[axis] + self.structure.axes[axis].units.index(unit)

    def sizes(self, open_probability: Tensor, form: Form = "two") -> Tensor:
        """Expected size of every term (elements of a parameter, living units of a product): (units,) -> (terms,).

        Args:
            open_probability: (units,), float64; zeros and ones for the form ``cheaper``.
            form: How factorised maps count.
        """
        # With a gradient each has a graph of its own: in which order gradients are summed decides their last digits.
        axes = None if torch.is_grad_enabled() else self.alive.some(open_probability)
        alive, counts, _ = self.alive(open_probability, axes)
        sums = torch.zeros(self.groups, dtype=counts.dtype).index_add(0, self.group_of, counts[self.axis_of])
        sums = sums.index_copy(0, self.grid_of, self.grids(open_probability))
        sums = sums.index_copy(0, self.square_of, self.squares(open_probability))
        sums = torch.cat([sums, sums.new_ones(1)])
        sizes = self.constant * sums[self.along].prod(-1) * alive[self.within]
        if len(self.conditional):
            sizes = sizes * torch.ones_like(sizes).index_copy(0, self.conditional, self.there(open_probability, axes))
        if len(self.two_and_one):
            two, one = sizes[self.two_and_one[:, :2]].sum(-1), sizes[self.two_and_one[:, 2]]
            as_two = torch.ones_like(two) if form == "two" else (two < one).to(two) if form == "cheaper" else 0 * two
            shares = torch.stack([as_two, as_two, 1 - as_two], dim=1).detach()
            sizes = sizes * torch.ones_like(sizes).index_copy(0, self.two_and_one.flatten(), shares.flatten())
        return sizes

    def weights_of(self, cost: str, samples: int, counts: Callable[[Term, Use | None], bool]) -> Tensor:
        """How much one unit of each term's size costs: (terms,) in float64.

        Args:
            cost: ``parameters`` or ``macs``.
            samples: Samples of audio, for MACs.
            counts: Whether a term (and its use, for MACs) is in the scope.
        """
        factors = torch.zeros(len(self.terms), dtype=torch.float64)
        if cost == "parameters":
            for index, term in enumerate(self.terms):
                factors[index] = float(term.weight is not None and counts(term, None))
            return factors
        products = {id(term.use): index for index, term in enumerate(self.terms) if term.use}
        for use in (*self.structure.uses, *(each.use for each in self.structure.factorised)):
            index = self.of_weight[use.weight] if use.weight else products[id(use)]
            if counts(self.terms[index], use):
                factors[index] += float(self.structure.times(use.rate, samples))
        return factors


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One cost over one scope.

    Attributes:
        structure: Whose units it is a function of.
        value: The cost, a float64 scalar through which gradients flow: open probabilities (units,) and how factorised
            maps count -> ().
        dense: The cost of the model as it stands, its factorised maps taken as the dense ones that they stand for.
        label: Cost, scope and convention in words.
        unit: ``ms`` for a time; empty for what is counted.
    """

    structure: Structure
    value: Callable[[Tensor, Form], Tensor]
    dense: float = field(init=False)
    label: str
    unit: Literal["", "ms"] = ""

    def __post_init__(self) -> None:
        whole = torch.ones(self.structure.size, dtype=torch.float64)
        object.__setattr__(self, "dense", float(self.value(whole, "one")))

    @property
    def brief(self) -> str:
        """The label without the convention."""
        return self.label.partition(";")[0]

    def expected(self, open_probability: Tensor) -> Tensor:
        """What gates learn from, each rank of a factorised map at its price: (units,) -> ()."""
        return self.value(open_probability, "two")

    @classmethod
    def of(
        cls,
        terms: Terms,
        *,
        cost: str,
        scope: str = "whole",
        samples: int = 16000,
        gated: frozenset[str] = frozenset(),
    ) -> Cost:
        """A counted cost by name.

        Args:
            terms: The structure's terms.
            cost: ``parameters`` or ``macs``.
            scope: ``whole``, ``gated``, ``encoder``, ``frontend``, ``transducer`` or a module path.
            samples: Audio length for MACs, in samples.
            gated: Names of the gated axes, for the scope ``gated``.

        Raises:
            ConfigError: The scope names nothing, or MACs are asked of a transducer's head.
        """
        structure = terms.structure
        structure.check_scope(scope)
        if cost == "macs" and is_of_head(scope):
            raise ConfigError(
                f"There are no MACs of the scope {scope!r}: how often a transducer's head is used depends on what is "
                "said; constrain its parameters."
            )

        def counts(term: Term, use: Use | None) -> bool:
            if scope == "gated":
                if term.weight is not None:
                    return structure.on_axes(term.weight, gated)
                return term.use is not None and structure.touched(term.use.axes, gated)
            path = use.module if use else term.weight.name if term.weight else ""
            return structure.in_scope(path, scope)

        factors = terms.weights_of(cost, samples, counts)
        length = f" at {samples} samples; {structure.convention}" if cost == "macs" else ""
        return cls(
            structure=structure,
            value=lambda open_probability, form: terms.sizes(open_probability, form) @ factors,
            label=f"{cost} of scope {scope}{length}",
        )

    @torch.no_grad()
    def at(self, kept: Tensor) -> float:
        """Exact cost when these units are kept, whole where it is counted: (units,) of zeros and ones."""
        value = float(self.value(kept.double(), "cheaper"))
        return value if self.unit else round(value)

    def count(self, selection: Selection) -> float:
        """Exact cost of a selection, whole where it is counted."""
        return self.at(indicator(self.structure, selection.axes))


def _both_sides(binds: Sequence[Bind | Use]) -> str:
    """The axis that lies along both dimensions of a matrix and none beside it; empty where there is none."""
    axes = {name for bind in binds for name in bind.axes}
    return axes.pop() if len(binds) == 2 and len(axes) == 1 and not any(bind.across for bind in binds) else ""


def indicator(structure: Structure, kept: Mapping[str, Sequence[int]]) -> Tensor:
    """One for kept units and zero for others; absent axes are whole: (units,) in float64."""
    out = torch.ones(structure.size, dtype=torch.float64)
    for name, units in kept.items():
        axis, start = structure.axis(name), structure.offsets[name]
        chosen = set(units)
        if len(chosen) < axis.size:
            out[start : start + axis.size] = torch.tensor(
                [float(unit in chosen) for unit in axis.units], dtype=out.dtype
            )
    return out


def _pad(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    """Rows of unequal length as one matrix, at least one column wide."""
    width = max(1, max((len(row) for row in rows), default=1))
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows], dtype=torch.long).reshape(-1, width)
