"""What factorised maps cost: expected above the dense cost, counted at the cheaper side, and predicted in time."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from latency_toy import toy_table
from support import HEAD_DIM, HEADS, UNITS, tiny, tiny_structure

from secateur.cost import Cost, Terms, breakdown
from secateur.cost.expected import indicator
from secateur.cost.predicted_time import latency
from secateur.hf.declare import declare
from secateur.structure import Selection, Structure, normalize
from secateur.structure import axis as names
from secateur.surgery import cut
from secateur.surgery.factorize import factorize

WIDTH = HEADS * HEAD_DIM
BLOCK = "encoder.layers.0.feed_forward"
PATH = f"{BLOCK}.output_dense"


def one() -> Structure:
    """The structure of a tiny model with one factorised map, of ten units to 24 features."""
    return declare(factorize(tiny("hubert", "large"), {PATH: UNITS}).config)


def test_all_ranks_cost_more_than_the_dense_model_while_they_are_learned_and_as_much_when_they_are_counted() -> None:
    structure, dense = one(), sum(p.numel() for p in tiny("hubert", "large").parameters())
    full_result = torch.ones(structure.size, dtype=torch.float64)
    cost = Cost.from_terms(Terms(structure), cost="parameters")
    assert cost.dense == cost.exact(full_result) == dense
    extra = UNITS * (UNITS + WIDTH) - UNITS * WIDTH
    assert float(cost.expected(full_result)) == dense + extra
    assert breakdown(structure, samples=1600).parameters == dense + extra  # as the model stands
    assert float(cost.expected(full_result)) / cost.dense > 1


def test_each_rank_has_the_price_of_its_row_and_column() -> None:
    structure = one()
    cost, start = Cost.from_terms(Terms(structure), cost="parameters"), structure.offsets[names.ranks(PATH)]
    probability = torch.full((structure.size,), 0.9, dtype=torch.float64).requires_grad_(True)
    (gradient,) = torch.autograd.grad(cost.expected(probability), probability)
    # Layer and block are open with 0.81; the inner matrix has as many columns as units are open. The last rank stays.
    single_result = 0.9 * 0.9 * (WIDTH * (1 - 0.1**UNITS) + 0.9 * UNITS) * (1 - 0.1 ** (UNITS - 1))
    assert gradient[start : start + UNITS].tolist() == pytest.approx([single_result] * UNITS)


@pytest.mark.parametrize("scope", ["gated", PATH])
def test_a_factorised_map_is_counted_against_the_dense_matrix(scope: str) -> None:
    structure = one()
    cost = Cost.from_terms(Terms(structure), cost="parameters", scope=scope, gated=frozenset([names.ranks(PATH)]))
    bias = 0 if scope == "gated" else WIDTH
    assert cost.dense == UNITS * WIDTH + bias
    assert cost.count(Selection(axes={names.ranks(PATH): (0, 4)})) == 2 * (UNITS + WIDTH) + bias


@pytest.mark.parametrize("family", ["wavlm", "parakeet_encoder"])
@torch.no_grad()
def test_expected_cost_of_ranks_is_the_mean_over_draws_of_models_that_keep_two_matrices(family: str) -> None:
    structure = tiny_structure(family, "low_rank")
    generator = torch.Generator().manual_seed(1)
    probability = torch.rand(structure.size, generator=generator, dtype=torch.float64)
    for axis in structure.axes.values():
        units = slice(structure.offsets[axis.name], structure.offsets[axis.name] + axis.size)
        scale = {"layer": 0.0, "qk": 0.35, "vo": 0.35, "heads": 0.8}.get(axis.kind, 1.0)
        probability[units] *= scale  # whole heads and projections are often gone
        if axis.kind == "layer":
            probability[units] = 1.0
    terms, draws = Terms(structure), []
    counted = [Cost.from_terms(terms, cost=cost, samples=1600) for cost in ("parameters", "macs")]
    for _ in range(800):
        opened = (torch.rand(structure.size, generator=generator, dtype=torch.float64) < probability).tolist()
        axes = {
            name: tuple(u for position, u in enumerate(axis.units) if opened[structure.offsets[name] + position])
            for name, axis in structure.axes.items()
        }
        selection = indicator(structure, normalize(structure, Selection(axes=axes)).selection.axes)
        draws.append([float(item.value(selection, "factorized")) for item in counted])
    means, errors = torch.tensor(draws).mean(0), torch.tensor(draws).std(0) / len(draws) ** 0.5
    for item, mean, error in zip(counted, means.tolist(), errors.tolist(), strict=True):
        assert abs(float(item.expected(probability)) - mean) < 4 * error
        assert error < 0.02 * mean  # tight enough to notice


def test_two_products_are_priced_by_what_a_feed_forward_block_takes() -> None:
    structure, table = one(), toy_table("hubert")
    cost = latency(Terms(structure), table)
    half = partial(_half, table.feed_forward)
    selection = Selection(axes={names.ranks(PATH): (0, 1, 5)})
    extra = half(3) * UNITS / WIDTH + half(3) - half(UNITS)
    assert cost.count(selection) == pytest.approx(cost.dense + extra, rel=1e-12)
    assert cost.dense == pytest.approx(latency(Terms(tiny_structure("hubert", "large")), table).dense, rel=1e-12)
    assert cost.count(Selection(axes={})) == cost.dense  # goes back to one matrix
    removed = Selection(axes={names.block(BLOCK): ()})
    assert cost.count(removed) == pytest.approx(latency(Terms(tiny_structure("hubert", "large")), table).count(removed))


def _half(curve: object, units: int) -> float:
    position = curve.interpolate(torch.tensor([float(units)], dtype=torch.float64))  # type: ignore[attr-defined]
    return (float(position) - curve.ms[0]) / 2  # type: ignore[attr-defined]


def test_a_cut_model_costs_what_was_counted() -> None:
    model = factorize(tiny("hubert", "large"), {PATH: UNITS})
    selection = Selection(axes={names.ranks(PATH): (0, 1, 5), names.units(BLOCK): (0, 1, 2, 3, 4, 5, 6)})
    small = cut(model, selection)
    count = Cost.from_terms(Terms(declare(model.config)), cost="parameters").count(selection)
    assert count == sum(p.numel() for p in small.parameters()) == breakdown(declare(small.config), samples=1).parameters
