"""Expected and exact costs of a structure.

Every parameter and every multiply-accumulate count is a *term*: a constant times the number of living units along each
axis it lies on, times the probability that the parameter is there at all. Gates are independent, so expectations are
products and sums; at open probabilities of 0 and 1 they are the counts of the closed selection, exactly (all sums are
of whole numbers in float64).

Example: the two heads and the feed-forward block of `secateur.cost.liveness`, on 4 features. Expected living dimensions
of the heads are 0.75 and 0.5, of the feed-forward block 0.75.

    parameter                 dense        expected
    value projection          4 * 4 = 16   4 * (0.75 + 0.5) = 5
    output projection         4 * 4 = 16   4 * (0.75 + 0.5) = 5
    output bias                        4   4 * P(any head alive) = 4 * (1 - 0.5 * 0.625) = 2.75
    feed-forward, in          2 * 4 = 8    4 * 0.75 = 3
    feed-forward, in, bias             2   0.75
    feed-forward, out         4 * 2 = 8    4 * 0.75 = 3
    feed-forward, out, bias            4   4 * P(any unit alive) = 4 * (1 - 0.5 * 0.75) = 2.5
    all                               58   22

    MACs of 10 frames: each matrix once a frame, 10 * (5 + 5 + 3 + 3) = 160; the weighted sum of values once for each
    pair of frames and living value dimension, 10 * 10 * (0.75 + 0.5) = 125; 285 together.

A factorized map has three terms, its two matrices and the dense one that they stand for, of which a count takes the
cheaper side. The expectation that gates learn from takes the two matrices whatever they cost, since only so each rank
has a price; it begins above the dense cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from secateur.architectures.transducer import is_of_head
from secateur.cost.grid import Grids, Squares
from secateur.cost.liveness import Liveness, Presence, append_one, pad_rows
from secateur.errors import ConfigError
from secateur.structure import DimBinding, MacTerm, Selection, Structure, Weight

#: Costs that are counted from the structure alone.
COSTS = ("parameters", "macs")

#: How factorized maps count: as two matrices; as the cheaper of two and one, as after a cut; as one matrix.
FactorizedForm = Literal["factorized", "cheaper", "dense"]


@dataclass(frozen=True)
class Term:
    """Parameter or attention product; either `weight` or `mac_term` is set."""

    weight: Weight | None = None
    mac_term: MacTerm | None = None

    @property
    def path(self) -> str:
        """Name of the parameter, or path of the module that computes the product."""
        if self.weight is not None:
            return self.weight.name
        assert self.mac_term is not None
        return self.mac_term.module

    @property
    def bindings(self) -> Sequence[DimBinding | MacTerm]:
        """Axes along each dimension."""
        if self.weight is not None:
            return self.weight.bindings
        return [self.mac_term] if self.mac_term is not None else []

    @property
    def square_axis(self) -> str:
        """Name of the axis that lies alone along two dimensions of a matrix; empty without such an axis."""
        axes = {name for binding in self.bindings for name in binding.axes}
        is_square = (
            len(self.bindings) == 2 and len(axes) == 1 and not any(binding.per_unit_of for binding in self.bindings)
        )
        return axes.pop() if is_square else ""

    @property
    def constant_size(self) -> int:
        """Elements for a single living unit along each bound dimension; 1 for a product.

        Example: a (6, 8) matrix whose first dimension holds 3 units of width 2 has 2 * 8 = 16 elements for each unit.
        """
        if self.weight is None:
            return 1
        bound_dims = {binding.dim for binding in self.weight.bindings}
        free_sizes = [size for dim, size in enumerate(self.weight.shape) if dim not in bound_dims]
        # Units of a square matrix may have several places on each side: (2 n)^2 elements are 4 for each of n^2.
        is_square = bool(self.square_axis)
        widths = [binding.width * (len(binding.axes) if is_square else 1) for binding in self.weight.bindings]
        return math.prod([*widths, *free_sizes])


class Terms:
    """Terms of a structure; each `Cost` is a weighted sum of terms.

    The size of a term is its constant size times the expected number of units along each of its dimensions. A *factor*
    is such a number; terms share it. It is the expected sum of the living units of some axes (of `v_proj`, those of
    all heads), the expected number of places in a grid, or the expected square of a number of units.

    Example, with the axes of `secateur.cost.liveness`: the factors are 0 for the dimensions of both heads (axes 1 and
    2) and 1 for the feed-forward units (axis 3). Index 2 behind them is the factor 1, for terms on fewer dimensions.

        value projection (dimensions, 4)     factors [0]   constant size 4
        output bias (4,)                     factors [2]   constant size 4, present if a head is alive
        product_axes                         [1, 2, 3]     axes whose counts are summed,
        product_factor_of_axis               [0, 0, 1]     and the factor to which each is added
    """

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.liveness = Liveness(structure)
        self.terms = [Term(weight=weight) for weight in structure.weights]
        self.terms += [Term(mac_term=mac_term) for mac_term in structure.mac_terms if mac_term.axes]
        self.terms += [Term(weight=linear.dense) for linear in structure.factorizations]
        self.term_of_weight = {term.weight.name: index for index, term in enumerate(self.terms) if term.weight}
        factorized_rows = [
            [self.term_of_weight[name] for name in (linear.inner, linear.outer, linear.dense.name)]
            for linear in structure.factorizations
        ]
        # Terms of the two matrices and of the dense one: (factorized maps, 3)
        self.factorized_terms = torch.tensor(factorized_rows, dtype=torch.long).reshape(-1, 3)
        self.constant_size = torch.tensor([float(term.constant_size) for term in self.terms], dtype=torch.float64)
        self._index_factors()
        self._index_conditions()

    def _index_factors(self) -> None:
        """Number the factors, and list the factors of each term."""
        factor_index: dict[tuple[str, ...], int] = {}
        products: dict[int, tuple[str, ...]] = {}
        grids: dict[int, tuple[str, str]] = {}
        squares: dict[int, str] = {}

        def index_of(*key: str) -> int:
            return factor_index.setdefault(key, len(factor_index))

        factor_rows: list[list[int]] = []
        for term in self.terms:
            row: list[int] = []
            if term.square_axis:
                row.append(index_of("square", term.square_axis))
                squares[row[-1]] = term.square_axis
            else:
                for binding in term.bindings:
                    if binding.per_unit_of:
                        (inner_axis,) = binding.axes
                        row.append(index_of("grid", binding.per_unit_of, inner_axis))
                        grids[row[-1]] = binding.per_unit_of, inner_axis
                    else:
                        row.append(index_of("sum", *binding.axes))
                        products[row[-1]] = binding.axes
            factor_rows.append(row)
        self.num_factors = len(factor_index)
        self.term_factors = pad_rows(factor_rows, self.num_factors)  # (terms, most dimensions)
        product_pairs = [(index, name) for index, axes in products.items() for name in axes]
        self.product_factor_of_axis = torch.tensor([index for index, _ in product_pairs], dtype=torch.long)
        self.product_axes = torch.tensor(
            [self.liveness.axis_index[name] for _, name in product_pairs], dtype=torch.long
        )
        self.grids = Grids(self.structure, list(grids.values()))
        self.grid_factors = torch.tensor(list(grids), dtype=torch.long)
        self.squares = Squares(self.structure, list(squares.values()))
        self.square_factors = torch.tensor(list(squares), dtype=torch.long)

    def _index_conditions(self) -> None:
        """List the unit that each term lies in, and the terms that depend on whether any unit of some axes is alive."""
        containing_units: list[int] = []
        conditional_terms: list[int] = []
        conditions: list[tuple[str, ...]] = []
        for index, term in enumerate(self.terms):
            unit = term.weight.exists_with if term.weight else None
            containing_units += self.liveness.unit_indices([unit]) if unit else [self.liveness.always_open]
            if term.weight is not None and term.weight.exists_if_any:
                conditional_terms.append(index)
                conditions.append(term.weight.exists_if_any)
        self.containing_unit = torch.tensor(containing_units)  # (terms,)
        self.conditional_terms = torch.tensor(conditional_terms, dtype=torch.long)
        self.presence = Presence(self.liveness, conditions)

    def sizes(self, open_probability: Tensor, form: FactorizedForm = "factorized") -> Tensor:
        """Compute the expected size of every term: elements of a parameter, living units of a product.

        Args:
            open_probability: (units,), float64; zeros and ones for the form ``cheaper``.
            form: How factorized maps count.

        Returns:
            (terms,), float64.
        """
        # With a gradient each user has a graph of its own: the order in which gradients are summed decides their last
        # digits.
        p_axis = None if torch.is_grad_enabled() else self.liveness.axis_probabilities(open_probability)
        units = self.liveness(open_probability, p_axis)
        factors = units.counts.new_zeros(self.num_factors)
        factors = factors.index_add(0, self.product_factor_of_axis, units.counts[self.product_axes])
        factors = factors.index_copy(0, self.grid_factors, self.grids(open_probability))
        factors = append_one(factors.index_copy(0, self.square_factors, self.squares(open_probability)))
        # Factors of each term, multiplied: (terms, most dimensions) -> (terms,)
        sizes = self.constant_size * factors[self.term_factors].prod(-1) * units.p_alive[self.containing_unit]
        if len(self.conditional_terms):
            p_present = self.presence(open_probability, p_axis)
            sizes = sizes * torch.ones_like(sizes).index_copy(0, self.conditional_terms, p_present)
        if len(self.factorized_terms):
            shares = self._factorized_shares(sizes, form)  # (factorized maps, 3)
            sizes = sizes * torch.ones_like(sizes).index_copy(0, self.factorized_terms.flatten(), shares.flatten())
        return sizes

    def _factorized_shares(self, sizes: Tensor, form: FactorizedForm) -> Tensor:
        """Return 1 for the matrices that count of each factorized map and 0 for the rest: (terms,) -> (maps, 3)."""
        two_matrices = sizes[self.factorized_terms[:, :2]].sum(-1)  # (maps, 2) -> (maps,)
        one_matrix = sizes[self.factorized_terms[:, 2]]
        match form:
            case "factorized":
                counts_as_two = torch.ones_like(two_matrices)
            case "cheaper":
                counts_as_two = (two_matrices < one_matrix).to(two_matrices)
            case "dense":
                counts_as_two = torch.zeros_like(two_matrices)
        # Columns as in `factorized_terms`: inner, outer, dense. No gradient flows through the decision.
        return torch.stack([counts_as_two, counts_as_two, 1 - counts_as_two], dim=1).detach()

    def unit_costs(self, cost: str, samples: int, is_counted: Callable[[Term, MacTerm | None], bool]) -> Tensor:
        """Return the cost of each term for a size of 1.

        Args:
            cost: ``parameters`` or ``macs``.
            samples: Samples of audio, for MACs.
            is_counted: Whether a term (and its use, for MACs) is in the scope.

        Returns:
            (terms,), float64. A term's MACs are its size times how often it is used.
        """
        costs = torch.zeros(len(self.terms), dtype=torch.float64)
        if cost == "parameters":
            for index, term in enumerate(self.terms):
                costs[index] = float(term.weight is not None and is_counted(term, None))
            return costs
        term_of_product = {id(term.mac_term): index for index, term in enumerate(self.terms) if term.mac_term}
        for mac_term in (*self.structure.mac_terms, *(linear.mac_term for linear in self.structure.factorizations)):
            index = self.term_of_weight[mac_term.weight] if mac_term.weight else term_of_product[id(mac_term)]
            if is_counted(self.terms[index], mac_term):
                # A linear map that is used once a frame has MACs of its elements times the frames.
                costs[index] += float(self.structure.count_uses(mac_term.use_count, samples))
        return costs


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A cost over a scope, as a function of open probabilities.

    Attributes:
        structure: Structure whose units the cost depends on.
        value: The cost, a float64 scalar through which gradients flow: open probabilities (units,) and how factorized
            maps count -> ().
        dense: Cost of the model as it stands, its factorized maps taken as the dense ones that they stand for.
        label: Cost, scope and convention in words.
        unit: ``ms`` for a time; empty for a count.
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
        """Label without the convention."""
        return self.label.partition(";")[0]

    def expected(self, open_probability: Tensor) -> Tensor:
        """Compute the cost that gates learn from, with a price for each rank of a factorized map: (units,) -> ()."""
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
        """Make a counted cost by name.

        Args:
            terms: Terms of the structure.
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

        def is_counted(term: Term, mac_term: MacTerm | None) -> bool:
            if scope != "gated":
                return structure.is_in_scope(mac_term.module if mac_term else term.path, scope)
            if term.weight is not None:
                return structure.lies_on_gated_axis(term.weight, gated)
            return term.mac_term is not None and structure.has_gated_axis(term.mac_term.axes, gated)

        unit_costs = terms.unit_costs(cost, samples, is_counted)
        length = f" at {samples} samples; {structure.convention}" if cost == "macs" else ""
        return cls(
            structure=structure,
            value=lambda open_probability, form: terms.sizes(open_probability, form) @ unit_costs,
            label=f"{cost} of scope {scope}{length}",
        )

    @torch.no_grad()
    def exact(self, kept_units: Tensor) -> float:
        """Return the exact cost of kept units, a whole number for a count: (units,) of 0 and 1."""
        value = float(self.value(kept_units.double(), "cheaper"))
        return value if self.unit else round(value)

    def count(self, selection: Selection) -> float:
        """Return the exact cost of a selection, a whole number for a count."""
        return self.exact(indicator(self.structure, selection.axes))


def indicator(structure: Structure, kept_units: Mapping[str, Sequence[int]]) -> Tensor:
    """Return 1 for kept units and 0 for removed units; axes without an entry are kept whole.

    Args:
        structure: The model's structure.
        kept_units: Original indices of the kept units by name of the axis.

    Returns:
        (units,), float64.
    """
    indicators = torch.ones(structure.size, dtype=torch.float64)
    for name, units in kept_units.items():
        axis = structure.axis(name)
        start = structure.offsets[name]
        kept_set = set(units)
        if len(kept_set) < axis.size:
            flags = [float(unit in kept_set) for unit in axis.units]
            indicators[start : start + axis.size] = torch.tensor(flags, dtype=indicators.dtype)
    return indicators
