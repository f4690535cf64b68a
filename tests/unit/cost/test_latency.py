"""Latency as a cost: the sum by hand, liveness, gradients, and what a table may hold."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from latency_toy import GROUPS, curve, surface, toy_table
from support import CHANNELS, HEAD_DIM, HEADS, LAYERS, UNITS, Plan, make_selection, plans, tiny_config, tiny_structure

import wav2vec2_axes as names
from secateur.architectures.registry import shape_of
from secateur.architectures.wav2vec2 import positional_conv_shape
from secateur.config import check
from secateur.cost import Terms, breakdown
from secateur.cost.expected import indicator
from secateur.cost.latency_table import Conditions, LatencyCurve, LatencySurface, LatencyTable
from secateur.cost.predicted_time import latency
from secateur.errors import ConfigError, SecateurError
from secateur.hf.declare import declare
from secateur.hf.model_view import ConfigView
from secateur.records.files import write_json
from secateur.structure import Selection, Structure, normalize
from secateur.surgery.cut import cut_config

MODELS = [("wavlm", "base"), ("hubert", "large")]


def interpolated(attention_curves: LatencyCurve, width: float) -> float:
    """The curve at a width, by hand."""
    for (left_item, low), (right, high) in zip(
        points := list(zip(attention_curves.widths, attention_curves.ms, strict=True)), points[1:], strict=False
    ):
        if width <= right:
            return low + (high - low) * (width - left_item) / (right - left_item)
    raise AssertionError(width)


def by_hand(config: Any, table: LatencyTable) -> float:
    """Milliseconds of the model that a config describes, from its shape alone."""
    shape, attention_curves = shape_of(config), table.attention
    widths = config.conv_dim
    total = interpolated(table.first_convolution, widths[0]) + interpolated(table.projection, widths[-1])
    for grid, inputs, outputs in zip(table.convolutions, widths, widths[1:], strict=False):
        single_result = grid.ms[0][-1] / grid.outputs[-1]
        product = (grid.ms[1][-1] - grid.ms[0][-1]) / grid.outputs[-1] / grid.inputs[-1]
        total += outputs * (single_result + product * inputs)
    total += interpolated(table.positional, len(positional_conv_shape(config, shape).groups)) + table.rest
    for path in shape.layers:
        attention, units = shape.attention(f"{path}.attention"), shape.feed_forward(f"{path}.feed_forward").units
        total += table.layer
        if attention.heads:
            total += (
                attention_curves.block
                + attention_curves.run * len(attention.groups)
                + attention_curves.head * len(attention.heads)
            )
            total += sum(interpolated(attention_curves.query_key, len(num_kept)) for num_kept in attention.query_key)
            total += sum(
                interpolated(attention_curves.value_output, len(num_kept)) for num_kept in attention.value_output
            )
        if units:
            total += interpolated(table.feed_forward, len(units))
    return total


@pytest.mark.parametrize(("family", "size"), MODELS)
@given(plan=st.one_of(plans(ragged=True), plans(ragged=False)))
def test_latency_of_a_selection_is_the_sum_over_the_blocks_of_the_cut_model(family: str, size: str, plan: Plan) -> None:
    structure, table = tiny_structure(family, size), toy_table(family)
    closed = normalize(structure, make_selection(structure, plan)).selection
    small = cut_config(ConfigView(tiny_config(family, size)), structure, closed).config
    cost = latency(Terms(structure), table)
    assert cost.count(closed) == pytest.approx(by_hand(small, table), rel=1e-12)
    # A model that was cut before is predicted as it stands, by the same table.
    assert latency(Terms(declare(small)), table).dense == pytest.approx(by_hand(small, table), rel=1e-12)


def test_an_unclosed_vector_costs_what_its_closed_selection_costs_to_the_last_bit() -> None:
    structure = tiny_structure("wavlm", "base")
    cost, draw = latency(Terms(structure), toy_table()), random.Random(0)
    for _ in range(20):
        kept_units = torch.tensor([draw.random() < 0.6 for _ in range(structure.size)])
        for axis in structure.axes_of_kinds(("layer",)):
            kept_units[structure.offsets[axis.name]] = True
        units = {
            name: tuple(
                unit for position, unit in enumerate(axis.units) if kept_units[structure.offsets[name] + position]
            )
            for name, axis in structure.axes.items()
        }
        assert cost.count(normalize(structure, Selection(axes=units)).selection) == cost.exact(kept_units)


def test_a_removed_block_and_a_dead_head_cost_nothing() -> None:
    structure, table = tiny_structure("hubert", "base"), toy_table("hubert")
    cost, attention_curves = latency(Terms(structure), table), table.attention
    head = attention_curves.head + attention_curves.query_key.ms[-1] + attention_curves.value_output.ms[-1]
    block = attention_curves.block + attention_curves.run + HEADS * head

    def saved(**axes: tuple[int, ...]) -> float:
        by_name = {name.replace("__", "/").replace("_0_", ".0."): kept_units for name, kept_units in axes.items()}
        return cost.dense - cost.count(normalize(structure, Selection(axes=by_name)).selection)

    assert saved(**{names.attention_block(1): ()}) == pytest.approx(block)
    assert saved(**{names.heads(1): ()}) == pytest.approx(block)
    assert saved(**{names.heads(1): (0, 2)}) == pytest.approx(2 * head)
    assert saved(**{names.value_output(1, 3): ()}) == pytest.approx(head)  # its queries and keys go with it
    assert saved(**{names.feed_forward_block(2): ()}) == pytest.approx(table.feed_forward.ms[-1])
    assert saved(**{names.feed_forward_units(2): ()}) == pytest.approx(table.feed_forward.ms[-1])
    pair = block + table.feed_forward.ms[-1] + table.layer
    assert saved(**{names.whole_layer(LAYERS - 1): ()}) == pytest.approx(pair)
    # A head that is no longer like the others is a run of its own, which can cost more than the unit saved.
    assert saved(**{names.query_key(1, 3): (0, 1, 2, 3, 4)}) == pytest.approx(0.08 - attention_curves.run)


@pytest.mark.parametrize(("family", "size"), MODELS)
def test_gradients_are_finite_differences_and_reach_every_unit(family: str, size: str) -> None:
    structure = tiny_structure(family, size)
    cost = latency(Terms(structure), toy_table(family))
    draw = torch.Generator().manual_seed(1)
    probability = (0.2 + 0.7 * torch.rand(structure.size, generator=draw, dtype=torch.float64)).requires_grad_()
    (gradient,) = torch.autograd.grad(cost.expected(probability), probability)
    assert bool((gradient > 0).all())
    step = 1e-6
    for unit in range(0, structure.size, 3):
        with torch.no_grad():
            high, low = (cost.expected(probability + sign * step * _one(structure, unit)) for sign in (1, -1))
        assert float(gradient[unit]) == pytest.approx(float(high - low) / (2 * step), rel=1e-4, abs=1e-8)


def _one(structure: Structure, unit: int) -> torch.Tensor:
    out = torch.zeros(structure.size, dtype=torch.float64)
    out[unit] = 1.0
    return out


def test_the_expected_latency_of_a_block_is_its_latency_times_the_probability_that_it_is_there() -> None:
    structure, table = tiny_structure("hubert", "base"), toy_table("hubert")
    cost = latency(Terms(structure), table)
    probability = indicator(structure, {})
    probability[structure.offsets[names.feed_forward_block(0)]] = 0.25
    probability[structure.offsets[names.attention_block(1)]] = 0.5
    attention_curves = table.attention
    head = attention_curves.head + attention_curves.query_key.ms[-1] + attention_curves.value_output.ms[-1]
    block = attention_curves.block + attention_curves.run + HEADS * head
    saved_state = 0.75 * table.feed_forward.ms[-1] + 0.5 * block
    assert float(cost.expected(probability)) == pytest.approx(cost.dense - saved_state, rel=1e-12)


def test_scopes_add_up_and_blocks_are_those_of_the_breakdown() -> None:
    structure, table = tiny_structure("wavlm", "large"), toy_table()
    terms = Terms(structure)
    full_scope, encoder, front = (
        latency(terms, table, scope=scope).dense for scope in ("whole", "encoder", "frontend")
    )
    assert full_scope == pytest.approx(encoder + front + table.projection.ms[-1] + table.rest)
    first_item = latency(terms, table, scope="encoder.layers.1")
    assert first_item.dense == pytest.approx(
        sum(latency(terms, table, scope=f"encoder.layers.1.{block}").dense for block in ("attention", "feed_forward"))
        + table.layer
    )
    cost_rows = breakdown(structure, samples=1600, table=table)
    assert cost_rows.latency == pytest.approx(full_scope)
    assert cost_rows.blocks["encoder.layers.1.feed_forward"].latency == pytest.approx(table.feed_forward.ms[-1])
    assert breakdown(structure, samples=1600).latency is None
    for scope in ("gated", "encoder.layers.1.attention.q_proj"):
        with pytest.raises(ConfigError, match="There is no latency of the scope"):
            latency(terms, table, scope=scope)


def test_a_curve_and_a_surface_are_linear_between_their_knots() -> None:
    attention_curves = LatencyCurve(widths=(0.0, 2.0, 6.0), ms=(1.0, 2.0, 10.0))
    assert attention_curves.interpolate(torch.tensor([0.0, 1.0, 2.0, 3.0, 6.0]).double()).tolist() == [
        1.0,
        1.5,
        2.0,
        4.0,
        10.0,
    ]
    grid = LatencySurface(inputs=(0.0, 2.0), outputs=(0.0, 4.0, 8.0), ms=((0.0, 1.0, 3.0), (0.0, 3.0, 9.0)))
    result = grid.interpolate(torch.tensor([0.0, 1.0, 2.0, 1.0]).double(), torch.tensor([4.0, 4.0, 8.0, 6.0]).double())
    assert result.tolist() == [1.0, 2.0, 9.0, 4.0]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: LatencyCurve(widths=(1.0, 2.0), ms=(0.0, 1.0)), "Widths go from 0 up"),
        (lambda: LatencyCurve(widths=(0.0, 2.0), ms=(0.0,)), "2 widths need as many times"),
        (lambda: LatencyCurve(widths=(0.0, 2.0, 4.0), ms=(0.0, 2.0, 2.0)), "Times rise with widths"),
        (lambda: LatencyCurve(widths=(0.0, 2.0), ms=(0.0, float("nan"))), "Times rise with widths"),
        (lambda: LatencySurface(inputs=(0.0, 1.0), outputs=(0.0, 1.0), ms=((0.0, 1.0), (0.5, 2.0))), "without outputs"),
        (lambda: LatencySurface(inputs=(0.0, 1.0), outputs=(0.0, 1.0), ms=((0.0, 1.0),)), "needs a time for each"),
        (lambda: toy_table(layer=-1.0), "layer: got -1.0"),
        (lambda: check(Conditions(seconds=0.0)), "seconds: expected a number > 0 and <= 3600, got 0"),
        (lambda: check(Conditions(batch=0)), "batch: expected an integer >= 1, got 0"),
        (lambda: check(Conditions(threads=-2)), "threads: expected an integer >= 1 or null, got -2"),
    ],
)
def test_what_is_no_table_is_refused(make: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make()


def test_a_table_comes_back_from_its_file_to_the_last_bit(tmp_path: Path) -> None:
    table = toy_table(rest=0.1 + 0.2)
    write_json(tmp_path / "table.json", table.to_json())
    reloaded = LatencyTable.load(tmp_path / "table.json")
    assert reloaded == table
    assert reloaded.identity == table.identity != toy_table().identity
    data = json.loads((tmp_path / "table.json").read_text())
    for change in ({"rest": "x"}, {"rest": -1.0}, {"unknown": 1}, {"format": 2}):
        write_json(tmp_path / "other.json", data | change)
        with pytest.raises(SecateurError, match=r"other\.json: not a table of latencies"):
            LatencyTable.load(tmp_path / "other.json")


def test_a_table_of_another_architecture_is_refused() -> None:
    terms = Terms(tiny_structure("wavlm", "base"))
    wider = surface(CHANNELS[0], CHANNELS[1] + 1, item=0.1, product=0.1)
    for table in (
        toy_table("hubert"),
        toy_table(feed_forward=curve(UNITS + 1, 0.9, 0.3)),
        toy_table(convolutions=(wider, toy_table().convolutions[1])),
        toy_table(attention=dataclasses.replace(toy_table().attention, query_key=curve(HEAD_DIM - 1, 0.0, 1.0))),
        toy_table(positional=curve(GROUPS + 1, 0.1, 0.1)),
    ):
        with pytest.raises(ConfigError, match="measured for another architecture"):
            latency(terms, table)
