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

from secateur.architectures.transducer import is_of_head
from secateur.cost.grid import Grids, Squares
from secateur.errors import ConfigError
from secateur.structure import Axis, DimBinding, MacTerm, Selection, Structure, Unit, Weight

#: The costs that are counted, from the declaration alone.
COSTS = ("parameters", "macs")

#: How factorised maps count: as two matrices; as what is cheaper, and what is left of them after a cut; as one matrix.
FactorizedForm = Literal["factorized", "cheaper", "dense"]


class Liveness:
    """How alive each unit of a structure is, given the open probability of each unit's own gate.

    Units of all axes stand one behind the other in one flat vector, in the order of ``structure.axes``.
    """

    def __init__(self, structure: Structure) -> None:
        offsets, always_open = structure.offsets, structure.size  # index `nobody` is always open
        self.axes = list(structure.axes.values())
        self.axis_index = {axis.name: index for index, axis in enumerate(self.axes)}
        unit_positions = {
            axis.name: {unit: offsets[axis.name] + unit_index for unit_index, unit in enumerate(axis.units)}
            for axis in self.axes
        }
        always_open_axis, gate_chains, requirement_rows, own_requirements, shared_rows = len(self.axes), [], [], [], []
        for axis in self.axes:
            shared_axes = [self.axis_index[name] for name in shared_requirements(structure, axis)]
            unit_requirements = [self.axis_index[name] for name in axis.requires if not shared_axes] or [
                always_open_axis
            ] * axis.size
            parent_gates = [unit_positions[name].get(unit, always_open) for name, unit in axis.parents]
            inherited_axes = self.inherited_requirements(structure, axis)
            for unit_index in range(axis.size):
                gate_chains.append([offsets[axis.name] + unit_index, *parent_gates])
                requirement_rows.append([unit_requirements[unit_index], *shared_axes, *inherited_axes])
            own_requirements += unit_requirements
            shared_rows.append(shared_axes)
        self.gate_chain = _pad(gate_chains, always_open)
        self.required_axes = _pad(requirement_rows, always_open_axis)
        self.own_requirement, self.shared_requirements = (
            torch.tensor(own_requirements, dtype=torch.long),
            _pad(shared_rows, always_open_axis),
        )
        self.axis_of_unit = torch.repeat_interleave(torch.tensor([axis.size for axis in self.axes]))
        self.has_min_unit = torch.tensor(
            [float(axis.min_units > 0 and axis.size > 0) for axis in self.axes], dtype=torch.float64
        )
        axes_of_size: dict[int, list[int]] = {}
        for index, axis in enumerate(self.axes):
            axes_of_size.setdefault(axis.size, []).append(index)
        self.axes_by_size = [
            (
                torch.tensor(indices),
                torch.tensor(
                    [[offsets[self.axes[i].name] + unit_index for unit_index in range(size)] for i in indices]
                ),
            )
            for size, indices in axes_of_size.items()
            if size
        ]
        self.parent_gates = _pad(
            [[unit_positions[name].get(unit, always_open) for name, unit in axis.parents] for axis in self.axes],
            always_open,
        )

    def __call__(
        self, open_probability: Tensor, axis_probabilities: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Liveness of units, expected counts of axes, and the probability that an axis has any living unit.

        Args:
            open_probability: (units,), float64.
            axes: What `some` returns for it, where that is known.

        Returns:
            (units + 1,) with a final one, (axes + 1,) with a final one, (axes,).
        """
        one_probability = open_probability.new_ones(1)
        p_open = torch.cat([open_probability, one_probability])
        p_any_open, p_any_alive = axis_probabilities or self.any_unit_probabilities(open_probability)
        p_alive = p_open[self.gate_chain].prod(-1) * p_any_open[self.required_axes].prod(-1)  # (units,)
        counts = torch.zeros_like(p_any_alive).index_add(0, self.axis_of_unit, p_alive)
        # A conv axis keeps a unit even when all its gates are closed: E[max(1, n)] = E[n] + P(n = 0).
        counts = counts + self.has_min_unit * (1.0 - p_any_open[:-1])
        p_present = p_open[self.parent_gates].prod(-1) * p_any_alive
        return torch.cat([p_alive, one_probability]), torch.cat([counts, one_probability]), p_present

    def any_unit_probabilities(self, open_probability: Tensor) -> tuple[Tensor, Tensor]:
        """The probability that an axis has a unit whose own gate is open, and that it has one with what it needs.

        Args:
            open_probability: (units,), float64.

        Returns:
            (axes + 1,) with a final one, (axes,).
        """
        p_any_open = torch.cat([1.0 - self._p_all_closed(open_probability), open_probability.new_ones(1)])
        p_any_alive = 1.0 - self._p_all_closed(open_probability * p_any_open[self.own_requirement])
        return p_any_open, p_any_alive * p_any_open[self.shared_requirements].prod(-1)

    def inherited_requirements(self, structure: Structure, axis: Axis) -> list[int]:
        """Numbers of the axes that units of this one need because their parents do."""
        requirements = [
            structure.axes[name].requires[structure.axes[name].units.index(unit)]
            for name, unit in axis.parents
            if structure.axes[name].requires and unit in structure.axes[name].units
        ]
        # A unit of the axis that its parent needs meets that need itself.
        return [self.axis_index[name] for name in requirements if name != axis.name]

    def _p_all_closed(self, probability: Tensor) -> Tensor:
        """P(no unit of the axis is open) for every axis, from its own units' probabilities: (units,) -> (axes,)."""
        p_closed = probability.new_ones(len(self.axes))
        for indices, units in self.axes_by_size:
            p_closed = p_closed.index_copy(0, indices, (1.0 - probability[units]).prod(-1))
        return p_closed


def shared_requirements(structure: Structure, axis: Axis) -> list[str]:
    """Other axes that all units of an axis need a unit of, as such or because what they need needs it, by name."""
    names = [axis.name]
    while len(set(axis.requires)) == 1 and axis.requires[0] not in names:
        names.append(axis.requires[0])
        axis = structure.axes[axis.requires[0]]
    return names[1:]


class Presence:
    """The probability that any unit of some axes is alive, for several such groups of axes; one for a group of none.

    Exact where the axes of a group share no gates but those that all of them share.
    """

    def __init__(self, structure: Structure, liveness: Liveness, groups: Sequence[Sequence[str]]) -> None:
        offsets, always_open, always_open_axis = structure.offsets, structure.size, len(liveness.axes)

        def positions(group_parents: Iterable[Unit]) -> list[int]:
            parent_units = [(name, structure.axes[name].units, unit) for name, unit in group_parents]
            return [offsets[name] + units.index(unit) for name, units, unit in parent_units if unit in units]

        self.liveness, self.shape = liveness, (len(groups), max((len(group) for group in groups), default=1))
        group_parents = [[set(structure.axes[name].parents) for name in group] for group in groups]
        shared_parents = [set.intersection(*parent_sets) if parent_sets else set() for parent_sets in group_parents]
        own_rows, requirement_rows = [], []
        for group, shared_units in zip(groups, shared_parents, strict=True):
            axes = [structure.axes[name] for name in group]
            padding = self.shape[1] - len(axes)
            own_rows += [positions(set(axis.parents) - shared_units) for axis in axes] + [[]] * padding
            requirement_rows += [liveness.inherited_requirements(structure, axis) for axis in axes] + [[]] * padding
        self.shared_gates = _pad([positions(shared_units) for shared_units in shared_parents], always_open)
        self.own_gates, self.required_axes = _pad(own_rows, always_open), _pad(requirement_rows, always_open_axis)
        self.axes = _pad(
            [[liveness.axis_index[name] for name in group] or [always_open_axis + 1] for group in groups],
            always_open_axis,
        )

    def __call__(self, open_probability: Tensor, axis_probabilities: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(units,) -> (groups,); `axes` is what `Liveness.some` returns for the units, where it is known."""
        one_probability = open_probability.new_ones(1)
        p_open = torch.cat([open_probability, one_probability])
        p_any_open, p_any_alive = axis_probabilities or self.liveness.any_unit_probabilities(open_probability)
        p_any_alive = p_any_alive + self.liveness.has_min_unit * (1.0 - p_any_alive)
        p_parents = (p_open[self.own_gates].prod(-1) * p_any_open[self.required_axes].prod(-1)).view(self.shape)
        p_present = (
            p_parents * torch.cat([p_any_alive, 0 * one_probability, one_probability])[self.axes]
        )  # (groups, axes), zero where there are no more
        return p_open[self.shared_gates].prod(-1) * (1.0 - (1.0 - p_present).prod(-1))


@dataclass(frozen=True)
class Term:
    """One parameter or attention product: what it lies on, and the use or weight it stands for."""

    weight: Weight | None
    use: MacTerm | None


class Terms:
    """All terms of a structure; a `Cost` weighs them."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.liveness = Liveness(structure)
        self.terms = [Term(weight=weight, use=None) for weight in structure.weights]
        self.terms += [Term(weight=None, use=use) for use in structure.mac_terms if use.axes]
        self.terms += [Term(weight=linear.dense, use=None) for linear in structure.factorizations]
        self.weight_index = {term.weight.name: index for index, term in enumerate(self.terms) if term.weight}
        factor_rows = [
            (self.weight_index[name] for name in (linear.inner, linear.outer, linear.dense.name))
            for linear in structure.factorizations
        ]
        self.factorized_terms = torch.tensor([list(row) for row in factor_rows], dtype=torch.long).reshape(-1, 3)
        axis_index, always_open = self.liveness.axis_index, structure.size
        group_indices: dict[tuple[int, ...], int] = {}
        grids: dict[int, tuple[str, str]] = {}
        squares: dict[int, str] = {}

        def group(axes: Sequence[str], outer: str) -> int:
            if not outer:
                return group_indices.setdefault(tuple(axis_index[name] for name in axes), len(group_indices))
            (inner,) = axes
            index = group_indices.setdefault((-1 - axis_index[outer], -1 - axis_index[inner]), len(group_indices))
            grids[index] = outer, inner
            return index

        term_group_rows, containing_units, presence_groups, constant_sizes = [], [], [], []
        for term in self.terms:
            binds = term.weight.bindings if term.weight else [term.use] if term.use else []
            square_axis = _square_axis(binds)
            if square_axis:
                index = group_indices.setdefault((-1 - axis_index[square_axis],), len(group_indices))
                squares[index] = square_axis
            term_group_rows.append([index] if square_axis else [group(bind.axes, bind.per_unit_of) for bind in binds])
            unit = term.weight.exists_with if term.weight else None
            containing_units.append(always_open if unit is None else self._position(*unit))
            presence_groups.append(term.weight.exists_if_any if term.weight else ())
            bound_dims = {bind.dim for bind in term.weight.bindings} if term.weight else set()
            shape = term.weight.shape if term.weight else ()
            widths = (
                [bind.width * (len(bind.axes) if square_axis else 1) for bind in term.weight.bindings]
                if term.weight
                else []
            )
            constant_sizes.append(
                float(math.prod([*widths, *(size for dim, size in enumerate(shape) if dim not in bound_dims)]))
            )
        self.term_groups = _pad(term_group_rows, len(group_indices))
        self.containing_unit = torch.tensor(containing_units)
        self.constant_size = torch.tensor(constant_sizes, dtype=torch.float64)
        conditional_indices = [index for index, axes in enumerate(presence_groups) if axes]
        self.conditional_terms = torch.tensor(conditional_indices, dtype=torch.long)
        self.presence = Presence(structure, self.liveness, [presence_groups[index] for index in conditional_indices])
        product_groups = {
            axes: index for axes, index in group_indices.items() if index not in grids and index not in squares
        }
        self.product_group_of_axis = torch.tensor(
            [index for axes, index in product_groups.items() for _ in axes], dtype=torch.long
        )
        self.product_axes = torch.tensor([axis for axes in product_groups for axis in axes], dtype=torch.long)
        self.grids, self.grid_groups = (
            Grids(structure, list(grids.values())),
            torch.tensor(list(grids), dtype=torch.long),
        )
        self.squares = Squares(structure, list(squares.values()))
        self.square_groups = torch.tensor(list(squares), dtype=torch.long)
        self.num_groups = len(group_indices)

    def _position(self, axis: str, unit: int) -> int:
        return self.structure.offsets[axis] + self.structure.axes[axis].units.index(unit)

    def sizes(self, open_probability: Tensor, form: FactorizedForm = "factorized") -> Tensor:
        """Expected size of every term (elements of a parameter, living units of a product): (units,) -> (terms,).

        Args:
            open_probability: (units,), float64; zeros and ones for the form ``cheaper``.
            form: How factorised maps count.
        """
        # With a gradient each has a graph of its own: in which order gradients are summed decides their last digits.
        axis_probabilities = None if torch.is_grad_enabled() else self.liveness.any_unit_probabilities(open_probability)
        p_alive, counts, _ = self.liveness(open_probability, axis_probabilities)
        sums = torch.zeros(self.num_groups, dtype=counts.dtype).index_add(
            0, self.product_group_of_axis, counts[self.product_axes]
        )
        sums = sums.index_copy(0, self.grid_groups, self.grids(open_probability))
        sums = sums.index_copy(0, self.square_groups, self.squares(open_probability))
        sums = torch.cat([sums, sums.new_ones(1)])
        sizes = self.constant_size * sums[self.term_groups].prod(-1) * p_alive[self.containing_unit]
        if len(self.conditional_terms):
            sizes = sizes * torch.ones_like(sizes).index_copy(
                0, self.conditional_terms, self.presence(open_probability, axis_probabilities)
            )
        if len(self.factorized_terms):
            factor_sizes, dense_sizes = sizes[self.factorized_terms[:, :2]].sum(-1), sizes[self.factorized_terms[:, 2]]
            factor_share = (
                torch.ones_like(factor_sizes)
                if form == "factorized"
                else (factor_sizes < dense_sizes).to(factor_sizes)
                if form == "cheaper"
                else 0 * factor_sizes
            )
            shares = torch.stack([factor_share, factor_share, 1 - factor_share], dim=1).detach()
            sizes = sizes * torch.ones_like(sizes).index_copy(0, self.factorized_terms.flatten(), shares.flatten())
        return sizes

    def unit_costs(self, cost: str, samples: int, is_counted: Callable[[Term, MacTerm | None], bool]) -> Tensor:
        """How much one unit of each term's size costs: (terms,) in float64.

        Args:
            cost: ``parameters`` or ``macs``.
            samples: Samples of audio, for MACs.
            counts: Whether a term (and its use, for MACs) is in the scope.
        """
        factors = torch.zeros(len(self.terms), dtype=torch.float64)
        if cost == "parameters":
            for index, term in enumerate(self.terms):
                factors[index] = float(term.weight is not None and is_counted(term, None))
            return factors
        products = {id(term.use): index for index, term in enumerate(self.terms) if term.use}
        for use in (*self.structure.mac_terms, *(linear.mac_term for linear in self.structure.factorizations)):
            index = self.weight_index[use.weight] if use.weight else products[id(use)]
            if is_counted(self.terms[index], use):
                factors[index] += float(self.structure.count_uses(use.use_count, samples))
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
    value: Callable[[Tensor, FactorizedForm], Tensor]
    dense: float = field(init=False)
    label: str
    unit: Literal["", "ms"] = ""

    def __post_init__(self) -> None:
        all_open = torch.ones(self.structure.size, dtype=torch.float64)
        object.__setattr__(self, "dense", float(self.value(all_open, "dense")))

    @property
    def short_label(self) -> str:
        """The label without the convention."""
        return self.label.partition(";")[0]

    def expected(self, open_probability: Tensor) -> Tensor:
        """What gates learn from, each rank of a factorised map at its price: (units,) -> ()."""
        return self.value(open_probability, "factorized")

    @classmethod
    def from_terms(
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

        def is_counted(term: Term, use: MacTerm | None) -> bool:
            if scope == "gated":
                if term.weight is not None:
                    return structure.lies_on_gated_axis(term.weight, gated)
                return term.use is not None and structure.has_gated_axis(term.use.axes, gated)
            path = use.module if use else term.weight.name if term.weight else ""
            return structure.is_in_scope(path, scope)

        factors = terms.unit_costs(cost, samples, is_counted)
        length = f" at {samples} samples; {structure.convention}" if cost == "macs" else ""
        return cls(
            structure=structure,
            value=lambda open_probability, form: terms.sizes(open_probability, form) @ factors,
            label=f"{cost} of scope {scope}{length}",
        )

    @torch.no_grad()
    def exact(self, kept_units: Tensor) -> float:
        """Exact cost when these units are kept, whole where it is counted: (units,) of zeros and ones."""
        value = float(self.value(kept_units.double(), "cheaper"))
        return value if self.unit else round(value)

    def count(self, selection: Selection) -> float:
        """Exact cost of a selection, whole where it is counted."""
        return self.exact(indicator(self.structure, selection.axes))


def _square_axis(binds: Sequence[DimBinding | MacTerm]) -> str:
    """The axis that lies along both dimensions of a matrix and none beside it; empty where there is none."""
    axes = {name for bind in binds for name in bind.axes}
    return axes.pop() if len(binds) == 2 and len(axes) == 1 and not any(bind.per_unit_of for bind in binds) else ""


def indicator(structure: Structure, kept_units: Mapping[str, Sequence[int]]) -> Tensor:
    """One for kept units and zero for others; absent axes are whole: (units,) in float64."""
    indicators = torch.ones(structure.size, dtype=torch.float64)
    for name, units in kept_units.items():
        axis, start = structure.axis(name), structure.offsets[name]
        kept_set = set(units)
        if len(kept_set) < axis.size:
            indicators[start : start + axis.size] = torch.tensor(
                [float(unit in kept_set) for unit in axis.units], dtype=indicators.dtype
            )
    return indicators


def _pad(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    """Rows of unequal length as one matrix, at least one column wide."""
    width = max(1, max((len(row) for row in rows), default=1))
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows], dtype=torch.long).reshape(-1, width)
