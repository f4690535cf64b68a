"""Expected costs of two heads and a feed-forward block, equal to the examples by hand in the modules' docstrings."""

from __future__ import annotations

import pytest
import torch

from secateur.cost import Cost, Terms
from secateur.cost.liveness import Liveness
from secateur.structure import Axis, DimBinding, MacTerm, Selection, Structure, UseCount, Weight

HEADS, UNITS = "attention/heads", "feed_forward/units"
DIMS = ("attention/head0.vo", "attention/head1.vo")
OPEN_PROBABILITY = torch.tensor([0.5, 0.5, 1, 0.5, 0.5, 0.5, 0.5, 0.25], dtype=torch.float64)
FRAMES = 10


@pytest.fixture(scope="module")
def structure() -> Structure:
    axes = [Axis(name=HEADS, units=(0, 1), original=2, requires=DIMS)]
    axes += [Axis(name=name, units=(0, 1), original=2, parents=((HEADS, head),)) for head, name in enumerate(DIMS)]
    axes.append(Axis(name=UNITS, units=(0, 1), original=2))

    def weight(name: str, shape: tuple[int, ...], dim: int, *names: str) -> Weight:
        return Weight(name=name, shape=shape, is_matrix=len(shape) == 2, bindings=(DimBinding(dim=dim, axes=names),))

    def bias(name: str, *names: str) -> Weight:
        return Weight(name=name, shape=(4,), is_matrix=False, exists_if_any=names)

    weights = (
        weight("attention.v_proj.weight", (4, 4), 0, *DIMS),
        weight("attention.out_proj.weight", (4, 4), 1, *DIMS),
        bias("attention.out_proj.bias", HEADS),
        weight("feed_forward.in.weight", (2, 4), 0, UNITS),
        weight("feed_forward.in.bias", (2,), 0, UNITS),
        weight("feed_forward.out.weight", (4, 2), 1, UNITS),
        bias("feed_forward.out.bias", UNITS),
    )
    mac_terms = [
        MacTerm(module=weight.module, use_count=UseCount(level=0), weight=weight.name)
        for weight in weights
        if weight.is_matrix
    ]
    mac_terms.append(MacTerm(module="attention", use_count=UseCount(level=0, power=2), axes=DIMS))
    return Structure(
        model_type="example",
        axes={axis.name: axis for axis in axes},
        weights=weights,
        mac_terms=tuple(mac_terms),
        norms=(),
        stages=(),
        convention="attention without softmax",
        sees_padding=False,
    )


def test_index_tables_are_those_of_the_example(structure: Structure) -> None:
    liveness = Liveness(structure)
    assert liveness.gate_chain.tolist() == [[0, 8], [1, 8], [2, 0], [3, 0], [4, 1], [5, 1], [6, 8], [7, 8]]
    assert liveness.required_axes.tolist() == [[1], [2], [4], [4], [4], [4], [4], [4]]
    terms = Terms(structure)
    assert terms.term_factors.tolist() == [[0], [0], [2], [1], [1], [1], [2], [0]]
    assert terms.product_axes.tolist() == [1, 2, 3]
    assert terms.product_factor_of_axis.tolist() == [0, 0, 1]
    assert terms.constant_size.tolist() == [4, 4, 4, 4, 1, 4, 4, 1]


def test_expected_units_are_those_of_the_example(structure: Structure) -> None:
    units = Liveness(structure)(OPEN_PROBABILITY)
    assert units.p_alive.tolist() == [0.5, 0.375, 0.5, 0.25, 0.25, 0.25, 0.5, 0.25, 1]
    assert units.counts.tolist() == [0.875, 0.75, 0.5, 0.75, 1]


def test_expected_costs_are_those_of_the_example(structure: Structure) -> None:
    terms = Terms(structure)
    sizes = terms.sizes(OPEN_PROBABILITY).tolist()
    assert dict(zip((term.path for term in terms.terms), sizes, strict=True)) == {
        "attention.v_proj.weight": 5,
        "attention.out_proj.weight": 5,
        "attention.out_proj.bias": 2.75,
        "feed_forward.in.weight": 3,
        "feed_forward.in.bias": 0.75,
        "feed_forward.out.weight": 3,
        "feed_forward.out.bias": 2.5,
        "attention": 1.25,
    }
    parameters = Cost.from_terms(terms, cost="parameters")
    macs = Cost.from_terms(terms, cost="macs", samples=FRAMES)
    assert (parameters.dense, float(parameters.expected(OPEN_PROBABILITY))) == (58, 22)
    assert float(macs.expected(OPEN_PROBABILITY)) == 285


def test_the_cost_of_a_selection_is_a_count(structure: Structure) -> None:
    # One dimension of head 0 and one unit: 4 + 4 + 4 and 4 + 1 + 4 + 4 parameters.
    selection = Selection(axes={HEADS: (0,), DIMS[0]: (1,), UNITS: (0,)})
    assert Cost.from_terms(Terms(structure), cost="parameters").count(selection) == 25
